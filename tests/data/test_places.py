"""Clips and caches of a store that this machine's disk holds a part of: what is read is what a disk would give."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab.config import load_config
from kinolab.contracts.examples import Source
from kinolab.data import CacheConfig, CacheSource, FolderConfig, FolderSource, encode_to_cache
from kinolab.data.cache_plan import Draws
from kinolab.data.publishing import published
from kinolab.data.scan import find_clips, find_listed
from kinolab.errors import InputError
from kinolab.runtime import system
from kinolab.runtime.remote import Mirror
from kinolab.tasks import CachedDraws, TasksConfig
from kinolab.video import write
from tests.cli.every import run
from tests.closeness import assert_same
from tests.data.clip_files import MeanAutoencoder
from tests.engines.encoding import source, write_clips
from tests.engines.folders import files_of
from tests.runtime.test_near import Counting
from tests.tiny_model import save_tiny_model


@pytest.fixture
def store(store: Any, tmp_path: Path) -> Any:
    """`memory://b/clips`, as in the folder clips."""
    write_clips(tmp_path / "clips", 3)
    (tmp_path / "clips" / "deep").mkdir()
    for k in range(6):
        write(tmp_path / "clips" / "deep" / f"{k:03d}.png", np.full((1, 16, 16, 3), 9 * k, np.uint8), 1)
    (tmp_path / "clips" / "1.txt").write_text("a caption")
    (tmp_path / "clips" / "notes.doc").write_text("x")
    for path in (tmp_path / "clips").rglob("*"):
        if path.is_file():
            store.pipe_file(f"/b/clips/{path.relative_to(tmp_path / 'clips').as_posix()}", path.read_bytes())
    return store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def same(a: Source, b: Source) -> None:
    assert len(a) == len(b) and a.groups() == b.groups()
    for x, y in zip(a, b, strict=True):
        assert_same(x.clip, y.clip)
        assert (x.source, x.caption, x.time_range) == (y.source, y.caption, y.time_range)
        for one, other in ((x.logvar, y.logvar), (x.given, y.given), (x.mask, y.mask)):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert_same(one, other)


def test_clips_of_a_listing_are_those_of_the_folder(store: Any, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    assert find_listed(names, lambda name: False) == find_clips(root)
    assert find_listed(["0.png", "1.png"], lambda name: False)[0] == ["."]
    assert find_listed(["0.webp", "1.webp"], lambda name: True)[0] == ["0.webp", "1.webp"]


def test_clips_are_fetched_one_by_one_and_looked_at_once(store: Any, tmp_path: Path, asked: Counting) -> None:
    here, index = source(tmp_path / "clips"), tmp_path / "index"
    clips = [path.stat().st_size for path in (tmp_path / "clips").glob("*.mkv")]
    limit = (max(clips) + 8192) * 1.5e-9  # of three clips, one and a half
    there = source("memory://b/clips", disk_gb=limit, index=index)
    same(there, here)
    images = [f"deep/{k:03d}.png" for k in range(6)]
    assert sorted(set(asked.whole)) == sorted(["0.mkv", "1.mkv", "2.mkv", *images, "1.txt", "notes.doc"])
    room = Mirror("memory://b/clips").path.parent / "near"
    taken = sum(path.stat().st_size for path in room.rglob("*") if path.is_file() and path.name != ".lock")
    assert taken <= limit * 1e9 and not list((Mirror("memory://b/clips").path).glob("*.mkv"))
    asked.whole.clear()
    again = source("memory://b/clips", disk_gb=limit, index=index)
    assert set(asked.whole) <= {"deep/000.png"}, (
        "what was looked at is known by size and time, but for a series of images"
    )
    assert again.notes() == there.notes() and again.verdicts() == here.verdicts()
    walked = [example.clip for _, example in again.walk(range(len(again)))]
    assert all((a == b.clip).all() for a, b in zip(walked, here, strict=True))


def test_a_clip_that_is_another_now_is_told(store: Any, tmp_path: Path) -> None:
    there = source("memory://b/clips", disk_gb=1e-3)
    store.pipe_file("/b/clips/0.mkv", store.cat_file("/b/clips/1.mkv"))
    same_again = Mirror("memory://b/clips").path.parent / "near"
    for path in same_again.iterdir():  # as if it had made room
        if path.is_dir():
            path.rename(path.with_name(f".{path.name}"))
    with pytest.raises(InputError, match=r"memory://b/clips/0.mkv: "):
        there[0]


def test_one_clip_alone(store: Any) -> None:
    same(source("memory://b/clips/1.mkv", disk_gb=1e-3), source("memory://b/clips/1.mkv"))


@pytest.fixture
def cache(store: Any, tmp_path: Path) -> Path:
    """A cache with variances and draws in the store as `memory://b/latents`, and the same on a disk."""
    draws: Draws = CachedDraws(TasksConfig(predict=1.0), 2)
    for out, events in ((tmp_path / "l", None), (Mirror("memory://b/latents").path, Mirror("memory://b/latents"))):
        more: dict[str, Any] = {"keep_posterior": True, "draws": draws, "shard_size": 4, "batch": 2}
        if events is None:
            encode_to_cache(source(tmp_path / "clips"), MeanAutoencoder(), out, **more)
        else:
            with published(events, by_workers=False) as told:
                encode_to_cache(source(tmp_path / "clips"), MeanAutoencoder(), out, events=told, **more)
    return tmp_path / "l"


def test_latents_are_read_row_by_row(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    asked = Counting(monkeypatch)
    here = CacheSource(CacheConfig(path=cache, split="all"))
    there = CacheSource(CacheConfig(path=Path("memory://b/latents"), split="all", disk_gb=1e-3))
    assert asked.whole and not [name for name in asked.whole if name.startswith("shards/")]
    there.ahead([0, 2])
    first = len(asked.ranges)
    there[0], there[2]
    assert len(asked.ranges) == first, "what was asked for ahead is here"
    same(there, here)
    assert_same(there.batch([1, 0]), here.batch([1, 0]))
    statistics = there.statistics
    assert_same(statistics.mean, here.statistics.mean)
    assert not [name for name in asked.whole if name.startswith("shards/")]
    assert not list(Mirror("memory://b/latents").path.glob("shards/*"))


def test_with_no_room_at_all_everything_is_read_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    asked = Counting(monkeypatch)
    there = CacheSource(CacheConfig(path=Path("memory://b/latents"), split="all", disk_gb=1e-8))
    same(there, CacheSource(CacheConfig(path=cache, split="all")))
    first = len(asked.ranges)
    there[0]
    assert len(asked.ranges) > first


def test_what_was_fetched_whole_is_read_from_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Counting(monkeypatch)
    same(CacheSource(CacheConfig(path=Path("memory://b/latents"), split="all", disk_gb=1e-3)),
         CacheSource(CacheConfig(path=cache, split="all")))  # fmt: skip
    assert not asked.ranges


@pytest.mark.parametrize(("config", "values", "message"), [
    (CacheConfig, {"path": "l", "disk_gb": 1}, "disk_gb is for what lies in a store"),
    (FolderConfig, {"path": "l", "disk_gb": 1}, "disk_gb is for what lies in a store"),
    (CacheConfig, {"path": "s3://b/l", "disk_gb": 1, "in_memory": True}, "in_memory reads all of it"),
    (CacheConfig, {"path": "s3://b/l", "disk_gb": 0}, "disk_gb"),
])  # fmt: skip
def test_settings_that_can_not_be_met_are_told(config: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(config, values)


def test_a_store_that_is_gone_midway_is_one_line(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    there = CacheSource(CacheConfig(path=Path("memory://b/latents"), split="all", disk_gb=1e-3))
    there[0]

    def gone(*given: Any, **named: Any) -> bytes:
        raise TimeoutError

    monkeypatch.setattr("kinolab.runtime.remote.PAUSES", (0.0,))
    monkeypatch.setattr(type(Mirror("memory://b/latents").store), "cat_file", gone)
    there[0]
    with pytest.raises(InputError, match=r"^memory://b/latents/shards/\w+\.safetensors: no answer \(TimeoutError\)$"):
        there[len(there) - 1]


def test_a_source_of_a_disk_has_nothing_to_fetch(cache: Path) -> None:
    CacheSource(CacheConfig(path=cache, split="all")).ahead([0])
    assert isinstance(source(cache.parent / "clips"), FolderSource)


class Full(system.Calls):
    """A disk that takes so many bytes more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, descriptor: int, data: memoryview, path: Path) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return super().write(descriptor, data, path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["encode", "curate"])
