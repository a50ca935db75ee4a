"""What the names in files of torch.save stand for: tensors, storages, types, containers (see `runtime.torch_files`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kinolab.runtime.lines import shown
from kinolab.runtime.pickle_parts import check_key
from kinolab.runtime.unpickling import Known, Placeholder, Table, names_in

SMALL = 2**27
"""Values of a tensor that may repeat its storage as often as it likes: half a gigabyte in float32, written out."""
REPEATS = 2**29
"""Bytes that all tensors of a file may have together, however often they repeat what the file holds."""
REPEATED = 16
"""How often a larger one may; also how often the file's bytes may be in all tensors together."""
LARGEST = 2**62
DIMENSIONS = 64
STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
"""Types of the storages' classes."""
DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
ENCODINGS = ("latin1", "latin-1", "utf-8", "ascii")


@dataclass(frozen=True, eq=False)
class Storage:
    """A piece of a file that tensors lie in; data is missing while only the places of storages are looked for."""

    dtype: torch.dtype
    values: int
    data: torch.UntypedStorage | None


@dataclass(frozen=True)
class StorageType:
    """The class of a storage."""

    dtype: torch.dtype


def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: torch.dtype | None = None) -> Any:
    """A tensor over a storage, inside its bounds."""
    if not isinstance(storage, Storage):
        return Placeholder(names_in(storage))
    for number in (offset, *size, *stride):
        if type(number) is not int or not 0 <= number < LARGEST:
            raise ValueError(f"a tensor with the size or stride {shown(number)}")
    if len(size) != len(stride) or len(size) > DIMENSIONS:
        raise ValueError(f"a tensor of {len(size)} sizes and {len(stride)} strides")
    if storage.data is None:
        return Placeholder("a tensor")
    kind = dtype or storage.dtype
    held = storage.data.nbytes() // kind.itemsize
    count = 1
    for length in size:
        count *= length
    if count and offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= held:
        raise ValueError("a tensor that reaches beyond its storage")
    if count > max(SMALL, REPEATED * held):
        raise ValueError(f"a tensor of {count:,} values in a storage of {held:,}")
    return torch.empty(0, dtype=kind).set_(storage.data, offset if count else 0, tuple(size), tuple(stride))


def _rebuild_typed(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Any:
    """A tensor whose storage doesn't know its type."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor without a type")
    return rebuild(storage, offset, size, stride, dtype=dtype)


def _rebuild_subclass(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor of a class of its own: the plain tensor."""
    if isinstance(function, Known) and isinstance(args, tuple):
        return function.call(*args)
    return Placeholder(names_in(kind), args if isinstance(args, tuple) else ())


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = OrderedDict()
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        check_key(key)
        made[key] = value
    return made


def _set_of(items: Any = ()) -> set[Any]:
    for item in items:
        check_key(item)
    return set(items)


def _encoded(text: Any, encoding: Any = "utf-8") -> bytes:
    if not isinstance(text, str) or encoding not in ENCODINGS:
        raise TypeError("bytes in an unknown encoding")
    return text.encode(encoding)


def _bytes_array(content: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(content if isinstance(content, bytes) else _encoded(content, encoding))


def _size(sizes: Any = ()) -> torch.Size:
    if not isinstance(sizes, tuple | list) or len(sizes) > DIMENSIONS:
        raise TypeError("a size that is none")
    return torch.Size(sizes)


def _device(kind: Any, index: Any = None) -> Any:
    plain = isinstance(kind, str) and len(kind) < 20 and (index is None or type(index) is int)
    return (
        (torch.device(kind) if index is None else torch.device(kind, index)) if plain else Placeholder("torch.device")
    )


def _layout(name: Any) -> torch.layout:
    if name != "torch.strided":
        raise TypeError("a tensor that is not strided")
    return torch.strided


def table_of(persistent: Callable[[Any], Any], nested: Callable[[Any], Any]) -> Table:
    """All that a file of tensors may name.

    persistent: gives the storage that a persistent id stands for; nested: one that is written as bytes of torch.save.
    """
    types: dict[str, Any] = {f"{module}.{name}Storage": StorageType(dtype) for name, dtype in STORAGES.items()
                             for module in ("torch", "torch.cuda", "torch.storage")}  # fmt: skip
    types |= {"torch.storage.UntypedStorage": StorageType(torch.uint8), "torch.strided": torch.strided}
    functions = {
        "torch._utils._rebuild_tensor": Known(rebuild),
        "torch._utils._rebuild_tensor_v2": Known(rebuild),
        "torch._utils._rebuild_tensor_v3": Known(_rebuild_typed),
        "torch._utils._rebuild_parameter": Known(lambda data, *_: data),
        "torch._utils._rebuild_parameter_with_state": Known(lambda data, *_: data),
        "torch._tensor._rebuild_from_type": Known(_rebuild_subclass),
        "torch._tensor._rebuild_from_type_v2": Known(_rebuild_subclass),
        "torch.storage._load_from_bytes": Known(nested),
        "torch.Size": Known(_size),
        "torch.device": Known(_device),
        "torch.serialization._get_layout": Known(_layout),
        "collections.OrderedDict": Known(_ordered),
        "collections.Counter": Known(_ordered),
        "collections.defaultdict": Known(lambda *_: {}),
        "collections.deque": Known(lambda items=(), *_: list(items)),
        "builtins.set": Known(_set_of),
        "builtins.frozenset": Known(lambda items=(): frozenset(_set_of(items))),
        "builtins.bytearray": Known(_bytes_array),
        "builtins.complex": Known(complex),
        "_codecs.encode": Known(_encoded),
    }
    return Table(functions, {**DTYPES, **types}, keys=(torch.dtype, torch.Size), persistent=persistent)
