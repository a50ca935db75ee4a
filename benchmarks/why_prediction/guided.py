"""`python -m benchmarks.why_prediction.guided MODEL`: what guidance on the given part and calmer noise mend.

Held-out clips are predicted from 8 frames with the given part as a condition of its own, with its own null (nothing
given) and its own scale: none + s (given - none), `guidance.scales: {given: s}`. A scale of 1 is no guidance. `--noise
0.4 --until 0.85` lets the runs begin with so much of their noise, and puts the rest back at that share of time
(`kinolab.methods.temperature`); 1 is all of it, whatever the model's own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.measure import processor_name
from benchmarks.why_prediction.drift import heldout
from benchmarks.why_prediction.kept import keep, known
from benchmarks.why_prediction.scores import scores
from kinolab.methods import GuidanceConfig, build
from kinolab.models import VideoModel
from kinolab.toyworld.clips import CLASSES

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)


def main() -> None:
    """Measure the scales asked for that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="world-text")
    parser.add_argument("--scale", type=float, action="append", help="may be repeated; default 1, 1.25, 1.5, 2, 3")
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--until", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--first", type=int, default=7000)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/guided.json"))
    asked = parser.parse_args()
    model = VideoModel.load(asked.model, precision=asked.precision)
    clips = heldout(model, asked.count, CLASSES, 3, asked.first)
    calm = {"noise": asked.noise, "until": asked.until}
    for scale in asked.scale or SCALES:
        name = f"{asked.model}, {scale:g}"
        if asked.noise < 1:
            name += f", noise {asked.noise:g} until {asked.until:g}"
        if name not in known(asked.out):
            found = scores(model, clips, GuidanceConfig(scales=(("given", scale),)), build({"temperature": calm}))
            keep(asked.out, name, {"processor": processor_name(), "clips": asked.count, "first": asked.first,
                                   "precision": asked.precision, **found})  # fmt: skip
        print(name, json.dumps(known(asked.out)[name]["model"]), flush=True)


if __name__ == "__main__":
    main()
