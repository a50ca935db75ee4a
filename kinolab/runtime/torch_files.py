"""Files of torch.save, and other pickles with tensors, read without running anything in them (`runtime.unpickling`).

Read are the zip files of torch 1.6 and later, the files of earlier versions, and plain pickles. Tensors and containers
are built, with storages shared as they were; tensors of zip files are mapped from disk. Objects of any other class stay
placeholders, so weights are found beside callbacks, configs and whole modules; of a module its state dict is derived.

Every tensor is checked to lie inside its storage, and every storage inside the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime.failures import failing
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.pickle_parts import PROGRAM
from kinolab.runtime.reading import open_plain
from kinolab.runtime.torch_parts import LARGEST, REPEATED, REPEATS, Storage, StorageType, table_of
from kinolab.runtime.unpickling import Placeholder, Table, names_in, unpickle

MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of torch before 1.6 begins with."""
VERSION = 1001
DIRECTORY = 32 * 2**20
"""Bytes of a zip file's list of its parts, which are read at once."""
DEPTH = 64
"""Containers inside each other."""
VISITS = 300_000
"""Containers and values that are looked through for tensors."""


@dataclass(frozen=True)
class TorchFile:
    """What a file holds, and the names of the classes and functions of which it holds placeholders."""

    value: Any
    placeholders: tuple[str, ...]


class Content:
    """The bytes of a file or of a text in memory: to be read, and to be mapped as tensors."""

    def __init__(self, name: str, file: BinaryIO, mapped: Callable[[int], torch.UntypedStorage]) -> None:
        self.name, self.file = name, file
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._map = mapped
        self._mapped: torch.UntypedStorage | None = None

    def storage(self, begin: int, size: int, item: int) -> torch.UntypedStorage:
        """`size` bytes from `begin`; copied where values of `item` bytes would not be aligned."""
        if begin < 0 or size < 0 or begin + size > self.size:
            raise InputError(f"{self.name}: damaged or cut off: a tensor's values lie behind the file's end")
        if self._mapped is None:
            self._mapped = self._map(self.size)
        piece = self._mapped[begin : begin + size]
        return piece if begin % max(1, item) == 0 else piece.clone()


def read_torch(path: Path) -> TorchFile:
    """What torch.save (or pickle) wrote.

    Raises:
        InputError: where it is no such file, damaged, cut off, or an archive of TorchScript (a program).
        OSError: where it can't be read.
    """
    with open_plain(path) as file, failing(path):
        return _read(Content(str(path), file, lambda size: _mapped(path, size)))


def read_torch_bytes(data: bytes, name: str) -> TorchFile:
    """As `read_torch`, of bytes in memory; `name` is what errors call them.

    Raises:
        InputError: as `read_torch`.
    """
    kept = bytearray(data)
    return _read(
        Content(name, io.BytesIO(data), lambda size: torch.frombuffer(kept, dtype=torch.uint8).untyped_storage())
    )


def _mapped(path: Path, size: int) -> torch.UntypedStorage:
    """A file's bytes, mapped; what is written there stays in memory."""
    whole: Any = torch.UntypedStorage.from_file(str(path), False, size)
    return cast(torch.UntypedStorage, whole)


def named_tensors(value: Any, name: str) -> dict[str, Tensor]:
    """Every tensor in nested containers and modules by its dotted name; `name` is what errors call the file.

    Other objects are not looked into: what they hold are no weights.

    Raises:
        InputError: for containers that hold themselves, or hold more, deeper, or the same more often than weights do.
    """
    found: dict[str, Tensor] = {}
    total, storages = 0, dict[int, int]()
    for prefix, tensor in _Walk(name).tensors(value):
        found[prefix] = tensor
        total += tensor.nbytes
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    if total > max(REPEATS, REPEATED * sum(storages.values())):
        raise InputError(f"{name}: its tensors repeat the same {sum(storages.values()):,} bytes too often for weights")
    return found


