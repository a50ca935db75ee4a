"""Captions and class labels of a folder of clips: from a table, a `.txt` beside the clip, or folder names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kinolab.errors import InputError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
TABLE_NAMES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata", "labels") for suffix in TABLE_SUFFIXES)
FILE_COLUMNS = ("file", "path", "file_name", "filename", "video", "video_path", "media_path", "clip", "name")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
LABEL_COLUMNS = ("label", "class", "category")


@dataclass(frozen=True)
class Annotations:
    """Caption and label per file (keys are paths relative to the folder, with slashes), and what was noticed."""

    captions: Mapping[str, str]
    labels: Mapping[str, int]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def annotate(root: Path, files: Sequence[str], captions: str, labels: str) -> Annotations:
    """Find the captions and labels of `files`.

    Args:
        root: the folder; `files` are relative to it, with slashes.
        captions: "auto" (a table in the root, then a `.txt` beside the clip), "txt", "folder" (the name of the
            folder that holds the clip), "none", or the path of a table.
        labels: "auto" (the table's label column, else folder names where there are several), "folder", "none", or
            the path of a table.

    Raises:
        InputError: where a table is missing, malformed, or names none of the files.
    """
    notes: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    tables = _tables(root, captions, labels)
    for table, named in tables:
        try:
            matched, note = _matching_rows(table, root, files)
        except InputError as error:
            if named:
                raise
            notes.append(f"passed over: {error}")
            continue
        notes += note
        for name, row in matched.items():
            rows.setdefault(name, {}).update(row)

    texts = _captions(root, files, captions, rows)
    names, from_table = _label_names(files, labels, rows)
    classes, numbers = _number(names, from_table)
    if texts and len(texts) < len(files):
        notes.append(f"{len(files) - len(texts)} of {len(files)} clips have no caption")
    if numbers and len(numbers) < len(files):
        notes.append(f"{len(files) - len(numbers)} of {len(files)} clips have no label")
    return Annotations(texts, numbers, classes, tuple(notes))


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """A CSV, TSV or JSON-lines file as {file: {"caption": ..., "label": ...}}.

    Raises:
        InputError: for a missing file, no column that names the files, neither captions nor labels, or a bad line.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; expected a .csv, .tsv or .jsonl file")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(f"{path}: expected a table in .csv, .tsv or .jsonl, got {path.suffix or 'no suffix'}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    lines = _json_lines(path, text) if path.suffix.lower() == ".jsonl" else _csv_lines(path, text)
    if not lines:
        raise InputError(f"{path}: no rows")
    keys = {key for _, row in lines for key in row}
    file_key, caption_key, label_key = (
        next((key for key in columns if key in keys), None)
        for columns in (FILE_COLUMNS, CAPTION_COLUMNS, LABEL_COLUMNS)
    )
    if file_key is None or (caption_key is None and label_key is None):
        raise InputError(
            f"{path}: expected a column {' or '.join(FILE_COLUMNS[:3])}, and caption or label; got {sorted(keys)}"
        )
    table: dict[str, dict[str, str]] = {}
    for number, row in lines:
        name = row.get(file_key, "").strip()
        if not name:
            raise InputError(f"{path}: line {number} names no file")
        pairs = (("caption", caption_key), ("label", label_key))
        table[name] = {key: row[column].strip() for key, column in pairs if column and row.get(column, "").strip()}
    return table


def match_rows(rows: Mapping[str, dict[str, str]], files: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Rows by the file they name, and the names that match none.

    A row may name its file by the path relative to the folder, with or without the suffix, or by the bare name where
    only one file has it.
    """
    lookup: dict[str, str | None] = {}
    for file in files:
        path = PurePosixPath(file)
        for alias in {path.name, path.stem, str(path.with_suffix("")) if path.suffix else str(path)}:
            lookup[alias] = None if alias in lookup else file
    lookup.update({file: file for file in files})
    matched: dict[str, dict[str, str]] = {}
    unmatched: list[str] = []
    for name, row in rows.items():
        path = PurePosixPath(name.replace("\\", "/"))
        found = lookup.get(str(path)) or lookup.get(path.name)
        if found is None:
            unmatched.append(name)
        else:
            matched[found] = row
    return matched, unmatched


def _tables(root: Path, captions: str, labels: str) -> list[tuple[Path, bool]]:
    """The tables to read, and whether each was named (or else found in the root under a usual name)."""
    named = [Path(value) for value in (captions, labels) if value not in ("auto", "none", "txt", "folder")]
    resolved = [path if path.is_absolute() or path.is_file() else root / path for path in named]
    tables = dict.fromkeys(resolved, True)
    if "auto" in (captions, labels):
        tables = {root / name: False for name in TABLE_NAMES if (root / name).is_file()} | tables
    return list(tables.items())


def _matching_rows(table: Path, root: Path, files: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The rows of a table by the file they name, and a note on those that name none."""
    rows = read_table(table)
    matched, unmatched = match_rows(rows, files)
    if not matched:
        raise InputError(f"{table}: none of its {len(rows)} rows names a clip of {root} (first: {next(iter(rows))!r})")
    if not unmatched:
        return matched, []
    return matched, [f"{table.name}: {len(unmatched)} of {len(rows)} rows match no clip (first: {unmatched[0]})"]


def _captions(root: Path, files: Sequence[str], mode: str, rows: Mapping[str, dict[str, str]]) -> dict[str, str]:
    if mode == "none":
        return {}
    texts: dict[str, str] = {}
    for file in files:
        text = rows.get(file, {}).get("caption") if mode not in ("txt", "folder") else None
        if text is None and mode in ("auto", "txt"):
            beside = root / file
            beside = beside.with_name(beside.name + ".txt") if beside.is_dir() else beside.with_suffix(".txt")
            if beside.is_file():
                text = " ".join(beside.read_text(encoding="utf-8-sig", errors="replace").split())
        elif mode == "folder":
            text = PurePosixPath(file).parent.name.replace("_", " ").replace("-", " ")
        if text:
            texts[file] = text
    return texts


def _label_names(files: Sequence[str], mode: str, rows: Mapping[str, dict[str, str]]) -> tuple[dict[str, str], bool]:
    """The class name per file, and whether the names come from a table."""
    if mode == "none":
        return {}, False
    if mode != "folder":
        names = {file: rows[file]["label"] for file in files if "label" in rows.get(file, {})}
        if names or mode != "auto":
            return names, True
    folders = {file: PurePosixPath(file).parts[0] for file in files if len(PurePosixPath(file).parts) > 1}
    if mode == "auto" and (len(folders) < len(files) or len(set(folders.values())) < 2):
        return {}, False
    if mode == "folder" and not folders:
        raise InputError("labels: folder needs clips in subfolders named after their class; all clips lie at the top")
    return folders, False


def _number(names: Mapping[str, str], from_table: bool) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes and label numbers. Whole numbers in a table keep their value; other names are numbered in their order."""
    if names and from_table and all(name.isdecimal() for name in names.values()):
        numbers = {file: int(name) for file, name in names.items()}
        return tuple(str(i) for i in range(max(numbers.values()) + 1)), numbers
    classes = tuple(sorted(set(names.values())))
    index = {name: i for i, name in enumerate(classes)}
    return classes, {file: index[name] for file, name in names.items()}


def _csv_lines(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    lines: list[tuple[int, dict[str, str]]] = []
    header: list[str] | None = None
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = [value.strip().lower() for value in values]
            elif len(values) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(values)} values, the header has {len(header)}; "
                    "put text that holds a comma in double quotes"
                )
            else:
                lines.append((reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from None
    return lines


def _json_lines(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    lines: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: expected an object, got {type(row).__name__}")
        lines.append((number, {str(k).lower(): str(v) for k, v in row.items() if v is not None}))
    return lines
