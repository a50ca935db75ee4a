"""`python -m benchmarks.why_prediction.alone`: the smallest thing that can be learned exactly, and what breaks it.

A row is a small VDT, trained to predict from 8 given frames on latents of one kind of clip, and measured on held-out
clips of the same kind as `kinolab evaluate physics` measures. The first row is one floating object with all that the
other experiments recommend (latents of `world-text`, one attention over all tokens, times shifted towards noise); every
other row changes one thing: what is to be learned, how, or how long. All rows but those for longer take the same
steps, batch and seed. What is done is kept in the runs' folder and not done again, so an interrupted command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import processor_name
from benchmarks.why_prediction.drift import heldout
from benchmarks.why_prediction.kept import keep, once, trained
from benchmarks.why_prediction.scores import scores
from kinolab.models import VideoModel
from kinolab.toyworld.clips import CLASSES

RECIPE = "toy-vdt-ablation"
TASKS = {"unconditional": 4.0, "predict": 5.0, "past": 0.5, "interpolate": 1.25, "animate": 0.75, "complete": 1.5}
"""The mix of the recipes toy-mmdit-world and toy-world."""


@dataclass(frozen=True)
class Row:
    """What is trained on, in which latents, with which changes of the recipe."""

    scenarios: tuple[str, ...] = ("float",)
    objects: int = 1
    tasks: bool = False
    """Every task, in place of predictions from 8 frames alone."""
    autoencoder: str = "world-text"
    patch: int = 2
    joint: bool = True
    shift: float = 3.0
    more: tuple[str, ...] = ()
    longer: tuple[int, int] | None = None
    """Clips to train on and steps of its own, in place of those that all rows share."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """What differs from the recipe."""
        channels = 8 if self.autoencoder == "world" else 16
        changes = [f"autoencoder={self.autoencoder}", f"denoiser.in_channels={channels}", "denoiser.given=channels",
                   f"denoiser.patch_size={self.patch}"]  # fmt: skip
        if self.joint:
            changes += ["denoiser.temporal_attention=joint", "denoiser.qk_norm=true"]
        if self.shift != 1.0:
            changes.append(f"diffusion.time_shift={self.shift:g}")
        if self.tasks:
            changes.append("tasks=" + "{" + ", ".join(f"{name}: {weight:g}" for name, weight in TASKS.items()) + "}")
        return (*changes, *self.more)


BASE = Row()
EVERYTHING = Row(scenarios=CLASSES, objects=3, tasks=True)
PROMPTS = ("denoiser.text_dim=384", "denoiser.pooled_dim=384", "text_encoder=minilm", "condition_dropout=0.1")
ROWS: dict[str, Row] = {
    "one floating object": BASE,
    "one floating object, for longer": replace(BASE, longer=(16384, 6000)),
    "three floating objects": replace(BASE, objects=3),
    "all scenarios, one object": replace(BASE, scenarios=CLASSES),
    "all scenarios, three objects, for longer": replace(BASE, scenarios=CLASSES, objects=3, longer=(16384, 6000)),
    "every task, one floating object": replace(BASE, tasks=True),
    "prompts, one floating object": replace(BASE, more=PROMPTS),
    "all scenarios, three objects, every task": EVERYTHING,
    "all scenarios, three objects, every task, prompts": replace(EVERYTHING, more=PROMPTS),
    "patches of 1": replace(BASE, patch=1),
    "times not shifted": replace(BASE, shift=1.0),
    "attention in time at the same place": replace(BASE, joint=False),
    "latents of world": replace(BASE, autoencoder="world"),
    "absolute errors": replace(BASE, more=("diffusion.loss=l1",)),
    "errors weighted by min-SNR": replace(BASE, more=("diffusion.loss=min_snr",)),
    "twice the weights": replace(BASE, more=("denoiser.hidden_size=192", "denoiser.num_heads=6")),
}
"""First what is to be learned, then how, one thing at a time."""


def cache(row: Row, runs: Path, clips: int, precision: str) -> Path:
    """The latents of a row with masks drawn for its tasks, encoded where they are not there yet."""
    kind = "all" if row.scenarios == CLASSES else "-".join(row.scenarios)
    out = runs / f"latents-{row.autoencoder}-{kind}-{row.objects}-{clips}{'-tasks' if row.tasks else ''}"
    weights = "{" + ", ".join(f"{name}: 1.0" for name in row.scenarios) + "}"
    settings = [f"data.world.scenarios={weights}", f"data.world.max_objects={row.objects}"]
    options = [word for s in settings for word in ("-s", s)]
    tasks = ",".join(f"{name}={weight:g}" for name, weight in TASKS.items()) if row.tasks else RECIPE
    command = ["encode", "world", "-a", row.autoencoder, "--count", str(clips), "--out", str(out), "--batch", "16",
               "--precision", precision, "--tasks", tasks, "--draws", "1", *options]  # fmt: skip
    subprocess.run([sys.executable, "-m", "kinolab", *command], check=True)
    return out


def measure(name: str, row: Row, asked: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one row, or read what was measured before."""
    clips, steps = row.longer or (asked.clips, asked.steps)
    latents = cache(row, asked.runs, clips, asked.precision)
    training = (f"data.path={latents}", f"training.batch_size={asked.batch}", f"training.precision={asked.precision}",
                "training.save_every=200", f"training.evaluate_every={steps // 4}")  # fmt: skip

    def measured(folder: Path) -> dict[str, Any]:
        log = trained(RECIPE, folder, steps, (*training, *row.overrides))
        model = VideoModel.load(folder, precision="float32")
        held = heldout(model, asked.count, row.scenarios, row.objects, 7000)
        return {
            "processor": processor_name(), "clips": clips, "steps": steps, "batch": asked.batch,
            "precision": asked.precision, "held-out clips": asked.count, "overrides": row.overrides,
            "parameters": sum(p.numel() for p in model.denoiser.parameters()),
            "seconds of a step": statistics.median(r["step_seconds"] for r in log if r["kind"] == "train"),
            "heldout": {str(r["step"]): r["loss"] for r in log if r["kind"] == "heldout"},
            **scores(model, held),
        }  # fmt: skip

    return once(asked.runs, name, measured)


def main() -> None:
    """Train and measure the rows asked for, and write all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=list(ROWS), help="a row; may be repeated; default all")
    parser.add_argument("--runs", type=Path, default=Path("runs/why-prediction"))
    parser.add_argument("--clips", type=int, default=4096, help="clips to train on")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"), help="of the training")
    parser.add_argument("--count", type=int, default=96, help="held-out clips to measure on")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/alone.json"))
    asked = parser.parse_args()
    for name in asked.only or ROWS:
        found = measure(name, ROWS[name], asked)
        keep(asked.out, name, found)
        print(name, json.dumps(found["model"]), flush=True)


if __name__ == "__main__":
    main()
