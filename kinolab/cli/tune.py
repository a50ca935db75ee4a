"""`kinolab tune`: time against drift of a model's sampling settings, and which of them to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kinolab.cli.measuring import (
    Batch,
    Lora,
    Setting,
    load_model,
    sampling,
    settings_listed,
    show_report,
)
from kinolab.cli.options import Device, common, less, on_error, real_number, watch, whole_number

N = TypeVar("N", int, float)


def register(app: typer.Typer) -> None:
    """Add the command, with a help that ends with what -s sets."""
    app.command("tune", cls=settings_listed())(tune)


FullSteps = Annotated[int | None, typer.Option(min=1, help="Steps of the full run; default twice the model's own.")]
Intervals = Annotated[list[str] | None, typer.Option(help="Times with guidance to try, LOW,HIGH; repeat for more.")]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Try compilation; default with --all only.")
]


@common(events=True)
def tune(
    model: Annotated[
        str | None, typer.Argument(help="A model folder, or a shipped model; default: the one for prompts.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt to measure on; repeat for more.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts, one per line.")] = None,
    drift: Annotated[float, typer.Option(min=0, help="Wanted PSNR against the full run, in dB.")] = 30.0,
    count: Annotated[int, typer.Option(min=1, help="Clips where no prompts are given.")] = 4,
    first: Annotated[int, typer.Option(min=0, help="Number of the first held-out request of the toy world.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip's noise; the others follow.")] = 0,
    batch: Batch = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Turns that are timed; the median counts.")] = 3,
    all: Annotated[bool, typer.Option("--all", help="Every combination instead of one change at a time.")] = False,
    full_steps: FullSteps = None,
    full_sampler: Annotated[str | None, typer.Option(help="Sampler of the full run; default the model's own.")] = None,
    steps: Annotated[str | None, typer.Option(help="Numbers of steps to try: 25,12,8.")] = None,
    samplers: Annotated[str | None, typer.Option(help="Samplers to try, of ddim, dpmpp_2m, euler, heun.")] = None,
    lora: Lora = None,
    setting: Setting = None,
    thresholds: Annotated[str | None, typer.Option(help="Thresholds of the step cache: 0.05,0.1,0.2.")] = None,
    guidance_interval: Intervals = None,
    precisions: Annotated[str | None, typer.Option(help="float32, bfloat16 or both with a comma between.")] = None,
    compile: Compile = None,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    device: Device = "auto",
) -> None:
    """Try sampling settings on your own prompts: what each costs in time, and how far it drifts from a full run.

    The full run has twice the model's own steps, in float32, without a cache. All settings make the same clips from the
    same noise, and take turns, so that the ratios hold on a busy machine too.
    """
    from kinolab.config import load_config
    from kinolab.planning.tune import TuneConfig
    from kinolab.planning.tune import tune as run

    lists: dict[str, Any] = {
        "full_steps": full_steps,
        "full_sampler": full_sampler,
        "steps": _values(steps, "--steps", whole_number),
        "samplers": _words(samplers),
        "thresholds": _values(thresholds, "--thresholds", real_number),
        "intervals": [_values(text, "--guidance-interval", real_number) for text in guidance_interval or []] or None,
        "precisions": _words(precisions),
        "compile": compile,
    }
    values: dict[str, Any] = {"count": count, "first": first, "seed": seed, "batch": batch, "repeats": repeats}
    values |= {"all": all, "prompts": _prompts(prompt or [], prompts)}
    values["lists"] = {k: v for k, v in lists.items() if v is not None}
    config = load_config(TuneConfig, values, name="tune")
    chosen, loaded = load_model(model, device, "float32", lora=lora)
    how = sampling(loaded.config, setting=setting or ())
    with watch("trying", "runs", cheaper=less("--count ", count), notes=on_error) as events:
        report = run(loaded, config, name=chosen, sampling=how, events=events)
    show_report([report.table()], report.lines(drift), report.to_json(), out)


def _prompts(given: list[str], path: Path | None) -> list[str]:
    """The prompts of the options, or those of a file."""
    from kinolab.errors import InputError
    from kinolab.runtime.text import read_prompts

    if given and path is not None:
        raise InputError("prompts come from --prompt or from the file of --prompts: give one of them")
    return list(given) if path is None else read_prompts(path)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _values(text: str | None, option: str, kind: Callable[[str], N]) -> list[N] | None:
    from kinolab.errors import InputError

    try:
        return None if text is None else [kind(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: expected numbers with commas between") from None
