"""What the commands that measure or sample a model share: loading it, its sampler, and showing a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from kinolab.diffusion import SamplerConfig
    from kinolab.methods import GuidanceConfig, SteeringConfig
    from kinolab.model import ModelConfig, VideoModel

PromptModel = Annotated[
    str | None, typer.Option("--model", help="A model folder, or a shipped model; default: the one for prompts.")
]
"""The option of a command that asks a model by prompts."""

AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON, and nothing else.")]
"""The option of a command that prints a result."""


def show_report(
    tables: Sequence[Table], lines: Sequence[str], json: str, out: Path | None, as_json: bool = False
) -> None:
    """Print the tables of an evaluation and what they don't say, or its JSON; write that where a file is named."""
    from rich.console import Console

    from kinolab.runtime.files import write_text

    if out is not None:
        write_text(out, json)
    if as_json:
        typer.echo(json, nl=False)
        return
    # In a pipe or a file there is no window to fit into, and columns that are cut short say nothing.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        console.print(table)
    for line in lines:
        typer.echo(line)
    if out is not None:
        typer.echo(out)


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
    from kinolab.generate import default_model
    from kinolab.model import VideoModel

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
    """The model's own sampler and guidance with the options on top; another sampler keeps the steps only."""
    from kinolab.config import load_config
    from kinolab.diffusion import SamplerConfig
    from kinolab.methods import GuidanceConfig

    own = trained.sampler.model_dump()
    values = own if sampler in (None, own["name"]) else {"name": sampler, "steps": own["steps"]}
    values |= {} if steps is None else {"steps": steps}
    scale = {} if guidance is None else {"scale": guidance}
    return load_config(SamplerConfig, values), load_config(GuidanceConfig, trained.guidance.model_dump() | scale)


def check_out(out: Path | None, videos: Path | None = None) -> None:
    """Refuse places that can't be written before anything is computed."""
    from kinolab.errors import InputError

    if out is not None and out.is_dir():
        raise InputError(f"{out}: is a folder; expected the name of a JSON file")
    for folder in ([] if out is None else [out.parent]) + ([] if videos is None else [videos]):
        there = next((p for p in (folder, *folder.parents) if p.exists()), None)
        if there is not None and not there.is_dir():
            raise InputError(f"{there}: is a file; expected a folder to write into")
