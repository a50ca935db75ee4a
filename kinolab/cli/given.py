"""What the commands with a given part share: the options of `generate`, and how a given part is kept and taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from kinolab.cli.fields import about
from kinolab.cli.generate import Listing, generate, run_request
from kinolab.cli.options import common

Resize = Annotated[Literal["crop", "pad", "stretch"], typer.Option(help=about("given.resize"))]
Keep = Annotated[Literal["model", "exact"], typer.Option(help=about("given.keep"))]
Method = Annotated[
    Literal["auto", "trained", "reconstruction", "replacement"], typer.Option(help=about("given.method"))
]
Weight = Annotated[float | None, typer.Option(min=0, hidden=True, help=about("given.weight"))]
Error = Annotated[Literal["latents", "pixels"] | None, typer.Option(hidden=True, help=about("given.error"))]
Clip = Annotated[Path, typer.Argument(help="A video file, an animated image, or a folder of images.")]
Start = Annotated[float, typer.Option(min=0, help=about("given.start"))]
Overlap = Annotated[int | None, typer.Option(min=1, help=about("given.overlap"))]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help=".mp4, .webm, .gif, ...; several get -0, -1, ...; default CLIP-TASK.mp4, here."),
]
Prompt = Annotated[list[str] | None, typer.Option(help="What the video shows, for a model that takes prompts.")]


def given_command(
    task: Callable[..., dict[str, Any]], other: Callable[[dict[str, Any], dict[str, Any]], bool] = lambda *_: False
) -> Callable[..., None]:
    """A command from a function that makes a `GivenConfig`'s values: its own options, then those of `generate`.

    other: does the same in another way, where it says that it did, by all values and what the function made of its own.
    The function gives name and help. `resize`, `keep`, `method`, `weight` and `error` are added to every command.
    """
    extra: dict[str, tuple[Any, Any]] = {
        "resize": (Resize, "crop"), "keep": (Keep, "model"), "method": (Method, "auto"), "weight": (Weight, None),
        "error": (Error, None), "prompt": (Prompt, None), "out": (Out, None),
    }  # fmt: skip

    def run(values: dict[str, Any], given: dict[str, Any]) -> None:
        if other(values, given):
            return
        given |= {name: values[name] for name in ("resize", "keep", "method", "weight", "error")}
        run_request(values["out"] or default_out(given), values, {"given": given})

    return sampling_command(task.__name__, task, extra, run)


def sampling_command(
    name: str,
    own: Callable[..., dict[str, Any]],
    extra: Mapping[str, tuple[Any, Any]],
    run: Callable[[dict[str, Any], dict[str, Any]], None],
) -> Callable[..., None]:
    """A command that samples: a function's own options, then `extra`, then those of `generate` that neither has.

    Args:
        own: gives the help, and makes something of its own options.
        extra: name -> annotation and default.
        run: called with all values and what `own` made.
    """
    mine = inspect.signature(own).parameters
    hints = get_type_hints(own, include_extras=True)
    shared = get_type_hints(generate, include_extras=True)
    parameters = [p.replace(annotation=hints[name]) for name, p in mine.items()]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters += [inspect.Parameter(n, kind, annotation=a, default=d) for n, (a, d) in extra.items()]
    for option, p in inspect.signature(generate).parameters.items():
        if option not in extra and option not in mine and option not in ("events", "as_json", "motion"):
            parameters.append(p.replace(kind=kind, annotation=shared[option]))

    def command(**values: Any) -> None:
        run(values, own(**{option: values[option] for option in mine}))

    parameters.sort(key=lambda p: p.kind)
    command.__name__, command.__doc__ = name, own.__doc__
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    whole = common(events=True)(command)
    whole.listing = Listing  # type: ignore[attr-defined]
    return whole


def default_out(given: dict[str, Any]) -> Path:
    """CLIP-TASK.mp4, here: so that no task's video takes the place of another's."""
    source: Path = given["images"][0] if given["task"] == "animate" else given["video"]
    return Path(f"{source.resolve().stem}-{given['task']}.mp4")
