"""A picture of several videos, one below the other, of the same moments.

    python examples/rows_picture.py "the clip=clip.mp4@7.5" "edited=edit.mp4" --frames 8 --out rows.webp

Each row is NAME=VIDEO, or NAME=VIDEO@FPS for one that is re-timed first. Videos are cut to a square of --size and shown
from their beginning on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports.sheet import write_rows


def shown(row: str, size: int, frames: int, shown: int) -> tuple[str, np.ndarray]:
    """A row's name and its frames (T, size, size, 3), `shown` of the first `frames`, evenly spread.

    Raises:
        InputError: for a row of another form, and for a video that is shorter.
    """
    name, parted, path = row.partition("=")
    if not parted:
        raise InputError(f"{row}: expected NAME=VIDEO")
    path, _, rate = path.partition("@")
    found = video.read(Path(path), fps=float(rate) if rate else None, size=(size, size)).frames
    if len(found) < frames:
        raise InputError(f"{path}: has {len(found)} frames; expected {frames}, or fewer by --frames")
    return name, found[np.linspace(0, frames - 1, shown).round().astype(int)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="NAME=VIDEO, NAME=VIDEO@FPS")
    parser.add_argument("--out", type=Path, required=True, help="a .webp or .png")
    parser.add_argument("--size", type=int, default=128, help="pixels of a frame's sides")
    parser.add_argument("--frames", type=int, default=8, help="of each video, from its first on")
    parser.add_argument("--shown", type=int, default=5, help="how many of these")
    parser.add_argument("--margin", type=int, default=150, help="pixels for the names")
    chosen = parser.parse_args(arguments)
    rows = [shown(row, chosen.size, chosen.frames, chosen.shown) for row in chosen.rows]
    write_rows(rows, chosen.out, margin=chosen.margin, cut=0)
    print(chosen.out)


if __name__ == "__main__":
    main()
