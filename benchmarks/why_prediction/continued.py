"""`python -m benchmarks.why_prediction.continued`: the shipped `world` trained on, with one change at a time.

Every row begins from the weights of `world` and takes the same steps over the same cached latents and masks, most of
them predictions; rows differ in one setting. Held-out clips are predicted from 8 given frames and matched by place,
as in `drift`, beside `world` as it ships. What is finished is kept in the runs' folder, and an interrupted row goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import processor_name
from benchmarks.why_prediction.drift import SAMPLING, heldout, listening, match, predict, summary
from benchmarks.why_prediction.kept import keep, known, once, trained
from kinolab.models import VideoModel
from kinolab.toyworld.clips import CLASSES

RECIPE = "toy-vdt-final"
TASKS = {"predict": 5.0, "past": 0.5, "interpolate": 1.25, "animate": 0.75, "complete": 1.5}
"""As in the recipe toy-world: half of what is masked is predicted."""
WHOLE = 2.0
"""The weight of clips of which nothing is given, beside TASKS."""
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
ROWS: dict[str, tuple[str, ...]] = {
    "as before": (),
    "times shifted by 3": ("diffusion.time_shift=3.0",),
    "times shifted by 3, always given": ("diffusion.time_shift=3.0", "tasks.unconditional=0"),
}


def cache(runs: Path, clips: int) -> Path:
    """The latents of `world` with a mask drawn for each clip, encoded where they are not there yet."""
    out = runs / f"latents-world-{clips}"
    tasks = ",".join(f"{name}={weight}" for name, weight in TASKS.items())
    command = ["encode", "world", "-a", "world", "--count", str(clips), "--out", str(out), "--batch", "16",
               "--precision", "auto", "--tasks", tasks, "--draws", "1"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "kinolab", *command], check=True)
    return out


def measure(model: VideoModel, count: int) -> dict[str, Any]:
    """Drift by frame ahead of held-out clips of all scenarios, and the loss by time with the own given frames."""
    held = heldout(model, count, CLASSES, 3, 7000)
    made = predict(model, held, 8, *SAMPLING["euler 25"])
    return {
        "drift": summary([match(f, c, 8) for f, c in zip(made, held, strict=True)], range(1, 10)),
        "loss": listening(model, held[:48], 8, TIMES)["own"],
    }


def row(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one row, or read what was measured before."""
    tasks = [f"tasks.{task}={weight}" for task, weight in TASKS.items()]
    overrides = [
        f"data.path={cache(asked.runs, asked.clips)}", "initial.path=world", *tasks, f"tasks.unconditional={WHOLE}",
        f"training.batch_size={asked.batch}", "training.save_every=100", *ROWS[name],
    ]  # fmt: skip

    def measured(folder: Path) -> dict[str, Any]:
        log = trained(RECIPE, folder, asked.steps, overrides)
        return {
            "processor": processor_name(), "clips": asked.clips, "steps": asked.steps, "batch": asked.batch,
            "overrides": ROWS[name],
            "seconds of a step": statistics.median(r["step_seconds"] for r in log if r["kind"] == "train"),
            **measure(VideoModel.load(folder, precision="float32"), asked.count),
        }  # fmt: skip

    return once(asked.runs, name, measured)


def main() -> None:
    """Train and measure the rows asked for, and write all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=list(ROWS), help="a row; may be repeated; default all")
    parser.add_argument("--runs", type=Path, default=Path("runs/continued"))
    parser.add_argument("--clips", type=int, default=4096, help="clips to train on")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--count", type=int, default=96, help="held-out clips to measure on")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/continued.json"))
    asked = parser.parse_args()

    def put(name: str, result: dict[str, Any]) -> None:
        keep(asked.out, name, result)
        print(name, json.dumps(result["drift"]), flush=True)

    if "world" not in known(asked.out):
        put("world", measure(VideoModel.load("world", precision="float32"), asked.count))
    for name in asked.only or ROWS:
        put(name, row(name, asked))


if __name__ == "__main__":
    main()
