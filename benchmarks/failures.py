"""The model of failures against real ones: a training by torchrun whose processes are killed at random times.

    python -m benchmarks.failures --out out/failures [--steps 240] [--every 20] [--between 40] [--runs 2]

Two processes train a tiny autoencoder on this machine. A first run is left alone but for one kill, and gives the
numbers of the model (`kinolab.planning.failures`): seconds of a step and of a checkpoint, of the start and the end, and
from a kill to the next step. Then in each of some runs a process is killed again and again, at exponential times with
the mean `--between`, until the run is done. Held against each are the model played with the same times between
failures, and the range of 1000 runs that it plays with times of its own. Where other work comes and goes, a step and a
restart take other seconds in a run than in the calibration; so the model is also played with the seconds of each step
and each restart of that very run, which leaves what the model itself says wrong. What is measured is kept in the
folder, and only what is missing is measured when the words are given again.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from kinolab.planning.failures import Steps, Weather, expected_seconds, play, quantile
from kinolab.runtime.files import write_text
from kinolab.runtime.leftovers import remove
from kinolab.runtime.yaml_files import to_yaml

RECIPE: dict[str, Any] = {
    "kind": "autoencoder", "name": "failures",
    "data": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 64, "heldout_count": 4},
    "autoencoder": {
        "kind": "image", "block_out_channels": [16, 16], "layers_per_block": 1, "latent_channels": 4,
        "norm_num_groups": 4, "mid_block_attention": False,
    },
    "heldout_clips": 2, "sample_clips": 1,
}  # fmt: skip


class Training:
    """A run by torchrun, seen from outside: its log, its processes."""

    def __init__(self, out: Path, name: str, steps: int, every: int) -> None:
        self.folder = out / name
        remove(self.folder)
        training = {
            "steps": steps, "batch_size": 16, "device": "cpu", "precision": "float32", "tensorboard": False,
            "log_every": 1, "save_every": every, "evaluate_every": 10**6, "sample_every": 10**6, "threads": 1,
        }  # fmt: skip
        recipe = out / f"{name}.yaml"
        write_text(recipe, to_yaml(RECIPE | {"training": training}))
        words = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts",
            "1000", "--monitor-interval", "0.1", "-m", "kinolab", "train", str(recipe), "--out", str(self.folder),
            "--resume", "auto",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.began = time.monotonic()
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(words, env=environment, stdout=quiet, stderr=quiet)
        atexit.register(self._end)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    @property
    def done(self) -> bool:
        """Whether it has ended; raises RuntimeError where it failed."""
        status = self.process.poll()
        if status:
            raise RuntimeError(f"torchrun ended with status {status}")
        return status is not None

    def rows(self) -> list[dict[str, Any]]:
        """The steps in its log."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [row for row in rows if row.get("kind") == "train"]

    def kill(self, draws: random.Random) -> None:
        """SIGKILL one of its two processes, be they at a step or still starting."""
        ranks: list[psutil.Process] = []
        while not ranks and not self.done:  # for a moment torchrun may have none
            ranks = [p for p in psutil.Process(self.process.pid).children() if "RANK" in _environment(p)]
        if ranks:
            draws.choice(ranks).kill()

    def until_step(self, step: int) -> float:
        """Seconds at which that many steps stand in the log."""
        while not self.done:
            rows = self.rows()
            if rows and rows[-1]["step"] >= step:
                break
            time.sleep(0.05)
        return self.seconds

    def until_moved(self) -> float:
        """Seconds at which a step stands in its log again."""
        watched = Restart(self)
        while not self.done and not watched.over():
            time.sleep(0.02)
        return self.seconds


class Restart:
    """Sees when steps go on, from the log: it is cut to the checkpoint's step, by another file in its place, and then
    that one grows."""

    def __init__(self, run: Training) -> None:
        self.path = run.folder / "log.jsonl"
        self.file, self.length = _stamp(self.path)
        self.cut = False

    def over(self) -> bool:
        """Whether they do."""
        file, length = _stamp(self.path)
        if not self.cut:
            if file != self.file:
                self.cut, self.length = True, length
            return False
        return length != self.length


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_size


