"""Tensors in `.safetensors` files: written with a sum of every tensor in the header, checked against it when read.

The header's entry `kinolab.sums` holds the quick sum of each tensor by name (`runtime.hashes.scan`) and one of the rest
of the header. Files without it, by older versions and other programs, are read as they are. Reading looks for NaN in
the same pass over memory.

The format is written here and not by the library, which gives files the mode 0600, raises no OSError, and orders the
header's entries anew each time; what is written is, without entries, the library's own bytes. Reading is the library's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime.failures import failing
from kinolab.runtime.files import opened
from kinolab.runtime.hashes import canonical, scan, tensor_bytes
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.reading import Limits, open_plain, parse_json

SUMS = "kinolab.sums"
"""The entry of the header that holds the sums."""
ROWS = "kinolab.rows"
"""The entry that holds the quick sums of single rows, of tensors that are read row by row (`runtime.near`)."""
FORMAT = 1
"""Of the sums."""
ALIGNMENT = 8
LIMITS = Limits(bytes=100 * 2**20, depth=8)
"""Of an entry of the header; the format allows a header 100 MiB."""
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""Names of types in the format, in the order in which their tensors stand in a file, the last ones first."""
Kind = Literal["safetensors", "torch", "pickle", "empty", "other"]


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name, the entries of its header, and whether sums were there to check them by."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    checked: bool = False


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, rows: bool = False
) -> None:
    """Write tensors to a `.safetensors` file, from any device; the same tensors give the same bytes.

    rows: write the sum of every row of each tensor too, so that single ones can be checked that are read from a store.

    Raises:
        OSError: where it can't be written.
        InputError: for a type that the format doesn't have.
    """
    order = {dtype: k for k, dtype in enumerate(DTYPES)}
    for name, tensor in tensors.items():
        if tensor.dtype not in order or tensor.layout != torch.strided:
            kind = f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
            raise InputError(f"{path}: {name} is {kind}, which a .safetensors file can't hold")
    names = sorted(tensors, key=lambda name: (-order[tensors[name].dtype], name))
    sums = {name: scan(tensors[name], search=False).sum for name in names}
    if rows:
        each = {name: [scan(row, search=False).sum for row in tensors[name]] for name in names}
        metadata = dict(metadata or {}) | {ROWS: json.dumps(each)}
    rest = sum_of_rest(metadata or {}, {name: (DTYPES[t.dtype], tuple(t.shape)) for name, t in tensors.items()})
    entries = dict(metadata or {}) | {SUMS: json.dumps({"format": FORMAT, "rest": rest, "sums": sums})}
    with opened(path) as file:
        file.write(_header(tensors, names, entries))
        for name in names:
            file.write(tensor_bytes(tensors[name]))


