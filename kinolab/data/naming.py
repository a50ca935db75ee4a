"""Which clip of a folder a name means, as tables write names: by the path, by its end, or by a path of elsewhere.

A path counts from the folder, from the table's own folder, or from any folder above; a bare name or the end of a path
counts where one clip alone has it. An exact spelling goes before another Unicode form, and that before other capitals;
the whole path goes before an end of it; the ending of the file (.mp4) may be left out.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from kinolab import video
from kinolab.data.scan import STILL_SUFFIXES

ABSOLUTE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?/|[a-z]:", re.IGNORECASE)
"""The beginning of an absolute path: /..., C:/..., //server/... or file:///..."""


def composed(text: str) -> str:
    """Text in Unicode's composed form (NFC): an accented letter is one character."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The same without capitals."""
    return text.lower() if text.isascii() else composed(composed(text).casefold())


SPELLINGS: tuple[Callable[[str], str], ...] = (str, composed, folded)


class SeveralClipsError(Exception):
    """A name fits more than one clip; `files` are those."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        super().__init__(f"fits {' and '.join(files[:2])}{f' and {len(files) - 2} more' if len(files) > 2 else ''}")


class ClipNames:
    """The clips of one folder, to be found by name.

    Args:
        root: the folder.
        files: paths of the clips relative to it, with slashes.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.files = root, tuple(files)
        # The folder as it is called, and where links lead: a table may have either.
        self.places = tuple(
            dict.fromkeys(path.replace(os.sep, "/") for path in (os.path.abspath(root), os.path.realpath(root)))
        )
        self._place_parts = [[folded(part) for part in place.strip("/").split("/")] for place in self.places]
        self._lookups: dict[tuple[int, bool, bool], dict[str, list[str]]] = {}

    def find(self, name: str, base: Path | None = None) -> str | None:
        """The clip of a name, or none.

        Args:
            name: as a table has it.
            base: the table's folder, from which its paths may count too.

        Raises:
            SeveralClipsError: where the name fits more than one.
        """
        if name in self.files_at_once:  # a name may hold a backslash
            return name
        text, absolute = _slashed(name)
        for bare in () if absolute else (False, True):
            if found := self._look_up(text, 0, bare, partly=False):
                return found
        whole = list(self._inside(text, absolute, base))
        ends = [] if absolute or text.startswith("..") else [text]
        for spelling in range(len(SPELLINGS)):
            for paths, partly in ((whole, False), (ends, True)):
                for bare in (False, True):
                    for path in paths:
                        if found := self._look_up(path, spelling, bare, partly):
                            return found
        return self._linked(text, base)

    def exactly(self, path: str) -> str | None:
        """The clip of a whole path relative to the folder, in any spelling; its ending may be left out.

        Raises:
            SeveralClipsError: where it fits more than one.
        """
        for spelling in range(len(SPELLINGS)):
            for bare in (False, True):
                if found := self._look_up(path, spelling, bare, partly=False):
                    return found
        return None

    def elsewhere(self, names: Sequence[str]) -> tuple[str, dict[str, str]] | None:
        """Absolute paths of another machine, where the folder's own name occurs in them: that place, and their clips.

        One place of all is taken to be the folder: the one whose path ends most like the folder's. A place that is
        there on this machine is itself, and so is not taken.
        """
        own = self._place_parts[0][-1]
        places: dict[str, dict[str, str]] = {}
        for name in names:
            text, absolute = _slashed(name)
            parts = text.split("/")
            for k in range(1, len(parts)) if absolute and own else ():
                place = "/".join(parts[:k])
                found = self.exactly("/".join(parts[k:])) if folded(parts[k - 1]) == own else None
                if found is not None:
                    places.setdefault(place, {})[name] = found
        places = {place: clips for place, clips in places.items() if not os.path.isdir(place)}
        ranked = sorted(places, key=self._likeness, reverse=True)
        if not ranked or (len(ranked) > 1 and self._likeness(ranked[0]) == self._likeness(ranked[1])):
            return None
        return ranked[0], places[ranked[0]]

    def alike(self, file: str) -> list[str]:
        """The clips whose paths differ from that of `file` in their ending alone, itself among them."""
        return self._lookup(0, True, False)[without_suffix(file)]

    @cached_property
    def files_at_once(self) -> frozenset[str]:
        """All clips, as a set."""
        return frozenset(self.files)

    def _inside(self, text: str, absolute: bool, base: Path | None) -> Iterator[str]:
        """The paths relative to the folder that a path may mean, the likeliest first."""
        if absolute:
            yield from self._below(text)
            return
        if not text.startswith(".."):
            yield text
        if text.startswith("..") or (base is not None and base != self.root):
            for start in (self.root,) if base is None else (self.root, base):
                joined = os.path.normpath(os.path.join(os.path.abspath(start), text))
                yield from self._below(joined.replace(os.sep, "/"))
        parts = text.split("/")
        names = [folded(part) for part in parts]
        for place in self._place_parts:  # counted from a folder above
            for k in range(1, min(len(place) + 1, len(parts))):
                if names[:k] == place[-k:]:
                    yield "/".join(parts[k:])

    def _below(self, path: str) -> Iterator[str]:
        parts = path.strip("/").split("/")
        names = [folded(part) for part in parts]
        for place in self._place_parts:
            if names[: len(place)] == place and len(parts) > len(place):
                yield "/".join(parts[len(place) :])

    def _look_up(self, path: str, spelling: int, bare: bool, partly: bool) -> str | None:
        found = self._lookup(spelling, bare, partly).get(SPELLINGS[spelling](path), [])
        if len(found) > 1:
            # A still image beside a video of its name is taken to be its preview.
            videos = [file for file in found if not file.lower().endswith(tuple(STILL_SUFFIXES))]
            found = videos if len(videos) == 1 else found
        if len({os.path.realpath(self.root / file) for file in found} if len(found) > 1 else found) > 1:
            raise SeveralClipsError(found)
        return found[0] if found else None

    def _lookup(self, spelling: int, bare: bool, partly: bool) -> dict[str, list[str]]:
        """The clips by name in one spelling, with or without their ending, by whole paths or by any end of them."""
        key = (spelling, bare, partly)
        if key not in self._lookups:
            made: dict[str, list[str]] = {}
            for file in self.files:
                path = without_suffix(file) if bare else file
                parts = SPELLINGS[spelling](path).split("/")
                for k in range(1, len(parts)) if partly else (0,):
                    made.setdefault("/".join(parts[k:]), []).append(file)
            self._lookups[key] = made
        return self._lookups[key]

    def _linked(self, text: str, base: Path | None) -> str | None:
        """The clip that is a link to the file of a path, or lies where a link leads."""
        path = os.path.join(os.path.abspath(base or self.root), text)
        return self._targets.get(os.path.realpath(path)) if os.path.exists(path) else None

    @cached_property
    def _targets(self) -> dict[str, str]:
        """The clips by the files that they are, links followed."""
        return {os.path.realpath(self.root / file): file for file in reversed(self.files)}

    def _likeness(self, place: str) -> int:
        """How many names at the end of a path are those of the folder's own."""
        mine, other = self._place_parts[0][::-1], folded(place).strip("/").split("/")[::-1]
        alike = [a == b for a, b in zip(mine, other, strict=False)]
        return alike.index(False) if False in alike else len(alike)


def without_suffix(file: str) -> str:
    """A path without the ending of a video or a picture."""
    stem, suffix = posixpath.splitext(file)
    return stem if suffix.lower() in video.VIDEO_SUFFIXES or suffix.lower() in STILL_SUFFIXES else file


def _slashed(name: str) -> tuple[str, bool]:
    """A path with slashes and without detours (./, //, a/..), and whether it is absolute."""
    text = name.strip().replace("\\", "/")
    if text.startswith("~"):
        text = os.path.expanduser(text).replace(os.sep, "/")
    if text.lower().startswith("file://"):
        text = text[len("file://") :]
    absolute = ABSOLUTE.match(text) is not None
    return posixpath.normpath(text), absolute
