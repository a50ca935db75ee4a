"""What the surely dead left is removed, and nothing else, ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kinolab.runtime import files, leftovers
from kinolab.runtime.leftovers import Writer, clean, surely_dead, temporary_name, this_process, writer_of


def name_of(writer: Writer) -> str:
    return f".kinolab-{writer.host}-{writer.boot}-{writer.space}-{writer.process}-{writer.start}-{'0' * 16}.mp4"


def changed(**fields: object) -> Writer:
    here = this_process()
    return Writer(**{**{f: getattr(here, f) for f in here.__dataclass_fields__}, **fields})


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_a_name_says_who_writes(tmp_path: Path) -> None:
    assert writer_of(temporary_name(".mp4")) == this_process()
    assert temporary_name(".mp4").endswith(".mp4")
    assert len(temporary_name("." + "x" * 300)) < 120
    assert this_process().process == os.getpid()
    for other in ("clip.mp4", ".kinolab-", ".kinolab-x-y-z.mp4", ".writing-clip.mp4"):
        assert writer_of(other) is None
        assert not surely_dead(tmp_path / other)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_only_the_surely_dead_are(dead: int, tmp_path: Path) -> None:
    long_ago = time.time() - 10 * 365 * 86400
    cases = {
        "this process": (changed(), False),
        "a process that is gone": (changed(process=dead), True),
        "its number, used again": (changed(start="1"), True),
        "another container": (changed(process=dead, space="1"), False),
        "another machine": (changed(process=dead, host="00000000"), False),
        "an earlier boot, quiet since": (changed(process=dead, boot="abcdef012345"), True),
    }
    for what, (writer, expected) in cases.items():
        path = tmp_path / name_of(writer)
        path.write_text("x")
        os.utime(path, (long_ago, long_ago))
        assert surely_dead(path) == expected, what
        path.unlink()
    fresh = tmp_path / name_of(changed(boot="abcdef012345"))
    fresh.write_text("x")
    assert not surely_dead(fresh), "another boot's, changed a moment ago: perhaps another machine of this name"


def test_the_first_write_into_a_folder_cleans_it(dead: int, tmp_path: Path) -> None:
    room = tmp_path / name_of(changed(process=dead))
    room.mkdir()
    (room / "half.safetensors").write_text("x")
    (room / "link").symlink_to(tmp_path)
    kept = [temporary_name(), ".writing-x.mp4", "clip.mp4", name_of(changed(process=dead, host="00000000"))]
    for name in kept:
        (tmp_path / name).write_text("x")
    files.write_text(tmp_path / "a.txt", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "a.txt"])


def test_what_resists_is_left(dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for digit in "01":
        (tmp_path / name_of(changed(process=dead)).replace("0" * 16, digit * 16)).write_text("x")

    def refuse(path: Path) -> None:
        if path.name.endswith("0" * 16 + ".mp4"):
            raise PermissionError

    monkeypatch.setattr(leftovers, "remove", refuse)
    assert len(clean(tmp_path)) == 1
    assert clean(tmp_path / "missing") == []


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    files.remove(tmp_path / "gone")
    files.remove(tmp_path / "never")
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "mine"