class _Walk:
    """Looks through nested containers for tensors, and counts what it looks at."""

    def __init__(self, name: str) -> None:
        self.name, self.visits = name, 0

    def tensors(self, value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, tensor) of each tensor."""
        if isinstance(value, Tensor):
            yield prefix.removesuffix("."), value
            return
        items: Collection[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            items = list(enumerate(value))
        elif isinstance(value, Placeholder):
            items = list(_module_items(value))
        self.visits += len(items)
        if self.visits > VISITS:
            raise InputError(f"{self.name}: holds more than {VISITS:,} values, or the same often; no weights do")
        if depth > DEPTH:
            raise InputError(f"{self.name}: holds containers {DEPTH} deep, or one that holds itself; no weights do")
        for key, item in items:
            if isinstance(item, Tensor | Mapping | list | tuple | Placeholder):
                below = f"{prefix}{key if isinstance(key, str | int) else shown(key)}."
                yield from self.tensors(item, below, depth + 1)


def _module_items(module: Placeholder) -> Iterator[tuple[Any, Any]]:
    """What a pickled module's state dict would hold, by the names it would have there; nothing of other objects."""
    state = module.state if isinstance(module.state, dict) else {}
    parts = [state.get(key) for key in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(part, dict) for part in parts):
        return
    left_out = state.get("_non_persistent_buffers_set", ())
    for part, kinds in zip(parts, (Tensor, Tensor, Placeholder), strict=True):
        for key, value in part.items():  # type: ignore[union-attr]
            if isinstance(value, kinds) and not (isinstance(left_out, set | list | tuple) and key in left_out):
                yield key, value


def _read(content: Content) -> TorchFile:
    start = content.file.read(4)
    content.file.seek(0)
    if start == b"PK\x03\x04":
        return _read_zip(content)
    if not start:
        raise InputError(f"{content.name}: the file is empty")
    table = _table(lambda identity: _storage(identity, {}))
    first = unpickle(content.file, table, content.name, max(PROGRAM, content.size))
    if first == MAGIC and isinstance(first, int):
        return _read_old(content)
    return TorchFile(first, tuple(sorted(table.unknown)))


def _read_zip(content: Content) -> TorchFile:
    """A zip file: the pickle `data.pkl`, and `data/KEY` for each storage, not compressed."""
    places, pickle = _zip_places(content)
    begin, size = pickle
    if size > PROGRAM:
        raise InputError(f"{content.name}: a pickle of {size:,} bytes; files of weights have at most {PROGRAM:,}")
    content.file.seek(begin)
    program = content.file.read(size)
    loaded: dict[str, Storage] = {}

    def persistent(identity: Any) -> Any:
        kind, key, values = _identity(identity)
        if not isinstance(kind, StorageType):
            return Placeholder(names_in(kind))
        if key not in loaded:
            length = values * kind.dtype.itemsize
            if key not in places or length > places[key][1]:
                raise InputError(f"the values of a tensor are missing (storage {shown(key)}); damaged or cut off")
            data = content.storage(places[key][0], length, kind.dtype.itemsize)
            loaded[key] = Storage(kind.dtype, values, data)
        kept = loaded[key]
        return kept if kept.dtype == kind.dtype else Storage(kind.dtype, values, kept.data)

    table = _table(persistent)
    value = unpickle(io.BytesIO(program), table, content.name)
    return TorchFile(value, tuple(sorted(table.unknown)))


