"""Text files as people have them: which encoding, where a line ends, and the first line of an error.

Only here is a text cut into lines. `str.splitlines` also cuts at U+0085, U+2028, U+2029 and five control characters,
which are valid inside a caption, a prompt or a JSON string.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime.reading import read_bytes

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LONGEST = 2**29
"""Bytes of a text: a table of some million captions."""
LINE_END = re.compile(r"\r\n|\n|\r")


def read_text(path: Path) -> str:
    """The text of a file: UTF-8 with or without its mark, or UTF-16 or UTF-32 as its mark or first character says.

    Raises:
        InputError: for a missing file, a folder, a pipe, more than `LONGEST` bytes, or bytes that are no text; names
            the first byte and its place.
    """
    try:
        data = read_bytes(path, LONGEST)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; expected a text file") from None
    return decode(data, str(path))


def decode(data: bytes, name: str) -> str:
    """Bytes as text; `name` is what errors call them.

    Raises:
        InputError: for bytes that are no text in that encoding; names the first of them and its place.
    """
    mark, encoding = next(((mark, e) for mark, e in MARKS if data.startswith(mark)), (b"", _unmarked(data)))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        line = len(split_lines(data[len(mark) : place].decode(encoding, "replace") + "x"))
        raise InputError(
            f"{name}: line {line}: byte 0x{data[place]:02x} at position {place} is not {encoding.upper()} text; save "
            "the file as UTF-8"
        ) from None
    if "\0" in text:
        line = len(split_lines(text[: text.index("\0")] + "x"))
        raise InputError(f"{name}: line {line}: holds a NUL character, so it is no text; save the file as UTF-8")
    return text


def _unmarked(data: bytes) -> str:
    """The encoding of bytes without a mark: text begins with a character of one byte, beside a zero in UTF-16."""
    if len(data) >= 2 and (data[0] == 0) != (data[1] == 0):
        return "utf-16-be" if data[0] == 0 else "utf-16-le"
    return "utf-8"


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, without their ends: \n, \r\n or \r, and nothing else."""
    found = LINE_END.split(text)
    return found if found[-1] else found[:-1]


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that hold anything, without the blanks around them: a prompt per line.

    Raises:
        InputError: for a file that can't be read as text, or holds no prompt.
    """
    found = [line.strip() for line in split_lines(read_text(path)) if line.strip()]
    if not found:
        raise InputError(f"{path}: holds no prompts; expected one per line")
    return found


def first_line(error: object) -> str:
    """The first line of an error's message that holds anything; its type where none does."""
    return next((line.strip() for line in split_lines(str(error)) if line.strip()), type(error).__name__)