def _header(tensors: Mapping[str, Tensor], names: Iterable[str], entries: Mapping[str, str]) -> bytes:
    """Eight bytes of length, and the JSON of where each tensor is, filled up with blanks."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(entries.items()))} if entries else {}
    begin = 0
    for name in names:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    data += b" " * (-len(data) % ALIGNMENT)
    return len(data).to_bytes(8, "little") + data


def sum_of_rest(entries: Mapping[str, str], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """The CRC-32 of a header's other entries and of its tensors' types and shapes."""
    return f"{zlib.crc32(canonical([dict(entries), dict(tensors)]).encode()):08x}"


class TensorFile:
    """An open `.safetensors` file: tensors are mapped from disk, and checked when they are first asked for.

    Args:
        path: the file.
        advice: what to do about a damaged one; part of every error.

    Raises:
        InputError: where it is no whole safetensors file; says what it is instead.
        OSError: where it can't be read.
    """

    def __init__(self, path: Path, advice: str = "get it again") -> None:
        self.path, self.advice = path, advice
        self._checked: set[str] = set()
        found = kind_of(path)
        if found != "safetensors":
            raise InputError(f"{path}: {_instead(found)}; {advice}")
        with failing(path):
            try:
                self._file = safe_open(path, framework="pt")
                self.names: tuple[str, ...] = tuple(self._file.keys())
                self.metadata: dict[str, str] = dict(self._file.metadata() or {})
            except OSError:
                raise
            except Exception as error:  # the library's own error, and those of what it finds in a header
                raise self._damaged(one_line(error, 120)) from None
        self._sums = self._read_sums()

    @property
    def has_sums(self) -> bool:
        """Whether the file holds sums to check its tensors by."""
        return self._sums is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._piece(name).get_shape())

    def tensor(self, name: str, nan: Literal["refuse", "allow"] = "refuse", *, check: bool = True) -> Tensor:
        """A tensor, mapped; when first asked for it is read once, to check its sum and to look for NaN.

        check: false for a file that this process has checked before, and opens again.

        Raises:
            InputError: where there is none of that name, it differs from its sum, or holds NaN and that is refused.
        """
        if name not in self.names:
            raise self._damaged(f"no tensor {shown(name)} in it")
        with failing(self.path):
            try:
                tensor: Tensor = self._file.get_tensor(name)
            except (SafetensorError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
                raise self._damaged(f"{name}: {one_line(error, 120)}") from None
        if check and name not in self._checked:
            try:
                found = scan(tensor, search=nan == "refuse")
            except NotImplementedError:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise InputError(f"{self.path}: {name} is {kind}, which can't be read here") from None
            if self._sums is not None and self._sums.get(name) != found.sum:
                raise self._damaged(f"{name} differs from what was written")
            if found.nan:
                raise InputError(f"{self.path}: {name} holds NaN: damaged, or of a training that broke; {self.advice}")
            self._checked.add(name)
        return tensor

    def _piece(self, name: str) -> Any:
        if name not in self.names:
            raise self._damaged(f"no tensor {shown(name)} in it")
        return self._file.get_slice(name)

    def _read_sums(self) -> dict[str, Any] | None:
        text = self.metadata.get(SUMS)
        if text is None:
            if any('"rest": "' in entry and '"sums": {' in entry for entry in self.metadata.values()):
                raise self._damaged("the name of its sums")
            return None
        value = parse_json(text, f"{self.path}: {SUMS}", LIMITS)
        if not isinstance(value, dict) or not isinstance(value.get("sums"), dict):
            raise self._damaged(f"its entry {SUMS} is {shown(value)}")
        others = {key: entry for key, entry in self.metadata.items() if key != SUMS}
        pieces = {name: self._file.get_slice(name) for name in self.names}
        rest = sum_of_rest(others, {name: (p.get_dtype(), tuple(p.get_shape())) for name, p in pieces.items()})
        if value.get("format") != FORMAT or value.get("rest") != rest or value["sums"].keys() != set(self.names):
            raise self._damaged("its header differs from what was written")
        return value["sums"]

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: damaged or cut off safetensors file ({what}); {self.advice}")


def read_weights(
    path: Path,
    names: Collection[str] | None = None,
    *,
    nan: Literal["refuse", "allow"] = "refuse",
    advice: str = "get it again",
    check: bool = True,
) -> Weights:
    """The tensors of a `.safetensors` file (or those of `names`), mapped from disk and checked in one pass.

    check: false for a file that this process has checked before: its tensors are mapped and not read.

    Raises:
        InputError: as `TensorFile` and its `tensor` do.
        OSError: where the file can't be read.
    """
    file = TensorFile(path, advice)
    wanted = file.names if names is None else names
    return Weights({name: file.tensor(name, nan, check=check) for name in wanted}, file.metadata, file.has_sums)


def kind_of(path: Path) -> Kind:
    """What a file of weights is by its first bytes, whatever its name.

    Raises:
        InputError: for a folder.
        OSError: where it can't be read.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a file of weights")
    with open_plain(path) as file:
        start = file.read(16)
        file.seek(0, 2)
        size = file.tell()
    if not size:
        return "empty"
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= min(LIMITS.bytes, max(0, size - 8)):
        return "safetensors"
    if start[:4] == b"PK\x03\x04":
        return "torch"
    if start[:1] == b"\x80" and len(start) > 1 and 2 <= start[1] <= 5:
        return "pickle"
    return "safetensors" if start[8:9] == b"{" else "other"


def _instead(found: Kind) -> str:
    return {
        "empty": "the file is empty",
        "torch": "a file of torch.save, not a safetensors file",
        "pickle": "a file of torch.save or another pickle, not a safetensors file",
    }.get(found, "not a safetensors file, or damaged at its beginning")