def _zip_places(content: Content) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """(begin, size) of each storage by its key, and of the pickle."""
    try:
        if _directory_size(content) > DIRECTORY:
            raise InputError(f"{content.name}: a zip file with more parts than weights have")
        with zipfile.ZipFile(content.file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
            if len(roots) != 1 or f"{roots[0]}/constants.pkl" in entries:
                what = "an archive of TorchScript, which is a program; save its state_dict" if roots else "no data.pkl"
                raise InputError(f"{content.name}: not a file of torch.save ({what})")
            order = f"{roots[0]}/byteorder"
            if order in entries and (entries[order].file_size > 16 or archive.read(entries[order]) != b"little"):
                raise InputError(f"{content.name}: written on a machine of another byte order; save it on this one")
        prefix = f"{roots[0]}/data/"
        places = {n.removeprefix(prefix): _place(content, e) for n, e in entries.items() if n.startswith(prefix)}
        return places, _place(content, entries[f"{roots[0]}/data.pkl"])
    except InputError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{content.name}: damaged or cut off file of torch.save ({one_line(error, 100)})") from None
    except Exception as error:  # zipfile raises a dozen kinds for what is no zip file
        raise InputError(f"{content.name}: damaged or cut off file of torch.save ({one_line(error, 100)})") from None


def _directory_size(content: Content) -> int:
    """Bytes of a zip file's list of parts, as its end says; 0 where there is no end to be found."""
    content.file.seek(max(0, content.size - 65557))
    tail = content.file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(tail):
        return 0
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    if size < 0xFFFFFFFF or tail[max(0, end - 20) : end][:4] != b"PK\x06\x07":
        return size
    content.file.seek(min(content.size, int.from_bytes(tail[end - 12 : end - 4], "little")))
    return int.from_bytes(content.file.read(48)[40:48], "little")


def _place(content: Content, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where an entry's bytes lie in the file; they are not compressed."""
    content.file.seek(entry.header_offset)
    head = content.file.read(30)
    begin = entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if len(head) < 30 or head[:4] != b"PK\x03\x04" or entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its part {shown(entry.filename)} can't be read")
    if begin + entry.file_size > content.size:
        raise ValueError(f"its part {shown(entry.filename)} lies behind the file's end")
    return begin, entry.file_size


def _read_old(content: Content) -> TorchFile:
    """A file before torch 1.6: pickles of a number, a version, facts, the value and the storages' keys; then those."""
    file, name = content.file, content.name
    version = unpickle(file, Table(), name)
    if version != VERSION:
        raise InputError(f"{name}: a file of torch.save in version {shown(version)}; known is {VERSION}")
    unpickle(file, Table(), name)
    begin = file.tell()
    places: dict[str, Storage] = {}
    unpickle(file, _table(lambda identity: _storage(identity, places)), name)  # once to see which storages there are
    keys = unpickle(file, Table(), name)
    if not isinstance(keys, list) or set(map(str, keys)) != set(places) or len(keys) != len(places):
        raise InputError(f"{name}: damaged: the storages at its end are not those of its tensors")
    at = file.tell()
    for key in map(str, keys):
        storage = places[key]
        file.seek(at)
        if int.from_bytes(file.read(8), "little", signed=True) != storage.values:
            raise InputError(f"{name}: damaged or cut off: a storage has another size than its tensors say")
        size = storage.values * storage.dtype.itemsize
        places[key] = Storage(storage.dtype, storage.values, content.storage(at + 8, size, storage.dtype.itemsize))
        at += 8 + size
    table = _table(lambda identity: _storage(identity, places))
    file.seek(begin)
    value = unpickle(file, table, name)
    return TorchFile(value, tuple(sorted(table.unknown)))


def _identity(identity: Any) -> tuple[Any, str, int]:
    """The class, key and number of values of a storage, from what the pickle calls it by."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] not in ("storage", b"storage"):
        raise InputError("refers to something that is no storage of a tensor; not loaded")
    _, kind, key, _, values = identity[:5]
    if type(values) is not int or not 0 <= values < LARGEST or not isinstance(key, str | int):
        raise InputError(f"a storage of {shown(values)} values; damaged")
    return kind, str(key), values


def _storage(identity: Any, places: dict[str, Storage]) -> Any:
    """A storage of an old file: noted in `places` when it is first met, or the piece of one that is a view."""
    if isinstance(identity, tuple) and len(identity) > 1 and identity[0] in ("module", b"module"):
        return identity[1]
    kind, key, values = _identity(identity)
    if not isinstance(kind, StorageType):
        return Placeholder(names_in(kind))
    whole = places.setdefault(key, Storage(kind.dtype, values, None))
    view = identity[5] if len(identity) > 5 else None
    if view is None:
        return whole
    _, offset, size = view
    item = kind.dtype.itemsize
    if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size <= values:
        raise InputError("a view that reaches beyond its storage; damaged")
    data = None if whole.data is None else whole.data[offset * item : (offset + size) * item]
    return Storage(kind.dtype, size, data)


def _table(persistent: Callable[[Any], Any]) -> Table:
    return table_of(persistent, _nested)


def _nested(data: Any) -> Any:
    """A storage in a plain pickle: bytes of torch.save, inside which there is no other."""
    if not isinstance(data, bytes):
        raise TypeError("a storage that is no bytes")
    found = read_torch_bytes(data, "a storage inside").value
    return found if isinstance(found, Storage) else Placeholder(names_in(found))
