"""Text, file names and colours as HTML and SVG take them, and the writing of a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import files

escape = html.escape
"""Text as it may stand in HTML, also inside a quoted attribute."""


def link(name: str) -> str:
    """A relative file name as an address: what a browser would read as more than a name is coded."""
    name = re.sub(r"[\x00-\x1f%#?\\]", lambda found: f"%{ord(found[0]):02X}", name)
    return f"./{name}" if ":" in name.split("/")[0] else name


def write_html(path: Path, text: str, names: Iterable[str]) -> None:
    """Write a page, atomically; `names` are all that it refers to, relative to its folder.

    Raises:
        InputError: where one of them is not there, or not below the page's own folder. Nothing is written then.
    """
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or not (path.parent / name).is_file():
            raise InputError(f"{path}: refers to {name!r}, which is no file below {path.parent}")
    # Half characters, which JSON can hold, have no bytes in UTF-8.
    files.write_text(path, text.encode("utf-8", "replace").decode())


COLOURS = """
:root { --back: #f6f7f9; --card: #fff; --ink: #1b1f27; --soft: #606978; --line: #e1e5ec; --code: #f0f2f6;
  --yes: #17713d; --yes-back: #e2f5e8; --no: #b3261e; --no-back: #fde8e6; --accent: #2a5bd0; }
@media (prefers-color-scheme: dark) { :root { --back: #101319; --card: #191d25; --ink: #e8ebf1; --soft: #9aa4b5;
  --line: #2a303b; --code: #12161d; --yes: #7be0a1; --yes-back: #143322; --no: #ff9d94; --no-back: #3f1a18;
  --accent: #8fb2ff; } }
"""
"""The colours of pictures, light and dark; those of pages stand in studio/src/style.css."""
