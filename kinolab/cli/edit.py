"""`kinolab edit`: change what a clip shows and keep how it moves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinolab.cli.fields import about
from kinolab.cli.generate import asked_values, run_request
from kinolab.cli.given import Clip, Out, Resize, Start, sampling_command
from kinolab.cli.options import show, spoken_warnings, take_device, watch, whole_numbers

To = Annotated[list[str] | None, typer.Option("--to", help="What the edit shows, in quotes. Repeatable.")]
Returns = Annotated[
    str | None,
    typer.Option(help="Make no video, but say how exactly the clip comes back unchanged in so many steps: 10,25,50."),
]


def _edit(
    clip: Clip,
    shown: Annotated[str | None, typer.Option("--from", help=about("source.prompt"))] = None,
    way: Annotated[Literal["invert", "noise"], typer.Option(help=about("source.way"))] = "invert",
    strength: Annotated[float, typer.Option(min=0.01, max=1, help=about("source.strength"))] = 1.0,
    refine: Annotated[int, typer.Option(min=0, help=about("source.refine"))] = 0,
    reach: Annotated[
        str | None,
        typer.Option(help="Frames that each frame reads: own, first, first_previous, all; none = as trained."),
    ] = None,
    start: Start = 0.0,
    resize: Resize = "crop",
    returns: Returns = None,
) -> dict[str, Any]:
    """Change what a clip shows, by its prompt: it is turned into the noise that it comes from, and sampled anew."""
    source = {"video": clip, "prompt": shown, "way": way, "strength": strength, "refine": refine}
    source |= {"start": start, "resize": resize}
    return {"source": source} if reach is None else {"source": source, "reach": reach}


def _run(values: dict[str, Any], asked: dict[str, Any]) -> None:
    from kinolab.errors import InputError

    if values["returns"] is not None:
        _measure(values, asked)
        return
    if not values["prompt"] and values["label"] is None and values["prompts"] is None:
        raise InputError("expected what the edit shows, as --to 'a blue box falls' (or --label for a model of classes)")
    run_request(values["out"] or Path(f"{values['clip'].resolve().stem}-edit.mp4"), values, asked)


def _measure(values: dict[str, Any], asked: dict[str, Any]) -> None:
    """How exactly the clip comes back, told what --from says."""
    from kinolab.generation.request import request_of
    from kinolab.generation.returned import returned

    steps = whole_numbers(values["returns"], "--returns")
    told = asked_values(values | {"prompt": []}) | asked
    config = request_of(told, values["setting"] or [])
    config = config.model_copy(update={"device": str(take_device(config.device))})
    with spoken_warnings(), watch("inverting", "steps") as events:
        found = returned(config, steps, events=events)
    lines = [
        f"{each.steps} steps: latents come back with an error of {100 * each.error:.2f}% of their spread, "
        f"pixels with {each.psnr:.1f} dB (the autoencoder's own way back is the measure), in {each.seconds:.1f} s"
        for each in found
    ]
    show({"clip": values["clip"], "returned": found}, lines)


edit = sampling_command("edit", _edit, {"prompt": (To, None), "out": (Out, None)}, _run)
