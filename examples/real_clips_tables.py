"""Tables and pictures of the runs that examples/real_clips.sh makes: `python real_clips_tables.py OUT`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from kinolab import video
from kinolab.models import load_autoencoder
from kinolab.reports.sheet import Strip, write_sheet

METHODS = ("tail", "average", "random")
VARIANTS = {"all3d": "all3d", "half2d": "half2d", "outer2d": "outer2d", "encoder_outer2d": "tail"}
"""Variant -> its run; the initialisations are compared on the last one, which the paper publishes."""
SHAPE = (1, 3, 17, 128, 128)


def heldout(run: Path) -> list[dict[str, float]]:
    """The held-out measurements of a run, first to last."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == "heldout"]


@torch.no_grad()
def encode_seconds(run: Path) -> float:
    """Processor seconds on one thread to encode a clip of SHAPE in float32: the least of five."""
    autoencoder, clip, times = load_autoencoder(run, device="cpu"), torch.zeros(SHAPE), []
    for _ in range(5):
        begun = time.thread_time()
        autoencoder.encode(clip)
        times.append(time.thread_time() - begun)
    return min(times)


def initialisations(out: Path) -> list[str]:
    """PSNR and SSIM of the three initialisations before training and on the way, as a table."""
    steps = [int(row["step"]) for row in heldout(out / METHODS[0])]
    lines = ["| initialisation | " + " | ".join(f"step {step}" for step in steps) + " |"]
    lines.append("| --- |" + " --- |" * len(steps))
    for method in METHODS:
        cells = [f"{row['psnr']:.2f} dB, {row['ssim']:.3f}" for row in heldout(out / method)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    frames = heldout(out / "image")[-1]
    return [*lines, "", f"The image autoencoder frame by frame: {frames['psnr']:.2f} dB, {frames['ssim']:.3f}."]


def variants(out: Path) -> list[str]:
    """What the four variants reach and cost, as a table."""
    lines = [
        "| variant | parameters | PSNR (dB) | SSIM | encode 17x128x128 (s) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for variant, run in VARIANTS.items():
        count = sum(p.numel() for p in load_autoencoder(out / run, device="cpu").parameters())
        last, seconds = heldout(out / run)[-1], encode_seconds(out / run)
        lines.append(f"| {variant} | {count / 1e6:.2f} M | {last['psnr']:.2f} | {last['ssim']:.3f} | {seconds:.3f} |")
    return lines


def comparison(out: Path, clip: int = 0) -> list[Strip]:
    """One held-out clip, and what each initialisation makes of it after the last step."""
    strips: list[Strip] = []
    for method in METHODS:
        newest = sorted((out / method / "samples").glob("*.mp4"))[-1]
        original, rebuilt = np.split(video.read(newest).frames, 2, axis=1)  # clips above, reconstructions below
        side = original.shape[1]
        shown = slice(clip * side, (clip + 1) * side)
        if not strips:
            strips.append(Strip("held-out clip", original[:, :, shown]))
        last = heldout(out / method)[-1]
        strips.append(Strip(f"{method}, {last['step']} steps, {last['psnr']:.2f} dB", rebuilt[:, :, shown]))
    return strips


def generated(out: Path) -> list[Strip]:
    """The clips that the Latte generated."""
    return [Strip(path.stem, video.read(path).frames) for path in sorted(out.glob("generated-*.mp4"))]


def main() -> None:
    """Print the tables, and write OUT/initialisations.png and OUT/generated.png."""
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    print("\n".join([*initialisations(out), "", *variants(out)]))
    for name, strips in (("initialisations", comparison(out)), ("generated", generated(out))):
        if strips:
            write_sheet(strips, out / f"{name}.png")
            print(out / f"{name}.png")


if __name__ == "__main__":
    main()
