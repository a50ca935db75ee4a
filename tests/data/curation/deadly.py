"""Work for other processes, of which one piece ends the process that does it."""

from __future__ import annotations

import os


def work(group: list[int]) -> list[str]:
    """Each number as a text; 13 ends the process."""
    if 13 in group:
        os._exit(9)
    return [str(number) for number in group]
