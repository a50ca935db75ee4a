"""Tensors in safetensors files: the library's own format, with sums that notice every flipped bit."""

from __future__ import annotations

import json
import random
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime import weights
from kinolab.runtime.weights import DTYPES, SUMS, TensorFile, kind_of, read_weights, write_weights
from tests.runtime.crashing import failures


@pytest.fixture(scope="module")
def example() -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = {f"t{k % 3}.{k}": torch.randint(0, 2, (3, 5)).to(dtype) for k, dtype in enumerate(DTYPES)}
    base = torch.randn(40, 50)
    views = {"ü": base.t(), "part": base[3:5], "base": base}
    return {**made, **views, "zero": torch.zeros(0, 3), "scalar": torch.tensor(3.0)}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype and actual[name].shape == value.shape, name
        a, e = (t.contiguous().flatten().view(torch.uint8) for t in (actual[name], value))
        assert torch.equal(a, e), name


def test_what_is_written_is_read_by_the_library_and_here(example: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, example, {"format": "pt", "other": "x"})
    found = read_weights(path)
    assert_same(found.tensors, example)
    assert found.checked and found.metadata["format"] == "pt" and found.metadata["other"] == "x"
    assert_same(load_file(path), example)
    first = path.read_bytes()
    write_weights(path, dict(reversed(example.items())), {"other": "x", "format": "pt"})
    assert path.read_bytes() == first, "the same tensors give the same bytes"


def test_without_sums_the_bytes_are_the_librarys_own(
    example: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, header = {k: v.contiguous().clone() for k, v in example.items()}, weights._header
    save_file(plain, tmp_path / "library.safetensors")
    monkeypatch.setattr(weights, "_header", lambda tensors, names, entries: header(tensors, names, {}))
    write_weights(tmp_path / "ours.safetensors", plain)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()


def test_files_of_others_are_read_without_sums(example: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({k: v.contiguous().clone() for k, v in example.items()}, tmp_path / "a.safetensors", {"format": "pt"})
    found = read_weights(tmp_path / "a.safetensors", ["scalar"])
    assert not found.checked and list(found.tensors) == ["scalar"]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, chance = tmp_path / "a.safetensors", random.Random(0)
    write_weights(path, {"w": torch.randn(50, 40), "b": torch.arange(30)}, {"format": "pt", "kinolab": '{"a": 1}'})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for k in range(200):
        at = chance.randrange(header if k % 2 else len(whole))
        data = bytearray(whole)
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(InputError) as raised:
            read_weights(path)
        assert len(str(raised.value)) < 300 and str(path) in str(raised.value), at


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 500])
def test_a_cut_file_is_one_line(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, {"w": torch.randn(50, 40)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"a.safetensors: .*; get it again"):
        read_weights(path)


def test_what_is_something_else_is_told(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "html.safetensors").write_bytes(b"<!DOCTYPE html>")
    expected = {"zip": ("torch", "torch.save"), "old": ("pickle", "torch.save"), "empty": ("empty", "empty")}
    for name, (kind, why) in {**expected, "html": ("other", "not a safetensors")}.items():
        path = tmp_path / f"{name}.safetensors"
        assert kind_of(path) == kind
        with pytest.raises(InputError, match=why):
            TensorFile(path)
    save_file({"a": torch.ones(2)}, tmp_path / "real.pt")
    assert kind_of(tmp_path / "real.pt") == "safetensors"
    with pytest.raises(InputError, match="folder"):
        kind_of(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "none.safetensors")


def with_header(path: Path, header: Any, data: bytes = b"\0" * 16) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "XX", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]}},
        {"a": 5},
        {"__metadata__": {"x": 5}},
        {"__metadata__": {SUMS: "{"}, "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        {"__metadata__": {SUMS: '{"sums": []}'}, "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        {"__metadata__": {SUMS: "[" * 5000}, "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        b'{"a":' + b"[" * 100_000,
        b"{" * 5000,
    ],
)
def test_a_hostile_header_is_one_line(header: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_weights(with_header(tmp_path / "a.safetensors", header))
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def test_nan_is_refused_with_the_tensors_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    broken = torch.ones(5000)
    broken[77] = float("nan")
    write_weights(path, {"fine": torch.full((3,), -float("inf")), "broken": broken})
    with pytest.raises(InputError, match=r"a.safetensors: broken holds NaN.*; train it again"):
        read_weights(path, advice="train it again")
    assert read_weights(path, nan="allow").tensors["broken"].isnan().any()
    assert read_weights(path, ["fine"]).tensors["fine"].isinf().all(), "masks hold infinities"


def test_a_tensor_is_checked_when_it_is_first_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, {"a": torch.ones(3), "b": torch.zeros(3)})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    file = TensorFile(path)
    assert file.shape("a") == (3,)
    assert torch.equal(file.tensor("a"), torch.ones(3))
    with pytest.raises(InputError, match="b differs from what was written"):
        file.tensor("b")
    monkeypatch.setattr(weights, "scan", None)
    file.tensor("a")  # which is not read once more
    with pytest.raises(InputError, match="no tensor 'c'"):
        file.tensor("c")


def test_what_the_format_cant_hold_is_refused(tmp_path: Path) -> None:
    for value in (torch.ones(2, dtype=torch.complex128), torch.eye(2).to_sparse()):
        with pytest.raises(InputError, match="can't hold"):
            write_weights(tmp_path / "a.safetensors", {"a": value})
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_disk_and_modes(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        write_weights(root / "a.safetensors", {"a": torch.ones(3)})

    for after in failures(lambda root: None, write, tmp_path / "failures", numbers=(28,)):
        named = str(after.root if after.call.startswith("flush") else after.root / "a.safetensors")
        assert after.error is not None and str(after.error.filename).startswith(named), after
    write(tmp_path)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) & 0o044 == 0o044 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask
