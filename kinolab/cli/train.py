"""`kinolab train`: train an autoencoder or a denoiser from a recipe, in a run folder that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kinolab.cli.options import TrainingDevice, device_override


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command(cls=_Train)(train)


class _Train(TyperCommand):
    """`--resume` is a flag, and `--resume auto` another; a word behind a flag would else be taken for the recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        for word in args:
            if word == "auto" and words and words[-1] == "--resume":
                words[-1] = "--resume-auto"
            else:
                words.append("--resume-auto" if word == "--resume=auto" else word)
        return super().parse_args(ctx, words)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a recipe that ships (`kinolab recipes`).")
    ] = None,
    run: Annotated[
        Path | None,
        # torchrun takes the beginning of --run-path to be meant by --run, and stops.
        typer.Option("--out", "-o", "--run", help="Run folder; default runs/<recipe's name>. (--run not in torchrun)"),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="Override a field: -s training.steps=100. Repeatable.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the run folder's newest checkpoint, with its recipe; `--resume auto`: or begin, where "
            "there is no run yet.",
        ),
    ] = False,
    resume_auto: Annotated[bool, typer.Option("--resume-auto", hidden=True)] = False,
    until: Annotated[int | None, typer.Option(min=1, help="Stop at this step; resume later.")] = None,
    device: TrainingDevice = None,
) -> None:
    """Train what a recipe describes.

    The run folder holds the recipe as run, checkpoints, log.jsonl, TensorBoard events, sample videos, and at the end
    the model folder. Ctrl-C finishes the step, saves, and says how to go on. Under torchrun the work is shared, and
    goes on where processes die: torchrun --nproc-per-node 2 --max-restarts 3 -m kinolab train RECIPE --resume auto.
    """
    from kinolab.errors import InputError
    from kinolab.training.run import train as start

    if run is None and recipe is None:
        raise InputError("expected a recipe, or --resume --out FOLDER to go on with a run")
    folder = run if run is not None else Path("runs") / Path(str(recipe)).stem
    with _bar() as (advance, say):
        report = start(
            recipe, folder, [*(setting or []), *device_override(device)], resume="auto" if resume_auto else resume,
            until=until, progress=advance, say=say,
        )  # fmt: skip
    if not report.world.first:
        return  # one of several processes says it
    if report.finished:
        typer.echo(f"done: {report.folder / 'model'}")
    else:
        typer.echo(
            f"stopped at step {report.step} of {report.steps}; go on with: kinolab train --resume --out {report.folder}"
        )


class _bar:  # noqa: N801 - a context manager read as a word
    """A progress bar with the time left, measured over the last steps; plain lines where there is no terminal."""

    def __enter__(self) -> tuple[Callable[[int, int, dict[str, float]], None], Callable[[str], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.progress.start()
        self.task: Any = None
        self.last_line = time.monotonic()
        plain = not console.is_terminal

        def advance(step: int, steps: int, numbers: dict[str, float]) -> None:
            text = f"loss {numbers['loss']:.4f}" if "loss" in numbers else ""
            if self.task is None:
                self.task = self.progress.add_task("training", total=steps, completed=step, numbers=text)
            self.progress.update(self.task, completed=step, numbers=text)
            if plain and (time.monotonic() - self.last_line > 30 or step == steps):
                self.last_line = time.monotonic()
                typer.echo(f"step {step} of {steps}  {text}", err=True)

        return advance, lambda text: console.print(text, highlight=False, soft_wrap=True)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
