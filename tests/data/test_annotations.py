"""Captions and labels of a folder: which clip gets which, what is said of the rest, and what is refused."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from kinolab.data import FolderConfig, FolderSource
from kinolab.data.annotations import annotate, in_order, number_classes
from kinolab.errors import InputError
from tests.data.clip_files import write_numbered

FILES = ["cats/one.mp4", "cats/two.mp4", "dogs/three.mp4"]
CASES = Path(__file__).parent / "captions"
PLAIN = ["v1.mp4", "v2.mp4", "v3.mp4"]


def case(root: Path, name: str) -> str:
    shutil.copy(CASES / name, root / name)
    return name


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_table_gives_captions_and_labels(tmp_path: Path, suffix: str) -> None:
    rows = [("cats/one.mp4", 'a cat, "asleep"', "cat"), ("two", "two\ncats", "cat"), ("dogs/three", "a dog", "dog")]
    if suffix in (".jsonl", ".json"):
        keys = ("video", "text", "class")
        objects = [dict(zip(keys, row, strict=True)) for row in rows]
        text = json.dumps(objects) if suffix == ".json" else "\n".join(map(json.dumps, objects))
    else:
        separator = "\t" if suffix == ".tsv" else ","
        quoted = [separator.join('"' + v.replace('"', '""') + '"' for v in row) for row in rows]
        text = "\n".join([separator.join(("File", "Caption", "Label")), *quoted])
    (tmp_path / f"Captions{suffix.upper()}").write_text("\ufeff" + text, encoding="utf-8")
    found = annotate(tmp_path, FILES, "auto", "auto")
    assert found.captions == {FILES[0]: 'a cat, "asleep"', FILES[1]: "two\ncats", FILES[2]: "a dog"}
    assert found.classes == ("cat", "dog") and found.labels == {FILES[0]: 0, FILES[1]: 0, FILES[2]: 1}
    assert found.notes == () and found.alternatives == {}


def test_clips_of_one_split_have_their_own_captions(tmp_path: Path) -> None:
    """Both where the folder holds the split, and where it is the split itself."""
    name = case(tmp_path, "same-names-two-splits.csv")
    expected = ["train one: a red car", "train two"]
    inside = annotate(tmp_path, ["train/001.mp4", "train/002.mp4"], name, "none")
    assert inside.captions == dict(zip(["train/001.mp4", "train/002.mp4"], expected, strict=True))
    assert inside.notes == (f"{name}: 2 of 4 rows match no clip (first: line 4, 'test/001.mp4')",)
    (tmp_path / "train").mkdir()
    for place in (tmp_path / "train", tmp_path / "test"):
        place.mkdir(exist_ok=True)
        found = annotate(place, ["001.mp4", "002.mp4"], str(tmp_path / name), "none").captions
        assert found["001.mp4"].startswith(f"{place.name} one")
    (tmp_path / "val").mkdir()
    with pytest.raises(
        InputError, match=r"none of its 4 rows names a clip of .*val \(first: line 2, 'train/001.mp4'; a "
    ):
        annotate(tmp_path / "val", ["001.mp4", "002.mp4"], str(tmp_path / name), "none")


def test_a_bare_name_that_two_files_have_is_an_error_and_the_path_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\nx/a.mp4,y\na.mp4,x\n")
    with pytest.raises(InputError, match=r"t\.csv: line 3: 'a\.mp4' fits x/a\.mp4 and y/a\.mp4; write the path; mend"):
        annotate(tmp_path, ["x/a.mp4", "y/a.mp4"], "t.csv", "none")
    found = annotate(tmp_path, ["x/a.mp4", "y/a.mp4"], "t.csv", "none", "drop")
    assert found.captions == {"x/a.mp4": "y"} and "line 3 left out: 'a.mp4' fits" in found.notes[0]
    assert annotate(tmp_path, ["a.mp4", "x/a.mp4", "y/a.mp4"], "t.csv", "none").captions == {
        "x/a.mp4": "y",
        "a.mp4": "x",
    }


@pytest.mark.parametrize("composed", [True, False])
def test_names_match_in_either_unicode_form(tmp_path: Path, composed: bool) -> None:
    name, other = unicodedata.normalize("NFC", "Müll/Café.mp4"), unicodedata.normalize("NFD", "Müll/Café.mp4")
    name, other = (name, other) if composed else (other, name)
    (tmp_path / "captions.csv").write_text(f"file,caption\n{other},x\n", encoding="utf-8")
    assert annotate(tmp_path, [name], "auto", "none").captions == {name: "x"}
    (tmp_path / "captions.csv").unlink()
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).parent.joinpath(Path(other).with_suffix(".txt").name).write_text("y")
    assert annotate(tmp_path, [name], "auto", "none").captions == {name: "y"}


def test_several_rows_of_a_clip_are_alternatives(tmp_path: Path) -> None:
    found = annotate(tmp_path, PLAIN, case(tmp_path, "duplicates.csv"), "none")
    assert found.captions == {"v1.mp4": "first caption of one", "v2.mp4": "short name", "v3.mp4": "three"}
    assert found.alternatives == {"v1.mp4": ("second caption of one",), "v2.mp4": ("full name",)}
    assert found.notes == ("2 of 3 clips have several captions, of which every step of training draws one",)
    (tmp_path / "t.jsonl").write_text(
        '{"file": "v1", "caption": ["a", "b"]}\n{"file": "v1.mp4", "caption": ["b", "c"]}'
    )
    assert annotate(tmp_path, PLAIN, "t.jsonl", "none").alternatives == {"v1.mp4": ("b", "c")}


def test_lists_of_captions(tmp_path: Path) -> None:
    name = case(tmp_path, "lists.jsonl")
    with pytest.raises(InputError, match=r"lists\.jsonl: line 2: .*got an object"):
        annotate(tmp_path, PLAIN, name, "none")
    found = annotate(tmp_path, PLAIN, name, "none", "drop")
    assert found.captions == {"v1.mp4": "a red car turns"}
    assert found.alternatives == {"v1.mp4": ("a car drives around a corner",)}
    assert "2 of 3 clips have no caption" in found.notes


def test_two_labels_of_a_clip_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\nv1.mp4,1\nv2.mp4,0\nv1,1.0\nV1.mp4,2\n")
    with pytest.raises(InputError, match=r"t\.csv: line 5: v1\.mp4 has the label 2 here and 1 on line 2"):
        annotate(tmp_path, PLAIN, "none", "t.csv")
    assert annotate(tmp_path, PLAIN, "none", "t.csv", "drop").labels == {"v1.mp4": 1, "v2.mp4": 0}


def test_tables_that_say_different_things_are_said(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("file,caption,label\nv1.mp4,x,1\n")
    (tmp_path / "metadata.csv").write_text("file,caption,label\nv1.mp4,y,1\nv2.mp4,z,0\n")
    (tmp_path / "labels.csv").write_text("file,label\nv1.mp4,2\n")
    (tmp_path / "v1.txt").write_text("w")
    found = annotate(tmp_path, PLAIN, "auto", "auto")
    assert found.captions == {"v1.mp4": "x", "v2.mp4": "z"} and found.labels == {"v1.mp4": 2, "v2.mp4": 0}
    assert [note.split(" are passed")[0] for note in found.notes[:4]] == [
        "metadata.csv: captions of 1 clips", "the .txt files: captions of 1 clips", "metadata.csv: labels of 1 clips",
        "captions.csv: labels of 1 clips",
    ]  # fmt: skip
    named = annotate(tmp_path, PLAIN, "metadata.csv", "labels.csv")
    assert named.captions == {"v1.mp4": "y", "v2.mp4": "z"} and named.labels == {"v1.mp4": 2}


def test_a_table_has_what_it_is_named_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\nv1.mp4,1\n")
    with pytest.raises(InputError, match=r"t\.csv: has no column caption"):
        annotate(tmp_path, PLAIN, "t.csv", "none")
    assert annotate(tmp_path, PLAIN, "none", "t.csv").labels == {"v1.mp4": 1}


def test_text_files_beside_the_clips(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.txt").write_text("  a cat\n on a mat \n")
    found = annotate(tmp_path, FILES, "auto", "none")
    assert found.captions == {FILES[0]: "a cat on a mat"} and found.labels == {}
    assert found.notes == ("2 of 3 clips have no caption",)


def test_texts_are_named_after_the_clip_or_its_file(tmp_path: Path) -> None:
    files = ["a.mp4", "b.mp4", "b.png", "c", "d.v2.mp4", "E.mp4"]
    texts = {"a.mp4.txt": "x", "b.txt": "y", "c.txt": "z", "d.v2.txt": "v", "e.TXT": "w", "empty.txt": ""}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode("utf-16") if name == "c.txt" else text.encode())
    found = annotate(tmp_path, files, "txt", "none")
    assert found.captions == {"a.mp4": "x", "b.mp4": "y", "b.png": "y", "c": "z", "d.v2.mp4": "v", "E.mp4": "w"}
    assert found.notes == ("passed over: 1 .txt file that no clip is named like (first: empty.txt)",)
    (tmp_path / "a.txt").write_text("other")
    assert annotate(tmp_path, files, "txt", "none").alternatives == {"a.mp4": ("other",)}
    with pytest.raises(InputError, match=r"a\.txt: fits a\.mkv and a\.mp4; name it after one of them, as a\.mkv\.txt"):
        annotate(tmp_path, ["a.mkv", "a.mp4"], "txt", "none")


def test_a_text_in_another_encoding_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "v1.txt").write_bytes("a Café".encode("latin-1"))
    (tmp_path / "notes.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(InputError, match=r"v1\.txt: line 1: byte 0xe9 at position 5 is not UTF-8"):
        annotate(tmp_path, PLAIN, "auto", "none")
    found = annotate(tmp_path, PLAIN, "auto", "none", "drop")
    assert found.captions == {} and "v1.txt left out" in found.notes[0]
    assert annotate(tmp_path, PLAIN, "none", "none").notes == ()


def test_lists_of_prompts_and_clips_are_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    alone = annotate(tmp_path, PLAIN, "auto", "none")
    assert alone.captions == {}
    assert (
        "1 .txt file that no clip is named like (first: prompts.txt); prompts.txt is read with a videos.txt"
        in alone.notes[0]
    )
    (tmp_path / "videos.txt").write_text("v1.mp4\n./v3.mp4\nV2\n")
    found = annotate(tmp_path, PLAIN, "auto", "none")
    assert found.captions == {"v1.mp4": "one", "v2.mp4": "three", "v3.mp4": "two"} and found.notes == ()


def test_captions_json_is_read_and_other_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text('{"v1": "one", "v2.mp4": ["two", "zwei"], "v3.mp4": null}')
    (tmp_path / "other.csv").write_text("file,caption\nv1.mp4,x\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "captions.csv").write_text("file,caption\nv1.mp4,x\n")
    found = annotate(tmp_path, [*PLAIN, "deep/v4.mp4"], "auto", "none")
    assert found.captions == {"v1.mp4": "one", "v2.mp4": "two"} and found.alternatives == {"v2.mp4": ("zwei",)}
    said = "passed over: 2 tables (first: deep/captions.csv); name the one to be read: data.captions=deep/captions.csv"
    assert said in found.notes
    named = annotate(tmp_path, [*PLAIN, "deep/v4.mp4"], "deep/captions.csv", "none")
    assert named.captions == {"v1.mp4": "x"}


def test_folder_names(tmp_path: Path) -> None:
    found = annotate(tmp_path, FILES, "folder", "auto")
    assert found.captions == {FILES[0]: "cats", FILES[1]: "cats", FILES[2]: "dogs"}
    assert found.classes == ("cats", "dogs") and list(found.labels.values()) == [0, 0, 1]
    assert annotate(tmp_path, FILES[:2], "none", "auto").classes == ()
    assert annotate(tmp_path, FILES[:2], "none", "folder").classes == ("cats",)
    with pytest.raises(InputError, match="subfolders"):
        annotate(tmp_path, ["a.mp4"], "none", "folder")


def test_numbers_sort_as_numbers() -> None:
    names = {str(k): name for k, name in enumerate(["10", "9", "1", "take10", "take2", "b", "A", "02"])}
    classes, numbers = number_classes(names, False, [])
    assert classes == ("1", "02", "9", "10", "A", "b", "take2", "take10")
    assert numbers == {k: classes.index(name) for k, name in names.items()}


def test_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\none,10\ntwo,2.0\nthree,0\n")
    found = annotate(tmp_path, FILES, "none", "t.csv")
    assert list(found.labels.values()) == [10, 2, 0] and len(found.classes) == 11
    (tmp_path / "t.csv").write_text("file,label\none,10\ntwo,cat\nthree,9\n")
    mixed = annotate(tmp_path, FILES, "none", "t.csv")
    assert mixed.classes == ("9", "10", "cat") and list(mixed.labels.values()) == [1, 2, 0]
    assert "numbers and names mixed" in mixed.notes[0]
    (tmp_path / "t.csv").write_text("file,label\none,20240101\n")
    with pytest.raises(InputError, match=r"cats/one\.mp4 has the label 20240101, and classes are counted from 0"):
        annotate(tmp_path, FILES, "none", "t.csv")


def test_rows_without_a_clip_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\none,x\nlost.mp4,y\n")
    found = annotate(tmp_path, FILES, "t.csv", "none")
    assert found.notes == (
        "t.csv: 1 of 2 rows match no clip (first: line 3, 'lost.mp4')", "2 of 3 clips have no caption"
    )  # fmt: skip


def test_a_table_made_elsewhere_is_read_and_it_is_said(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    rows = [rf"E:\data\clips\{name}" for name in ("v1.mp4", "V2.MP4", "gone.mp4")]
    (root / "captions.csv").write_text("file,caption\n" + "".join(f"{name},{k}\n" for k, name in enumerate(rows)))
    found = annotate(root, PLAIN, "auto", "none")
    assert found.captions == {"v1.mp4": "0", "v2.mp4": "1"}
    assert found.notes[0] == f"captions.csv: its paths in E:/data/clips are taken to be in {root}"
    assert "1 of 3 rows match no clip (first: line 4" in found.notes[1]


def test_an_unrelated_table_is_passed_over_unless_its_name_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("camera,lens\nx,y\n")
    (tmp_path / "metadata.json").write_text('{"v9.mp4": "x"}')
    found = annotate(tmp_path, FILES, "auto", "auto")
    assert found.captions == {} and "metadata.csv: line 1: expected a column file" in found.notes[0]
    assert "none of its 1 rows names a clip" in found.notes[1]
    for captions, labels in (("metadata.csv", "none"), ("none", "metadata.csv")):
        with pytest.raises(InputError, match="expected a column file"):
            annotate(tmp_path, FILES, captions, labels)
    (tmp_path / "captions.csv").write_text("camera,lens\nx,y\n")
    with pytest.raises(
        InputError, match=r"captions\.csv: line 1: expected .*; to read no table, set data\.captions and"
    ):
        annotate(tmp_path, FILES, "auto", "auto")
    assert "captions.csv" in annotate(tmp_path, FILES, "none", "auto").notes[0], "nobody wants its captions"
    assert annotate(tmp_path, FILES, "none", "none").notes == ()


def test_a_bad_row_of_a_table_that_is_meant_is_an_error(tmp_path: Path) -> None:
    shutil.copy(CASES / "unquoted-comma.csv", tmp_path / "metadata.csv")
    with pytest.raises(InputError, match=r"metadata\.csv: line 3: has 3 values, the header has 2"):
        annotate(tmp_path, PLAIN, "auto", "auto")
    found = annotate(tmp_path, PLAIN, "auto", "auto", "drop")
    assert found.captions == {"v1.mp4": "one", "v3.mp4": "three"}
    assert "metadata.csv: line 3 left out" in found.notes[0] and found.notes[1] == "1 of 3 clips have no caption"


def test_a_folder_of_clips_has_them(tmp_path: Path) -> None:
    """From files on disk to records: alternatives, copies that share what they have, one file alone."""
    for name, mark in (("0copy", 1), ("a", 1), ("b", 2), ("c", 3)):
        write_numbered(tmp_path / f"{name}.mkv", 3, mark=mark)
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "a.mkv", "caption": ["x", "y"], "label": "cat"}\n{"file": "b.mkv", "caption": "z", "label": "dog"}\n'
    )
    values = {"path": tmp_path, "frames": 3, "size": 16, "split": "all", "index": "none"}
    source = FolderSource(FolderConfig.model_validate(values))
    records = {record.source: record for record in map(source.record, range(len(source)))}
    assert set(records) == {"0copy.mkv", "b.mkv", "c.mkv"}
    told = {name: (r.caption, r.alternatives, r.label) for name, r in records.items()}
    assert told == {"0copy.mkv": ("x", ("y",), 0), "b.mkv": ("z", (), 1), "c.mkv": (None, (), None)}
    assert source[0].alternatives == ("y",) and source.verdicts()[0].alternatives == ("y",)
    (tmp_path / "notes.txt").write_text("x")
    alone = FolderSource(FolderConfig.model_validate(values | {"path": tmp_path / "b.mkv"}))
    assert alone.record(0).caption == "z" and not any("notes.txt" in note for note in alone.notes())


def test_labels_of_more_digits_than_a_number_has(tmp_path: Path) -> None:
    many = "9" * 10_000
    assert sorted(["a10", "a2", f"a{many}", "a٣"], key=in_order) == ["a2", "a٣", "a10", f"a{many}"]
    with pytest.raises(InputError, match="a label of 10000 digits"):
        number_classes({"a.mp4": many, "b.mp4": "1"}, True, [])
