"""`python -m benchmarks.ablations`: VDT's ablations, small, on the toy world; writes docs/vdt-ablations.md.

Every row is a run of the recipe toy-vdt-ablation with the line of overrides that stands beside it: the same data,
steps, batches and seeds. A row that is done is kept in its run folder and not done again, so that an interrupted
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import processor_name
from kinolab.errors import InputError
from kinolab.evaluation.physics import CONTACTS, evaluate_physics
from kinolab.models import VideoModel
from kinolab.training.recipe import load_recipe
from kinolab.training.run import train

RECIPE = "toy-vdt-ablation"
ASKED = tuple(range(1, 13))


@dataclass(frozen=True)
class Cell:
    """One row: its name, the overrides of the recipe, and whether it is asked with every number of given frames."""

    name: str
    overrides: tuple[str, ...] = ()
    asked: bool = False


def _field(name: str, values: Sequence[object], **more: str) -> list[Cell]:
    return [
        Cell(f"{name}={v}", (f"denoiser.{name}={v}", *(f"denoiser.{k}={m}" for k, m in more.items()))) for v in values
    ]


BASE = Cell("base", asked=True)
TABLES: dict[str, list[Cell]] = {
    "How the given frames are taken": [
        BASE,
        *_field("given", ["adaln", "cross_attention"]),
        *(Cell(c.name, c.overrides, asked=True) for c in _field("given", ["mask", "channels"])),
    ],
    "Where attention in time stands": [BASE, *_field("temporal_attention", ["last"])],
    "Patch size": [*_field("patch_size", [1]), BASE, *_field("patch_size", [4])],
    "Depth": [*_field("depth", [2]), BASE, *_field("depth", [6])],
    "Width": [*_field("hidden_size", [64]), BASE, *_field("hidden_size", [192])],
    "Heads": [*_field("num_heads", [1]), BASE, *_field("num_heads", [8])],
}
"""What is compared. The base is `given: tokens` (the paper's choice), attention in time first, patches of 2, 4 blocks,
width 128, 4 heads."""


def cells() -> list[Cell]:
    """Every row once."""
    found = {cell.name: cell for table in TABLES.values() for cell in table}
    return list(found.values())


def measure(cell: Cell, runs: Path, clips: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train and measure a row, or read what was measured before."""
    folder = runs / cell.name.replace("=", "-")
    done = folder / "result.json"
    changes = [*cell.overrides, *overrides]
    recipe = load_recipe(RECIPE, changes).model_dump(mode="json")
    asked = {"recipe": recipe, "clips": clips}
    if (folder / "recipe.yaml").exists() and load_recipe(folder / "recipe.yaml").model_dump(mode="json") != recipe:
        raise InputError(f"{folder}: a run of another recipe; delete it, or use another --runs")
    if done.exists() and (found := json.loads(done.read_text(encoding="utf-8")))["asked"] == asked:
        return dict(found)
    train(RECIPE, folder, overrides=changes, resume=(folder / "recipe.yaml").exists())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    model = VideoModel.load(folder, device="cpu")
    given = ASKED if cell.asked else (8,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="trained to predict from")
        report = evaluate_physics(model, {"given": given, "count": clips}, batch=20)
    result = {
        "asked": asked,
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "step_seconds": statistics.median(r["step_seconds"] for r in lines if r["kind"] == "train"),
        "heldout": {str(r["step"]): r["loss"] for r in lines if r["kind"] == "heldout"},
        "error": {str(g): report.error("model", g) for g in given},
        "contacts": report.error("model", 8, scenarios=CONTACTS),
        "identity": report.mean("model", 8, "identity"),
        "found": report.mean("model", 8, "found"),
        "floor": report.error("reconstructed", 8),
        "baselines": {name: report.error(name, 8) for name in ("copy last", "constant velocity")},
        "sampler": report.protocol["sampler"],
        "precision": report.protocol["precision"],
    }
    aside = done.with_name(".writing-result.json")
    aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    aside.replace(done)
    return result


def page(results: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """The document, with a table for each question."""
    base = results[BASE.name]
    steps = [s for s in base["heldout"] if s != "0"]
    last = steps[-1]
    sampler, floor = base["sampler"], base["floor"]
    lines = [
        "# VDT's ablations, small",
        "",
        "Made by one command, which can be interrupted and goes on where it stopped:",
        "",
        "```",
        f"kinolab encode world --count 4096 -a world --out runs/toy-latents-predict --precision bfloat16 --batch 16 "
        f"--tasks {RECIPE} --draws 1",
        command,
        "```",
        "",
        f"Every row is a run of `{RECIPE}` with the line of overrides beside it: {last} steps on the same clips in the "
        f"same order, trained to predict from 8 given frames alone. *Held-out loss*: squared error on the generated "
        f"latents of held-out clips after so many steps. *Error*: pixels of 64 between the objects' predicted and true "
        f"positions over the first 8 predicted frames of {base['asked']['clips']} held-out clips ({sampler['name']}, "
        f"{sampler['steps']} steps); *contacts*: the same on bounces and collisions. The true clips put through the "
        f"autoencoder have {_n(floor)}; objects that stay where they are {_n(base['baselines']['copy last'])}, that go "
        f"on with constant velocity {_n(base['baselines']['constant velocity'])}. One seed each, on "
        f"{processor_name()} in {base['precision']}: differences of some percent are noise.",
        "",
    ]
    for title, row_cells in TABLES.items():
        lines += [f"## {title}", ""]
        heads = [
            "",
            "overrides",
            "parameters",
            "s/step",
            *(f"loss @{s}" for s in steps),
            "error",
            "contacts",
            "found",
            "identity",
        ]
        lines += ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
        for cell in row_cells:
            r = results[cell.name]
            values = [cell.name, " ".join(f"`-s {o}`" for o in cell.overrides) or "none"]
            values += [f"{r['parameters'] / 1e6:.2f} M", f"{r['step_seconds']:.2f}"]
            values += [f"{r['heldout'][s]:.3f}" for s in steps]
            values += [_n(r["error"]["8"]), _n(r["contacts"])]
            values += [f"{100 * r[name]:.0f}%" for name in ("found", "identity")]
            lines.append("| " + " | ".join(values) + " |")
        lines.append("")
    lines += ["## Trained with 8 given frames, asked with 1 to 12", "", "Error in pixels, as above.", ""]
    lines += ["| given: | " + " | ".join(map(str, ASKED)) + " |", "| --- " * (len(ASKED) + 1) + "|"]
    for cell in cells():
        if cell.asked:
            errors = results[cell.name]["error"]
            name = "tokens (base)" if cell is BASE else cell.name.removeprefix("given=")
            lines.append(f"| {name} | " + " | ".join(_n(errors[str(g)]) for g in ASKED) + " |")
    return "\n".join([*lines, ""])


def _n(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="folder of the runs")
    parser.add_argument("--clips", type=int, default=36, help="held-out clips to measure on")
    parser.add_argument("--out", type=Path, default=Path("docs/vdt-ablations.md"), help="where the page goes")
    parser.add_argument("-s", "--set", action="append", default=[], help="override of the recipe for every row")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, Any]] = {}
    for cell in cells():
        results[cell.name] = measure(cell, options.runs, options.clips, options.set)
        r = results[cell.name]
        say(f"{cell.name}: error {_n(r['error']['8'])}, contacts {_n(r['contacts'])}, {r['step_seconds']:.2f} s/step")
    text = page(results, " ".join(["python -m benchmarks.ablations", *arguments]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    aside = options.out.with_name(f".writing-{options.out.name}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(options.out)
    say(f"{options.out}")


if __name__ == "__main__":
    try:
        torch.set_grad_enabled(True)
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"ablations: {error}")
