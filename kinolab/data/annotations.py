"""Captions and class labels of a folder of clips: from a table, a `.txt` beside the clip, or folder names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from kinolab.data.naming import ClipNames, SeveralClipsError
from kinolab.data.tables import (
    LABEL_DIGITS,
    TABLE_NAMES,
    BadRows,
    NoTableError,
    Row,
    Table,
    read_pair,
    read_table,
    refuse,
)
from kinolab.data.texts import CLIP_FILES, PROMPT_FILES, texts_beside
from kinolab.errors import InputError
from kinolab.runtime.paths import real

MOST_CLASSES = 100_000
Captions = dict[str, tuple[str, ...]]
T = TypeVar("T")


@dataclass(frozen=True)
class Annotations:
    """Caption and label per file (keys are paths relative to the folder, with slashes), and what was noticed.

    `alternatives` are further captions of a file that has several, in their order.
    """

    captions: Mapping[str, str]
    labels: Mapping[str, int]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    alternatives: Mapping[str, tuple[str, ...]]

    def shared(self, copies: Mapping[str, str]) -> Annotations:
        """With what a file lacks and an equal copy of it has; `copies` maps a copy to the file that it equals."""
        captions, labels, alternatives = dict(self.captions), dict(self.labels), dict(self.alternatives)
        for copy, file in copies.items():
            if copy in captions and file not in captions:
                captions[file] = captions[copy]
                alternatives |= {file: alternatives[copy]} if copy in alternatives else {}
            if copy in labels:
                labels.setdefault(file, labels[copy])
        return replace(self, captions=captions, labels=labels, alternatives=alternatives)


def annotate(
    root: Path, files: Sequence[str], captions: str, labels: str, bad_rows: BadRows = "error", *, whole: bool = True
) -> Annotations:
    """Find the captions and labels of `files`.

    A clip's captions come from one table, the first that has any of them, else from the `.txt` beside it.

    Args:
        root: the folder; `files` are relative to it, with slashes.
        captions: "auto" (a table in the root, then a `.txt` beside the clip), "txt", "folder" (the name of the
            folder that holds the clip), "none", or the path of a table.
        labels: "auto" (the table's label column, else folder names where there are several), "folder", "none", or
            the path of a table.
        bad_rows: what becomes of rows that can't be used.
        whole: `files` are all clips of the folder, so that texts of no clip are worth a word.

    Raises:
        InputError: where a table is missing, malformed, or names none of the files; where a name fits several files, or
            a file has two labels. What is wrong with single rows is an error unless they are dropped.
    """
    reading = _Reading(root, ClipNames(root, files), captions, labels, bad_rows)
    texts = reading.texts(whole)
    names, from_table = reading.label_names()
    classes, numbers = number_classes(names, from_table, reading.notes)
    notes = reading.notes
    for what, found in (("caption", texts), ("label", numbers)):
        if found and len(found) < len(files):
            notes.append(f"{len(files) - len(found)} of {len(files)} clips have no {what}")
    several = {file: found[1:] for file, found in texts.items() if len(found) > 1}
    if several:
        notes.append(
            f"{len(several)} of {len(files)} clips have several captions, of which every step of training draws one"
        )
    first = {file: texts[file][0] for file in files if file in texts}
    return Annotations(first, numbers, classes, tuple(notes), several)


def told_by_tables(root: Path, files: Sequence[str]) -> list[Told]:
    """What each table in a folder says of its clips, in the order in which they are believed.

    Raises:
        InputError: for a table that can't be read.
    """
    return _Reading(root, ClipNames(root, files), "auto", "none", "error").told


@dataclass
class Told:
    """What one table says of the clips that it names: captions, labels, where each label stands, and the rows that name
    each clip."""

    path: Path
    captions: Captions = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: Row, file: str) -> str | None:
        """Take what a row says of a file; returns what is wrong with it."""
        self.rows.setdefault(file, []).append(row.where)
        self.captions[file] = tuple(dict.fromkeys((*self.captions.get(file, ()), *row.captions)))
        if row.label is None or self.labels.get(file) == row.label:
            return None
        if file in self.labels:
            return f"{file} has the label {row.label} here and {self.labels[file]} on {self.where[file]}"
        self.labels[file], self.where[file] = row.label, row.where
        return None


@dataclass
class _Reading:
    """The reading of one folder's captions and labels: what is asked for, what the tables say, and what was noticed."""

    root: Path
    names: ClipNames
    captions: str
    labels: str
    bad_rows: BadRows
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.named: dict[Path, set[str]] = {}
        for role, value in (("caption", self.captions), ("label", self.labels)):
            if value not in ("auto", "none", "txt", "folder"):
                path = Path(value)
                path = path if path.is_absolute() or path.is_file() else self.root / path
                self.named.setdefault(path, set()).add(role)
        self.told = [told for table in self._tables() if (told := self._told(table)) is not None]

    def _tables(self) -> Iterator[Table]:
        """With `auto` the tables in the root under a usual name; then those that are named."""
        if "auto" in (self.captions, self.labels):
            here = {entry.name.lower(): entry for entry in sorted(self.root.iterdir()) if entry.is_file()}
            named = {real(path) for path in self.named}
            for path in (here[name] for name in TABLE_NAMES if name in here):
                if real(path) not in named:
                    yield from self._unnamed(path)
            prompts, clips = (
                next((here[name] for name in names if name in here), None) for names in (PROMPT_FILES, CLIP_FILES)
            )
            if self.captions == "auto" and prompts is not None and clips is not None:
                yield read_pair(prompts, clips, self.bad_rows)
        for path, roles in self.named.items():
            table = read_table(path, self.bad_rows)
            if lacking := sorted(roles - table.holds):
                raise InputError(f"{path}: has no column {lacking[0]}, and is named as the table of those")
            yield table

    def _unnamed(self, path: Path) -> Iterator[Table]:
        """A table that nobody named, unless it is passed over."""
        try:
            yield read_table(path, self.bad_rows)
        except InputError as error:
            if self._is_meant(path, no_table=isinstance(error, NoTableError)):
                raise InputError(f"{error}; to read no table, set data.captions and data.labels to none") from None
            self.notes.append(f"passed over: {error}")

    def _is_meant(self, path: Path, *, no_table: bool) -> bool:
        """Whether a table was surely meant to be read, so that what is wrong with it has to be mended.

        `metadata` is a name for many things: it is meant where it has the columns of a table.
        """
        if path in self.named:
            return True
        stem = path.stem.lower()
        if stem == "metadata":
            return not no_table
        return (self.labels if stem == "labels" else self.captions) == "auto"

    def _told(self, table: Table) -> Told | None:
        """What a table says of the clips; none, and a note, where it names none of them and need not."""
        matched, lost, problems = self._matched(table)
        told = Told(table.path)
        for row, file in matched:
            if cause := told.add(row, file):
                problems.append((row.where, cause))
        order = {row.where: place for place, row in enumerate(table.rows)}
        said = refuse(table.path, sorted(problems, key=lambda problem: order[problem[0]]), self.bad_rows)
        self.notes += [*table.notes, *said]
        if not matched:
            row, clip = table.rows[0], self.names.files[0]
            text = (
                f"{table.path}: none of its {len(table.rows)} rows names a clip of {self.root} (first: {row.where}, "
                f"{row.file!r}; a clip is {clip!r})"
            )
            if self._is_meant(table.path, no_table=True):
                raise InputError(text)
            self.notes.append(f"passed over: {text}")
            return None
        if lost:
            self.notes.append(
                f"{table.path.name}: {len(lost)} of {len(table.rows)} rows match no clip (first: {lost[0].where}, "
                f"{lost[0].file!r})"
            )
        return told

    def _matched(self, table: Table) -> tuple[list[tuple[Row, str]], list[Row], list[tuple[str, str]]]:
        """Rows with the clips that they name, rows that name none, and what is wrong with rows."""
        matched: list[tuple[Row, str]] = []
        lost: list[Row] = []
        problems: list[tuple[str, str]] = []
        for row in table.rows:
            try:
                file = self.names.find(row.file, table.path.parent)
            except SeveralClipsError as error:
                problems.append((row.where, f"{row.file!r} {error}; write the path"))
                continue
            if file is None:
                lost.append(row)
            else:
                matched.append((row, file))
        found = None if matched or problems else self.names.elsewhere([row.file for row in lost])
        if found is not None:
            place, clips = found
            self.notes.append(f"{table.path.name}: its paths in {place} are taken to be in {self.root}")
            matched = [(row, clips[row.file]) for row in lost if row.file in clips]
            lost = [row for row in lost if row.file not in clips]
        return matched, lost, problems

    def texts(self, whole: bool) -> Captions:
        """The captions of each file."""
        if self.captions == "folder":
            parents = {file: re.sub("[_-]", " ", PurePosixPath(file).parent.name) for file in self.names.files}
            return {file: (text,) for file, text in parents.items() if text}
        texts: Captions = {}
        for one in self._tables_of("caption", self.captions):
            self._take(texts, {file: found for file, found in one.captions.items() if found}, one.path.name, "captions")
        if self.captions in ("auto", "txt"):
            read = {told.path for told in self.told}
            beside = texts_beside(self.root, self.names, read, TABLE_NAMES, self.bad_rows)
            self.notes += beside.notes if whole else beside.left_out
            self._take(texts, beside.captions, "the .txt files", "captions")
        return texts

    def label_names(self) -> tuple[dict[str, str], bool]:
        """The class name per file, and whether the names come from a table."""
        if self.labels == "none":
            return {}, False
        files = self.names.files
        if self.labels != "folder":
            names: dict[str, str] = {}
            for one in reversed(self._tables_of("label", self.labels)):  # a table of labels before one of captions
                self._take(names, one.labels, one.path.name, "labels")
            if names or self.labels != "auto":
                return {file: names[file] for file in files if file in names}, True
        folders = {file: PurePosixPath(file).parts[0] for file in files if len(PurePosixPath(file).parts) > 1}
        if self.labels == "auto" and (len(folders) < len(files) or len(set(folders.values())) < 2):
            return {}, False
        if self.labels == "folder" and not folders:
            raise InputError(
                "labels: folder needs clips in subfolders named after their class; all clips lie at the top"
            )
        return folders, False

    def _tables_of(self, role: str, mode: str) -> list[Told]:
        """The tables that a role is read from."""
        return [told for told in self.told if mode == "auto" or role in self.named.get(told.path, ())]

    def _take(self, texts: dict[str, T], found: Mapping[str, T], where: str, what: str) -> None:
        """Take what another source says where nothing is known yet; a difference is noted."""
        other = [file for file, value in found.items() if texts.setdefault(file, value) != value]
        if other:
            self.notes.append(
                f"{where}: {what} of {len(other)} clips are passed over, as another table has them (first: {other[0]})"
            )


def number_classes(
    names: Mapping[str, str], from_table: bool, notes: list[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes and label numbers. Whole numbers in a table keep their value; other names are numbered in their order,
    numbers in them as numbers."""
    whole = [name.isdecimal() for name in names.values()]
    if names and from_table and all(whole):
        longest = max(names, key=lambda file: len(names[file]))
        if len(names[longest]) > LABEL_DIGITS:
            raise InputError(
                f"{longest} has a label of {len(names[longest])} digits; expected a number from 0, or a name"
            )
        numbers = {file: int(name) for file, name in names.items()}
        largest = max(numbers, key=numbers.__getitem__)
        if numbers[largest] >= MOST_CLASSES:
            raise InputError(
                f"{largest} has the label {numbers[largest]}, and classes are counted from 0 to {MOST_CLASSES - 1} at "
                "most; give names in place of such numbers, or set data.labels to none"
            )
        return tuple(str(i) for i in range(numbers[largest] + 1)), numbers
    if from_table and any(whole):
        notes.append("labels are numbers and names mixed, so the numbers are taken as names too")
    classes = tuple(sorted(set(names.values()), key=in_order))
    index = {name: i for i, name in enumerate(classes)}
    return classes, {file: index[name] for file, name in names.items()}


def in_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key that sorts names as people do: 2 before 10, take2 before take10."""
    parts = re.split(r"(\d+)", name)
    return [(0, *_size(part)) if part.isdecimal() else (1, 0, part) for part in parts if part], name


def _size(digits: str) -> tuple[int, str]:
    """Sorts as the number would, which may have more digits than Python makes a number of."""
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain
