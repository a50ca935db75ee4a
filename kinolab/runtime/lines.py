"""Errors in one line that can be read: no line breaks, no control characters, and no more than 300 of them."""

from __future__ import annotations

import re
import unicodedata

LIMIT = 300
"""Characters of an error's line."""
TAIL = 90
"""Of these, how many of its end are kept, where what to do stands."""


def one_line(text: object, limit: int = LIMIT) -> str:
    """A message as one line of at most `limit` characters; of a longer one, its beginning and its end.

    Line breaks and runs of blanks become one blank, characters that can't be shown become their numbers.
    """
    line = " ".join(re.sub(r"[^\S ]+| +", " ", _visible(str(text)[: 50 * limit])).split(" ")).strip()
    if len(line) <= limit:
        return line
    end = min(TAIL, limit // 3)
    return f"{line[: limit - end - 5].rstrip()} ... {line[len(line) - end :].lstrip()}"[:limit]


def shown(value: object, limit: int = 60) -> str:
    """A value in quotes as an error shows it, of at most `limit` characters, however large or deep it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else f"{value[: limit - 3]!r}..."
    if isinstance(value, bytes):
        return repr(value[:limit]) + ("..." if len(value) > limit else "")
    if isinstance(value, bool | float) or value is None:
        return repr(value)
    if isinstance(value, int):  # text of a number of 10,000 digits is refused by Python, and nobody reads it
        return str(value) if value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple | set):
        return f"{_article(type(value).__name__)} of {len(value)}"
    return _article(type(value).__name__)


def _article(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def _visible(text: str) -> str:
    """The text with every control, format and half character written as its number; blanks of any kind stay."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else f"\\u{ord(c):04x}"
        for c in text
    )
