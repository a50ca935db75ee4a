"""Captions written back to the rows of the tables that they were read from; all else in a table stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinolab.data.annotations import told_by_tables
from kinolab.data.tables import CAPTION_COLUMNS, LIMITS, columns_of, csv_table
from kinolab.errors import InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.reading import parse_json
from kinolab.runtime.text import read_text

Rows = Mapping[str, Sequence[str]]
"""Where a row stands, as errors name it -> its captions."""


def retell(root: Path, files: Sequence[str], captions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write captions of clips into the rows that tell them now.

    Args:
        root: the folder; `files` are its clips, relative to it, with slashes.
        captions: of some of them, several where training is to choose from them.

    Returns:
        The table of each clip whose caption a table tells; of the others none was written.

    Raises:
        InputError: for a table that can't be read, or more captions than its rows can hold; nothing is written then.
    """
    tables = [told for told in told_by_tables(root, files) if any(told.captions.values())]
    rows: dict[Path, dict[str, Sequence[str]]] = {}
    found: dict[str, str] = {}
    for file, given in captions.items():
        told = next((each for each in tables if each.captions.get(file)), None)
        if told is None:
            continue
        places = told.rows[file]
        texts = [" ".join(text.split()) for text in given if text.strip()]
        if len(texts) > len(places) and told.path.suffix.lower() not in WHOLE:
            rows_of = "1 row" if len(places) == 1 else f"{len(places)} rows"
            raise InputError(f"{told.path.name}: has {rows_of} of {file}; write a line for each, not {len(texts)}")
        shares = [texts[k : k + 1] for k in range(len(places) - 1)] + [texts[len(places) - 1 :]]
        rows.setdefault(told.path, {}).update(zip(places, shares, strict=True))
        found[file] = told.path.name
    written = {path: _writer(path)(path, read_text(path), told) for path, told in rows.items()}
    for path, text in written.items():
        write_text(path, text)
    return found


WHOLE = (".json", ".jsonl")
"""Tables whose rows hold several captions as a list."""


ENDS = r"(\r\n|\n|\r)"
"""What a line of a table ends with, kept where it is split."""


def _writer(path: Path) -> Callable[[Path, str, Rows], str]:
    return {".jsonl": _json_lines, ".json": _json, ".txt": _lines}.get(path.suffix.lower(), _csv)


def _csv(path: Path, text: str, rows: Rows) -> str:
    delimiter, records = csv_table(path, text)
    header = [value.strip().lower() for value in records[0][1]]
    column = header.index(columns_of(path, header)["caption"])
    pieces = [*re.split(ENDS, text), ""]
    lines = [line + end for line, end in zip(pieces[::2], pieces[1::2], strict=True) if line or end]
    ends = [line - 1 for line, _ in records[1:]] + [len(lines)]
    for (line, values), end in reversed(list(zip(records, ends, strict=True))):
        if (told := rows.get(f"line {line}")) is None:
            continue
        while end > line and not lines[end - 1].strip():
            end -= 1
        mark = re.search(r"[\r\n]*\Z", lines[end - 1])
        own = [*values[:column], told[0] if told else "", *values[column + 1 :]]
        lines[line - 1 : end] = [delimiter.join(_quoted(value, delimiter) for value in own) + (mark[0] if mark else "")]
    return "".join(lines)


def _quoted(value: str, delimiter: str) -> str:
    """A value of a CSV, in quotes where it needs them."""
    if value and not any(sign in value for sign in (delimiter, '"', "\r", "\n")) and value == value.strip():
        return value
    return '"' + value.replace('"', '""') + '"' if value else ""


def _lines(path: Path, text: str, rows: Rows) -> str:
    pieces = re.split(ENDS, text)
    for where, told in rows.items():
        pieces[2 * (int(where.removeprefix("line ")) - 1)] = told[0] if told else ""
    return "".join(pieces)


def _json_lines(path: Path, text: str, rows: Rows) -> str:
    pieces = re.split(ENDS, text)
    for where, told in rows.items():
        k = 2 * (int(where.removeprefix("line ")) - 1)
        value = _told(parse_json(pieces[k], where, LIMITS, constants=True), told)
        pieces[k] = json.dumps(value, ensure_ascii=False)
    return "".join(pieces)


def _json(path: Path, text: str, rows: Rows) -> str:
    value = parse_json(text, str(path), LIMITS, constants=True)
    if isinstance(value, list):
        for where, told in rows.items():
            k = int(where.removeprefix("entry ")) - 1
            value[k] = _told(value[k], told)
    else:
        places = {f"the entry {name!r}": name for name in value}
        for where, told in rows.items():
            name = places[where]
            value[name] = _told(value[name], told) if isinstance(value[name], dict) else _value(told)
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _told(entry: dict[str, Any], captions: Sequence[str]) -> dict[str, Any]:
    """An object with other captions, under the key that it has them by; one that has none gets `caption`."""
    lower = {key.lower(): key for key in entry}
    column = next((name for name in CAPTION_COLUMNS if name in lower), None)
    if column is None:
        return {**entry, "caption": _value(captions)} if captions else entry
    return {**entry, lower[column]: _value(captions)}


def _value(captions: Sequence[str]) -> Any:
    return captions[0] if len(captions) == 1 else list(captions) or None
