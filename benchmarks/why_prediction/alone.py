"""`python -m benchmarks.why_prediction.alone`: the smallest thing that can be learned exactly, and what breaks it.

A row is a small VDT, trained to predict from 8 given frames on latents of one kind of clip, and measured on held-out
clips of the same kind with `drift`'s matching by place. The first row is one floating object in the latents of
`world`; every other row changes one thing. All rows take the same steps, batch and seed. What is done is kept in the
runs' folder and not done again, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import processor_name
from benchmarks.why_prediction.drift import SAMPLING, heldout, match, predict, summary
from benchmarks.why_prediction.kept import keep, once, trained
from kinolab.models import VideoModel

RECIPE = "toy-vdt-ablation"
ALL = "fall,throw,bounce,collide,ramp,float"
LARGE = ("denoiser.hidden_size=256", "denoiser.depth=8", "denoiser.num_heads=4")


@dataclass(frozen=True)
class Row:
    """What is trained on, in which latents, with which changes of the recipe."""

    scenarios: str = "float"
    objects: int = 1
    autoencoder: str = "world"
    overrides: tuple[str, ...] = field(default=())


WORLD_TEXT = ("autoencoder=world-text", "denoiser.in_channels=16")
JOINT = ("denoiser.temporal_attention=joint", "denoiser.qk_norm=true")
SHIFTED = ("diffusion.time_shift=3.0",)
ROWS: dict[str, Row] = {
    "one floating object": Row(),
    "given as channels": Row(overrides=("denoiser.given=channels",)),
    "patches of 1": Row(overrides=("denoiser.given=channels", "denoiser.patch_size=1")),
    "latents of world-text": Row(autoencoder="world-text", overrides=(*WORLD_TEXT, "denoiser.given=channels")),
    "latents of world-text, patches of 1": Row(
        autoencoder="world-text", overrides=(*WORLD_TEXT, "denoiser.given=channels", "denoiser.patch_size=1")
    ),
    "larger": Row(overrides=("denoiser.given=channels", *LARGE)),
    "noisier times": Row(overrides=("denoiser.given=channels", "diffusion.logit_mean=1.0")),
    "times shifted to noise": Row(overrides=(*SHIFTED, "denoiser.given=channels")),
    "joint attention": Row(overrides=("denoiser.given=channels", *JOINT)),
    "joint attention, times shifted": Row(overrides=(*SHIFTED, "denoiser.given=channels", *JOINT)),
    "joint attention, times shifted, latents of world-text": Row(
        autoencoder="world-text", overrides=(*WORLD_TEXT, *SHIFTED, "denoiser.given=channels", *JOINT)
    ),
    "three objects": Row(objects=3, overrides=("denoiser.given=channels",)),
    "all scenarios, one object": Row(scenarios=ALL, overrides=("denoiser.given=channels",)),
    "all scenarios, three objects": Row(scenarios=ALL, objects=3, overrides=("denoiser.given=channels",)),
}


def cache(row: Row, runs: Path, clips: int) -> Path:
    """The latents of a row with masks drawn for prediction, encoded where they are not there yet."""
    kind = "all" if row.scenarios == ALL else row.scenarios
    out = runs / f"latents-{row.autoencoder}-{kind}-{row.objects}-{clips}"
    weights = "{" + ", ".join(f"{name}: 1.0" for name in row.scenarios.split(",")) + "}"
    settings = [f"data.world.scenarios={weights}", f"data.world.max_objects={row.objects}"]
    options = [word for s in settings for word in ("-s", s)]
    command = ["encode", "world", "-a", row.autoencoder, "--count", str(clips), "--out", str(out), "--batch", "16",
               "--precision", "auto", "--tasks", RECIPE, "--draws", "1", *options]  # fmt: skip
    subprocess.run([sys.executable, "-m", "kinolab", *command], check=True)
    return out


def measure(name: str, row: Row, asked: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one row, or read what was measured before."""
    latents = cache(row, asked.runs, asked.clips)

    def measured(folder: Path) -> dict[str, Any]:
        log = trained(RECIPE, folder, asked.steps, (f"data.path={latents}", "training.save_every=200", *row.overrides))
        model = VideoModel.load(folder)
        held = heldout(model, asked.count, row.scenarios.split(","), row.objects, 7000)
        made = predict(model, held, 8, *SAMPLING["euler 25"])
        return {
            "processor": processor_name(), "clips": asked.clips, "steps": asked.steps, "overrides": row.overrides,
            "parameters": sum(p.numel() for p in model.denoiser.parameters()),
            "seconds of a step": statistics.median(r["step_seconds"] for r in log if r["kind"] == "train"),
            "heldout": {str(r["step"]): r["loss"] for r in log if r["kind"] == "heldout"},
            "drift": summary([match(f, c, 8) for f, c in zip(made, held, strict=True)], range(1, 10)),
        }  # fmt: skip

    return once(asked.runs, name, measured)


def main() -> None:
    """Train and measure the rows asked for, and write all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=list(ROWS), help="a row; may be repeated; default all")
    parser.add_argument("--runs", type=Path, default=Path("runs/why-prediction"))
    parser.add_argument("--clips", type=int, default=2048, help="clips to train on")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--count", type=int, default=48, help="held-out clips to measure on")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/alone.json"))
    asked = parser.parse_args()
    for name in asked.only or ROWS:
        found = measure(name, ROWS[name], asked)
        keep(asked.out, name, found)
        print(name, json.dumps(found["drift"]), flush=True)


if __name__ == "__main__":
    main()
