"""Checkpoints in torch's own format, as version 0.1 wrote them: `.metadata`, a pickle, and `.distcp` files.

Torch reads the first with pickle and values in the second with torch.load(weights_only=False), and both run whatever
they say. Here the metadata is read with a table of the classes that belong in it, and nothing else is taken; values and
tensors go through `runtime.torch_files`. Nothing in such a folder has a checksum.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinolab.errors import DamagedError, InputError
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import single
from kinolab.runtime.reading import open_plain, read_bytes
from kinolab.runtime.torch_files import read_torch_bytes
from kinolab.runtime.torch_parts import DTYPES
from kinolab.runtime.unpickling import Known, Table, is_placeholder, unpickle

FILE = ".metadata"
MODULE = "torch.distributed.checkpoint"
LARGEST = 2**62
LONGEST = 64 * 2**20


@dataclass(frozen=True)
class OldPiece:
    """Where one chunk of a tensor, or one value, lies: `length` bytes of torch.save from `begin` in a file."""

    file: str
    begin: int
    length: int


@dataclass(frozen=True)
class OldTensor:
    """A tensor's type and size, and the offsets and sizes of its chunks."""

    dtype: torch.dtype
    size: tuple[int, ...]
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@dataclass(frozen=True)
class OldMetadata:
    """What `.metadata` says: tensors and values (None) by name, their paths in the state, and where the pieces lie."""

    entries: Mapping[str, OldTensor | None]
    paths: Mapping[str, tuple[str | int, ...]]
    pieces: Mapping[tuple[str, tuple[int, ...] | None], OldPiece]


class _Made:
    """An object of one of torch's classes for metadata: its name, and the state that the pickle gives it."""

    state: Any = None


def _class(name: str) -> type[_Made]:
    return type(name, (_Made,), {})


_CLASSES = {
    name: _class(name)
    for name in (
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "StorageMeta", "_StorageInfo"),
    )
}


def _put(made: _Made, state: Any) -> None:
    made.state = state


def _numbers(values: Any = ()) -> tuple[int, ...]:
    """A torch.Size as a tuple of lengths."""
    found = tuple(values)
    if len(found) > 64 or any(type(n) is not int or not 0 <= n < LARGEST for n in found):
        raise TypeError("a size that is none")
    return found


def _table() -> Table:
    functions = {f"{MODULE}.metadata.{name}": Known(made, _put) for name, made in _CLASSES.items()}
    functions[f"{MODULE}.filesystem._StorageInfo"] = functions.pop(f"{MODULE}.metadata._StorageInfo")
    functions[f"{MODULE}.metadata._MEM_FORMAT_ENCODING"] = Known(lambda number: number)
    functions["torch.Size"] = Known(_numbers)
    functions["torch.serialization._get_layout"] = Known(lambda name: name)
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            functions[f"{module}.{name}"] = Known(lambda *parts: None)
    return Table(functions, {**DTYPES}, keys=(_CLASSES["MetadataIndex"],), strict=True)


def read_old_metadata(folder: Path) -> OldMetadata:
    """The metadata of a checkpoint in torch's own format.

    Raises:
        DamagedError: where the file is damaged, or holds anything that such a file doesn't.
        OSError: where it can't be read.
    """
    path = folder / FILE
    try:
        made = unpickle(io.BytesIO(read_bytes(path, LONGEST)), _table(), str(path))
        return _metadata(folder, _fields(made, "Metadata"))
    except InputError as error:
        raise DamagedError(str(error)) from None
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged, or not of a checkpoint ({shown(str(error), 100)})") from None


def read_piece(folder: Path, piece: OldPiece) -> Any:
    """A tensor, or a plain value, as it lies in a `.distcp` file.

    Raises:
        DamagedError: where the file is damaged or cut off, or holds more than tensors and plain values.
        OSError: where it can't be read.
    """
    path = folder / piece.file
    with open_plain(path) as file:
        file.seek(piece.begin)
        data = file.read(piece.length)
    if len(data) < piece.length:
        raise DamagedError(f"{path}: cut off: {len(data):,} of {piece.length:,} bytes at {piece.begin:,} are there")
    try:
        found = read_torch_bytes(data, str(path))
    except InputError as error:
        raise DamagedError(str(error)) from None
    if found.placeholders or is_placeholder(found.value):
        raise DamagedError(f"{path}: holds {found.placeholders[0]}, which could run code; no checkpoint does")
    return found.value


def _metadata(folder: Path, fields: dict[str, Any]) -> OldMetadata:
    entries = {_text(name): _tensor(made) for name, made in fields["state_dict_metadata"].items()}
    paths = {_text(name): _path(path) for name, path in (fields["planner_data"] or {}).items()}
    pieces = {}
    for made_index, made in fields["storage_data"].items():
        index, info = _fields(made_index, "MetadataIndex"), _fields(made, "_StorageInfo")
        if info.get("transform_descriptors"):
            raise TypeError("a piece that is packed")
        begin, length = _numbers((info["offset"], info["length"]))
        offset = index.get("offset")
        single(folder, info["relative_path"], new=False)
        place = OldPiece(info["relative_path"], begin, length)
        pieces[_text(index["fqn"]), None if offset is None else _numbers(offset)] = place
    return OldMetadata(entries, paths, pieces)


def _tensor(made: Any) -> OldTensor | None:
    if type(made) is _CLASSES["BytesStorageMetadata"]:
        return None
    fields = _fields(made, "TensorStorageMetadata")
    properties = fields["properties"]
    if type(properties) is not _CLASSES["TensorProperties"] or not isinstance(properties.state[0], torch.dtype):
        raise TypeError("a tensor without a type")
    chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in fields["chunks"]]
    places = tuple((_numbers(chunk["offsets"]), _numbers(chunk["sizes"])) for chunk in chunks)
    size = _numbers(fields["size"])
    if any(len(part) != len(size) for place in places for part in place):
        raise ValueError("a chunk of other dimensions than its tensor")
    return OldTensor(properties.state[0], size, places)


def _fields(made: Any, name: str) -> dict[str, Any]:
    """The fields of an object of a class."""
    if type(made) is not _CLASSES[name] or not isinstance(made.state, dict):
        raise TypeError(f"{shown(made)} where {name} is expected")
    return made.state


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} where a name is expected")
    return value


def _path(value: Any) -> tuple[str | int, ...]:
    if not isinstance(value, tuple) or not value or not all(type(part) in (str, int) for part in value):
        raise TypeError(f"{shown(value)} where a path is expected")
    return value
