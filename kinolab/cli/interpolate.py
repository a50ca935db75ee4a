"""`kinolab interpolate`: what lies between frames that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.given import Clip, Overlap, Start, given_command
from kinolab.cli.options import whole_numbers

UNUSED = {"resize": "crop", "keep": "model", "method": "auto", "weight": None, "error": None}
"""Options for models that are given a part of a video, with the values that ask for nothing."""


def _interpolate(
    clip: Clip,
    insert: Annotated[int | None, typer.Option(min=1, help="New frames between each two of the clip.")] = None,
    every: Annotated[
        int | None, typer.Option(min=2, help="Give every n-th frame of the clip and generate the others.")
    ] = None,
    keyframes: Annotated[str | None, typer.Option(help="Numbers of the given frames, as 0,8,-1.")] = None,
    start: Start = 0.0,
    overlap: Overlap = None,
) -> dict[str, Any]:
    """Generate the frames between given ones: new ones between all of a clip, or those beside its keyframes.

    With a model of temporal super-resolution (or a cascade that has such a stage) the clip may have any length: frames
    are made and written as they are read, window by window, so many between each two as in its training.
    """
    return {
        "task": "interpolate", "video": clip, "insert": insert, "every": every, "start": start, "overlap": overlap,
        "keyframes": whole_numbers(keyframes, "--keyframes"),
    }  # fmt: skip


def _refined(values: dict[str, Any], given: dict[str, Any]) -> bool:
    """By temporal super-resolution, where that is what the model does; whether it is."""
    if values["model"] is None:
        return False
    from kinolab.cli.generate import ready
    from kinolab.cli.upscale import run_refinement
    from kinolab.errors import InputError
    from kinolab.generation.refine import can_refine, chosen_stage, inserted
    from kinolab.models import find_model, read_model_config

    values["model"] = ready(values["model"])
    config = read_model_config(find_model(values["model"]))
    makes = inserted(config)
    if not makes:
        if can_refine(config, "upscale") and not config.stages:  # which says that it is one for that
            chosen_stage(config, "interpolate", None, values["model"])
        return False
    unused = [f"--{name}" for name, usual in UNUSED.items() if values[name] != usual]
    unused += [f"--{name}" for name in ("every", "keyframes") if given[name]]
    if unused:
        raise InputError(f"{values['model']}: refines whole clips, frame after frame; leave {', '.join(unused)} out")
    if given["insert"] not in (None, *makes):
        counts = " or ".join(map(str, makes))
        raise InputError(f"--insert {given['insert']}: this model makes {counts} new frames between each two")
    refine = {name: given[name] for name in ("task", "video", "start", "overlap")}
    run_refinement(values["out"] or Path(f"{given['video'].resolve().stem}-interpolate.mp4"), values, refine)
    return True


_interpolate.__name__ = "interpolate"
interpolate = given_command(_interpolate, _refined)