def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(
    command: str, store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model(tmp_path / "model", text=False)
    words: tuple[object, ...] = ("encode", tmp_path / "clips", "-a", tmp_path / "model", "--frames", 5, "--size", 16,
                                 "--shard-size", 2, "--precision", "float32", "--out")  # fmt: skip
    if command == "curate":
        words = ("data", "curate", tmp_path / "clips", "-s", "clips.min_seconds=0.1", "--out")
    assert run(*words, tmp_path / "quiet") == 0
    for name, room in (("a", 3000), ("b", 5000)):
        capsys.readouterr()
        with system.replaced(Full(room)):
            assert run(*words, tmp_path / name) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kinolab:")]
        assert str(tmp_path / name) in line and os.strerror(errno.ENOSPC) in line
        assert run(*words, tmp_path / name) == 0
        assert files_of(tmp_path / name) == files_of(tmp_path / "quiet")


def test_a_disk_that_fills_up_while_clips_of_a_store_are_captioned(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f"{sys.executable} -c 'print(9)' {{clip}}"
    words = ("data", "caption", "memory://b/clips", "--disk-gb", 1e-3, "--command", program)
    for room in (30, 300):
        with system.replaced(Full(room)):
            assert run(*words) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kinolab:")]
        assert os.strerror(errno.ENOSPC) in line
    assert run(*words) == 0
    assert {store.cat_file(f"/b/clips/{name}.txt") for name in ("0", "2", "deep")} == {b"9\n"}
    assert store.cat_file("/b/clips/1.txt") == b"a caption"


def test_a_disk_that_fills_up_while_a_store_is_mirrored(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Any, place: str, path: str, *more: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(type(store), "get_file", full)
    for more in ((), ("-s", "data.disk_gb=1e-3")):
        assert run("data", "check", "memory://b/clips", "--frames", 5, "--size", 16, *more) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("kinolab: ") and os.strerror(errno.ENOSPC) in line
