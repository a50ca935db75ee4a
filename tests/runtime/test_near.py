"""Byte ranges and single clips of a store's folder, on so much of this disk; on fsspec's store in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.errors import InputError
from kinolab.runtime import remote
from kinolab.runtime.hashes import sha256
from kinolab.runtime.near import FIRST, Near, rows_of
from kinolab.runtime.processes import packed, unpacked
from kinolab.runtime.remote import Mirror
from kinolab.runtime.weights import read_weights, write_weights
from tests.closeness import assert_same

LIMIT = 2**24


class Counting:
    """What a mirror was asked for: bytes of ranges, and objects that were fetched whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges, self.whole = list[tuple[str, int]](), list[str]()
        read, get = Mirror.read, Mirror.get

        def reading(mirror: Mirror, name: str, begin: int, end: int) -> bytes:
            self.ranges.append((name, end - begin))
            return read(mirror, name, begin, end)

        def getting(mirror: Mirror, name: str, *more: Any) -> None:
            self.whole.append(name)
            get(mirror, name, *more)

        monkeypatch.setattr(Mirror, "read", reading)
        monkeypatch.setattr(Mirror, "get", getting)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def shard(store: Any, tmp_path: Path, rows: bool = True, **more: str) -> dict[str, torch.Tensor]:
    """A shard in the store as `b/c/x.safetensors`."""
    noise = torch.Generator().manual_seed(0)
    tensors = {
        "latents": torch.randn(40, 2, 3, 32, 32, generator=noise).bfloat16(),
        "logvar": torch.randn(40, 2, 3, 32, 32, generator=noise),
    }
    write_weights(tmp_path / "x.safetensors", tensors, more, rows=rows)
    store.pipe_file("/b/c/x.safetensors", (tmp_path / "x.safetensors").read_bytes())
    return tensors


def near(limit: int = LIMIT) -> Near:
    return Near(Mirror("memory://b/c"), limit)


@pytest.mark.parametrize("more", [{}, {"long": "x" * FIRST}], ids=["short", "long"])
def test_rows_are_read_without_the_others_and_once(
    store: Any, tmp_path: Path, asked: Counting, more: dict[str, str]
) -> None:
    tensors = shard(store, tmp_path, True, **more)
    found = rows_of(near(), "x.safetensors")
    assert len(found["latents"]) == 40
    for row in (0, 39, 7):
        for name, tensor in tensors.items():
            assert_same(found[name][row], tensor[row])
    size = store.info("/b/c/x.safetensors")["size"]
    assert not asked.whole and sum(count for _, count in asked.ranges) < FIRST * (1 + len(more)) + size / 8
    again = len(asked.ranges)
    assert_same(rows_of(near(), "x.safetensors")["latents"][39], tensors["latents"][39])
    assert len(asked.ranges) == again, "another process finds it on the disk"


def test_files_with_sums_of_rows_are_read_as_any_other(store: Any, tmp_path: Path) -> None:
    tensors = shard(store, tmp_path)
    found = read_weights(tmp_path / "x.safetensors")
    assert found.checked and all((found.tensors[name] == tensor).all() for name, tensor in tensors.items())


def test_a_shard_without_sums_of_rows_is_read(store: Any, tmp_path: Path) -> None:
    tensors = shard(store, tmp_path, rows=False)
    assert_same(rows_of(near(), "x.safetensors")["logvar"][3], tensors["logvar"][3])


def spoilt(store: Any, at: int, byte: int) -> None:
    data = bytearray(store.cat_file("/b/c/x.safetensors"))
    data[at] ^= byte
    store.pipe_file("/b/c/x.safetensors", bytes(data))


def test_a_row_that_was_changed_in_the_store_is_told(store: Any, tmp_path: Path) -> None:
    shard(store, tmp_path)
    spoilt(store, -1, 1)
    with pytest.raises(
        InputError, match=r"memory://b/c/x.safetensors: row 39 of latents differs from what was written"
    ):
        for row in (0, 39):
            rows_of(near(), "x.safetensors")["latents"][row]