def calibrated(out: Path, steps: int, every: int) -> dict[str, float]:
    """Seconds of a step, a checkpoint, the start, the end, and from a kill to the first step after it began."""
    run = Training(out, "calibration", steps, every)
    first = run.until_step(1)
    run.until_step(every + every // 2)  # between two checkpoints
    killed = run.seconds
    run.kill(random.Random(0))
    restart = run.until_moved() - killed
    last = run.until_step(steps)
    run.process.wait()
    ended = run.seconds
    rows = [row for row in run.rows() if row["step"] > every]
    step = statistics.median(row["step_seconds"] for row in rows)
    # The log's own clock: between the steps on either side of a checkpoint pass a step and the saving.
    at = {row["step"]: row["seconds"] for row in rows}
    saves = [at[k + 1] - at[k] - step for k in range(2 * every, steps - 1, every) if k in at and k + 1 in at]
    whole = [at[k] - at[k - every + 1] for k in range(3 * every, steps, every) if k in at and k - every + 1 in at]
    plain = statistics.median(whole) / (every - 1) if whole else step
    return {
        "step": plain, "save": max(0.0, statistics.median(saves)), "start": first - plain, "end": ended - last,
        "restart": restart - plain,
    }  # fmt: skip


def broken(out: Path, number: int, steps: int, every: int, between: float) -> dict[str, Any]:
    """A run whose processes are killed again and again: its seconds, the times between failures, the seconds from each
    to the next step (less that step; None of one that was cut off by another), and of every step that was kept."""
    draws, run = random.Random(1000 + number), Training(out, f"run-{number}", steps, every)
    first = last = run.until_step(1)
    gaps: list[float] = []
    restarts: list[float | None] = []
    load = [os.getloadavg()[0]]
    while not run.done:
        wait, watched = draws.expovariate(1 / between), Restart(run) if gaps else None
        while run.seconds < last + wait and not run.done:
            if watched is not None and watched.over():
                restarts[-1], watched = run.seconds - last, None
            time.sleep(0.02)
        rows = run.rows()
        if run.done or (rows and rows[-1]["step"] >= steps):
            break
        run.kill(draws)
        gaps.append(run.seconds - last)
        restarts.append(None)
        load.append(os.getloadavg()[0])
        last = run.seconds
    run.process.wait()
    if run.process.returncode:
        raise RuntimeError(f"torchrun ended with status {run.process.returncode}")
    rows = run.rows()
    # The log's own clock: a step is what passes from the one before it to it, but behind a checkpoint or a restart,
    # where that holds more than the step.
    each = [row["step_seconds"] for row in rows]
    for k in range(1, len(rows)):
        passed = rows[k]["seconds"] - rows[k - 1]["seconds"]
        if rows[k - 1]["step"] % every and 0 < passed < 10 * rows[k]["step_seconds"]:
            each[k] = passed
    step = statistics.fmean(each)
    waited = [None if seconds is None else max(0.0, seconds - step) for seconds in restarts]
    return {"seconds": run.seconds, "first": first, "gaps": gaps, "restarts": waited, "each": each, "load": load}


def held_against(told: dict[str, float], real: Sequence[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Print the numbers of the model, and beside each real run what the model says: with the calibration's seconds of a
    step and a restart, and with that run's own, as other work on the machine changes both."""
    steps, every, between = asked.steps, asked.every, asked.between
    weather = Weather(between, told["restart"], told["save"], told["save"])
    work, beside = Steps(steps, told["step"]), told["end"]
    print(", ".join(f"{name} {value:.3g} s" for name, value in told.items()))
    print(f"{steps} steps, saved every {every}, a failure in {between:g} s")
    print(
        "run  failures  load  real s  its step s  its restarts s  played with the same failures s; with its own seconds"
    )
    for number, run in enumerate(real):
        # The clock of the model starts with the first step, that of the failures a step later.
        modelled = run["first"] - told["step"] + play(work, every, weather, 0, gaps=iter(run["gaps"])).seconds + beside
        known = [seconds for seconds in run["restarts"] if seconds is not None]
        restart, step = statistics.fmean(known) if known else told["restart"], statistics.fmean(run["each"])
        own, each = Weather(between, restart, told["save"], told["save"]), Steps(steps, step, each=tuple(run["each"]))
        restarts = iter([restart if seconds is None else seconds for seconds in run["restarts"]])
        same = run["first"] + play(each, every, own, 0, gaps=iter(run["gaps"]), restarts=restarts).seconds
        same += beside - step
        apart = [f"{seconds:.1f} ({100 * (seconds / run['seconds'] - 1):+.1f}%)" for seconds in (modelled, same)]
        load = statistics.fmean(run["load"])
        print(f"{number:3}  {len(run['gaps']):8}  {load:4.1f}  {run['seconds']:6.1f}  {step:10.3f}  {restart:14.1f}  "
              f"{apart[0]}; {apart[1]}")  # fmt: skip
    start = told["start"] + beside
    runs = [start + play(work, every, weather, seed).seconds for seed in range(1000)]
    mean = statistics.fmean(run["seconds"] for run in real)
    formula = start + expected_seconds(steps * told["step"], every * told["step"], weather)
    span = f"90% between {quantile(runs, 0.05):.1f} and {quantile(runs, 0.95):.1f} s"
    print(f"mean of real runs {mean:.1f} s; 1000 runs played: mean {statistics.fmean(runs):.1f} s, {span}; by Daly's "
          f"formula {formula:.1f} s")  # fmt: skip


def main() -> None:
    """Measure what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/failures"))
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--between", type=float, default=40.0)
    parser.add_argument("--runs", type=int, default=2)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that nothing is left running
    names = ["calibration.json", *(f"run-{k}.json" for k in range(asked.runs))]
    for number, name in enumerate(names, start=-1):
        path = asked.out / name
        if not path.exists():
            print(f"measuring {path}", file=sys.stderr)
            if number < 0:
                found: Any = calibrated(asked.out, asked.steps, asked.every)
            else:
                found = broken(asked.out, number, asked.steps, asked.every, asked.between)
            write_text(path, json.dumps(found, indent=1) + "\n")
    told, *real = (json.loads((asked.out / name).read_text()) for name in names)
    held_against(told, real, asked)


if __name__ == "__main__":
    main()
