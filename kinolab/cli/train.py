"""`kinolab train`: train an autoencoder or a denoiser from a recipe, in a run folder that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kinolab.cli.options import TrainingDevice, also_written, common, device_override, show
from kinolab.contracts.events import Losses, Silent
from kinolab.runtime.interrupts import REQUEUE


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


@common(events=True)
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
    requeue: Annotated[
        bool,
        typer.Option(
            "--requeue",
            help="SIGTERM and SIGUSR1 finish the step, save, and end with status 75: start it again by the same words "
            "with --resume auto. Under torchrun: with a file `requeue` in the run folder.",
        ),
    ] = False,
    device: TrainingDevice = None,
) -> None:
    """Train what a recipe describes.

    The run folder holds the recipe as run, checkpoints, log.jsonl, TensorBoard events, sample videos, and at the end
    the model folder. Ctrl-C finishes the step, saves, and says how to go on. Under torchrun the work is shared, and
    goes on where processes die: torchrun --nproc-per-node 2 --max-restarts 3 -m kinolab train RECIPE --resume auto.
    """
    from kinolab.errors import InputError
    from kinolab.runtime.ranks import by_torchrun
    from kinolab.training.run import train as start

    if run is None and recipe is None:
        raise InputError("expected a recipe, or --resume --out FOLDER to go on with a run")
    folder = run if run is not None else Path("runs") / Path(str(recipe)).stem
    with TrainingBar() as bar:
        report = start(
            recipe, folder, [*(setting or []), *device_override(device)], resume="auto" if resume_auto else resume,
            until=until, events=also_written(bar, "training", "steps"), requeue=requeue,
        )  # fmt: skip
    if not report.ranks.first:
        return  # one of several processes says it
    go_on = f"go on with: kinolab train --resume --out {report.folder}"
    ended = f"stopped at step {report.step} of {report.steps}; {go_on}"
    model = report.folder / "model" if report.finished else None
    values = {"folder": report.folder, "step": report.step, "steps": report.steps, "model": model}
    show(values | {"changed": report.changes}, [ended if model is None else f"done: {model}"])
    if requeue and report.signalled and not by_torchrun():
        raise typer.Exit(REQUEUE)


class TrainingBar(Silent):
    """A bar with the loss and the time left, measured over the last steps; plain lines where there is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"), console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task: Any = None
        self.steps, self.last_line = 0, time.monotonic()

    def __enter__(self) -> TrainingBar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def progress(self, done: int, total: int) -> None:
        """Shown with the step's loss, which comes next."""
        self.steps = total

    def losses(self, step: int, numbers: Mapping[str, float], of: Losses = "step") -> None:
        """Move the bar, or print a line where one is due."""
        if of != "step":
            return
        text = f"loss {numbers['loss']:.4f}" if "loss" in numbers else ""
        if self.task is None:
            self.task = self.bar.add_task("training", total=self.steps, completed=step, numbers=text)
        self.bar.update(self.task, completed=step, numbers=text)
        if not self.console.is_terminal and (time.monotonic() - self.last_line > 30 or step == self.steps):
            self.last_line = time.monotonic()
            typer.echo(f"step {step} of {self.steps}  {text}", err=True)

    def note(self, text: str) -> None:
        """Above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True)
