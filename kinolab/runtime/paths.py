"""The one check of every name that becomes a path, and of every path that stands in a file: it stays where it belongs.

A name from a file, a plan or an index is text that somebody wrote. Joined to a folder it may lead out of it (`..`, an
absolute path, a drive, a link), or mean a device or one of Kinolab's own files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from kinolab.errors import InputError
from kinolab.runtime.lines import shown

OWN = ".kinolab-"
"""What the names of Kinolab's temporary files begin with."""
COMMITTED = ".committed"
"""What the hidden folder of a set ends with that is committed and not yet in place (`runtime.sets`)."""
WORKING = ".working.json"
"""What a command keeps in a folder of how far the work on it is (`contracts.working`)."""
LONGEST = 255
"""Bytes of one part of a path; file systems take no more."""
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)", re.IGNORECASE)
"""Names that mean a device on Windows, with any ending."""

# What file managers, other systems and archives leave in folders: never a person's data.
_LEFT_BEHIND = frozenset(
    {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
)


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is one that a file manager or an archive leaves: `.DS_Store`, `Thumbs.db`, `._x`."""
    return name.startswith("._") or name.lower() in _LEFT_BEHIND


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is hidden or left behind: not what a person means by "all that is in this folder"."""
    return name.startswith(".") or is_left_behind(name)


def named(path: Path) -> Path:
    """The path with a name at its end, which `.`, `..` and the root don't have: theirs is where they lead."""
    return Path(os.path.abspath(path)) if path.name in ("", "..") else path


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder and fits a pattern, files and folders, sorted, but for what is hidden or left behind.

    Every search of a person's folder is made by this, or asks `is_passed_over` of each name.
    """
    found = (path for path in folder.glob(pattern))
    return sorted(path for path in found if not any(map(is_passed_over, path.relative_to(folder).parts)))


def real(path: Path) -> Path:
    """Where a path leads, every link followed as far as it goes; of links in a ring, as far as they can be followed."""
    return Path(os.path.realpath(path))


def inside(root: Path, name: str, *, new: bool = False, links: bool = False) -> Path:
    """`root / name`, where that lies below `root`.

    Args:
        root: the folder that the name belongs to; it need not exist.
        name: a relative path with `/` between its parts.
        new: a file or folder of this name will be written, so it has to be one on every system: no device's name, no
            character that Windows refuses, and none of Kinolab's own hidden names.
        links: links on the way may lead out of `root`, as in folders of downloaded weights, which hold links into a
            store beside them. The text of the name may not.

    Raises:
        InputError: for any other name; says which and why.
    """
    problem = _problem(name, new)
    if problem is None and not links:
        problem = _leads_out(root, name)
    if problem is not None:
        raise InputError(f"{root}: {shown(name)} is no name of something inside this folder: {problem}")
    return root / name


def single(root: Path, name: str, *, new: bool = True) -> Path:
    """`root / name` for a name of one part.

    Raises:
        InputError: as `inside`, and for a name with several parts.
    """
    path = inside(root, name, new=new)
    if path.parent != root:
        raise InputError(f"{root}: {shown(name)} is no name of something inside this folder: it has several parts")
    return path


def _problem(name: object, new: bool) -> str | None:
    """What is wrong with a name as text."""
    if not isinstance(name, str):
        return f"a text was expected, got {type(name).__name__}"
    if not name.strip():
        return "it is empty"
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "it holds a control character"
    try:
        encoded = [os.fsencode(part) for part in re.split(r"[/\\]", name)]
    except UnicodeEncodeError:
        return "it holds half a character"
    if any(len(part) > LONGEST for part in encoded):
        return f"a part of it has more than {LONGEST} bytes"
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
        return "it is an absolute path"
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        return "it leads to the folder above (..)"
    if not PurePosixPath(name).parts:
        return "it is the folder itself"
    if new or os.name == "nt":
        return next((why for part in parts if (why := _unwritable(part)) is not None), None)
    return None


def _unwritable(part: str) -> str | None:
    """Why no file should be written under this name."""
    if DEVICES.match(part):
        return f"{part} is a device on Windows"
    if re.search(r'[<>:"|?*]', part):
        return "a new name can't hold any of <>:\"|?*"
    if part != part.rstrip(". ") and part != ".":
        return "a new name can't end with a dot or a blank"
    if part.startswith(OWN) or (part.startswith(".") and part.endswith(COMMITTED)):
        return f"{part} is a name that Kinolab keeps for itself"
    return None


def _leads_out(root: Path, name: str) -> str | None:
    """Whether links on the way lead out of `root`."""
    try:
        base, target = root.resolve(), (root / name).resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return "its links lead in a circle"
    return None if target == base or base in target.parents else f"a link leads out, to {target}"
