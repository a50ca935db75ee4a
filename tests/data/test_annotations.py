import json
from pathlib import Path

import pytest

from kinolab.data.annotations import annotate, read_table
from kinolab.errors import InputError

FILES = ["cats/one.mp4", "cats/two.mp4", "dogs/three.mp4"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_table_gives_captions_and_labels(tmp_path: Path, suffix: str) -> None:
    rows = [("cats/one.mp4", 'a cat, "asleep"', "cat"), ("two", "two\ncats", "cat"), ("dogs/three", "a dog", "dog")]
    if suffix == ".jsonl":
        keys = ("video", "text", "class")
        text = "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows)
    else:
        separator = "\t" if suffix == ".tsv" else ","
        quoted = [separator.join('"' + v.replace('"', '""') + '"' for v in row) for row in rows]
        text = "\n".join([separator.join(("File", "Caption", "Label")), *quoted])
    (tmp_path / f"captions{suffix}").write_text("\ufeff" + text, encoding="utf-8")
    found = annotate(tmp_path, FILES, "auto", "auto")
    assert found.captions == {FILES[0]: 'a cat, "asleep"', FILES[1]: "two\ncats", FILES[2]: "a dog"}
    assert found.classes == ("cat", "dog") and found.labels == {FILES[0]: 0, FILES[1]: 0, FILES[2]: 1}
    assert found.notes == ()


def test_text_files_beside_the_clips(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.txt").write_text("  a cat\n on a mat \n")
    found = annotate(tmp_path, FILES, "auto", "none")
    assert found.captions == {FILES[0]: "a cat on a mat"} and found.labels == {}
    assert found.notes == ("2 of 3 clips have no caption",)


def test_folder_names(tmp_path: Path) -> None:
    found = annotate(tmp_path, FILES, "folder", "auto")
    assert found.captions == {FILES[0]: "cats", FILES[1]: "cats", FILES[2]: "dogs"}
    assert found.classes == ("cats", "dogs") and list(found.labels.values()) == [0, 0, 1]
    assert annotate(tmp_path, FILES[:2], "none", "auto").classes == ()
    assert annotate(tmp_path, FILES[:2], "none", "folder").classes == ("cats",)


def test_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\none,10\ntwo,2\nthree,0\n")
    found = annotate(tmp_path, FILES, "none", "t.csv")
    assert list(found.labels.values()) == [10, 2, 0] and len(found.classes) == 11


def test_rows_without_a_clip_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\none,x\nlost.mp4,y\n")
    found = annotate(tmp_path, FILES, "t.csv", "none")
    assert found.notes == ("t.csv: 1 of 2 rows match no clip (first: lost.mp4)", "2 of 3 clips have no caption")


def test_a_bare_name_that_two_files_have_matches_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\na.mp4,x\nx/a.mp4,y\n")
    assert annotate(tmp_path, ["x/a.mp4", "y/a.mp4"], "t.csv", "none").captions == {"x/a.mp4": "y"}


def test_an_unrelated_table_is_passed_over_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("camera,lens\nx,y\n")
    found = annotate(tmp_path, FILES, "auto", "auto")
    assert found.captions == {} and "metadata.csv: expected a column file" in found.notes[0]
    with pytest.raises(InputError, match="expected a column file"):
        annotate(tmp_path, FILES, "metadata.csv", "none")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "file,caption\na.mp4,one, two\n", "line 2 has 3 values.*double quotes"),
        ("t.jsonl", '{"file": "a", "caption": "b"}\n{oops\n', "line 2 is not JSON"),
        ("t.jsonl", "[1]\n", "line 1: expected an object"),
        ("t.csv", "file,caption\n", "no rows"),
        ("t.csv", "file,caption\n,b\n", "line 2 names no file"),
        ("t.xlsx", "x", "expected a table"),
    ],
)
def test_a_bad_table_is_named_with_the_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: .*{said}|{name}: {said}"):
        read_table(tmp_path / name)
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "missing.csv")


def test_folder_labels_need_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="subfolders"):
        annotate(tmp_path, ["a.mp4"], "none", "folder")
