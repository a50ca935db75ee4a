"""Captions in text files beside the clips: `a.txt` or `a.mp4.txt` of `a.mp4`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kinolab.data.naming import ClipNames, SeveralClipsError, folded, without_suffix
from kinolab.data.tables import BadRows, refuse
from kinolab.errors import InputError
from kinolab.runtime.paths import is_passed_over
from kinolab.runtime.text import read_text

PROMPT_FILES = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
CLIP_FILES = ("videos.txt", "video.txt")
"""Two text files whose lines belong together."""


@dataclass(frozen=True)
class Texts:
    """Captions by file; what was left out as it can't be read; and that with what belongs to no clip, to be said."""

    captions: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def texts_beside(
    root: Path, names: ClipNames, read: Collection[Path], tables: Collection[str], bad_rows: BadRows
) -> Texts:
    """The captions in `.txt` files beside the clips of a folder.

    Args:
        root: the folder.
        names: its clips.
        read: the tables and lists that are read already.
        tables: names of tables that are read in the folder itself, where they can be.
        bad_rows: what becomes of texts that can't be read.

    Raises:
        InputError: for a text that can't be read, or fits several clips, unless those are dropped; names the file.
    """
    texts: dict[str, tuple[str, ...]] = {}
    problems: list[tuple[str, str]] = []
    strange: list[str] = []
    unread: list[str] = []
    pair = CLIP_FILES if any(path.suffix.lower() == ".txt" for path in read) else ()
    for name in _beside(root, names.files, tables):
        path = root / name
        if path in read or ("/" not in name and name.lower() in pair):
            continue
        if path.suffix.lower() != ".txt":
            unread += [name] if "/" in name or name.lower() not in tables else []
            continue
        try:
            files = _clips_of(name, names)
            text = " ".join(read_text(path).split()) if files else ""
        except InputError as error:
            problems.append((name, str(error).removeprefix(f"{path}: ")))
            continue
        strange += [] if files else [name]
        for file in files if text else ():
            texts[file] = tuple(dict.fromkeys((*texts.get(file, ()), text)))
    left_out = refuse(root, problems, bad_rows)
    return Texts(texts, tuple(left_out), (*left_out, *_passed_over(strange, unread)))


def _passed_over(strange: Sequence[str], unread: Sequence[str]) -> list[str]:
    notes = []
    if strange:
        lists = [name for name in strange if name.lower() in PROMPT_FILES + CLIP_FILES]
        other = PROMPT_FILES[0] if lists and lists[0].lower() in CLIP_FILES else CLIP_FILES[0]
        why = f"; {lists[0]} is read with a {other} beside it" if lists else ""
        count = f"{len(strange)} .txt file{'' if len(strange) == 1 else 's'}"
        notes.append(f"passed over: {count} that no clip is named like (first: {strange[0]}){why}")
    if unread:
        count = f"{len(unread)} table{'' if len(unread) == 1 else 's'}"
        notes.append(f"passed over: {count} (first: {unread[0]}); name the one to be read: data.captions={unread[0]}")
    return notes


def _beside(root: Path, files: Sequence[str], tables: Collection[str]) -> list[str]:
    """The texts and tables in the folder and in the folders that hold clips, relative to it."""
    found: list[str] = []
    folders = sorted({"", *(file.rpartition("/")[0] for file in files)})
    for folder in (folder for folder in folders if (root / folder).is_dir()):
        with os.scandir(root / folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                wanted = suffix in (".txt", ".csv", ".tsv", ".jsonl") or entry.name.lower() in tables
                if wanted and not is_passed_over(entry.name) and entry.is_file():
                    found.append(f"{folder}/{entry.name}" if folder else entry.name)
    return sorted(found)


def _clips_of(name: str, names: ClipNames) -> list[str]:
    """The clips that a text belongs to: the one of its name, with the still images of that name.

    Raises:
        InputError: where it fits several.
    """
    stem = name[: -len(".txt")]
    try:
        found = names.exactly(stem)
    except SeveralClipsError as error:
        raise InputError(f"{error}; name it after one of them, as {PurePosixPath(error.files[0]).name}.txt") from None
    if found is None:
        return []
    suffix = PurePosixPath(found).suffix
    whole = without_suffix(found) == found or folded(stem).endswith(folded(suffix))
    return [found] if whole else names.alike(found)
