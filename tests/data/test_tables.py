"""Tables of captions and labels: what counts as one, how rows are read, and what is said of those that can't be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kinolab.data.tables import Row, read_pair, read_table
from kinolab.errors import InputError

CASES = Path(__file__).parent / "captions"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def rows(path: Path, bad_rows: str = "error") -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(row.file, row.captions, row.label) for row in read_table(path, bad_rows).rows]  # type: ignore[arg-type]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("said", [False, True])
def test_the_header_tells_the_delimiter(tmp_path: Path, delimiter: str, suffix: str, quote: str, said: bool) -> None:
    lines = [("File", "Label", "Caption"), ("a.mp4", "2", "a cat"), ("b.mp4", "0", "one dog")]
    text = "\r\n".join(delimiter.join(f"{quote}{value}{quote}" for value in line) for line in lines)
    path = write(tmp_path / f"t{suffix}", (f"sep={delimiter}\r\n" if said else "") + text)
    assert rows(path) == [("a.mp4", ("a cat",), "2"), ("b.mp4", ("one dog",), "0")]
    assert [row.where for row in read_table(path).rows] == (["line 3", "line 4"] if said else ["line 2", "line 3"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_any_encoding_that_can_be_told_is_read(tmp_path: Path, suffix: str, encoding: str) -> None:
    caption = "Café 猫 \u2028 \U0001f408, ü"
    row = {"file": "é.mp4", "caption": caption}
    texts = {
        ".csv": f'file,caption\né.mp4,"{caption}"\n',
        ".tsv": f"file\tcaption\né.mp4\t{caption}\n",
        ".jsonl": json.dumps(row, ensure_ascii=False) + "\n",
        ".json": json.dumps([row], ensure_ascii=False),
    }
    assert rows(write(tmp_path / f"t{suffix}", texts[suffix], encoding)) == [("é.mp4", (caption,), None)]
    with pytest.raises(InputError, match=r"line \d: byte 0xe9 at position \d+ is not UTF-8 text; save"):
        read_table(write(tmp_path / f"l{suffix}", texts[suffix].replace("猫", "").replace("\u2028", "").replace(
            "\U0001f408", ""), "latin-1"))  # fmt: skip


def test_captions_may_be_as_long_as_they_like(tmp_path: Path) -> None:
    caption = "a very long caption, " * 10_000
    assert len(caption) > csv.field_size_limit()
    before = csv.field_size_limit()
    assert rows(write(tmp_path / "t.csv", f'file,caption\na.mp4,"{caption}"\n')) == [
        ("a.mp4", (caption.strip(),), None)
    ]
    assert csv.field_size_limit() == before, "a setting of the whole process is put back"


def test_values_of_several_lines_and_blank_lines_keep_the_count(tmp_path: Path) -> None:
    text = '\n\nfile,caption\n\na.mp4,"one\ntwo"\n\n,\nb.mp4,three\n'
    found = read_table(write(tmp_path / "t.csv", text)).rows
    assert found == (Row("line 5", "a.mp4", ("one\ntwo",)), Row("line 9", "b.mp4", ("three",)))


def test_lines_of_json_may_hold_other_separators() -> None:
    found = read_table(CASES / "line-separator.jsonl").rows
    assert found[0] == Row("line 1", "v1.mp4", ("a cat\u2028walks number 1",)) and len(found) == 3


def test_lists_are_alternatives_objects_are_refused_and_nan_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lists\.jsonl: line 2: expected a caption, or a list .* got an object; mend"):
        read_table(CASES / "lists.jsonl")
    table = read_table(CASES / "lists.jsonl", "drop")
    assert table.rows == (
        Row("line 1", "v1.mp4", ("a red car turns", "a car drives around a corner")), Row("line 3", "v3.mp4")
    )  # fmt: skip
    assert [note.split(";")[0] for note in table.notes] == [
        "lists.jsonl: line 2 left out: expected a caption, or a list of captions to choose from, got an object"
    ]
    values = '["", null, NaN, " a ", "a", "b"]'
    assert rows(write(tmp_path / "t.jsonl", f'{{"file": "a", "caption": {values}}}')) == [("a", ("a", "b"), None)]
    for wrong in ("3", "true", "Infinity", "[1]", '[["a"]]', '[{"en": "a"}]', r'"\ud800"'):
        with pytest.raises(InputError, match=r"line 1: .*caption"):
            read_table(write(tmp_path / "t.jsonl", f'{{"file": "a", "caption": {wrong}}}'))


@pytest.mark.parametrize("nothing", ["", " ", "nan", "NaN", "<NA>"])
def test_what_pandas_writes_for_nothing_is_none(tmp_path: Path, nothing: str) -> None:
    text = f"file,caption,label\na.mp4,x,1.0\nb.mp4,{nothing},{nothing}\n"
    assert rows(write(tmp_path / "t.csv", text)) == [("a.mp4", ("x",), "1"), ("b.mp4", (), None)]


@pytest.mark.parametrize("label", ["-1", "1.5", "-2.0"])
def test_numbers_that_are_no_labels_are_refused(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "t.csv", f"file,label\na,0\nb,{label}\nc,\n")
    with pytest.raises(InputError, match=rf"t\.csv: line 3: label {label}: expected a whole number from 0 or a name"):
        read_table(path)
    assert rows(path, "drop") == [("a", (), "0"), ("c", (), None)]


def test_labels_of_json(tmp_path: Path) -> None:
    for value, expected in (("1", "1"), ("2.0", "2"), ('"cat"', "cat"), ("null", None), ("NaN", None), ('" 3 "', "3")):
        assert rows(write(tmp_path / "t.jsonl", f'{{"file": "a", "label": {value}}}')) == [("a", (), expected)]
    for value in ("true", "[1]", "{}", "1.25", "-1", "Infinity"):
        with pytest.raises(InputError, match=r"t\.jsonl: line 1: .*expected a"):
            read_table(write(tmp_path / "t.jsonl", f'{{"file": "a", "label": {value}}}'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "x", "b.mp4": ["y", "z"], "c": null}', [("a", ("x",)), ("b.mp4", ("y", "z")), ("c", ())]),
        ('{"a.mp4": {"caption": "x"}, "b.mp4": {"TEXT": "y"}}', [("a.mp4", ("x",)), ("b.mp4", ("y",))]),
        ('[{"file": "a", "prompt": "x"}, {"video": "b", "prompt": "y"}]', [("a", ("x",)), ("b", ("y",))]),
        ('{"a.mp4": "x", "a.mp4": "y"}', [("a.mp4", ("x",)), ("a.mp4", ("y",))]),
    ],
)  # fmt: skip
def test_json_is_a_list_of_objects_or_captions_by_file(
    tmp_path: Path, text: str, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert [(file, captions) for file, captions, _ in rows(write(tmp_path / "captions.json", text))] == expected


def test_labels_json_has_labels_by_file(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "labels.json", '{"a": 1, "b": 0}')) == [("a", (), "1"), ("b", (), "0")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "file,caption\na.mp4,one, two\n", "line 2: has 3 values, the header has 2; .* a comma in double"),
        ("t.csv", "file;caption\na.mp4;one; two\n", "line 2: has 3 values.*a semicolon"),
        ("t.csv", 'file,caption\na,"b\nc,d\ne,f\n', "line 2: a double quote that is opened here is never closed"),
        ("t.csv", 'file,caption\na,"b" c\n', "line 2: .*expected after"),
        ("t.csv", "file,caption\n", "no rows"),
        ("t.csv", "", "no rows"),
        ("t.csv", "file,caption\n,b\n", "line 2: names no file"),
        ("t.csv", "a.mp4,one\nb.mp4,two\n", "line 1: expected a column file or .* caption or label; got a.mp4"),
        ("t.csv", "file,sentence\na,b\n", "line 1: expected one called caption or label; got file, sentence"),
        ("t.csv", "id,caption\na,b\n", "line 1: expected a column file"),
        ("t.csv", "file,caption,Caption\na,b,c\n", "line 1: the column 'caption' is there twice"),
        ("t.tsv", "file\tcaption\nv\ta\tb\n", "line 2: has 3 values, .*a tab"),
        ("t.jsonl", '{"file": "a", "caption": "b"}\n{oops\n', "line 2: not valid JSON"),
        ("t.jsonl", '{"file": "a", "caption": "b", "Caption": "c"}', "line 1: the key 'caption' is there twice"),
        ("t.jsonl", '{"file": 3, "caption": "b"}', "line 1: expected the name of a file, got a number"),
        ("t.jsonl", '{"caption": "b"}\n{"file": "a"}', "line 1: names no file"),
        ("t.jsonl", "[1]\n", "line 1: expected an object, got a list"),
        ("t.jsonl", "[" * 100_000, "line 1: nested deeper"),
        ("t.json", '{"a": "x",\n"b" "y"}', r"not valid JSON \(line 2"),
        ("t.json", "[" * 100_000, "nested deeper"),
        ("t.json", '[{"file": "a", "caption": {}}]', "entry 1: expected a caption"),
        ("t.json", '{"a": 3}', "the entry 'a': expected a caption, .* got a number"),
        ("t.json", "3", "expected a list of objects, or an object of file names"),
        ("t.xlsx", "x", "expected a table in .csv"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_with_line_and_cause(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: {said}") as error:
        read_table(write(tmp_path / name, text))
    assert "\n" not in str(error.value)


def test_a_missing_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "missing.csv")


def test_good_rows_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unquoted-comma\.csv: line 3: has 4 values|line 3: has 3 values"):
        read_table(CASES / "unquoted-comma.csv")
    table = read_table(CASES / "unquoted-comma.csv", "drop")
    assert [row.file for row in table.rows] == ["v1.mp4", "v3.mp4"] and "line 3 left out" in table.notes[0]
    text = "file,caption\n" + "".join(f"{k}.mp4,a,b\n" for k in range(5)) + 'x.mp4,"ok"\ny.mp4,"open\n'
    table = read_table(write(tmp_path / "t.csv", text), "drop")
    assert [row.file for row in table.rows] == ["x.mp4"]
    assert [note.split(":")[1].split(" left")[0] for note in table.notes[:3]] == [" line 2", " line 3", " line 4"]
    assert table.notes[3:] == ("t.csv: 3 more rows left out",)
    with pytest.raises(InputError, match=r"line 2: .*\(and 5 more bad rows\); mend it, or .*data\.bad_rows=drop"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match="no row can be used"):
        read_table(write(tmp_path / "u.csv", "file,caption\na,b,c\n"), "drop")


def test_a_second_column_of_captions_is_said(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "file,text,caption,note,note\na,x,y,1,2\n"))
    assert table.rows[0].captions == ("y",)
    assert table.notes == ("t.csv: every caption is taken from the column caption, not from text",)


def test_two_lists_belong_together_line_by_line(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.txt", "one, with a comma\n\nthree \u2028 3\n\n")
    files = write(tmp_path / "videos.txt", "a.mp4\r\nb.mp4\r\nc.mp4\r\n")
    found = read_pair(prompts, files).rows
    assert [(row.where, row.file, row.captions) for row in found] == [
        ("line 1", "a.mp4", ("one, with a comma",)), ("line 2", "b.mp4", ()), ("line 3", "c.mp4", ("three \u2028 3",))
    ]  # fmt: skip
    write(files, "a.mp4\nb.mp4\n")
    with pytest.raises(InputError, match=r"prompts\.txt: has 3 lines and videos\.txt 2; expected a caption for every"):
        read_pair(prompts, files)
