"""The storage of checkpoints behind torch.distributed.checkpoint's interfaces (see `runtime.sharded`)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from kinolab.errors import DamagedError, InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.lines import shown
from kinolab.runtime.old_checkpoints import OldPiece, read_old_metadata, read_piece
from kinolab.runtime.paths import single
from kinolab.runtime.reading import Limits, read_json
from kinolab.runtime.records import Record
from kinolab.runtime.sets import Entry, Problem
from kinolab.runtime.torch_parts import DTYPES
from kinolab.runtime.weights import TensorFile, write_weights

FORMAT = 2
"""Of a checkpoint's metadata; 1 is torch's own."""
METADATA = "metadata.json"
LIMITS = Limits(bytes=256 * 2**20, depth=12, values=5_000_000)


@dataclass(frozen=True)
class Piece:
    """Where a chunk of a tensor lies: a file, and the tensor's name in it.

    entry: what a manifest says of the file, where it is on another machine than that of who writes the manifest.
    """

    file: str
    key: str
    entry: Entry | None = None


@dataclass(frozen=True)
class Value:
    """A plain value of the state, such as a learning rate."""

    value: Any


class Writer(dcp.StorageWriter):
    """Storage that a state is written to: a `.safetensors` file for each process, and the metadata.

    away: takes the file of this process to where it is found, with its name, and says how a manifest calls it; None =
    it is found where it was written. elsewhere: of all processes, in the one that wrote the metadata.
    """

    def __init__(self, folder: Path, away: Callable[[Path, str], Entry] | None = None) -> None:
        self.folder, self.away = folder, away
        self.elsewhere: dict[str, Entry] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two checkpoints."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to be set up."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give every process the name of its file."""
        return [replace(plan, storage_data=f"rank-{k:05d}.safetensors") for k, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the tensors of this process; plain values go with the results to the process that ends it."""
        tensors: dict[str, Tensor] = {}
        results = []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                value = cast(dcp.DefaultSavePlanner, planner).lookup_object(item.index)
                results.append(WriteResult(item.index, 0, Value(encode(value, item.index.fqn))))
                continue
            tensor = cast(Tensor, planner.resolve_data(item)).detach()
            offset = item.index.offset
            key = item.index.fqn if not offset or not any(offset) else f"{item.index.fqn}@{','.join(map(str, offset))}"
            tensors[key] = tensor
            results.append(WriteResult(item.index, tensor.nbytes, Piece(plan.storage_data, key)))
        if tensors:
            write_weights(self.folder / plan.storage_data, tensors)
            if self.away is not None:
                entry = self.away(self.folder / plan.storage_data, plan.storage_data)
                results = [replace(r, storage_data=_with(r.storage_data, entry)) for r in results]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata of all processes' pieces."""
        stored = {(r.index.fqn, _offset(r.index)): r.storage_data for part in results for r in part}
        tensors, values = {}, {}
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, BytesStorageMetadata):
                values[name] = stored[name, None].value
                continue
            pieces = []
            for chunk in entry.chunks:
                piece = stored[name, tuple(chunk.offsets)]
                if piece.entry is not None:
                    self.elsewhere[piece.file] = piece.entry
                place = {"offsets": list(chunk.offsets), "sizes": list(chunk.sizes)}
                pieces.append(place | {"file": piece.file, "key": piece.key})
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            tensors[name] = {"dtype": dtype, "size": list(entry.size), "pieces": pieces}
        paths = {name: list(path) for name, path in (metadata.planner_data or {}).items()}
        record = {"format": FORMAT, "tensors": tensors, "values": values, "paths": paths}
        write_text(self.folder / METADATA, json.dumps(record, allow_nan=False) + "\n")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return isinstance(checkpoint_id, Path)


