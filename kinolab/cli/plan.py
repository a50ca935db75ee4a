"""`kinolab plan`: what a training run needs, before it starts; here, or on many accelerators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.fields import described
from kinolab.cli.options import TrainingDevice, common, device_override, on_error, watch

SAYS = described("planning/scale.py", "Assumed")


AT_SCALE: dict[str, type] = {
    "clips": float, "gpus": int, "epochs": float, "rate": float, "between": float, "restart": float,
    "bandwidth": float, "network": float, "deviation": float, "clip_bytes": float, "egress_price": float,
    "storage_price": float, "beside": bool,
}  # fmt: skip
"""The fields of it that are options."""


def _assumption(name: str, kind: type) -> tuple[Any, None]:
    """The option of a field: its annotation, and its default, by which the field has its own."""
    flag, least = f"--{name.replace('_', '-')}", None if kind is bool else int(name in ("clips", "gpus"))
    return Annotated[kind | None, typer.Option(flag, min=least, help=f"--scale: {SAYS[name].line}")], None


@common(events=True, extra={name: _assumption(name, kind) for name, kind in AT_SCALE.items()})
def plan(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships (`kinolab recipes`).")],
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a field: -s training.batch_size=8. Repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to time, after one that is not.")] = 3,
    run: Annotated[Path | None, typer.Option(help="The run folder that is meant; it is not made.")] = None,
    device: TrainingDevice = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Price of this machine, or with --scale of an accelerator, per hour.")
    ] = None,
    currency: Annotated[str, typer.Option(help="What the price is in: EUR, USD, ...")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Of a training on many accelerators, on paper.")] = False,
    **assumed: Any,
) -> None:
    """Measure a few steps of a recipe, and say what the whole run takes: memory, disk, time and cost.

    Nothing is trained and no run folder is made. Where the recipe's data is missing, random data of the same shape is
    measured. Memory is that of this process, so plan on the machine that will train.

    kinolab plan --scale RECIPE --clips 10e6 --gpus 256 --price 2 says what many accelerators take for so many clips:
    hours, egress, storage, checkpoints, failures and what they lose, cost; by formulas and by playing it through.
    """
    from kinolab.cli.measuring import show_report
    from kinolab.errors import InputError
    from kinolab.planning.cost import measure_cost

    told = {name: assumed[name] for name in AT_SCALE if assumed[name] is not None}
    if told and not scale:
        raise InputError(f"--{next(iter(told)).replace('_', '-')} goes with --scale")
    if scale and not {"clips", "gpus"} <= set(told):
        raise InputError("plan --scale: expected --clips and --gpus, such as --clips 10e6 --gpus 256")
    if scale and run is not None:
        raise InputError("plan --scale: no disk of a run folder is looked at: leave --run out")
    overrides = [*(setting or []), *device_override(device)]
    if scale:
        _at_scale(recipe, overrides, steps, told, price, currency, out)
        return
    with watch("measuring", notes=on_error) as events:
        report = measure_cost(
            recipe, overrides, steps=steps, run=run, price=price, currency=currency, events=events
        )  # fmt: skip
    show_report([report.table()], report.lines(), report.to_json(), out)


def _at_scale(
    recipe: str, overrides: list[str], steps: int, told: dict[str, Any], price: float | None, currency: str,
    out: Path | None,
) -> None:  # fmt: skip
    """A few steps of a few clips, and what they mean for many accelerators."""
    import json

    from kinolab.cli.measuring import show_report
    from kinolab.planning.cost import measure_cost
    from kinolab.planning.scale import Assumed, few_clips, measured_of, scale
    from kinolab.training.recipe import load_recipe

    assumed, config = Assumed(**told, price=price), load_recipe(recipe, overrides)
    with watch("measuring", notes=on_error) as events:
        few = [*overrides, *few_clips(config, assumed.rate is not None)]
        report = measure_cost(recipe, few, steps=1 if assumed.rate else steps, events=events)
    found = scale(measured_of(report, config), assumed)
    show_report([found.table(currency)], report.lines(), json.dumps(found.values(), indent=1) + "\n", out)
