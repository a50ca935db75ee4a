"""Hashes are what the standard says; the quick sum notices every flipped bit and every lost, zeroed or moved block."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinolab.runtime.hashes import (
    BLOCK,
    CHUNK,
    Sha256,
    canonical,
    file_sha256,
    head_sha256,
    json_sha256,
    scan,
    sha256,
    tensor_bytes,
)
from kinolab.runtime.weights import DTYPES, read_weights, write_weights


def slow_sum(data: bytes) -> str:
    """The quick sum as the module describes it, in plain Python."""
    whole = len(data) // BLOCK * BLOCK
    sums = b""
    for begin in range(0, whole, BLOCK):
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(begin, begin + BLOCK, 8)]
        sums += (sum(words) % 2**64).to_bytes(8, "little")
    return f"{zlib.crc32(data[whole:], zlib.crc32(sums)):08x}"


@pytest.mark.parametrize("size", [0, 1, 8, 4095, 4096, 4097, 20000, CHUNK, CHUNK + 1, 2 * CHUNK + 5000])
def test_the_quick_sum_is_what_it_says(size: int) -> None:
    torch.manual_seed(size)
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    assert scan(data).sum == slow_sum(bytes(data.tolist()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_of_the_bytes_whatever_the_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    value = torch.randint(0, 2, (77, 91)).to(dtype)
    expected = slow_sum(bytes(tensor_bytes(value)))
    assert scan(value).sum == expected == scan(value.t().contiguous().t()).sum
    assert scan(value[3:, 5:]).sum == slow_sum(bytes(tensor_bytes(value[3:, 5:])))


def test_every_flipped_bit_is_noticed() -> None:
    torch.manual_seed(1)
    value = torch.randn(3000)
    before, data = scan(value).sum, value.view(torch.uint8)
    chance = random.Random(0)
    for _ in range(300):
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        data[at] ^= bit
        assert scan(value).sum != before
        data[at] ^= bit
    assert scan(value).sum == before


def test_lost_zeroed_and_moved_blocks_are_noticed() -> None:
    torch.manual_seed(2)
    value = torch.randn(8 * BLOCK // 4)
    before = scan(value).sum
    blocks = value.view(8, -1)
    for changed in (
        torch.cat([blocks[:3], torch.zeros_like(blocks[:1]), blocks[4:]]),
        torch.cat([blocks[:3], blocks[4:5], blocks[3:4], blocks[5:]]),
        torch.cat([blocks[:3], blocks[2:3], blocks[4:]]),
        blocks[:7],
    ):
        assert scan(changed).sum != before


FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [5, 6000, CHUNK])
def test_nan_is_found_wherever_it_is(dtype: torch.dtype, size: int) -> None:
    value = torch.ones(size).to(dtype)
    assert not scan(value).nan
    for at in (0, size // 2, size - 1):
        changed = value.clone()
        changed[at] = float("nan")
        assert scan(changed).nan, at
        assert not scan(changed, search=False).nan


def test_infinities_are_no_nan() -> None:
    value = torch.zeros(5000)
    value[3], value[4000] = float("inf"), -float("inf")
    assert not scan(value).nan, "masks hold them, and their sum is NaN"
    assert not scan(torch.full((5000,), 60000.0, dtype=torch.float16)).nan, "a sum that overflows is no NaN"
    assert not scan(torch.tensor([1, 2])).nan


def test_hashes_are_those_of_the_standard(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(3 * CHUNK + 17)
    (tmp_path / "a").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert file_sha256(tmp_path / "a") == sha256(data) == expected
    assert Sha256().file(tmp_path / "a").digest().hex() == expected
    both = hashlib.sha256(b"name" + data).hexdigest()
    assert Sha256().text("name").data(memoryview(data)).hex() == both
    assert sha256("ü") == hashlib.sha256("ü".encode()).hexdigest()
    value = {"b": [1, 2.5, None], "a": "ü", "c": {"z": True}}
    assert json_sha256(value) == hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    assert canonical({"p": Path("x")}, str) == '{"p": "x"}'


def test_tensors_are_not_copied() -> None:
    value = torch.arange(12.0).view(3, 4)
    view = tensor_bytes(value)
    value[0, 0] = 7
    assert view.nbytes == 48 and bytes(view[:4]) == bytes(tensor_bytes(torch.tensor(7.0)))
    assert Sha256().tensor(value.t()).hex() == hashlib.sha256(value.t().contiguous().numpy().tobytes()).hexdigest()
    assert bytes(tensor_bytes(torch.zeros(0, 3))) == b""


def test_one_element_may_have_any_stride(tmp_path: Path) -> None:
    one = torch.arange(4.0).view(2, 2)[:1, 1]
    assert one.stride() == (2,) and bytes(tensor_bytes(one)) == bytes(tensor_bytes(torch.tensor(1.0)))
    assert scan(one) == scan(torch.ones(1))
    write_weights(tmp_path / "x.safetensors", {"one": one})
    assert read_weights(tmp_path / "x.safetensors").tensors["one"].tolist() == [1.0]


def test_the_head_of_a_file_of_tensors_stands_for_all_of_it(tmp_path: Path) -> None:
    def head(tensor: Tensor) -> str:
        write_weights(tmp_path / "a.safetensors", {"w": tensor})
        return head_sha256(tmp_path / "a.safetensors")

    base = torch.zeros(2**20)
    changed = base.clone()
    changed[-1] = 1
    assert head(base) == head(base.clone()) != head(changed)
    (tmp_path / "b").write_bytes(b"x" * 100)
    assert head_sha256(tmp_path / "b") == sha256(b"x" * 100)
    (tmp_path / "c").write_bytes(b"")
    assert head_sha256(tmp_path / "c") == sha256(b"")
