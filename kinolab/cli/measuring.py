"""What the commands that measure or sample a model share: loading it, its sampler, and showing a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinolab.cli import options

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from kinolab.diffusion import SamplerConfig
    from kinolab.methods import GuidanceConfig, SteeringConfig
    from kinolab.models import ModelConfig, VideoModel

PromptModel = Annotated[
    str | None, typer.Option("--model", help="A model folder, or a shipped model; default: the one for prompts.")
]
"""The option of a command that asks a model by prompts."""


def show_report(tables: Sequence[Table], lines: Sequence[str], json: str, out: Path | None) -> None:
    """Print the tables of an evaluation and what they don't say; write the report where a file is named."""
    from kinolab.runtime.files import write_text

    if options.as_json():
        options.tell()
        typer.echo(json.rstrip("\n"))
        if out is not None:
            write_text(out, json)
            options.written(out)
        return
    from rich.console import Console

    # In a pipe or a file there is no window to fit into, and columns that are cut short say nothing.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        console.print(table)
    for line in lines:
        typer.echo(line)
    if out is not None:
        write_text(out, json)
        options.written(out)


def load_model(
    model: str | None,
    device: str | torch.device,
    precision: Literal["auto", "float32", "bfloat16"],
    *,
    prompts: bool = False,
) -> tuple[str, VideoModel]:
    """The model named on the command line, or the shipped one (with `prompts`, that for prompts), and its name.

    Says which device a word means; one that was taken already is not said again.
    """
    from kinolab.cli.options import take_device
    from kinolab.generation.request import default_model
    from kinolab.models import VideoModel

    chosen = model if model is not None else default_model(prompts=prompts)
    where = take_device(device) if isinstance(device, str) else device
    return chosen, VideoModel.load(chosen, device=where, precision=precision)


def steering(method: str, weight: float | None, error: str | None = None) -> SteeringConfig | None:
    """The steering that the options name; none = the model's own way, or the default for one that has none."""
    from kinolab.config import load_config
    from kinolab.errors import InputError
    from kinolab.methods import SteeringConfig

    changes = {"weight": weight, "error": error}
    values = {k: v for k, v in changes.items() if v is not None}
    if values and method != "reconstruction":
        raise InputError("weight and error are for reconstruction guidance: add --method reconstruction")
    return None if method == "auto" else load_config(SteeringConfig, {"method": method, **values})


def sampling(
    trained: ModelConfig, sampler: str | None, steps: int | None, guidance: float | None
) -> tuple[SamplerConfig, GuidanceConfig]:
    """The model's own sampler and guidance with the options on top; an evaluation is guided whatever it asks for."""
    from kinolab.contracts.sampling import settled_guidance, settled_sampler

    asked = {"name": sampler, "steps": steps}
    how = settled_sampler(trained.sampler, {name: value for name, value in asked.items() if value is not None})
    return how, settled_guidance(trained.guidance, guidance, told=True)
