"""Tables of captions and labels: CSV, TSV, JSON lines or JSON, as rows that each name a file and say where they stand.

What is wrong with a row is said with its line. Nothing is guessed: a caption is text or a list of texts, a label a
whole number or a name.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kinolab.errors import InputError
from kinolab.runtime.reading import Limits, parse_json
from kinolab.runtime.text import read_text, split_lines

BadRows = Literal["error", "drop"]
"""What becomes of rows that can't be used: an error that names the first, or they are left out and that is said."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
TABLE_NAMES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata", "labels") for suffix in TABLE_SUFFIXES)
"""Tables that are read where they lie in the folder: captions of the first that has them, labels of the last."""
FILE_COLUMNS = (
    "file", "path", "file_name", "filename", "file_path", "video", "video_path", "video_file", "video_name",
    "media_path", "clip", "image", "name",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")
LABEL_COLUMNS = ("label", "class", "category")
COLUMNS = {"file": FILE_COLUMNS, "caption": CAPTION_COLUMNS, "label": LABEL_COLUMNS}
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
NOTHING = ("", "nan", "<na>")
"""What stands for no value, in any case: nothing, or what pandas writes for it."""
LABEL_DIGITS = 18
"""Digits of a label that is a number; more are no class of anybody's."""
NUMBER = re.compile(r"([+-]?)(\d+)(\.\d*)?")
TWICE = "\0twice"
"""Where a JSON object's repeated keys are kept; no column can have this name."""


class NoTableError(InputError):
    """The file has no columns (or keys) that name files and say something of them: it is some other table."""


class _RowError(Exception):
    """What is wrong with one row."""


@dataclass(frozen=True)
class Row:
    """One row: where it stands ("line 3"), the file that it names, its captions and its label."""

    where: str
    file: str
    captions: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Table:
    """The rows of a table that can be used, whether it has captions and labels at all, and what was left out."""

    path: Path
    rows: tuple[Row, ...]
    holds: frozenset[str]
    notes: tuple[str, ...] = ()


_Fields = Mapping[str, Any]
_Entries = Iterator[tuple[str, _Fields | _RowError]]
"""Where each row stands, and its values by column; or what is wrong with it."""


LIMITS = Limits(bytes=2**31)
"""Of a table in JSON, which is in memory already."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written, so that a key that comes twice is seen."""


def read_table(path: Path, bad_rows: BadRows = "error") -> Table:
    """A CSV, TSV, JSON-lines or JSON file as rows.

    CSV may have commas, semicolons or tabs between its values, told by the header. JSON is a list of objects, or an
    object of file names and their captions (in `labels.json`: their labels).

    Raises:
        NoTableError: where no column names the files, or there are neither captions nor labels.
        InputError: for a missing file, one that is no text, columns that come twice, no rows, and bad rows unless they
            are dropped; names the line.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: no such table; expected a .csv, .tsv, .jsonl or .json file")
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: expected a table in .csv, .tsv, .jsonl or .json, got {path.suffix or 'no suffix'}")
    text = read_text(path)
    reader = {".jsonl": _json_lines, ".json": _json_entries}.get(suffix, _csv_rows)
    entries = list(reader(path, text))
    if not entries:
        raise InputError(f"{path}: no rows")
    found = [fields for _, fields in entries if not isinstance(fields, _RowError)]
    keys = {key for fields in found for key in fields} - {TWICE}
    table = _settle(path, entries, columns_of(path, keys) if found else {}, bad_rows)
    return replace(table, notes=(*_unread(path, keys), *table.notes))


def read_pair(prompts: Path, files: Path, bad_rows: BadRows = "error") -> Table:
    """Two text files whose lines belong together: captions, and the clips that they describe.

    Raises:
        InputError: where they have different numbers of lines, and for lines without a file unless they are dropped.
    """
    captions, names = (split_lines(read_text(path)) for path in (prompts, files))
    while names and not names[-1].strip():
        names.pop()
    while len(captions) > len(names) and not captions[-1].strip():
        captions.pop()
    if len(captions) != len(names):
        raise InputError(
            f"{prompts}: has {len(captions)} lines and {files.name} {len(names)}; expected a caption for every clip"
        )
    pairs = enumerate(zip(names, captions, strict=True), 1)
    entries = [(f"line {number}", {"file": name, "caption": caption}) for number, (name, caption) in pairs]
    return _settle(prompts, entries, {"file": "file", "caption": "caption"}, bad_rows)


def refuse(path: Path, problems: Sequence[tuple[str, str]], bad_rows: BadRows) -> list[str]:
    """What is said of rows that can't be used, where they are dropped.

    Raises:
        InputError: naming the first, where they are not.
    """
    if not problems:
        return []
    (where, cause), more = problems[0], len(problems) - 1
    if bad_rows == "error":
        rest = f" (and {more} more bad row{'' if more == 1 else 's'})" if more else ""
        raise InputError(f"{path}: {where}: {cause}{rest}; mend it, or leave such rows out with data.bad_rows=drop")
    return [f"{path.name}: {where} left out: {cause}" for where, cause in problems[:3]] + (
        [f"{path.name}: {more - 2} more rows left out"] if more > 2 else []
    )


def _settle(path: Path, entries: Sequence[tuple[str, Any]], columns: Mapping[str, str], bad_rows: BadRows) -> Table:
    """The rows of entries, and what is said of those that can't be used."""
    rows: list[Row] = []
    problems: list[tuple[str, str]] = []
    for where, fields in entries:
        try:
            if isinstance(fields, _RowError):
                raise fields
            rows.append(_row(where, fields, columns))
        except _RowError as error:
            problems.append((where, str(error)))
    rows, wrong = _numbered(rows)
    order = {where: place for place, (where, _) in enumerate(entries)}
    problems = sorted(problems + wrong, key=lambda problem: order[problem[0]])
    notes = refuse(path, problems, bad_rows)
    if not rows:
        raise InputError(f"{path}: no row can be used; {problems[0][0]}: {problems[0][1]}")
    return Table(path, tuple(rows), frozenset(columns) - {"file"}, tuple(notes))


def columns_of(path: Path, keys: Sequence[str] | set[str], where: str = "") -> dict[str, str]:
    """The column of each role that a table has: file, caption, label."""
    found = {role: next((key for key in names if key in keys), None) for role, names in COLUMNS.items()}
    columns = {role: key for role, key in found.items() if key is not None}
    if "file" not in columns or len(columns) < 2:
        missing = [] if "file" in columns else [f"a column {' or '.join(FILE_COLUMNS[:3])}"]
        missing += ["one called caption or label"] if not {"caption", "label"} & set(columns) else []
        got = ", ".join(sorted(key for key in keys if key))[:200] or "none"
        raise NoTableError(f"{path}: {where}expected {' and '.join(missing)}; got {got}")
    return columns


def _unread(path: Path, keys: set[str]) -> Iterator[str]:
    """What is said of a second column of captions or of labels."""
    for role in ("caption", "label"):
        taken, *others = [name for name in COLUMNS[role] if name in keys] or [""]
        if others:
            yield f"{path.name}: every {role} is taken from the column {taken}, not from {', '.join(others)}"


def _row(where: str, fields: _Fields, columns: Mapping[str, str]) -> Row:
    # An object of JSON may lack the key that others have, and have another one of the same role.
    own = {
        role: column if column in fields else next((c for c in COLUMNS[role] if c in fields), column)
        for role, column in columns.items()
    }
    for column in own.values():
        if column in fields.get(TWICE, ()):
            raise _RowError(f"the key {column!r} is there twice")
    name = fields.get(own["file"])
    if _is_nothing(name):
        raise _RowError("names no file")
    if not isinstance(name, str):
        raise _RowError(f"expected the name of a file, got {_shown(name)}")
    captions = _captions(fields.get(own["caption"])) if "caption" in own else ()
    label = _label(fields.get(own["label"])) if "label" in own else None
    return Row(where, name.strip(), captions, label)


def _captions(value: Any) -> tuple[str, ...]:
    """The captions of one value, each once: none, one, or a list of alternatives."""
    if _is_nothing(value):
        return ()
    found: list[str] = []
    for text in value if type(value) is list else [value]:
        if _is_nothing(text):
            continue
        if not isinstance(text, str):
            raise _RowError(f"expected a caption, or a list of captions to choose from, got {_shown(text)}")
        if any(0xD800 <= ord(c) < 0xE000 for c in text):
            raise _RowError("a caption holds half of a character (a lone surrogate)")
        found.append(text.strip())
    return tuple(dict.fromkeys(found))


def _label(value: Any) -> str | None:
    if _is_nothing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _RowError(f"expected a label that is a whole number or a name, got {_shown(value)}")
    if isinstance(value, float) and not value.is_integer():
        raise _RowError(f"label {value}: expected a whole number from 0 or a name")
    return str(value).strip()


def _numbered(rows: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows with labels such as 1.0 written as 1, where all labels are numbers; and what is wrong with the others."""
    matches = [None if row.label is None else NUMBER.fullmatch(row.label) for row in rows]
    if not all(row.label is None or match for row, match in zip(rows, matches, strict=True)):
        return list(rows), []
    kept: list[Row] = []
    problems: list[tuple[str, str]] = []
    for row, match in zip(rows, matches, strict=True):
        if match is None:
            kept.append(row)
            continue
        sign, whole, fraction = match.groups()
        if len(whole) > LABEL_DIGITS:
            problems.append((row.where, f"a label of {len(whole)} digits: expected a number from 0, or a name"))
        elif (sign == "-" and int(whole)) or (fraction or "").strip(".0"):
            told = "leave it empty for a clip without a label"
            problems.append((row.where, f"label {row.label}: expected a whole number from 0 or a name; {told}"))
        else:
            kept.append(replace(row, label=str(int(whole))))
    return kept, problems


def _is_nothing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in NOTHING


def _shown(value: Any) -> str:
    kinds = {_Pairs: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)


# CSV


def _csv_rows(path: Path, text: str) -> _Entries:
    first, text, delimiters = _delimiters(path, text)
    with _values_of_any_length(len(text)):
        found = _records(text, delimiter := _delimiter(path, text, delimiters), first)
        header: list[str] | None = None
        for line, values in found:
            where = f"line {line}"
            if isinstance(values, _RowError):
                if header is None:
                    raise InputError(f"{path}: {where}: {values}")
                yield where, values
            elif header is None:
                header = _header(path, where, values)
            elif len(values) != len(header):
                name = DELIMITERS.get(delimiter, repr(delimiter))
                yield (
                    where,
                    _RowError(
                        f"has {len(values)} values, the header has {len(header)}; put text that holds {name} in double "
                        "quotes"
                    ),
                )
            else:
                yield where, dict(zip(header, values, strict=True))


def csv_table(path: Path, text: str) -> tuple[str, list[tuple[int, list[str]]]]:
    """The delimiter of a CSV, and the line that each record begins on with its values, the header first."""
    first, text, delimiters = _delimiters(path, text)
    with _values_of_any_length(len(text)):
        delimiter = _delimiter(path, text, delimiters)
        found = _records(text, delimiter, first)
        return delimiter, [(line, values) for line, values in found if not isinstance(values, _RowError)]


def _delimiters(path: Path, text: str) -> tuple[int, str, Sequence[str]]:
    """The line that a CSV begins on, its text from there on, and the delimiters that it may have."""
    # Excel's own way to say which delimiter follows.
    if said := re.match(r"sep=([,;\t])\s*?(\r\n|\n|\r)", text, re.IGNORECASE):
        return 2, text[said.end() :], [said.group(1)]
    return 1, text, ["\t", ",", ";"] if path.suffix.lower() == ".tsv" else [",", ";", "\t"]


def _records(text: str, delimiter: str, first: int = 1) -> Iterator[tuple[int, list[str] | _RowError]]:
    """The line that each record of a CSV begins on, and its values or what is wrong with it; blank lines left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = first + reader.line_num
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            ends = "unexpected end" in str(error)
            never = "a double quote that is opened here is never closed, so all that follows is one value"
            yield line, _RowError(never if ends else str(error))
            continue
        if any(value.strip() for value in values):
            yield line, values


def _delimiter(path: Path, text: str, delimiters: Sequence[str]) -> str:
    """The delimiter that makes a header of a text's first line: one with the columns of a table, else the most."""
    best, most = delimiters[0], 0
    for delimiter in delimiters:
        _, values = next(_records(text, delimiter), (0, []))
        names = [] if isinstance(values, _RowError) else [value.strip().lower() for value in values]
        try:
            columns_of(path, names)
            return delimiter
        except NoTableError:
            if len(names) > most:
                best, most = delimiter, len(names)
    return best


def _header(path: Path, where: str, values: Sequence[str]) -> list[str]:
    header = [value.strip().lower() for value in values]
    twice = [name for names in COLUMNS.values() for name in names if header.count(name) > 1]
    if twice:
        raise InputError(f"{path}: {where}: the column {twice[0]!r} is there twice; rename one of them")
    columns_of(path, header, f"{where}: ")
    return header


@contextmanager
def _values_of_any_length(limit: int) -> Iterator[None]:
    """Lets the csv module read values as long as the whole text; its own limit of 131,072 holds for a process."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, limit + 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


# JSON


def _json_lines(path: Path, text: str) -> _Entries:
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            value = parse_json(line, where, LIMITS, constants=True, pairs=_Pairs)
        except InputError as error:
            yield where, _RowError(str(error).removeprefix(f"{where}: "))
        else:
            yield where, _fields(value)


def _json_entries(path: Path, text: str) -> _Entries:
    value = parse_json(text, str(path), LIMITS, constants=True, pairs=_Pairs)
    if isinstance(value, _Pairs):
        role = "label" if path.stem.lower() == "labels" else "caption"
        for name, told in value:
            fields = _fields(told) if isinstance(told, _Pairs) else {role: told}
            yield f"the entry {name!r}", fields if isinstance(fields, _RowError) else {**fields, "file": name}
    elif isinstance(value, list):
        for number, entry in enumerate(value, start=1):
            yield f"entry {number}", _fields(entry)
    else:
        raise NoTableError(f"{path}: expected a list of objects, or an object of file names, got {_shown(value)}")


def _fields(value: Any) -> _Fields | _RowError:
    """A JSON object's values by key in small letters, and the keys that it has twice."""
    if not isinstance(value, _Pairs):
        return _RowError(f"expected an object, got {_shown(value)}")
    keys = [key.lower() for key, _ in value]
    fields: dict[str, Any] = {key.lower(): told for key, told in value}
    repeated = tuple(key for key in fields if keys.count(key) > 1)
    return fields | ({TWICE: repeated} if repeated else {})
