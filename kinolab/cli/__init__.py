"""The command line: one file per command, registered here. A person's mistake is one line on stderr and status 2."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

COMMANDS = {
    "generate": "generate a video from a prompt or a label",
    "predict": "generate what follows the first frames of a clip",
    "interpolate": "generate the frames between given ones",
    "animate": "generate a video from one image or several",
    "complete": "generate the masked part of a clip",
    "extend": "go on with a clip to any length, or close a loop",
    "rerun": "make a generated video again from the .json beside it",
    "reconstruct": "put a clip through an autoencoder and compare",
    "train": "train an autoencoder or a denoiser from a recipe",
    "plan": "say what a training run needs before it starts: memory, disk, time, cost",
    "data": "look at a folder of clips before training on it",
    "encode": "write the latent cache of a folder of clips",
    "evaluate": "measure a model, an autoencoder or a folder of videos",
    "compare": "train and measure a matrix of models alike, and write one table",
    "report": "write a page about runs and evaluations",
    "tune": "find the fastest sampling settings for a wanted drift",
    "fetch": "download public weights that metrics read, by their hashes",
    "vbench": "generate prompts in the layout that VBench's own tool reads",
    "world": "make clips of the toy world",
    "probe": "say what a video file holds",
    "verify": "check that what was stored is still what was written",
    "inspect": "say what a weights file or model folder is",
    "convert": "turn public weights into a model folder, and back",
    "inflate": "make a video model from an image model",
    "pack": "write a small model folder to share",
    "recipes": "list the recipes that ship",
    "demo": "run the main job on the shipped weights and write a page",
    "doctor": "say what this machine has, and what to do about what it hasn't",
}
"""Command -> its line in the help. `kinolab/cli/<command>.py` defines a function of that name, or a typer `app` with
subcommands."""


def build(commands: list[str]) -> Any:
    """The typer application with the given commands; each brings its own file, so that a start loads only one."""
    import typer

    app = typer.Typer(
        name="kinolab",
        help="Train, sample, measure and compare latent video diffusion models.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_top)
    for name in commands:
        module = importlib.import_module(f"kinolab.cli.{name}")
        if hasattr(module, "register"):
            module.register(app)
        elif hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


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
    from kinolab.errors import InputError

    options.forget()
    try:
        try:
            app(args=words, prog_name="kinolab")
        except SystemExit as stop:
            if not stop.code:
                options.tell()
            raise
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"kinolab: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("kinolab: interrupted", file=sys.stderr)
        sys.exit(130)


def one_line(error: Exception) -> str:
    """An error's message as one line that a terminal takes; an OSError's in the form `file: cause`."""
    from kinolab.runtime import lines

    if isinstance(error, OSError) and error.filename is not None:
        return lines.one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return lines.one_line(error)
