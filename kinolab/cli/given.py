"""What the commands with a given part share: the options of `generate`, and how a given part is kept and taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from kinolab.cli.generate import generate, run_request
from kinolab.cli.options import whole_number

Resize = Annotated[Literal["crop", "pad", "stretch"], typer.Option(help="How pictures are fitted to the size.")]
Keep = Annotated[
    Literal["model", "exact"],
    typer.Option(
        help="Given pixels as the decoder makes them, or exactly as given (bit for bit in .mkv, .webp, a folder)."
    ),
]
Method = Annotated[
    Literal["auto", "trained", "reconstruction", "replacement"],
    typer.Option(help="How the given part is taken; auto: as trained, else by reconstruction guidance."),
]
Weight = Annotated[float | None, typer.Option(min=0, help="Weight of reconstruction guidance.")]
Error = Annotated[
    Literal["latents", "pixels"] | None,
    typer.Option(help="Where reconstruction guidance measures its error; pixels count every given one, and cost more."),
]
Clip = Annotated[Path, typer.Argument(help="A video file, an animated image, or a folder of images.")]
Start = Annotated[float, typer.Option(min=0, help="Seconds of the clip to leave out at its beginning.")]
Overlap = Annotated[
    int | None, typer.Option(min=1, help="Frames that windows share in videos longer than the model's clips.")
]
Out = Annotated[
    Path | None, typer.Option(help=".mp4, .webm, .gif, ...; several get -0, -1, ...; default CLIP-TASK.mp4, here.")
]
Prompt = Annotated[list[str] | None, typer.Option(help="What the video shows, for a model that takes prompts.")]


def given_command(task: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """A command from a function that makes a `GivenConfig`'s values: its own options, then those of `generate`.

    The function gives name and help. `resize`, `keep`, `method`, `weight` and `error` are added to every command.
    """
    own = inspect.signature(task).parameters
    hints = get_type_hints(task, include_extras=True)
    common = get_type_hints(generate, include_extras=True)
    extra: dict[str, tuple[Any, Any]] = {
        "resize": (Resize, "crop"), "keep": (Keep, "model"), "method": (Method, "auto"), "weight": (Weight, None),
        "error": (Error, None), "prompt": (Prompt, None), "out": (Out, None),
    }  # fmt: skip
    parameters = [p.replace(annotation=hints[name]) for name, p in own.items()]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters += [inspect.Parameter(n, kind, annotation=a, default=d) for n, (a, d) in extra.items()]
    for name, p in inspect.signature(generate).parameters.items():
        if name not in extra and name not in own:
            parameters.append(p.replace(kind=kind, annotation=common[name]))

    def command(**values: Any) -> None:
        given = task(**{name: values[name] for name in own})
        given |= {name: values[name] for name in ("resize", "keep", "method", "weight", "error")}
        run_request(values["out"] or default_out(given), values, given)

    parameters.sort(key=lambda p: p.kind)
    command.__name__, command.__doc__ = task.__name__, task.__doc__
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def default_out(given: dict[str, Any]) -> Path:
    """CLIP-TASK.mp4, here: so that no task's video takes the place of another's."""
    source: Path = given["images"][0] if given["task"] == "animate" else given["video"]
    return Path(f"{source.resolve().stem}-{given['task']}.mp4")


def numbers(text: str | None, option: str) -> list[int]:
    """`0,8,-1` -> [0, 8, -1]; nothing -> []."""
    from kinolab.errors import InputError

    if text is None:
        return []
    try:
        return [whole_number(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: expected whole numbers with commas between, such as 0,8,-1") from None
