"""What is kept of what lies elsewhere: within its limit, whole, and never taken from who uses it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from kinolab.errors import InputError
from kinolab.runtime import kept as module
from kinolab.runtime import system
from kinolab.runtime.kept import BLOCK, Kept
from tests.processes import Child

PIECE = bytes(BLOCK - 4)
"""Takes one block."""


def fill(folder: Path, first: int, count: int, limit: int) -> None:
    kept = Kept(folder, limit)
    for k in range(first, first + count):
        assert kept.data(str(k), lambda k=k: PIECE[:-4] + k.to_bytes(4, "big")) == PIECE[:-4] + k.to_bytes(4, "big")


def never() -> bytes:
    raise AssertionError("it is here")


def test_bytes_are_got_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 2**20)
    assert kept.data("a", lambda: b"one") == b"one" and kept.data("a", never) == b"one"
    assert Kept(tmp_path, 2**20).data("a", never) == b"one" and kept.data("b", lambda: b"") == b""


@pytest.mark.parametrize("spoil", [lambda d: d[:-1], lambda d: d[:-1] + b"x", lambda d: b"", lambda d: bytes(len(d))])
def test_bytes_that_differ_from_their_sum_are_got_anew(tmp_path: Path, spoil: Any) -> None:
    kept = Kept(tmp_path, 2**20)
    kept.data("a", lambda: b"one")
    [file] = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    file.write_bytes(spoil(file.read_bytes()))
    assert kept.data("a", lambda: b"two") == b"two" and kept.data("a", never) == b"two"


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 16 * BLOCK)
    for k in range(12):
        kept.data(str(k), lambda: PIECE)
    for k, path in enumerate(sorted(tmp_path.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (k, k))  # in the order in which they came, and long ago
    kept.data("0", never)
    for k in range(12, 18):
        kept.data(str(k), lambda: PIECE)
    assert kept.size() <= 16 * BLOCK
    assert kept.data("0", never) == kept.data("17", never) == PIECE
    assert kept.data("1", lambda: b"gone") == b"gone"


@pytest.mark.slow
def test_several_processes_stay_within_the_limit(tmp_path: Path) -> None:
    limit = 64 * BLOCK
    others = [Child(fill, tmp_path, first, 70, limit) for first in (0, 35)]
    assert [other.wait()[0] for other in others] == [0, 0]
    assert 16 * BLOCK < Kept(tmp_path, limit).size() <= limit
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".kinolab-")]


def put(content: bytes) -> Any:
    return lambda room: (room / "clip.mp4").write_bytes(content)


def test_files_are_put_into_a_place_and_whole_there(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 2**20)
    with kept.place("a", 3, put(b"one")) as folder:
        assert (folder / "clip.mp4").read_bytes() == b"one"
    with kept.place("a", 3, lambda room: never()) as folder:
        (folder / "clip.mp4").write_bytes(b"x")  # what a power cut may leave
    with kept.place("a", 3, put(b"one")) as folder:
        assert (folder / "clip.mp4").read_bytes() == b"one"
    with pytest.raises(InputError, match="is not the 3 bytes"), kept.place("b", 3, put(b"four")):
        pass
    with pytest.raises(InputError, match="allow more"), kept.place("c", 2**21, put(b"")):
        pass


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 4 * BLOCK)
    with kept.place("a", BLOCK, put(bytes(BLOCK))) as used:
        os.utime(used, (1, 1))
        for k in range(6):
            with kept.place(str(k), BLOCK, put(bytes(BLOCK))):
                pass
        assert (used / "clip.mp4").stat().st_size == BLOCK and kept.size() <= 4 * BLOCK
    with kept.place("z", 3 * BLOCK, put(bytes(3 * BLOCK))):
        assert not used.exists(), "once nobody uses it, it goes like any other"


def test_two_that_fetch_the_same_at_once(tmp_path: Path) -> None:
    kept, both, found = Kept(tmp_path, 2**20), threading.Barrier(2), list[bytes]()

    def get(room: Path) -> None:
        both.wait(10)
        (room / "clip.mp4").write_bytes(b"one")

    def use() -> None:
        with kept.place("a", 3, get) as folder:
            found.append((folder / "clip.mp4").read_bytes())

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [b"one", b"one"] and len(list(tmp_path.glob("[0-9a-f]*"))) == 1


def test_a_full_disk_keeps_nothing_more_and_stops_nobody(tmp_path: Path) -> None:
    class Full(system.Calls):
        def write(self, descriptor: int, data: memoryview, path: Path) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    kept = Kept(tmp_path, 2**20)
    with system.replaced(Full()):
        assert kept.data("a", lambda: b"one") == b"one"
    assert kept.size() == 0 and kept.data("a", lambda: b"two") == b"two"


def test_where_the_disk_is_nearly_full_what_is_oldest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path, 2**40)
    for k in range(4):
        kept.data(str(k), lambda: PIECE)
    monkeypatch.setattr("kinolab.runtime.files.free_space", lambda path: module.SPARE)
    Kept(tmp_path, 2**40).data("4", lambda: PIECE)
    assert kept.size() == 4 * BLOCK, "as many bytes go as come"
