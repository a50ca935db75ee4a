"""`kinolab control`: a video that follows a clip's edges, depth, lines or paths, of an image model or a video model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.fields import described
from kinolab.cli.generate import run_request
from kinolab.cli.given import Clip, Out, Prompt, sampling_command

SAYS = described("generation/control.py", "ControlledConfig")
Map = Annotated[list[str] | None, typer.Option("--map", metavar="NAME", help=f"{SAYS['maps'].line} Repeatable.")]
Ready = Annotated[bool, typer.Option("--ready", help=SAYS["ready"].line)]
Method = Annotated[
    str, typer.Option("--method", help=f"{SAYS['method'].line} One of {', '.join(SAYS['method'].choices)}.")
]


Network = Annotated[
    list[str] | None,
    typer.Option(
        "--control", metavar="NAME=FILE", help="A control network for this run, beside the model. Repeatable."
    ),
]
Frames = Annotated[int | None, typer.Option(help="Frames of the video; none = the clip's.")]
Rate = Annotated[float | None, typer.Option(help="Frame rate of the video; none = the clip's.")]
EXTRA = {
    "control": (Network, None), "prompt": (Prompt, None), "out": (Out, None), "frames": (Frames, None),
    "fps": (Rate, None),
}  # fmt: skip


def _asked(clip: Clip, map: Map = None, ready: Ready = False, method: Method = "auto") -> dict[str, Any]:
    """Generate a video that follows control maps: of a clip (edges, lines, depth, ...), or maps themselves (--ready).

    It has the clip's length and rate. An image model's frames are kept together by --method, and -s sets its fields:
    -s methods.controlvideo.smoother.between=flow. A model has a control network from training or from `kinolab pack
    --control`, or gets one for this run by --control canny=FILE.
    """
    return {"clip": clip, "maps": map or (), "ready": ready, "method": method}


def _run(values: dict[str, Any], own: dict[str, Any]) -> None:
    from kinolab.config import load_config
    from kinolab.generation.control import ControlledConfig
    from kinolab.generation.control import control as run

    asked = load_config(ControlledConfig, own, name="control")
    out = values["out"] or Path(f"{asked.clip.resolve().stem}-control.mp4")
    values["setting"] = [*(f"control.{text}" for text in values["control"] or []), *(values["setting"] or [])]
    run_request(out, values, make=lambda config, out, events: run(config, asked, out, events=events))


control = sampling_command("control", _asked, EXTRA, _run)
