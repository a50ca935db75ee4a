"""Files and folders are there whole or not at all, after kills, power cuts and errors of the disk at every call."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.failures import disk_error, failing
from kinolab.runtime.paths import OWN
from tests.runtime.crashing import After, again, crashes, failures

OLD, NEW = "the old text", "the new text, which is longer " * 5


def nothing(root: Path) -> None:
    """No file yet."""


def old_file(root: Path) -> None:
    (root / "a.txt").write_text(OLD)


def write_new(root: Path) -> None:
    files.write_text(root / "deep" / "er" / "a.txt" if (root / "other").exists() else root / "a.txt", NEW)


def hand_new(root: Path) -> None:
    with files.handed(root / "a.txt") as temporary:
        temporary.write_text(NEW)


def old_folder(root: Path) -> None:
    for k in range(2):
        (root / "f").mkdir(exist_ok=True)
        (root / "f" / f"{k}.txt").write_text(f"old {k}")


def folder_new(root: Path) -> None:
    with files.new_folder(root / "f") as room:
        (room / "sub").mkdir()
        for name in ("0.txt", "sub/1.txt"):
            (room / name).write_text(f"new {name}")


def visible(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if not p.name.startswith(OWN))


def folder_state(root: Path) -> dict[str, str] | None:
    here = files.standing(root / "f")
    if not here.exists():
        return None
    return {p.relative_to(here).as_posix(): p.read_text() for p in sorted(here.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("before", [nothing, old_file])
@pytest.mark.parametrize("act", [write_new, hand_new])
def test_a_file_is_old_or_new_after_every_crash(before: object, act: object, tmp_path: Path) -> None:
    seen = set()
    for after in crashes(before, act, tmp_path):  # type: ignore[arg-type]
        path = after.root / "a.txt"
        found = path.read_text() if path.exists() else None
        assert found in (NEW, OLD if before is old_file else None), f"{after}: {found!r}"
        assert visible(after.root) in ([], ["a.txt"]), after
        seen.add(found)
        again(act, after.root)  # type: ignore[arg-type]
        assert path.read_text() == NEW, after
    assert len(seen) == 2, "some crashes come before and some after the file is there"


def test_what_was_acknowledged_is_there_after_a_power_cut(tmp_path: Path) -> None:
    def act(root: Path) -> None:
        files.write_text(root / "new" / "a.txt", NEW)
        files.write_text(root / "last.txt", "x")

    first_done = False
    for after in crashes(nothing, act, tmp_path, disks=("flushed",)):
        there = (after.root / "new" / "a.txt").exists()
        first_done = first_done or there
        assert there or not first_done, f"{after}: acknowledged and lost"
        if (after.root / "last.txt").exists():
            assert there, after
    assert first_done


def old_or_new_folder(after: After) -> None:
    found = folder_state(after.root)
    assert found in ({"0.txt": "old 0", "1.txt": "old 1"}, {"0.txt": "new 0.txt", "sub/1.txt": "new sub/1.txt"}), (
        f"{after}: {found}"
    )


def test_a_folder_is_old_or_new_after_every_crash(tmp_path: Path) -> None:
    for after in crashes(old_folder, folder_new, tmp_path):
        old_or_new_folder(after)
        again(folder_new, after.root)
        assert folder_state(after.root) == {"0.txt": "new 0.txt", "sub/1.txt": "new sub/1.txt"}, after
        assert visible(after.root) == ["f"], after


def test_a_first_folder_is_there_whole_or_not(tmp_path: Path) -> None:
    for after in crashes(nothing, folder_new, tmp_path):
        assert folder_state(after.root) in (None, {"0.txt": "new 0.txt", "sub/1.txt": "new sub/1.txt"}), after


@pytest.mark.parametrize("act", [write_new, hand_new])
def test_an_error_of_the_disk_names_the_file_and_changes_nothing(act: object, tmp_path: Path) -> None:
    for after in failures(old_file, act, tmp_path):  # type: ignore[arg-type]
        found = (after.root / "a.txt").read_text()
        assert found in (OLD, NEW), after
        assert [p.name for p in after.root.iterdir()] == ["a.txt"], f"{after}: leftovers"
        assert after.error is not None, after
        assert errno.errorcode[after.error.errno or 0] == after.how
        if found == OLD:
            assert after.error.filename == str(after.root / "a.txt"), after


def test_an_error_of_the_disk_leaves_a_folder_whole(tmp_path: Path) -> None:
    for after in failures(old_folder, folder_new, tmp_path):
        old_or_new_folder(after)
        assert after.error is not None
        names = {p.name for p in after.root.iterdir()}
        committed = (folder_state(after.root) or {}).get("0.txt") == "new 0.txt"
        assert committed or names == {"f"}, f"{after}: {names}"  # the old one goes when the new one is surely there


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    old_file(tmp_path)
    for write in (files.opened, files.handed):
        with pytest.raises(ZeroDivisionError), write(tmp_path / "a.txt"):
            raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "f"):
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == OLD


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask_whatever_a_library_does(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "new" / "a.txt", "x")
        with files.handed(tmp_path / "b.safetensors") as temporary:
            save_file({"a": zeros(3)}, temporary)  # puts another file in the place, of mode 0600
        with files.new_folder(tmp_path / "f") as room:
            save_file({"a": zeros(3)}, room / "c.safetensors")
    finally:
        os.umask(before)
    for name in ("new/a.txt", "b.safetensors", "f/c.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask, name
    for name in ("new", "f"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o777 & ~mask, name


def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr("kinolab.runtime.leftovers.secrets.token_hex", lambda n: "0" * 16)
    from kinolab.runtime.leftovers import temporary_name

    for ending, write in ((".txt", files.opened), (".txt", files.handed)):
        planted = tmp_path / temporary_name(ending)
        planted.symlink_to(victim)
        with pytest.raises(FileExistsError), write(tmp_path / "a.txt"):
            pass
        planted.unlink(missing_ok=True)
    with pytest.raises(OSError, match="link"), files.new_folder(tmp_path / "f") as room:
        (room / "x").symlink_to(victim)
    assert victim.read_text() == "mine"


def test_temporary_names_cannot_be_guessed() -> None:
    from kinolab.runtime.leftovers import temporary_name

    assert len({temporary_name() for _ in range(100)}) == 100


def test_a_link_at_the_final_name_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.txt").symlink_to(tmp_path / "victim")
    files.write_text(tmp_path / "a.txt", NEW)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "a.txt").is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "d", "x")
    with pytest.raises(OSError, match="neither"):
        files.write_text(tmp_path / "pipe", "x")
    old_file(tmp_path)
    with pytest.raises(NotADirectoryError), files.new_folder(tmp_path / "a.txt"):
        pass
    with pytest.raises(NotADirectoryError):
        files.write_text(tmp_path / "a.txt" / "b.txt", "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_handle_reads_back_and_seeks(tmp_path: Path) -> None:
    with files.opened(tmp_path / "a.bin") as file:
        file.write(b"0123456789" * 1000)
        file.seek(5)
        file.write(b"x")
        file.seek(0)
        assert file.read(7) == b"01234x6"
        file.seek(0, os.SEEK_END)
        file.truncate(20)
    assert (tmp_path / "a.bin").read_bytes() == b"01234x6789" + b"0123456789"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EDQUOT, "x"), errno.EDQUOT),
        (RuntimeError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), errno.EIO),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), errno.EIO),
        (ValueError("cannot write: Disk quota exceeded"), errno.EDQUOT),
        (RuntimeError("size mismatch"), None),
    ],
)
def test_errors_of_libraries_are_told_apart(error: Exception, number: int | None, tmp_path: Path) -> None:
    assert disk_error(error, tmp_path / "x") == number


def test_only_errors_of_this_file_get_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, failing(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    assert raised.value.filename == str(tmp_path / "input")
    with pytest.raises(OSError, match="No space") as other, failing(tmp_path / "out"):
        raise RuntimeError("os error 28")
    assert other.value.filename == str(tmp_path / "out")
    with pytest.raises(InputError, match="permission denied"), failing(tmp_path / "out"):
        raise InputError("x: permission denied")
    with pytest.raises(RuntimeError, match="size"), failing(tmp_path / "out"):
        raise RuntimeError("size mismatch")


def test_a_copy_holds_the_same_and_a_placed_file_has_the_other_name(tmp_path: Path) -> None:
    source, target = tmp_path / "a.bin", tmp_path / "new" / "b.bin"
    source.write_bytes(bytes(range(256)) * 9000)
    files.copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    target.write_bytes(b"old")
    files.place(source, target)
    assert not source.exists() and len(target.read_bytes()) == 256 * 9000
    with pytest.raises(IsADirectoryError):
        files.place(target, tmp_path)


def test_a_scratch_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.scratch(tmp_path) as room:
        (room / "a").write_text("x")
        files.place(room / "a", tmp_path / "kept")
        (room / "b").write_text("x")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
