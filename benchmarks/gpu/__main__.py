"""`python -m benchmarks.gpu prepare --out FOLDER`, and where the card is `python -m benchmarks.gpu run --carry FOLDER`.

`run` needs torch and numpy; whatever else is missing it takes from the carried wheels, before anything imports it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import carried

if TYPE_CHECKING:
    from benchmarks.gpu.running import Part, Results

NAMES = ("numerics", "steps", "beside", "toy", "clips", "released")
"""The parts in their order."""


def parts() -> list[Part]:
    """The table of parts, with each one's share of a run's time."""
    from benchmarks.gpu import beside, clips, numerics, released, steps, toy
    from benchmarks.gpu.running import Part

    return [
        Part("numerics", "Device against CPU", 0.15, numerics.items, numerics.table),
        Part("steps", "Training steps", 0.15, steps.items, steps.table),
        Part("beside", "Beside diffusers", 0.12, beside.items, beside.table),
        Part("toy", "Toy world", 0.23, toy.items, toy.table),
        Part("clips", "Real clips", 0.35, clips.items, clips.table),
        Part("released", "Real clips, released autoencoder", 0.35, released.items, released.table),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 where everything is done, 1 where a further call goes on."""
    options = parser().parse_args(arguments)
    if options.command == "prepare":
        return _prepare(options)
    return _run(options)


def parser() -> argparse.ArgumentParser:
    """Both commands' options."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="make the folder that a run takes along")
    prepare.add_argument("--out", type=Path, default=Path("build/gpu"), help="the folder; what is there is kept")
    prepare.add_argument("--clips", type=Path, help="a folder of your clips, for the example on real ones")
    prepare.add_argument(
        "--python", action="append", dest="pythons", help="a Python to take wheels for; may be repeated"
    )
    prepare.add_argument(
        "--limit", type=float, default=60.0, help="MiB that may be taken; the least useful is left out"
    )
    prepare.add_argument("--frames", type=int, default=68, help="frames taken of each clip")
    prepare.add_argument("--size", type=int, default=128, help="side of those frames in pixels, a multiple of 16")
    prepare.add_argument("--latents", type=int, default=256, help="clips of the toy world to encode; 0 = none")
    prepare.add_argument("--taesd", type=Path, help="a folder of TAESD's two files, for the example in its latents")
    prepare.add_argument("--without", nargs="*", default=[], help="packages that the other machine has")
    run = commands.add_parser("run", help="measure, and train, for so many minutes; call again to go on")
    run.add_argument("--carry", type=Path, default=Path("build/gpu"), help="the folder that prepare made")
    run.add_argument("--out", type=Path, required=True, help="what comes back: results.json, log, pictures, weights")
    run.add_argument("--state", type=Path, help="what the next call needs; default: CARRY-state, beside CARRY")
    run.add_argument("--minutes", type=float, default=9.0, help="when to be done, the start included")
    run.add_argument("--device", default="auto", help="auto = the first CUDA card, else the CPU")
    run.add_argument("--small", action="store_true", help="sizes that only show that everything runs")
    run.add_argument(
        "--only", nargs="+", choices=NAMES, help="these parts alone; default: those whose files were carried"
    )
    return top


def _prepare(options: argparse.Namespace) -> int:
    from benchmarks.gpu.prepare import PYTHONS, Options, prepare
    from kinolab.errors import InputError

    asked = Options(
        options.out, options.clips, tuple(options.pythons or PYTHONS), options.limit, options.frames, options.size,
        options.latents, tuple(options.without), options.taesd,
    )  # fmt: skip
    try:
        prepare(asked, lambda line: print(line, flush=True))
    except InputError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    state = options.state or options.carry.with_name(f"{options.carry.name}-state")
    names = carried.use(options.carry / "wheels", state / "site")
    from benchmarks.gpu.running import Clock, Place, Results, run_parts

    options.out.mkdir(parents=True, exist_ok=True)
    log = (options.out / "log.txt").open("a", encoding="utf-8")

    def say(line: str) -> None:
        print(line, flush=True)
        log.write(f"{time.monotonic() - began:7.1f} s  {line}\n")
        log.flush()

    if names:
        say(f"from carried wheels: {', '.join(names)}")
    device = chosen_device(options.device)
    place = Place(
        device, options.carry, options.out, state, options.small, Clock(60 * options.minutes, began), say
    )  # fmt: skip
    kept = state / "results.json"
    results = Results(options.out / "results.json", kept, options.carry / "results.json", kept=kept)
    results.content["calls"].append(about(device, options))
    left_out = () if (options.carry / "taesd").is_dir() else ("released",)
    chosen = [p for p in parts() if p.name in (options.only or set(NAMES) - set(left_out))]
    whole = run_parts(chosen, place, results)
    results.save()
    (options.out / "report.md").write_text(report(chosen, results), encoding="utf-8")
    say(report(chosen, results))
    say("everything is done" if whole else "not everything is done: call again to go on")
    log.close()
    return 0 if whole else 1


def chosen_device(name: str) -> Any:
    """The device of a name; `auto` is the first CUDA card where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def about(device: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The machine and the settings of a call."""
    import numpy
    import torch

    from benchmarks.gpu.steps import device_name
    from benchmarks.measure import machine

    versions = {"python": sys.version.split()[0], "numpy": numpy.__version__, "cuda": torch.version.cuda}
    return {"device": device_name(device), "small": options.small, "minutes": options.minutes, **versions, **machine()}


def report(chosen: Sequence[Part], results: Results) -> str:
    """All tables in Markdown."""
    last = results.content["calls"][-1]
    lines = [f"{last['device']}, {last['processor']}, {last['cores']} cores, torch {last['torch']}", ""]
    for part in chosen:
        records = results.of(part.name)
        if not records:
            continue
        columns, rows = part.table(records)
        lines += [f"### {part.title}", "", *markdown(columns, rows), ""]
    return "\n".join(lines)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows]


if __name__ == "__main__":
    sys.exit(main())
