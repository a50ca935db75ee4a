"""Captions written back into tables: the row that told them changes, and nothing else of the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinolab.data.annotations import annotate
from kinolab.data.retelling import retell
from kinolab.errors import InputError

FILES = ["a.mp4", "b.mp4", "c.mp4"]


def read(root: Path) -> dict[str, str]:
    return dict(annotate(root, FILES, "auto", "none").captions)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            "captions.csv", "file,caption,n\na.mp4,one,1\nb.mp4,two,2\n",
            'file,caption,n\na.mp4,"1, ""new""",1\nb.mp4,two,2\n',
        ),
        (
            "captions.csv", "sep=;\r\nFILE;Caption\r\na;one\r\n\r\nb;two",
            'sep=;\r\nFILE;Caption\r\na;"1, ""new"""\r\n\r\nb;two',
        ),
        ("captions.csv", 'file,caption\na.mp4,"on\ne"\nb.mp4,two\n', 'file,caption\na.mp4,"1, ""new"""\nb.mp4,two\n'),
        ("captions.tsv", "text\tvideo\none\ta.mp4\ntwo\tb.mp4\n", 'text\tvideo\n"1, ""new"""\ta.mp4\ntwo\tb.mp4\n'),
        (
            "captions.jsonl", '{"file": "b.mp4", "text": "two"}\n\n{"Text": "one", "file": "a.mp4", "x": [1.50]}\n',
            '{"file": "b.mp4", "text": "two"}\n\n{"Text": "1, \\"new\\"", "file": "a.mp4", "x": [1.5]}\n',
        ),
    ],
)  # fmt: skip
def test_one_row_changes(tmp_path: Path, name: str, before: str, after: str) -> None:
    path = tmp_path / name
    path.write_bytes(before.encode())
    assert retell(tmp_path, FILES, {"a.mp4": ['1, "new"'], "c.mp4": ["three"]}) == {"a.mp4": name}
    assert path.read_bytes().decode() == after
    assert read(tmp_path) == {"a.mp4": '1, "new"', "b.mp4": "two"}
    assert not (tmp_path / "c.txt").exists()


@pytest.mark.parametrize(
    "value", [{"a.mp4": "one", "b": "two"}, [{"clip": "a", "text": "one"}, {"clip": "b", "text": "two"}]]
)
def test_json_in_both_its_forms(tmp_path: Path, value: object) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(value))
    retell(tmp_path, FILES, {"a.mp4": ["é", "another"]})
    assert dict(annotate(tmp_path, FILES, "auto", "none").alternatives) == {"a.mp4": ("another",)}
    assert read(tmp_path) == {"a.mp4": "é", "b.mp4": "two"}


def test_lines_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    (tmp_path / "videos.txt").write_text("a.mp4\nb.mp4\n")
    assert retell(tmp_path, FILES, {"b.mp4": [" a  new\tone "]}) == {"b.mp4": "prompts.txt"}
    assert (tmp_path / "prompts.txt").read_text() == "one\na new one\n"


def test_a_clip_of_several_rows_has_a_caption_in_each(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("file,caption\na.mp4,one\na.mp4,two\n")
    with pytest.raises(InputError, match="2 rows of"):
        retell(tmp_path, FILES, {"a.mp4": ["1", "2", "3"]})
    retell(tmp_path, FILES, {"a.mp4": ["1"]})
    assert path.read_text() == "file,caption\na.mp4,1\na.mp4,\n"


def test_a_row_that_has_a_label_alone_gets_a_caption_where_there_is_one_for_it(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file": "a.mp4", "text": "one"}\n{"file": "a.mp4", "label": "3"}\n')
    retell(tmp_path, FILES, {"a.mp4": ["1"]})
    assert path.read_text() == '{"file": "a.mp4", "text": "1"}\n{"file": "a.mp4", "label": "3"}\n'
    retell(tmp_path, FILES, {"a.mp4": ["1", "2"]})
    assert dict(annotate(tmp_path, FILES, "auto", "none").alternatives) == {"a.mp4": ("2",)}


def test_a_bad_table_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("file,caption\na.mp4,one\nb.mp4\n")
    with pytest.raises(InputError, match="line 3"):
        retell(tmp_path, FILES, {"a.mp4": ["1"]})
    assert path.read_text() == "file,caption\na.mp4,one\nb.mp4\n"
