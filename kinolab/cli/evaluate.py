"""`kinolab evaluate`: measure a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kinolab.diffusion import GuidanceConfig, SamplerConfig
    from kinolab.model import ModelConfig


def register(app: typer.Typer) -> None:
    """Add `evaluate world`."""
    group = typer.Typer(help="Measure a model.", no_args_is_help=True)
    group.callback()(_evaluate)
    group.command()(world)
    app.add_typer(group, name="evaluate")


def _evaluate() -> None:
    """Measure a model."""


def world(
    model: Annotated[str | None, typer.Option(help="A model folder, or a shipped model; default: world.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Held-out requests; the first ones are always the same.")] = 256,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first request: choose settings on others than you report on.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; default the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance; 1 = off.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim, dpmpp_2m, euler or heun.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips generated at once.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip's noise; the others follow.")] = 0,
    label: Annotated[
        bool, typer.Option(help="Give the class label beside the prompt, where the model takes it.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Write the report, every clip's result included, as JSON.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="What the networks compute in.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Ask for held-out clips of the toy world, and count from the pixels how many show what was asked.

    The same reader judges the true clips (the ceiling) and the true clips after the autoencoder (what it costs). The
    interval behind a share is Wilson's at 95%.
    """
    from rich.console import Console

    from kinolab.cli.data import progress_bar
    from kinolab.evaluation.world import evaluate_world, summary_lines
    from kinolab.generate import default_model
    from kinolab.model import VideoModel

    chosen = model if model is not None else default_model()
    loaded = VideoModel.load(chosen, device=device, precision=precision)
    how, guided = sampling(loaded.config, sampler, steps, guidance)
    with progress_bar("generating") as advance:
        report = evaluate_world(
            loaded,
            count=count,
            first=first,
            batch=batch,
            seed=seed,
            sampler=how,
            guidance=guided,
            label=label,
            name=chosen,
            progress=advance,
        )
    console = Console()
    console.print(report.table())
    console.print(report.scenario_table())
    console.print(report.objects_table())
    for line in summary_lines(report):
        typer.echo(line)
    if out is not None:
        write_text(out, report.to_json())
        typer.echo(out)


def sampling(
    trained: ModelConfig, sampler: str | None, steps: int | None, guidance: float | None
) -> tuple[SamplerConfig, GuidanceConfig]:
    """The model's own sampler and guidance with the options on top; another sampler keeps the steps only."""
    from kinolab.config import load_config
    from kinolab.diffusion import GuidanceConfig, SamplerConfig

    own = trained.sampler.model_dump()
    values = own if sampler in (None, own["name"]) else {"name": sampler, "steps": own["steps"]}
    values |= {} if steps is None else {"steps": steps}
    scale = {} if guidance is None else {"scale": guidance}
    return load_config(SamplerConfig, values), load_config(GuidanceConfig, trained.guidance.model_dump() | scale)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
