"""`kinolab plan`: what a training run needs, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import TrainingDevice, common, device_override, on_error, watch


@common(events=True)
def plan(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships (`kinolab recipes`).")],
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a field: -s training.batch_size=8. Repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, after one that is not.")] = 3,
    run: Annotated[Path | None, typer.Option(help="The run folder that is meant; it is not made.")] = None,
    device: TrainingDevice = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of this machine per hour.")] = None,
    currency: Annotated[str, typer.Option(help="What the price is in: EUR, USD, ...")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
) -> None:
    """Measure a few steps of a recipe, and say what the whole run takes: memory, disk, time and cost.

    Nothing is trained and no run folder is made. Where the recipe's data is missing, random data of the same shape is
    measured. Memory is that of this process, so plan on the machine that will train.
    """
    from kinolab.cli.measuring import show_report
    from kinolab.planning.cost import measure_cost

    overrides = [*(setting or []), *device_override(device)]
    with watch("measuring", notes=on_error) as events:
        report = measure_cost(
            recipe, overrides, steps=steps, run=run, price=price, currency=currency, events=events
        )  # fmt: skip
    show_report([report.table()], report.lines(), report.to_json(), out)
