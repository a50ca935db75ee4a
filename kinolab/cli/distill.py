"""`kinolab distill`: a model that comes in few steps to where its teacher comes in many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinolab.cli.options import TrainingDevice, common, device_override, on_error, real_number, watch
from kinolab.cli.prepared import device_told, show_plan, told_cost, train_prepared
from kinolab.tables import DISTILLATION, JOBS

if TYPE_CHECKING:
    from kinolab.planning.cost_report import CostReport

METHOD_HELP = f"One of {JOBS.help(DISTILLATION)}; default consistency, or progressive for a model of few steps."


@common(events=True)
def distill(
    model: Annotated[
        str | None, typer.Argument(help="The teacher: a model folder, a run folder, or a model that ships.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps that the student is for; default 4.")] = None,
    method: Annotated[str | None, typer.Option(help=METHOD_HELP)] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            help="Guidance to distil in: a scale, or a range as 1:8, of which it is then told one; default the model's."
        ),
    ] = None,
    lora: Annotated[
        int | None, typer.Option(min=1, help="Train low-rank changes of this rank, and write them as an adapter too.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A latent cache, a folder of clips, or `world`; default what the model was trained on."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Clips of the toy world to make; default 2048.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to write; the model is in it.")] = Path(
        "distilled"
    ),
    setting: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="A field of the recipe: -s training.steps=4000. Repeatable."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say memory and time, and stop before the first step.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of --out.")] = False,
    device: TrainingDevice = None,
) -> None:
    """Distil a model: a student that needs few steps and no guidance beside them.

    It begins with its teacher's weights and learns on the clips that the teacher was trained on; the shipped models'
    are made anew. Before it starts it says what memory and time it will take. The model folder records the steps, the
    sampler and the guidance that it is for, which are its defaults. Then: kinolab generate PROMPT --model OUT.
    """
    from kinolab.errors import InputError

    overrides = [*(setting or []), *device_override(device)]
    if resume and (out / "recipe.yaml").exists():
        if any(given is not None for given in (model, steps, method, guidance, lora, data, count)) or plan:
            raise InputError(f"--resume: {out} goes on as it began: give only -s and --device beside it")
        train_prepared("distill", None, out, overrides)
        return
    if model is None:
        raise InputError("expected a model to distil: kinolab distill MODEL --steps 4")
    asked = {"steps": steps, "method": method, "lora": lora, "data": data, "count": count}
    values: dict[str, Any] = {"model": model} | {name: value for name, value in asked.items() if value is not None}
    if guidance is not None:
        values["guidance"] = _scales(guidance)
    prepared, cost = _prepare(values, out, overrides)
    if plan:
        show_plan(prepared, cost, out)
        return
    train_prepared("distill", prepared, out)


def _scales(text: str) -> float | tuple[float, float]:
    """A scale, or LEAST:MOST.

    Raises:
        InputError: for anything else.
    """
    from kinolab.errors import InputError

    low, sep, high = text.partition(":")
    try:
        return (real_number(low), real_number(high)) if sep else real_number(low)
    except ValueError:
        raise InputError(f"--guidance {text}: expected a scale, such as 4, or a range, such as 1:8") from None


def _prepare(values: dict[str, Any], out: Path, overrides: list[str]) -> tuple[Path, CostReport]:
    """Write the latents and the recipe, and say what the training will take."""
    from kinolab.config import load_config
    from kinolab.runtime.devices import choose
    from kinolab.training.distill import DistillConfig, check_free, prepare

    check_free(out)
    config = load_config(DistillConfig, values, name="distill")
    with watch("encoding", "clips", notes=on_error) as events:
        prepared = prepare(config, out, overrides, device=choose(device_told(overrides)), events=events)
    return prepared.recipe, told_cost(prepared.recipe, out, prepared.notes)
