"""Which clip a name means: exact paths first, then other spellings, then ends of paths that one clip alone has."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from kinolab.data.naming import ClipNames, SeveralClipsError, without_suffix

FILES = ("top.mp4", "train/001.mp4", "train/002.mp4", "train/deep/é.mp4", "frames", "pic.png", "pic.mp4", "x/pic.mkv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "data" / "clips"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/001.mp4", "train/001.mp4"),
        ("train/001", "train/001.mp4"),
        ("./train/001.mp4", "train/001.mp4"),
        (".//train/x/../001.mp4", "train/001.mp4"),
        (r"train\001.mp4", "train/001.mp4"),
        (r".\train\deep\é.mp4", "train/deep/é.mp4"),
        ("Train/001.MP4", "train/001.mp4"),
        ("TRAIN/001", "train/001.mp4"),
        ("001.mp4", "train/001.mp4"),
        ("001", "train/001.mp4"),
        ("deep/é.mp4", "train/deep/é.mp4"),
        (unicodedata.normalize("NFD", "é.mp4"), "train/deep/é.mp4"),
        (unicodedata.normalize("NFD", "TRAIN/deep/É.mp4"), "train/deep/é.mp4"),
        ("frames", "frames"),
        ("frames/", "frames"),
        ("pic", "pic.mp4"),
        ("pic.png", "pic.png"),
        ("clips/train/001.mp4", "train/001.mp4"),
        ("data/clips/train/001.mp4", "train/001.mp4"),
        (r"data\clips\top", "top.mp4"),
        ("../clips/top.mp4", "top.mp4"),
        ("test/001.mp4", None),
        ("other/clips/train/001.mp4", None),
        ("train/001.avi", None),
        ("clips/test/001.mp4", None),
        ("003.mp4", None),
        ("rain/001.mp4", None),
        ("x" * 5000, None),
        ("/elsewhere/train/001.mp4", None),
        (r"C:\elsewhere\001.mp4", None),
    ],
)
def test_a_name_means_the_clip_that_it_names(root: Path, name: str, expected: str | None) -> None:
    assert ClipNames(root, FILES).find(name, root) == expected


def test_absolute_paths_lie_in_the_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ClipNames(root, FILES)
    assert names.find(str(root / "train/001.mp4")) == "train/001.mp4"
    assert names.find(str(root / "train/001")) == "train/001.mp4"
    assert names.find(str(root).upper() + "/train/001.mp4") == "train/001.mp4"
    assert names.find(f"file://{root}/top.mp4") == "top.mp4"
    assert names.find(str(tmp_path / "data/train/001.mp4")) is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names.find("~/data/clips/top.mp4") == "top.mp4"
    monkeypatch.chdir(tmp_path)
    assert ClipNames(Path("data/clips"), FILES).find(str(root / "top.mp4")) == "top.mp4"


def test_the_tables_own_folder_counts_too(root: Path, tmp_path: Path) -> None:
    names = ClipNames(root, FILES)
    tables = tmp_path / "data" / "tables"
    assert names.find("../clips/train/001.mp4", tables) == "train/001.mp4"
    assert names.find("../../data/clips/top", tables) == "top.mp4"
    assert names.find("../001.mp4", tables) is None
    assert ClipNames(root / "train", ["001.mp4"]).find("train/001.mp4", root) == "001.mp4"
    assert ClipNames(root / "train", ["001.mp4"]).find("test/001.mp4", root) is None


def test_links_lead_to_their_clips(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "clips").mkdir()
    (tmp_path / "store" / "a.mp4").write_bytes(b"a")
    (tmp_path / "clips" / "one.mp4").symlink_to(tmp_path / "store" / "a.mp4")
    (tmp_path / "other").symlink_to(tmp_path / "clips")
    names = ClipNames(tmp_path / "other", ["one.mp4"])
    for name in (tmp_path / "store/a.mp4", tmp_path / "clips/one.mp4", tmp_path / "other/one.mp4", "../store/a.mp4"):
        assert names.find(str(name), tmp_path / "other") == "one.mp4"
    assert names.find("store/a.mp4", tmp_path) == "one.mp4"
    # Two names of one file are not two clips.
    (tmp_path / "clips" / "two").mkdir()
    (tmp_path / "clips" / "two" / "one.mp4").symlink_to(tmp_path / "store" / "a.mp4")
    (tmp_path / "clips" / "zwei").symlink_to(tmp_path / "clips" / "two")
    assert ClipNames(tmp_path / "clips", ["two/one.mp4", "zwei/one.mp4"]).find("one.mp4") == "two/one.mp4"


@pytest.mark.parametrize(
    ("files", "name", "exact"),
    [
        (["a/1.mp4", "b/1.mp4"], "1.mp4", "a/1.mp4"),
        (["a/1.mp4", "b/1.mp4"], "1", "b/1"),
        (["1.mp4", "1.mkv"], "1", "1.mp4"),
        (["a.mp4", "A.mp4"], "A.MP4", "A.mp4"),
        (["x/a/1.mp4", "y/a/1.mp4"], "a/1.mp4", "x/a/1"),
        (["é.mp4", unicodedata.normalize("NFD", "é.mp4")], "É.mp4", "é.mp4"),
    ],
)
def test_a_name_that_fits_several_is_an_error_and_its_path_is_not(
    root: Path, files: list[str], name: str, exact: str
) -> None:
    names = ClipNames(root, files)
    with pytest.raises(SeveralClipsError, match=r"fits .* and "):
        names.find(name)
    assert without_suffix(str(names.find(exact))) == without_suffix(exact)
    if name == "1.mp4":
        assert ClipNames(root, ["1.mp4", *files]).find(name) == "1.mp4", "an exact path goes before a bare name"


def test_a_name_with_a_backslash_is_itself(root: Path) -> None:
    assert ClipNames(root, [r"a\b.mp4", "a/b.mp4"]).find(r"a\b.mp4") == r"a\b.mp4"


def test_paths_of_another_machine_are_taken_by_the_folders_own_name(root: Path, tmp_path: Path) -> None:
    names = ClipNames(root, FILES)
    there = [r"D:\ml\clips\train\001.mp4", r"D:\ml\clips\top.mp4", r"D:\ml\clips\gone.mp4"]
    assert names.elsewhere(there) == (
        "D:/ml/clips", {there[0]: "train/001.mp4", there[1]: "top.mp4"}
    )  # fmt: skip
    train = ClipNames(root / "train" / "clips", ["001.mp4"])
    both = ["/mnt/test/clips/001.mp4", "/mnt/train/clips/001.mp4"]
    assert train.elsewhere(both) == ("/mnt/train/clips", {both[1]: "001.mp4"})
    assert train.elsewhere(["/mnt/a/clips/001.mp4", "/mnt/b/clips/001.mp4"]) is None, "either could be meant"
    assert names.elsewhere(["/mnt/videos/train/001.mp4"]) is None
    (tmp_path / "old" / "clips").mkdir(parents=True)
    assert names.elsewhere([str(tmp_path / "old" / "clips" / "top.mp4")]) is None, "a folder that is there is itself"
