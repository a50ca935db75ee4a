"""The command line: one file per command, registered here. A person's mistake is one line on stderr and status 2."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command: its line in the help, the heading that it stands under, and the module that defines it.

    The module defines a function of the command's name, or `register(app)`, or a typer `app` with subcommands; it is
    imported only where the command runs or its help is asked for.
    """

    says: str
    heading: str
    module: str = ""


HEADINGS = {
    "make": "Make videos",
    "data": "Look at data and prepare it",
    "train": "Train",
    "measure": "Measure and compare",
    "weights": "Weights and models",
}
"""The headings of the help, in order."""

OWN_SIGTERM = ("train", "launch", "studio")
"""Commands that take SIGTERM in a way of their own."""

COMING: dict[str, str] = {}
"""The headings of commands that are to come."""

COMMANDS = {
    "generate": Command("generate a video from a prompt or a label", "make"),
    "predict": Command("generate what follows the first frames of a clip", "make"),
    "interpolate": Command("generate the frames between given ones", "make"),
    "animate": Command("generate a video from one image or several", "make"),
    "complete": Command("generate the masked part of a clip", "make"),
    "control": Command("generate a video that follows a clip's edges, depth or lines", "make"),
    "extend": Command("go on with a clip to any length, or close a loop", "make"),
    "upscale": Command("make a clip larger by a super-resolution model", "make"),
    "edit": Command("change what a clip shows, by its prompt, and keep how it moves", "make"),
    "rerun": Command("make a generated video again from the .json beside it", "make"),
    "reconstruct": Command("put a clip through an autoencoder and compare", "make"),
    "demo": Command("run the main job on the shipped weights and write a page", "make"),
    "studio": Command("open a page for clips, training, sampling and comparing", "make", "kinolab.studio.command"),
    "data": Command("look at a folder of clips before training on it", "data"),
    "encode": Command("write the latent cache of a folder of clips", "data"),
    "probe": Command("say what a video file holds", "data"),
    "world": Command("make clips of the toy world", "data"),
    "train": Command("train an autoencoder or a denoiser from a recipe", "train"),
    "launch": Command("train on several processes or machines: torchrun here, Slurm, Kubernetes", "train"),
    "fit": Command("tune an image model on a clip and its prompt", "train"),
    "distill": Command("make a model of few steps from one of many", "train"),
    "recipes": Command("list the recipes that ship", "train"),
    "plan": Command("say what a training run needs before it starts: memory, disk, time, cost", "train"),
    "doctor": Command("say what this machine has, and what to do about what it hasn't", "train"),
    "evaluate": Command("measure a model, an autoencoder or a folder of videos", "measure"),
    "compare": Command("train and measure a matrix of models alike, and write one table", "measure"),
    "status": Command("say how far the work on a folder is", "measure"),
    "tune": Command("find the fastest sampling settings for a wanted drift", "measure"),
    "vbench": Command("generate prompts in the layout that VBench's own tool reads", "measure"),
    "report": Command("write a page about runs and evaluations", "measure"),
    "fetch": Command("download public weights that metrics read, by their hashes", "weights"),
    "inspect": Command("say what a weights file or model folder is", "weights"),
    "convert": Command("turn public weights into a model folder, and back", "weights"),
    "inflate": Command("make a video model from an image model", "weights"),
    "lora": Command("make LoRA adapters of two models, or of one form of another", "weights"),
    "pack": Command("write a small model folder to share", "weights"),
    "verify": Command("check that what was stored is still what was written", "weights"),
}
"""The commands by name; the module of one is `kinolab.cli.<name>` where it names no other."""


def build(commands: list[str]) -> Any:
    """The typer application with the given commands; each brings its own file, so that a start loads only one."""
    import typer

    from kinolab.cli.headings import Group

    app = typer.Typer(
        name="kinolab",
        help="Train, sample, measure and compare latent video diffusion models.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        cls=Group,
    )
    app.callback()(_top)
    for name in commands:
        module = importlib.import_module(COMMANDS[name].module or f"kinolab.cli.{name}")
        if hasattr(module, "register"):
            module.register(app)
        elif hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            command = getattr(module, name)
            app.command(name, cls=getattr(command, "listing", None))(command)
    _check_numbers(app)
    return app


def _check_numbers(app: Any) -> None:
    """Have every command, those of groups too, refuse numbers that are out of its options' ranges."""
    from kinolab.cli.options import check_numbers

    for command in app.registered_commands:
        command.callback = check_numbers(command.callback)
    for group in app.registered_groups:
        _check_numbers(group.typer_instance)


def _top() -> None:
    """Train, sample, measure and compare latent video diffusion models."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exits with 0, with 2 and one line for a person's mistake, with 130 when interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    if words == ["--version"]:
        from kinolab import __version__

        print(__version__)
        return
    first = next((w for w in words if not w.startswith("-")), None)
    app = build([first] if first in COMMANDS else list(COMMANDS))
    from kinolab.cli import options
    from kinolab.errors import InputError, Stopped

    options.forget()
    try:
        with nullcontext() if first in OWN_SIGTERM else sigterm_as_ctrl_c():
            status = _run(app, words)
        if not status:
            options.tell()
        sys.exit(status)
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"kinolab: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        line = too_large(error)
        if debug or line is None:
            raise
        print(f"kinolab: {line}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as stop:
        print(f"kinolab: {stop if isinstance(stop, Stopped) else 'interrupted'}", file=sys.stderr)
        sys.exit(130)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, as supervisors and schedulers send it, does inside what Ctrl-C does: a line, what is done stays."""

    def ask(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(number, frame)
        else:  # a shell has those that it runs behind its back ignore Ctrl-C
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(app: Any, words: list[str]) -> int:
    """Run a command: its exit status.

    Raises:
        InputError: for what typer makes of wrong options, which it would print in four lines.
    """
    import typer

    from kinolab.errors import InputError

    try:
        status = app(args=words, prog_name="kinolab", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Of typer's or click's, by the version; a command without words shows its help.
        if not isinstance(error, typer.BadParameter.__mro__[1]):
            raise
        context, said = getattr(error, "ctx", None), str(getattr(error, "message", error))
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            print(context.get_help(), file=sys.stderr)
            return 2
        if hasattr(error, "format_message"):
            said = error.format_message()
        place = "kinolab" if context is None else context.command_path
        raise InputError(f"{said.rstrip('.')}; see '{place} --help'") from None
    return status if isinstance(status, int) else 0


NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "storage size calculation overflowed")
"""What torch says, in different places, where something doesn't fit."""


def too_large(error: BaseException) -> str | None:
    """What to do where memory was not enough, as one line; None for any other error, which is a bug's."""
    said = str(error).lower()
    if not isinstance(error, MemoryError) and not any(words in said for words in NO_MEMORY):
        return None
    from kinolab.runtime import lines

    cause = lines.one_line(error, 120) or "the system gave no more"
    return f"not enough memory ({cause}): ask for fewer, shorter or smaller videos, or a smaller batch or model"


def one_line(error: Exception) -> str:
    """An error's message as one line that a terminal takes; an OSError's in the form `file: cause`."""
    from kinolab.runtime import lines

    if isinstance(error, OSError) and error.filename is not None:
        return lines.one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return lines.one_line(error)
