"""A picture of a cut: the original, and what reconstructions with other key frame rules make of the frames around it.

kinolab reconstruct clip.mp4 -a runs/dpvae-folder --size 64 --key-frames first --out out/first.mp4
kinolab reconstruct clip.mp4 -a runs/dpvae-folder --size 64 --key-frames scene --out out/scene.mp4
python examples/key_frames_picture.py out/first.mp4 out/scene.mp4 --frame 30 --out docs/images/key-frames.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports.sheet import write_rows

AROUND = 3
"""Frames shown before the cut, and from it on."""


def main() -> None:
    """Read the files that `kinolab reconstruct` wrote (original | reconstruction | error) and draw the frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="what kinolab reconstruct wrote, one per rule")
    parser.add_argument("--frame", type=int, required=True, help="the first frame after the cut")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rows = []
    for file in chosen.files:
        frames = np.stack([f.image for f in video.iter_frames(file)])
        if not AROUND <= chosen.frame <= len(frames) - AROUND:
            raise InputError(f"{file}: expected a frame from {AROUND} to {len(frames) - AROUND}, got {chosen.frame}")
        shown = frames[chosen.frame - AROUND : chosen.frame + AROUND]
        width = shown.shape[2] // 3
        if not rows:
            rows.append(("original", shown[:, :, :width]))
        rows.append((file.stem, shown[:, :, width : 2 * width]))
    write_rows(rows, chosen.out)


if __name__ == "__main__":
    main()
