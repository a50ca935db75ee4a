"""`python -m benchmarks.gpu.trainings world image --carry FOLDER --out OUT --seconds 420`: trainings side by side.

Each one is a process of its own with a log of its own; all share the card and are over when the seconds are. What comes
back lies in OUT: for each model a zip with its folder in 8 bits and a picture, and for each process a log, mostly of
JSON lines. The zip of `world` is written anew every minute. `--small --device cpu` shows that everything runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import carried

NAMES = ("world", "image")
RESERVE = 25.0
"""Seconds at the end of a training's share for what is measured and written there."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu.trainings", description=__doc__.splitlines()[0])
    found.add_argument("names", nargs="+", choices=NAMES, help="what to train")
    found.add_argument("--carry", type=Path, default=Path("build/gpu"), help="the folder that prepare made")
    found.add_argument("--out", type=Path, required=True, help="what comes back")
    found.add_argument("--state", type=Path, help="where wheels are unpacked; default: CARRY-state, beside CARRY")
    found.add_argument("--seconds", type=float, default=420.0, help="when to be done, the start included")
    found.add_argument("--device", default="auto", help="auto = the first CUDA card, else the CPU")
    found.add_argument("--small", action="store_true", help="sizes that only show that everything runs")
    found.add_argument("--workers", type=int, help="processes that make clips; default: two less than there are cores")
    found.add_argument("--not-compiled", action="store_true", help="without torch.compile")
    found.add_argument("-s", "--set", action="append", default=[], help="NAME:FIELD=VALUE of a training's recipe")
    found.add_argument("--began", type=float, help=argparse.SUPPRESS)
    found.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the trainings and wait for them; the number of those that failed."""
    began = time.time()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    state = options.state or options.carry.with_name(f"{options.carry.name}-state")
    names = carried.use(options.carry / "wheels", state / "site")
    if options.child:
        return child(options, state)
    print(f"from carried wheels: {', '.join(names) or 'nothing'}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rest = [word for word in words if word not in NAMES]
    running = {}
    for name in dict.fromkeys(options.names):
        command = [sys.executable, "-m", "benchmarks.gpu.trainings", name, *rest, "--child", "--began", str(began)]
        log = (options.out / f"{name}.txt").open("wb")
        running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    failed = 0
    for name, process in running.items():
        left = began + options.seconds + 15 - time.time()
        try:
            code = process.wait(timeout=max(1.0, left))
        except subprocess.TimeoutExpired:
            process.terminate()
            code = 124
        failed += code != 0
        print(f"{name}: ended with {code} after {time.time() - began:.0f} s", flush=True)
        lines = (options.out / f"{name}.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-25:]), flush=True)
    return failed


def child(options: argparse.Namespace, state: Path) -> int:
    """One training."""
    import torch

    from benchmarks.gpu import images, predicting
    from benchmarks.gpu.timed import Task, cores

    (name,) = options.names
    device = options.device
    if device == "auto":
        device = "cuda" if torch.version.cuda and Path("/dev/nvidia0").exists() else "cpu"
    part = {"world": predicting, "image": images}[name]
    share = {"world": 0.8, "image": 0.2}[name]
    workers = options.workers or max(1, int(share * (cores() - 2)))
    small = options.small
    task = Task(
        name=name, carry=options.carry, out=options.out, state=state, device=device,
        begin=options.began + (0.15 if small else 0.1) * options.seconds,
        until=options.began + options.seconds - (min(RESERVE, 0.3 * options.seconds)),
        workers=workers, small=small, compiled=not options.not_compiled,
        overrides=tuple(word.partition(":")[2] for word in options.set if word.startswith(f"{name}:")),
        save_every=options.seconds / 6 if small else 60.0, look_every=options.seconds / 4 if small else 150.0,
    )  # fmt: skip
    part.main(task)
    return 0


if __name__ == "__main__":
    sys.exit(main())
