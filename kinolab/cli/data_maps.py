"""`kinolab data maps`: the control maps of a clip as a video to look at, or to hand to a control network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import common, parse_size, show, watch, wrote
from kinolab.errors import InputError


@common(events=True)
def maps(
    clip: Annotated[Path, typer.Argument(help="A video, or a picture.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Video to write.")],
    kind: Annotated[str, typer.Option(help="canny, edges, luminance, flow, tracks, onnx, ...")] = "canny",
    frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames; default all.")] = None,
    size: Annotated[str | None, typer.Option(help="Side of a square, or HEIGHTxWIDTH; default as it is.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate to re-time to; default the frames as stored.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="A field of the map: -s low=50, -s file=depth.onnx.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
) -> None:
    """Make the control maps of a clip, frame by frame, and write them as a video.

    canny (lines), flow (colours) and tracks (points that are followed) need OpenCV; onnx runs a network of your own,
    for depth or poses: --kind onnx -s file=depth.onnx. Both come with pip install 'kinolab[maps]'. Hand the video to a
    control network as it is: kinolab generate -s conditions.canny.map=MAPS.
    """
    from itertools import islice

    import numpy as np

    from kinolab import video
    from kinolab.conditioning.maps import MAPS
    from kinolab.config import apply_overrides, load_config

    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists; choose another name, or --overwrite")
    cls = MAPS.get(kind)
    maker = cls(load_config(cls.Config, apply_overrides({"kind": kind}, setting or []), name="--set"))
    sides = None if size is None else parse_size(size)
    with watch("reading") as events:
        shown = list(islice(video.iter_frames(clip, fps=fps, size=sides), frames))
        if not shown:
            raise InputError(f"{clip}: holds no frame")
        rate = fps or video.probe(clip).fps or 8.0
        made = maker.make(video.to_tensor(np.stack([frame.image for frame in shown])))
        video.write(out, video.to_uint8(made[None])[0], fps=rate)
        events.wrote(out, "video")
    wrote(out, "video")
    facts = {"out": out, "kind": kind, "frames": len(shown), "size": list(made.shape[2:]), "fps": rate}
    height, width = made.shape[2:]
    show(facts, [f"{out}: {kind} of {len(shown)} frames, {width}x{height}, {rate:g} fps"])
