"""`kinolab data caption`: a text beside each clip, by whom the user names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinolab.cli.engines import EachGiven, EngineName, take_engine
from kinolab.cli.options import common, show, watch
from kinolab.errors import InputError
from kinolab.runtime.interrupts import POISONED

if TYPE_CHECKING:
    from kinolab.data.curation.captioners import Captioner


@common(events=True)
def caption(
    folder: Annotated[
        Path, typer.Argument(help="Folder of clips, such as kinolab data curate writes; of a store too: s3://...")
    ],
    command: Annotated[
        str | None, typer.Option(help="A program that prints the caption: 'mine --short {clip}'. No shell is used.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="A server that speaks OpenAI's interface, as http://localhost:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --server: the name of its model.")] = None,
    model_folder: Annotated[
        Path | None, typer.Option(help="A model of pictures and text as transformers saves it, read from disk only.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What is asked of a server or a model.")] = None,
    frames: Annotated[int, typer.Option(min=1, max=64, help="With --server: frames that it is shown.")] = 4,
    key_file: Annotated[
        Path | None, typer.Option(help="With --server: a file that holds the key to it; never printed or stored.")
    ] = None,
    engine: EngineName = "embedded",
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Clips that are asked about at once.")] = None,
    each: EachGiven = None,
    disk_gb: Annotated[
        float | None, typer.Option(min=0.001, help="Of this disk, what clips of a store may take at once; default 20.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions that somebody else wrote.")] = False,
) -> None:
    """Write a caption beside every clip that has none, by a command, a server or a model that you name.

    Nobody is asked whom you don't name. What was said is kept by content: run it again to go on. Exit status 3 says
    that clips got no caption; they are named.
    """
    from kinolab.data.curation.captions import caption as run
    from kinolab.runtime.remote import address, is_remote

    captioner = chosen(command, server, model, model_folder, prompt, frames, key_file)
    # Of this machine, threads are enough to wait for a program or a server; a model computes in processes.
    waiting = captioner.many and engine == "embedded"
    if waiting and each is not None:
        raise InputError(f"--each {each}: is for --engine ray or --model-folder; a server has limits of its own")
    crew = None if waiting else take_engine(engine, workers, each)
    with watch("captioning", "clips") as events:
        summary = run(
            folder, captioner, overwrite=overwrite, workers=workers or 1, engine=crew, disk_gb=disk_gb, events=events
        )
    place = address(folder) if is_remote(folder) else folder
    line = f"{place}: {summary.asked} clips captioned, {summary.known} known already, {summary.others} have captions"
    show({"folder": place} | vars(summary), [line])
    for cause in summary.failed:
        typer.echo(f"no caption: {cause}", err=True)
    if summary.failed:
        raise typer.Exit(POISONED)


def chosen(
    command: str | None,
    server: str | None,
    model: str | None,
    model_folder: Path | None,
    prompt: str | None,
    frames: int,
    key_file: Path | None,
) -> Captioner:
    """Whom the options name.

    Raises:
        InputError: for none or several, and options that belong to another.
    """
    from kinolab.data.curation.captioners import PROMPT, Command, Model, Server
    from kinolab.runtime.text import read_text

    options = (("--command", command), ("--server", server), ("--model-folder", model_folder))
    given = [name for name, value in options if value is not None]
    if len(given) != 1:
        raise InputError(f"expected one of --command, --server or --model-folder, got {' and '.join(given) or 'none'}")
    for name, value in (("--model", model), ("--key-file", key_file)):
        if value is not None and server is None:
            raise InputError(f"{name}: is for --server")
    if command is not None:
        if prompt is not None:
            raise InputError("--prompt: is for --server and --model-folder; write it into the --command")
        return Command(command)
    if model_folder is not None:
        return Model(model_folder, prompt)
    assert server is not None
    if model is None:
        raise InputError("--server: expected --model with the name of the server's model")
    key = None if key_file is None else read_text(key_file).strip()
    return Server(server, model, prompt or PROMPT, frames=frames, key=key)
