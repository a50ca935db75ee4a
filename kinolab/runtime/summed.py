"""JSON that tells whether it is still what was written: the last entry of an object is the CRC-32 of all before it.

    {"step": 3, "loss": 0.5, "kinolab.crc32": "1f0c9d2a"}

The sum stands for the bytes of the text up to the quote that opens the entry's name; what follows is always the same
but for the sum itself. So every flipped bit is noticed: one before the entry changes the sum, one in it leaves a name
that is not the entry's beside a sum that is right, the entry's name beside a sum that is wrong, or no JSON. A text
without the entry, as older versions and people write it, is taken as it is.

`runtime.reading` checks and removes the entry wherever it reads JSON, so that no reader can forget to.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from kinolab.errors import DamagedError

ENTRY = "kinolab.crc32"
_LAST = re.compile(r'"([^"\\]*)": "([^"\\]*)"\s*\}\s*\Z')
"""The last entry of an object, where its value is a text."""
TAIL = 200
"""Characters of a text's end that the last entry is looked for in."""


def summed(value: Mapping[str, Any], indent: int | None = None) -> str:
    """Named values as JSON with their sum, without a line break at the end; indent: as of json.dumps."""
    kept = {name: entry for name, entry in value.items() if name != ENTRY}
    text = json.dumps({**kept, ENTRY: "0" * 8}, indent=indent)
    begin = text.rindex(f'"{ENTRY}"')
    return f"{text[:begin]}{text[begin:].replace('0' * 8, _sum(text[:begin]))}"


def is_summed(text: str) -> bool:
    """Whether a JSON text ends with a sum."""
    found = _LAST.search(text[-TAIL:])
    return found is not None and found[1] == ENTRY


def checked(value: dict[str, Any], text: str, name: str) -> dict[str, Any]:
    """The values of an object that was read from `text`, without the entry of the sum; `name` is what errors call it.

    Raises:
        DamagedError: where the text is not what the sum was of.
    """
    found = _LAST.search(text, max(0, len(text) - TAIL))
    if found is None or (found[1] != ENTRY and not re.fullmatch("[0-9a-f]{8}", found[2])):
        if ENTRY not in value:
            return value
        raise DamagedError(f"{name}: damaged, or edited (entries behind its sum {ENTRY})")
    right = found[2] == _sum(text[: found.start()])
    if (found[1] == ENTRY) != right:
        raise DamagedError(f"{name}: damaged, or edited (differs from its sum; what is edited goes without {ENTRY})")
    return {key: entry for key, entry in value.items() if key != ENTRY} if right else value


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
