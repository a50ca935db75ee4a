"""No name from a file leads out of the folder that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinolab.errors import InputError
from kinolab.runtime.paths import inside, is_passed_over, named, single, visible


@pytest.mark.parametrize(
    "name", ["a.mp4", "a/b/c.json", "ü/…", "a..b", "..a", "...", "a b", ".hidden", "./a", "con.mp4"]
)
def test_names_of_what_is_inside(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "./", "..", "../x", "a/../../x", "a/..", "a\\..\\..\\x", "/etc/passwd", "//host/share", "C:\\x",
     "c:x", "\\x", "\\\\host\\share", "a\0b", "a\nb", "\x7f", "\ud800", "x" * 256, "ü" * 128, None, 5, ["a"], b"a"],
)  # fmt: skip
def test_names_that_are_not(name: object, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        inside(tmp_path, name)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "name",
    ["con", "a/NUL.txt", "com1.mp4", "lpt9", "a.", "a ", "a:b", "a?", "a*", '"', "x|y", "a<b", ".kinolab-1",
     "x/.k.committed"],
)  # fmt: skip
def test_names_that_nothing_new_gets(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        inside(tmp_path, name, new=True)


def test_links_lead_out_only_where_they_may(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "blob").write_text("x")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path / "store")
    (root / "in").symlink_to(root / "sub")
    (root / "loop").symlink_to(root / "loop")
    assert inside(root, "in/x") == root / "in" / "x"
    assert inside(root, "out/blob", links=True).read_text() == "x"
    for name in ("out", "out/blob", "loop/x"):
        with pytest.raises(InputError, match="link"):
            inside(root, name)
    with pytest.raises(InputError, match=r"\.\."):
        inside(root, "../store/blob", links=True)


def test_a_single_name(tmp_path: Path) -> None:
    assert single(tmp_path, "a.mp4") == tmp_path / "a.mp4"
    with pytest.raises(InputError, match="parts"):
        single(tmp_path, "a/b")


@given(st.text(max_size=40))
def test_whatever_is_accepted_stays_inside(name: str) -> None:
    root = Path("/some/where")
    try:
        path = inside(root, name)
    except InputError:
        return
    parts: list[str] = []
    for part in path.parts:  # the folder that the text leads to, without asking the disk
        parts = parts[:-1] if part == ".." else [*parts, part]
    assert tuple(parts[:3]) == root.parts and len(parts) > 3


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "thumbs.DB", "._a.mp4", ".hidden", "desktop.ini", "@eaDir"])
def test_what_systems_leave_behind_is_nobodys_data(name: str, tmp_path: Path) -> None:
    (tmp_path / "b.txt").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.txt").touch()
    (tmp_path / "a" / name).touch()
    (tmp_path / name).mkdir()
    (tmp_path / name / "d.txt").touch()
    assert is_passed_over(name) and not is_passed_over(f"x{name}")
    assert visible(tmp_path) == [tmp_path / "a", tmp_path / "b.txt"]
    assert visible(tmp_path, "*.txt") == [tmp_path / "b.txt"]
    assert visible(tmp_path, "*/*") == visible(tmp_path, "*/*.txt") == [tmp_path / "a" / "c.txt"]
    assert visible(tmp_path / name) == [tmp_path / name / "d.txt"], "a folder that is named is meant"


@pytest.mark.parametrize("path", [".", "..", "/", "a", "a/b.mp4"])
def test_a_path_gets_a_name(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = named(Path(path))
    assert found.resolve() == Path(path).resolve()
    assert (found == Path(path)) == (path in ("a", "a/b.mp4", "/"))
