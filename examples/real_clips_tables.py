"""Tables and a picture of the runs that examples/real_clips.sh makes: `python real_clips_tables.py OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from kinolab import data, video
from kinolab.data import FolderConfig, FolderSource
from kinolab.models import load_autoencoder
from kinolab.reports.sheet import Strip, write_sheet

METHODS = {"tail": "video", "average": "average", "random": "random"}
"""How a causal TAESD was begun -> its run."""
MEASURED = {
    "own-image": "own image autoencoder, 260 steps",
    "taef2": "TAESD, frame by frame",
    "video": "TAESD, inflated and causal, 120 steps",
    "dpvae": "DP-VAE around TAESD, before any step",
}
SCORES = {"psnr": 2, "ssim": 3, "flicker": 4, "warp": 4, "detail": 2}
"""Score -> decimals."""
FRAMES, SIZE = 17, 64


def heldout(run: Path) -> list[dict[str, float]]:
    """The held-out measurements of a run, first to last."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == "heldout"]


def initialisations(out: Path) -> list[str]:
    """PSNR and SSIM of the three initialisations before training, and of the tail's on the way, as a table."""
    lines = ["| initialisation | PSNR (dB) | SSIM |", "| --- | --- | --- |"]
    for method, run in METHODS.items():
        shown = heldout(out / run) if method == "tail" else heldout(out / run)[:1]
        lines += [f"| {method}, step {row['step']} | {row['psnr']:.2f} | {row['ssim']:.3f} |" for row in shown]
    return lines


def measured(out: Path) -> list[str]:
    """What `kinolab evaluate reconstruction` found of each autoencoder, as a table."""
    lines = [
        "| autoencoder | pixel values per latent value | " + " | ".join(SCORES) + " |",
        "| --- |" + " --- |" * (1 + len(SCORES)),
    ]
    for name, title in MEASURED.items():
        found: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
        ratio = load_autoencoder(out / name, device="cpu").compression(FRAMES, SIZE, SIZE)
        cells = [f"{found[score]['value']:.{digits}f}" for score, digits in SCORES.items()]
        lines.append(f"| {title} | {float(ratio):.1f} | {' | '.join(cells)} |")
    return lines


@torch.no_grad()
def rebuilt(out: Path) -> list[Strip]:
    """A held-out window, and what each autoencoder makes of it."""
    config = FolderConfig(path=out / "small", frames=FRAMES, size=SIZE, heldout_fraction=0.2, stride=8)
    source = data.build(config, split="heldout")
    assert isinstance(source, FolderSource)
    clip = source[len(source) // 2].video[None]
    strips = [Strip("held-out clip", video.to_uint8(clip[0]))]
    for name, title in MEASURED.items():
        autoencoder = load_autoencoder(out / name, device="cpu")
        strips.append(Strip(title, video.to_uint8(autoencoder.decode(autoencoder.encode(clip).mean)[0])))
    return strips


def main() -> None:
    """Print the tables, and write OUT/rebuilt.png."""
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    print("\n".join([*initialisations(out), "", *measured(out)]))
    write_sheet(rebuilt(out), out / "rebuilt.png", columns=1, shown=6)
    print(out / "rebuilt.png")


if __name__ == "__main__":
    main()
