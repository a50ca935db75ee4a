"""What commands share that write a recipe of their own and train it: what it takes, the plan, and the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kinolab.cli.options import also_written, on_error, show, watch

if TYPE_CHECKING:
    from kinolab.planning.cost_report import CostReport


def device_told(overrides: Sequence[str]) -> str:
    """The device that the fields of a recipe name; auto where they name none."""
    return next((text.partition("=")[2] for text in overrides if text.startswith("training.device=")), "auto")


def told_cost(recipe: Path, out: Path, notes: Sequence[str], of: str = "") -> CostReport:
    """What a prepared training will take, measured and said before its first step, behind what a person should know."""
    from kinolab.planning.cost import measure_cost

    for note in notes:
        on_error(note)
    with watch("measuring", notes=lambda note: None) as events:
        cost = measure_cost(recipe, steps=2, run=out, events=events)
    on_error(of + _cost_line(cost))
    for line in cost.warnings:
        on_error(f"warning: {line}")
    return cost


def _cost_line(cost: CostReport) -> str:
    """Time and memory of a run in a line."""
    from kinolab.planning.cost_report import clock
    from kinolab.planning.cost_report import size as in_bytes

    memory = cost.memory
    time = "" if cost.seconds is None else f" about {clock(cost.seconds[1])} and"
    peak = "an unknown amount" if memory.peak is None else in_bytes(memory.peak)
    of = "" if memory.machine is None else f" of {in_bytes(memory.machine)}"
    return f"{cost.steps} steps take{time} {peak}{of} of memory, {in_bytes(cost.disk)} of disk"


def show_plan(recipe: Path, cost: CostReport, out: Path) -> None:
    """The result of `--plan`: the recipe, what it takes, and how it is trained."""
    seconds = None if cost.seconds is None else cost.seconds[1]
    values = {"folder": out, "recipe": recipe, "seconds": seconds, "memory": cost.memory.peak}
    show(values, [f"train it with: kinolab train {recipe} --out {out}"])


def train_prepared(command: str, recipe: Path | None, out: Path, overrides: Sequence[str] = ()) -> None:
    """Run the recipe that was prepared, or go on with the run (none), and say how to use the model.

    command: what goes on with it, as `kinolab COMMAND --resume`.
    """
    from kinolab.cli.train import TrainingBar
    from kinolab.training.run import train

    with TrainingBar() as bar:
        written = also_written(bar, "training", "steps")
        report = train(recipe, out, list(overrides), resume=recipe is None, events=written)
    values = {"folder": out, "step": report.step, "steps": report.steps}
    if not report.finished:
        go_on = f"stopped at step {report.step} of {report.steps}; go on with: kinolab {command} --resume --out {out}"
        show(values | {"model": None}, [go_on])
        return
    show(values | {"model": out / "model"}, [f"done: {out / 'model'}", f"try: kinolab generate PROMPT --model {out}"])