class Reader(dcp.StorageReader):
    """Storage that a state is read from: a checkpoint in this format or in torch's own.

    problems: what is seen of damage before anything is read; asked in each process.
    """

    def __init__(self, folder: Path, problems: Callable[[], Sequence[Problem]] = lambda: ()) -> None:
        self.folder, self.problems = folder, problems
        self.pieces: dict[tuple[str, tuple[int, ...] | None], Piece | OldPiece | Value] = {}
        self._files: dict[str, TensorFile] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two checkpoints."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What is in the checkpoint, in torch's classes; each of them is made here.

        Raises:
            DamagedError: where the metadata is damaged.
        """
        try:
            damaged = next((problem for problem in self.problems() if not problem.edited), None)
            if damaged is not None:
                raise DamagedError(str(damaged))
            return self._read_new() if (self.folder / METADATA).exists() else self._read_old()
        except DamagedError:
            raise
        except FileNotFoundError as error:
            raise DamagedError(f"{self.folder}: not a whole checkpoint (no {Path(error.filename).name})") from None
        except InputError as error:
            raise DamagedError(str(error)) from None

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not self.pieces:  # the metadata came from the process that read it
            self.read_metadata()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the pieces that this process needs, each checked, into the state.

        Raises:
            DamagedError: where one is damaged or missing.
        """
        for item in plan.items:
            piece = self.pieces.get((item.storage_index.fqn, _offset(item.storage_index)))
            if item.type == LoadItemType.BYTE_IO:
                self._read_value(item, piece, planner)
            else:
                self._read_tensor(item, piece, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read_value(self, item: ReadItem, piece: Any, planner: LoadPlanner) -> None:
        value = piece if isinstance(piece, Value) else Value(read_piece(self.folder, piece))
        planner.load_bytes(item, cast(Any, value))

    def _read_tensor(self, item: ReadItem, piece: Any, planner: LoadPlanner) -> None:
        if isinstance(piece, Piece):
            if piece.file not in self._files:
                self._files[piece.file] = TensorFile(self.folder / piece.file, "the checkpoint is not whole")
            tensor = self._files[piece.file].tensor(piece.key, nan="allow")
        else:
            tensor = read_piece(self.folder, piece)
        target = planner.resolve_tensor(item).detach()
        ends = [offset + length for offset, length in zip(item.storage_offsets, item.lengths, strict=True)]
        fits = isinstance(tensor, Tensor) and tensor.ndim == len(ends)
        if not fits or any(end > size for end, size in zip(ends, tensor.shape, strict=True)):
            raise DamagedError(f"{self.folder}: {item.storage_index.fqn} is not of the size that the metadata says")
        for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
            tensor = tensor.narrow(dimension, offset, length)
        target.copy_(tensor)
        planner.commit_tensor(item, target)

    def _read_new(self) -> Metadata:
        record = Record(read_json(self.folder / METADATA, LIMITS), str(self.folder / METADATA))
        if record.integer("format") != FORMAT:
            raise InputError(f"{record.name}: a checkpoint of format {record.integer('format')}; known is {FORMAT}")
        entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        tensors, values, paths = record.record("tensors"), record.record("values"), record.record("paths")
        for name in tensors:
            entry = tensors.record(name)
            size = entry.integers("size")
            chunks = []
            for place in entry.records("pieces"):
                offsets = place.integers("offsets", count=len(size))
                chunks.append(_chunk(offsets, place.integers("sizes", count=len(size))))
                file = single(self.folder, place.text("file"), new=False).name
                self.pieces[name, tuple(offsets)] = Piece(file, place.text("key"))
            entries[name] = _entry(DTYPES.get(f"torch.{entry.text('dtype')}"), size, chunks, entry.name)
        for name in values:
            entries[name] = BytesStorageMetadata()
            self.pieces[name, None] = Value(decode(values.values[name], record.name))
        planner_data = {name: tuple(paths.items(name)) for name in paths}
        return Metadata(cast(Any, entries), planner_data=planner_data, storage_data=None)

    def _read_old(self) -> Metadata:
        old = read_old_metadata(self.folder)
        self.pieces = dict(old.pieces)
        entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        for name, tensor in old.entries.items():
            if tensor is None:
                entries[name] = BytesStorageMetadata()
            else:
                chunks = [_chunk(offsets, sizes) for offsets, sizes in tensor.chunks]
                entries[name] = _entry(tensor.dtype, tensor.size, chunks, name)
        return Metadata(cast(Any, entries), planner_data=dict(old.paths), storage_data=None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return isinstance(checkpoint_id, Path)


class Planner(dcp.DefaultLoadPlanner):
    """Torch's planner, which takes plain values as they are, where torch's own unpickles them."""

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Put a value into its place in the state."""
        *parents, last = self.mappings[read_item.dest_index.fqn]
        node: Any = self.original_state_dict
        for parent in parents:
            node = node[parent]
        node[last] = value.value


def encode(value: Any, name: str) -> Any:
    """A plain value as JSON; tuples, and numbers that JSON doesn't know, as objects of one entry.

    Raises:
        InputError: for anything else; nothing that would have to be run to be read is written.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        items = [encode(item, name) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, name) for key, item in value.items()}}
    raise InputError(f"{name}: {shown(value)} can't be stored in a checkpoint")


def decode(value: Any, name: str) -> Any:
    """What `encode` was given.

    Raises:
        InputError: for what it doesn't give.
    """
    if isinstance(value, list):
        return [decode(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    kind, inside = next(iter(value.items())) if len(value) == 1 else ("", None)
    if kind == "tuple" and isinstance(inside, list):
        return tuple(decode(item, name) for item in inside)
    if kind == "dict" and isinstance(inside, dict):
        return {key: decode(item, name) for key, item in inside.items()}
    if kind == "float" and inside in ("inf", "-inf", "nan"):
        return float(inside)
    raise InputError(f"{name}: a value in it is damaged")


def _with(stored: Any, entry: Entry) -> Any:
    return replace(stored, entry=entry) if isinstance(stored, Piece) else stored


def _offset(index: MetadataIndex) -> tuple[int, ...] | None:
    return None if index.offset is None else tuple(index.offset)


def _chunk(offsets: Sequence[int], sizes: Sequence[int]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def _entry(dtype: Any, size: Sequence[int], chunks: list[ChunkStorageMetadata], name: str) -> TensorStorageMetadata:
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"{name}: a tensor of an unknown type")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), chunks)
