"""`python -m benchmarks.why_prediction.boxes MODEL`: where the shape of a box that turns is lost.

A floating box is drawn still at given angles, and put through the autoencoder: is its shape lost before any model has
seen it? Then true clips of boxes that turn, boxes that don't and balls are predicted from 8 frames, and the shape that
shows at each object's place is read frame by frame, as in `drift`, for several numbers of steps and guidances. Beside
the model stands the true clip through the autoencoder: what is missing there, the model can't have lost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import processor_name
from benchmarks.why_prediction.drift import SAMPLING, heldout, match, predict, rebuilt
from benchmarks.why_prediction.kept import keep
from benchmarks.why_prediction.latents import redraw
from kinolab.metrics.physics import AtPlace
from kinolab.models import VideoModel
from kinolab.toyworld.clips import WorldClip, WorldConfig, make_clip
from kinolab.toyworld.reader import read_spots

ANGLES = (0, 15, 30, 45)
TURNS = 0.02
"""Radians a frame from which on a box turns."""
AHEAD = (1, 3, 5, 8)


def squareness(frames: np.ndarray, clip: WorldClip) -> float:
    """The median fourth moment (0 a ball, 1 a box) of the spots of the first object's colour."""
    own = [spot.squareness for spot in read_spots(frames) if spot.colour == clip.state[0].colour]
    return float(np.median(own)) if own else float("nan")


def still(model: VideoModel, count: int, first: int) -> dict[str, Any]:
    """Boxes that hold still at an angle: the moment as drawn, and through the autoencoder."""
    world = WorldConfig(frames=model.config.frames, scenarios={"float": 1.0}, max_objects=1)
    clips = [make_clip(world, first + k) for k in range(count)]
    found: dict[str, Any] = {}
    for angle in ANGLES:

        def turned(n: int, clip: WorldClip, angle: int = angle) -> dict[str, Any]:
            return {"shape": "box", "turn": np.deg2rad(angle) - clip.state[0].angle}

        drawn = [redraw(clip, turned) for clip in clips]
        pairs = [[squareness(f, c) for f, c in zip(v, clips, strict=True)] for v in (drawn, rebuilt(model, drawn))]
        found[f"{angle} degrees"] = {name: {"median": round(float(np.nanmedian(v)), 3),
            "read as a box": round(float(np.mean(np.array(v) > 0.45)), 3)}
            for name, v in zip(("drawn", "through the autoencoder"), pairs, strict=True)}  # fmt: skip
    return found


def kinds(clip: WorldClip) -> list[str]:
    """Of each object: a ball, a box that turns, or one that doesn't."""
    turns = [np.abs(np.diff(o.angle)).max() > TURNS for o in clip.state]
    return [o.shape if o.shape == "ball" else f"box, {'turns' if t else 'still'}" for o, t in
            zip(clip.state, turns, strict=True)]  # fmt: skip


def shares(rows: Sequence[tuple[WorldClip, AtPlace]]) -> dict[str, dict[str, float]]:
    """Of what shows at an object's place, the share in its own shape, by kind of object and frames ahead."""
    found: dict[str, dict[str, float]] = {}
    for kind in sorted({k for clip, _ in rows for k in kinds(clip)}):
        found[kind] = {}
        for ahead in AHEAD:
            own = [places.shape[n, ahead - 1] for clip, places in rows for n, k in enumerate(kinds(clip))
                   if k == kind and places.there[n, ahead - 1]]  # fmt: skip
            found[kind][str(ahead)] = round(float(np.mean(own)), 3) if own else float("nan")
    return found


def main() -> None:
    """Measure one model and add what came out to the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="world")
    parser.add_argument("--name", help="what the row is called; default the model")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--first", type=int, default=7000)
    parser.add_argument("--sampling", action="append", choices=list(SAMPLING), help="may be repeated; default all")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/boxes.json"))
    asked = parser.parse_args()
    model = VideoModel.load(asked.model, precision="float32")
    clips = heldout(model, asked.count, ("float", "throw", "collide"), 3, asked.first)
    given = 8
    row: dict[str, Any] = {
        "processor": processor_name(), "clips": asked.count, "still": still(model, asked.count, 60_000_000),
        "autoencoder": shares([(c, match(f, c, given)) for c, f in
                               zip(clips, rebuilt(model, [c.frames for c in clips]), strict=True)]),
    }  # fmt: skip
    for name in asked.sampling or SAMPLING:
        sampler, scale = SAMPLING[name]
        made = predict(model, clips, given, sampler, scale)
        row[name] = shares([(c, match(f, c, given)) for c, f in zip(clips, made, strict=True)])
    keep(asked.out, asked.name or asked.model, row)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
