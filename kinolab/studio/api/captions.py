"""Captions: read as a training reads them, from tables in `clips` or the .txt beside a clip, and written back there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.lines import one_line
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import read_text
from kinolab.runtime.text import split_lines
from kinolab.studio.api.asked import Asked, Studio
from kinolab.studio.faults import tried
from kinolab.studio.project import Project, changing

CAPTION = 20_000
"""Characters of a caption."""
STEMS, ENDINGS = ("captions", "metadata", "labels"), (".csv", ".tsv", ".jsonl", ".json")
"""Names of tables that a training looks for among the clips."""
PAIRS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt", "videos.txt", "video.txt")


class Told:
    """The captions of a project as they are now.

    tables: clip -> the table that tells its caption; problem: what is wrong with a table, of which none is read then;
    wrong: what is wrong with the texts beside clips that were asked for.
    """

    def __init__(self, studio: Studio) -> None:
        self.project = studio.project
        self.tables: Mapping[str, str] = {}
        self.problem = ""
        self.wrong: list[str] = []
        self._told: Mapping[str, list[str]] = {}
        if mark := marks(studio.project):
            if studio.told[0] != mark:
                try:
                    found = studio.looking.ask("told", {"path": str(studio.project.clips)})
                except InputError as error:
                    found = {"captions": {}, "tables": {}, "problem": one_line(error)}
                studio.told = mark, found
            found = studio.told[1]
            self._told, self.tables, self.problem = found["captions"], found["tables"], found.get("problem", "")

    def of(self, name: str) -> str:
        """The caption of a clip; several of a table's stand one on each line."""
        if name in self._told:
            return "\n".join(self._told[name])
        path = self.project.beside(name)
        text, problem = (
            tried(self.project, partial(read_text, path, 4 * CAPTION)) if os.path.lexists(path) else ("", "")
        )
        if problem and problem not in self.wrong:
            self.wrong.append(problem)
        return (text or "").strip()


def marks(project: Project) -> str:
    """A text that is another where a table of captions, or the clips, changed; "" where there is no table."""
    found = [
        path for path in visible(project.clips)
        if (path.stem.lower() in STEMS and path.suffix.lower() in ENDINGS) or path.name.lower() in PAIRS
    ]  # fmt: skip
    if not found:
        return ""
    return repr([(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in [*found, project.clips]])


def write(studio: Studio, texts: Mapping[str, str]) -> None:
    """Write captions where they are read from: into the row of a table, or the .txt beside the clip.

    Raises:
        InputError: for one that is too long, a table that can't be read, or that holds no room for several.
    """
    for name, text in texts.items():
        if len(text) > CAPTION:
            raise InputError(f"{name}: a caption of {len(text):,} characters; expected at most {CAPTION:,}")
    told = Told(studio)
    if told.problem:
        raise InputError(told.problem)
    rows = {name: split_lines(text) for name, text in texts.items() if name in told.tables}
    if rows:
        studio.looking.ask("retell", {"path": str(studio.project.clips), "captions": rows})
        studio.told = "", {}
    for name, text in texts.items():
        if name in rows:
            continue
        path = studio.project.beside(name)
        if text.strip():
            files.write_text(path, text.strip() + "\n")
        else:
            files.remove(path)


def caption(studio: Studio, asked: Asked) -> Any:
    """PUT /api/clips/caption {name, text}: the caption of a clip, in the table that tells it, else the .txt beside it.

    An empty one removes it. Of a table several captions are told, one on each line.
    """
    name, text = asked.body.text("name"), asked.body.text("text")
    studio.project.clip(name)
    with changing(studio.project):
        write(studio, {name: text})
    return {"caption": text.strip()}


def replace(studio: Studio, asked: Asked) -> Any:
    """POST /api/clips/replace {find, replace, names, dry} -> {changed}: find and replace in captions.

    changed: {name, before, after} of each; `dry` shows them and changes nothing. names: [] means all clips. A caption
    that several clips have is changed once.
    """
    from kinolab.studio.api.footage import names

    find, other = asked.body.text("find"), asked.body.text("replace", "")
    if not find:
        raise InputError("find: expected some text")
    wanted = asked.body.texts("names", []) or names(studio.project)
    with changing(studio.project):
        told = Told(studio)
        before = {name: told.of(name) for name in wanted}
        after = {name: text.replace(find, other) for name, text in before.items() if find in text}
        after = {name: text for name, text in after.items() if text != before[name]}
        if after and not asked.body.flag("dry", True):
            write(studio, after)
    return {"changed": [{"name": name, "before": before[name], "after": text} for name, text in after.items()]}
