"""`python -m benchmarks [NAMES] [--quick]`: run the comparisons, print them, write results.json.

`python -m benchmarks key_frames MODEL [FILES...]` measures a model of one's own, with options of its own, and
`python -m benchmarks taesd_clips ENCODER DECODER CLIPS...` released weights; `python -m benchmarks few_steps TEACHER
STUDENT` sets a distilled model beside its teacher.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    few_steps,
    integrity,
    key_frames,
    latte,
    mmdit,
    odvae,
    step_cache,
    svd,
    taesd,
    toy_clip,
    unet,
    vdt,
)
from benchmarks.measure import Result, machine
from kinolab.autoencoders import TaesdConfig
from kinolab.errors import InputError

Say = Callable[[str], None]

FULL: dict[str, list[Callable[[Say], Result]]] = {
    "latte": [
        lambda say: latte.forward(latte.Case(), 5, say),
        lambda say: latte.sampling(latte.Case(side=16), 2, say),
    ],
    "vdt": [lambda say: vdt.forward(vdt.Case(), 5, say)],
    "mmdit": [
        lambda say: mmdit.forward(mmdit.Case(), 5, say),
        lambda say: mmdit.modes(mmdit.Case(frames=5, side=32, tokens=32), 5, say),
    ],
    "unet": [
        lambda say: unet.forward(unet.Case(), 5, say),
        lambda say: unet.memory(unet.Case(), say),
    ],
    "odvae": [
        lambda say: odvae.coding("encode", odvae.CONFIG, (17, 128, 128), 3, say),
        lambda say: odvae.coding("decode", odvae.CONFIG, (17, 128, 128), 3, say),
        lambda say: odvae.memory(odvae.CONFIG, 64, say),
    ],
    "taesd": [
        lambda say: taesd.coding("encode", TaesdConfig(), (4, 256, 256), 5, say),
        lambda say: taesd.coding("decode", TaesdConfig(), (4, 256, 256), 5, say),
    ],
    "svd": [
        lambda say: svd.forward(svd.Case(), 3, say),
        lambda say: svd.decoding(svd.DECODER, (16, 32, 32), 3, say),
        lambda say: svd.memory(svd.Case(), 256, say),
    ],
    "toy_clip": [lambda say: toy_clip.clip(3, say)],
    "step_cache": [lambda say: step_cache.sampling(5, say)],
    "integrity": [lambda say: integrity.commands(3, say), lambda say: integrity.checkpoint(9, say)],
}
"""The comparisons by name. Sampling runs at 128 px: 50 steps of all entrants at 256 px would take six minutes."""
QUICK: dict[str, list[Callable[[Say], Result]]] = {
    "latte": [
        lambda say: latte.forward(latte.Case(depth=2), 3, say),
        lambda say: latte.sampling(latte.Case(depth=2, side=16), 1, say, 10),
    ],
    "vdt": [lambda say: vdt.forward(vdt.Case(depth=2), 3, say)],
    "mmdit": [
        lambda say: mmdit.forward(mmdit.Case(depth=2, side=32), 3, say),
        lambda say: mmdit.modes(mmdit.Case(depth=2, frames=3, side=16, tokens=32), 3, say),
    ],
    "unet": [
        lambda say: unet.forward(unet.Case((32, 64), 1, 16), 3, say),
        lambda say: unet.memory(unet.Case((32, 64), 1, 16), say),
    ],
    "odvae": [
        lambda say: odvae.coding("encode", odvae.CONFIG, (9, 64, 64), 3, say),
        lambda say: odvae.coding("decode", odvae.CONFIG, (9, 64, 64), 3, say),
        lambda say: odvae.memory(odvae.CONFIG, 32, say),
    ],
    "taesd": [
        lambda say: taesd.coding("encode", TaesdConfig(), (2, 64, 64), 3, say),
        lambda say: taesd.coding("decode", TaesdConfig(), (2, 64, 64), 3, say),
    ],
    "svd": [
        lambda say: svd.forward(svd.Case((64, 64), 3, (8, 8)), 3, say),
        lambda say: svd.decoding(svd.DECODER, (9, 8, 8), 3, say),
        lambda say: svd.memory(svd.Case((64, 64), 3, (8, 8)), 64, say, (8, 24)),
    ],
    "toy_clip": [lambda say: toy_clip.clip(1, say)],
    "step_cache": [lambda say: step_cache.sampling(1, say, 10)],
    "integrity": [lambda say: integrity.commands(1, say, True), lambda say: integrity.checkpoint(3, say, True)],
}
"""The same in about a minute: small sizes, few turns; only good to see that everything runs."""
COMMANDS: dict[str, Callable[[Sequence[str], Say], None]] = {
    "few_steps": few_steps.main,
    "key_frames": key_frames.main,
    "taesd_clips": taesd.main,
}
"""What is measured of a given model: its own command line, after its name."""


def main(arguments: Sequence[str]) -> None:
    """Run the comparisons that were asked for, or a command of `COMMANDS`."""
    if arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:], lambda line: print(line, file=sys.stderr, flush=True))
        return
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    started = time.perf_counter()
    found = machine()
    say_to = sys.stderr if sys.stderr.isatty() or options.verbose else None
    results = []
    for name in options.names or FULL:
        for comparison in (QUICK if options.quick else FULL)[name]:
            result = comparison(lambda line: print(line, file=say_to, flush=True) if say_to else None)
            show(result)
            results.append(result)
    found["load_after"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    record = {"machine": found, "quick": options.quick, "results": [dataclasses.asdict(r) for r in results]}
    write(options.out, record)
    print_footer(found, options, time.perf_counter() - started)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"which comparisons; default all: {', '.join(FULL)}")
    parser.add_argument("--quick", action="store_true", help="small sizes and few turns, about a minute")
    parser.add_argument("--threads", type=int, help="threads to compute with; default: as PyTorch chooses")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json", help="where figures go")
    parser.add_argument("--verbose", action="store_true", help="say what is running")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in FULL]
    if unknown:
        parser.error(f"unknown comparison {unknown[0]!r}; known: {', '.join(FULL)}")
    return options


def show(result: Result) -> None:
    """Print one comparison as a table with its aims."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=result.title, caption=result.setup, title_justify="left", caption_justify="left")
    for k, column in enumerate(result.columns):
        table.add_column(column, justify="right" if k else "left", no_wrap=not k)
    for row in result.rows:
        table.add_row(*map(str, row))
    console.print(table)
    for aim in result.aims:
        console.print(f"{'reached' if aim.met else 'MISSED '}  {aim.what}: {aim.reached:.3g}", highlight=False)
    console.print()


def print_footer(found: dict[str, Any], options: argparse.Namespace, seconds: float) -> None:
    """Print the machine, and whether other programs were using it."""
    load, cores = found["load"], found["cores"] or 1
    print(f"{found['processor']}, {cores} cores, {found['threads']} threads, torch {found['torch']}")
    print(f"auto = {found['precision']}")
    if load is not None and load > 0.5 * cores:
        print(f"Other programs were busy at the start (load {load:.1f} on {cores} cores): trust the ratios only.")
    print(f"{seconds:.0f} s in all; written to {options.out}")


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the figures as JSON: aside first, then under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{path.name}")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"benchmarks: {error}")
