"""What colours the objects of toy videos have: shares of their pixels, and a picture with a frame of each video.

kinolab train toy-adapter --out runs/toy-adapter
for w in 0 1 2; do
  kinolab generate --model world-text --lora runs/toy-adapter/adapter:$w --count 8 --steps 15 --out out/weight$w/a.mkv
done
python examples/colours_picture.py out/weight0 out/weight1 out/weight2 --out docs/images/adapter-weights.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports.sheet import write_rows
from kinolab.runtime.paths import visible
from kinolab.toyworld.words import COLOURS

COLOURED = 60
"""Grey levels between the largest and the smallest channel of a pixel that is no background."""


def shares(frames: np.ndarray) -> dict[str, float]:
    """Share of the coloured pixels of frames (T, H, W, 3) uint8 that are nearest to each colour of the toy world."""
    pixels = frames.reshape(-1, 3).astype(np.float64)
    pixels = pixels[np.ptp(pixels, axis=1) > COLOURED]
    palette = np.array(list(COLOURS.values()), np.float64)
    nearest = np.square(pixels[:, None] - palette).sum(2).argmin(1)
    counts = np.bincount(nearest, minlength=len(palette))
    return {name: float(count / max(1, counts.sum())) for name, count in zip(COLOURS, counts, strict=True)}


def main() -> None:
    """Read the videos of each folder, print the shares, and draw a frame of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="with the videos of one setting each")
    parser.add_argument("--frame", type=int, default=4, help="the frame that is shown of each video")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rows = []
    for folder in chosen.folders:
        clips = [video.read(path).frames for path in visible(folder, "*.mkv")]
        if not clips:
            raise InputError(f"{folder}: expected videos (.mkv), found none")
        found = shares(np.concatenate(clips))
        print(f"{folder.name}: " + ", ".join(f"{name} {share:.0%}" for name, share in found.items() if share >= 0.005))
        rows.append((folder.name, np.stack([clip[chosen.frame] for clip in clips])))
    write_rows(rows, chosen.out)


if __name__ == "__main__":
    main()
