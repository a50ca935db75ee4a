"""What the commands that measure or sample a model share: loading it, its sampler, and showing a report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand

from kinolab.cli import options
from kinolab.cli.fields import SAMPLING, about, described, named
from kinolab.cli.generate import Lora as Lora
from kinolab.cli.generate import ready

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from kinolab.evaluation.toy_protocols import ToyProtocol
    from kinolab.generation.request import SamplingConfig
    from kinolab.methods import SteeringConfig
    from kinolab.models import ModelConfig, VideoModel

T = TypeVar("T", bound="ToyProtocol")

PromptModel = Annotated[
    str | None, typer.Option("--model", help="A model folder, or a shipped model; default: the one for prompts.")
]
"""The option of a command that asks a model by prompts."""
Protocol = Annotated[str, typer.Option(help="A YAML file, or the name of one that ships.")]
"""The option of a command that measures by a protocol."""
First = Annotated[
    int | None, typer.Option(min=0, help="Number of the first clip: choose settings on others than you report on.")
]
"""The option of a command that measures on held-out clips."""
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the first clip's noise; the others follow.")]
"""The option of a command that generates; none = the protocol's."""
Batch = Annotated[int, typer.Option(min=1, help="Clips generated at once.")]
"""The option of a command that generates."""
ReportFile = Annotated[Path | None, typer.Option(help="Write the report, every clip's result included, as JSON.")]
"""The option of a command that measures clips one by one."""
Precision = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="What the networks compute in.")]
"""The option of a command that runs networks."""


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
    lora: Sequence[str] | None = None,
) -> tuple[str, VideoModel]:
    """The model named on the command line, or the shipped one, and its name.

    Says which device a word means; one that was taken already is not said again. lora: adapters to put on it, as
    `FILE:WEIGHT`.
    """
    from kinolab.cli.options import take_device
    from kinolab.generation.request import default_model
    from kinolab.models import VideoModel

    chosen = ready(model) if model is not None else default_model()
    where = take_device(device) if isinstance(device, str) else device
    loaded = VideoModel.load(chosen, device=where, precision=precision)
    if lora:
        from kinolab.checkpoints.adapters import put_on
        from kinolab.contracts.adapters import parse_use

        with options.watch("putting on adapters", notes=options.told_later) as events:
            loaded = put_on(loaded, [parse_use(text) for text in lora], in_place=True, events=events)
    return chosen, loaded


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


Steps = Annotated[int | None, typer.Option(min=1, help="Sampling steps; default the model's own.")]
Guidance = Annotated[float | None, typer.Option(help="Scale of classifier-free guidance; 1 = off.")]
Sampler = Annotated[str | None, typer.Option(help=about("sampler.name"))]
Setting = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", help="Any field named below, as -s sampler.spacing=trailing. Repeatable."),
]
"""Options of every command that measures what a model samples; hand them to `sampling`."""


def sampling(
    trained: ModelConfig,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    setting: Sequence[str] = (),
) -> SamplingConfig:
    """The model's own way to sample with the options on top; an evaluation is guided whatever it asks for.

    setting: `key=value`, of the sampling alone (see `split`).
    """
    from kinolab.generation.request import sampling_of

    groups: dict[str, dict[str, Any]] = {"sampler": {"name": sampler, "steps": steps}, "guidance": {"scale": guidance}}
    asked = {name: {k: v for k, v in values.items() if v is not None} for name, values in groups.items()}
    return sampling_of(trained, {name: values for name, values in asked.items() if values}, setting)


def split(setting: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """What -s says of the sampling, and the rest, which is the protocol's."""
    ways = set(described(*SAMPLING[""]))
    ours = [text for text in setting or () if text.partition("=")[0].split(".")[0] in ways]
    return ours, [text for text in setting or () if text not in ours]


def toy_protocol(
    cls: type[T], name: str, changes: Mapping[str, Any], setting: Sequence[str] | None
) -> tuple[T, list[str]]:
    """The protocol of an evaluation on the toy world, and what -s says of the sampling.

    changes: fields that options set; None = as the protocol has it.
    """
    from kinolab.config import load_config
    from kinolab.evaluation.toy_protocols import load_toy_protocol

    ours, others = split(setting)
    written = load_toy_protocol(cls, name, others).model_dump()
    asked = {field: value for field, value in changes.items() if value is not None}
    return load_config(cls, written | asked, name="protocol"), ours


def settings_listed(*protocol: tuple[str, ...]) -> type[TyperCommand]:
    """A command whose help ends with what -s sets: fields of the sampling, and of a protocol's classes.

    protocol: a file of the package and the names of classes in it, for each file that holds some.
    """

    class Listed(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            lines = [f"Fields for -s, of the sampling: {named(SAMPLING)}."]
            if protocol:
                fields = dict.fromkeys(field for part in protocol for field in described(*part))
                lines.append(f"Fields for -s, of the protocol: {', '.join(fields)}.")
            for line in lines:
                formatter.write_paragraph()
                formatter.write_text(line)

    return Listed