@pytest.mark.parametrize("at", [0, 4, 12, 300])
def test_a_header_that_was_changed_is_told(store: Any, tmp_path: Path, at: int) -> None:
    shard(store, tmp_path)
    spoilt(store, at, 2)
    with pytest.raises(InputError, match=r"memory://b/c/x.safetensors: .*encode again$"):
        rows_of(near(), "x.safetensors")


def test_a_shard_that_was_cut_off_is_told(store: Any, tmp_path: Path) -> None:
    shard(store, tmp_path)
    data = store.cat_file("/b/c/x.safetensors")
    for length in (0, 5, 100, len(data) - 1):
        store.pipe_file("/b/c/x.safetensors", data[:length])
        with pytest.raises(InputError, match=r"memory://b/c/x.safetensors: "):
            rows_of(near(), "x.safetensors")


def test_a_store_that_fails_for_a_moment_is_asked_again(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = shard(store, tmp_path)
    fails, cat, pauses = [2], type(store).cat_file, list[float]()

    def failing(self: Any, path: str, *more: Any, **named: Any) -> bytes:
        if fails[0]:
            fails[0] -= 1
            raise ConnectionResetError("the other side is gone")
        return cat(self, path, *more, **named)

    monkeypatch.setattr(type(store), "cat_file", failing)
    monkeypatch.setattr("kinolab.runtime.remote.time.sleep", pauses.append)
    assert_same(rows_of(near(), "x.safetensors")["logvar"][3], tensors["logvar"][3])
    assert pauses == list(remote.PAUSES)
    fails[0] = 100
    with pytest.raises(InputError, match=r"^memory://b/c/x.safetensors: the other side is gone$"):
        rows_of(near(), "x.safetensors")["logvar"][4]
    store.rm_file("/b/c/x.safetensors")
    fails[0], pauses[:] = 0, []
    with pytest.raises(InputError, match="no such bucket or object"):
        near().read("x.safetensors", 0, 9)
    assert not pauses, "what is not there is not asked for again"


def test_clips_are_fetched_when_they_are_used_and_make_room_for_each_other(store: Any, asked: Counting) -> None:
    for k in range(8):
        store.pipe_file(f"/b/c/{k}.mp4", bytes([k]) * 40_000)
    kept = near(100_000)
    for _ in range(2):
        for k in range(8):
            with kept.using(f"{k}.mp4") as path:
                assert path.name == f"{k}.mp4" and path.read_bytes() == bytes([k]) * 40_000
            assert kept.kept.size() <= 100_000
    assert len(asked.whole) == 16, "so little is kept that all are fetched again"
    with unpacked(packed(kept)).using("7.mp4"):
        pass
    assert len(asked.whole) == 16


def test_a_folder_of_images_is_one_thing(store: Any) -> None:
    for k in range(3):
        store.pipe_file(f"/b/c/deep/frames/{k}.png", bytes([k]))
    kept = near()
    with kept.using("deep/frames") as path:
        assert [file.name for file in sorted(path.iterdir())] == ["0.png", "1.png", "2.png"]
    assert kept.signature("deep/frames")[0] == 3 and kept.signature("gone") == (-1, 0)


def test_a_clip_that_changed_since_it_was_looked_at_is_told(store: Any) -> None:
    store.pipe_file("/b/c/a.mp4", b"one")
    with near().using("a.mp4", sha256(b"one")) as path:
        assert path.read_bytes() == b"one"
    store.pipe_file("/b/c/a.mp4", b"two")
    told = pytest.raises(InputError, match=r"memory://b/c/a.mp4: not what it was when it was looked at")
    with told, near().using("a.mp4", sha256(b"one")):
        pass


def test_what_is_no_shard_is_told(store: Any) -> None:
    store.pipe_file("/b/c/x.safetensors", b"PK\3\4" + bytes(99))
    with pytest.raises(InputError, match="not a safetensors file"):
        rows_of(near(), "x.safetensors")
    header = json.dumps({"latents": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 400]}}).encode()
    store.pipe_file("/b/c/x.safetensors", len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(InputError, match=r"its header is damaged .*latents is not where it says"):
        rows_of(near(), "x.safetensors")
