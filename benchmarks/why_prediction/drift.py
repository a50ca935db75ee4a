"""`python -m benchmarks.why_prediction.drift MODEL`: what a prediction loses, and whether it listens to what is given.

Objects are matched by place: beside each true object, frame by frame, the nearest coloured spot of the prediction
within 8 px is taken, whatever its colour; so an object that keeps its path and changes its colour is not counted as
lost. Per frame ahead it says how many true objects have a spot at their place at all, how far it is, and how many of
these have their own colour and shape. Beside the model stands the true clip through the autoencoder.

`--sampling` repeats this for numbers of steps, samplers and guidance; `--listening` gives the loss at fixed times with
the given part of the clip itself, of another clip, and with none: where these are equal, the model doesn't listen.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import processor_name
from benchmarks.why_prediction.kept import keep
from kinolab import video
from kinolab.contracts.method import Method
from kinolab.diffusion import SamplerConfig
from kinolab.evaluation.world import autoencode
from kinolab.methods import GuidanceConfig
from kinolab.metrics.physics import AtPlace, TrueObject, at_places
from kinolab.models import Request, VideoModel
from kinolab.tasks import predict_mask
from kinolab.tasks.mask import encode_given
from kinolab.toyworld.clips import CLASSES, WorldClip, WorldConfig, make_clip
from kinolab.toyworld.scenes import FRAME
from kinolab.toyworld.source import HELDOUT_SEEDS
from kinolab.toyworld.words import SCENARIO_COUNTS

SAMPLING: dict[str, tuple[SamplerConfig, float]] = {
    "euler 10": (SamplerConfig(name="euler", steps=10), 1.0),
    "euler 25": (SamplerConfig(name="euler", steps=25), 1.0),
    "euler 100": (SamplerConfig(name="euler", steps=100), 1.0),
    "heun 25": (SamplerConfig(name="heun", steps=25), 1.0),
}


def match(frames: np.ndarray, clip: WorldClip, given: int) -> AtPlace:
    """What shows at the places of a clip's objects after the given frames, in pixels of 64."""
    scale = FRAME / min(frames.shape[1:3])
    return at_places(frames, [TrueObject(o.colour, o.shape, o.position * scale, 0.0) for o in clip.state], given)


def summary(rows: Sequence[AtPlace], ahead: Sequence[int]) -> dict[str, list[float]]:
    """Means over clips and objects, one value for each number of frames ahead."""
    found: dict[str, list[float]] = {"there": [], "px": [], "own colour": [], "own shape": []}
    for k in ahead:
        there = np.concatenate([row.there[:, k - 1] for row in rows])
        found["there"].append(float(there.mean()))
        for name, what in {"px": "distance", "own colour": "colour", "own shape": "shape"}.items():
            values = np.concatenate([getattr(row, what)[:, k - 1] for row in rows])[there]
            found[name].append(float(values.mean()) if len(values) else math.nan)
    return {name: [round(v, 3) for v in values] for name, values in found.items()}


def heldout(model: VideoModel, count: int, scenarios: Sequence[str], objects: int, first: int) -> list[WorldClip]:
    """Held-out clips, the scenarios in turn, but for those that take more objects."""
    able = [name for name in scenarios if min(SCENARIO_COUNTS[name]) <= objects]
    clips = []
    for k in range(count):
        world = WorldConfig(frames=model.config.frames, scenarios={able[k % len(able)]: 1.0}, max_objects=objects)
        clips.append(make_clip(world, HELDOUT_SEEDS + first + k))
    return clips


@torch.no_grad()
def rebuilt(model: VideoModel, clips: Sequence[np.ndarray], batch: int = 16) -> list[np.ndarray]:
    """Videos (T, S, S, 3) uint8 through the autoencoder."""
    made: list[np.ndarray] = []
    for start in range(0, len(clips), batch):
        original = torch.stack([video.to_tensor(frames) for frames in clips[start : start + batch]])
        made += list(video.to_uint8(autoencode(model, original)))
    return made


@torch.no_grad()
def predict(
    model: VideoModel,
    clips: Sequence[WorldClip],
    given: int,
    sampler: SamplerConfig,
    scale: float | GuidanceConfig,
    batch: int = 24,
    methods: Sequence[Method] = (),
) -> list[np.ndarray]:
    """The predictions (T, S, S, 3) uint8 from the first `given` frames of each clip."""
    made: list[np.ndarray] = []
    for start in range(0, len(clips), batch):
        part = clips[start : start + batch]
        original = torch.stack([video.to_tensor(c.frames) for c in part])
        mask = predict_mask(original.shape[2], original.shape[3], original.shape[4], given).expand(
            len(part), 1, -1, -1, -1
        )
        requests = [Request(seed=start + k) for k in range(len(part))]
        guidance = scale if isinstance(scale, GuidanceConfig) else GuidanceConfig(scale=scale)
        found = model.complete(original, mask, requests, sampler=sampler, guidance=guidance, methods=methods)
        made += list(video.to_uint8(found))
    return made


@torch.no_grad()
def listening(model: VideoModel, clips: Sequence[WorldClip], given: int, times: Sequence[float]) -> dict[str, Any]:
    """The loss over what is to be generated, with the own given part, another clip's, and none, at fixed times."""
    original = torch.stack([video.to_tensor(c.frames) for c in clips])
    mask = predict_mask(original.shape[2], original.shape[3], original.shape[4], given).expand(
        len(clips), 1, -1, -1, -1
    )
    latents = model.autoencoder.encode(original).mean.float()
    told, folded = encode_given(model.autoencoder, original, mask)
    weight = (folded.amin(1, keepdim=True) > 0).float()  # latents of which nothing is given
    plain = model.conditions([Request(seed=k) for k in range(len(clips))])
    nothing = torch.zeros_like(told), torch.ones_like(folded)
    found: dict[str, Any] = {}
    for name, (part, hole) in {"own": (told, folded), "another's": (told.roll(1, 0), folded), "none": nothing}.items():
        conditions = plain.replace(given=part, mask=hole)
        generator = torch.Generator().manual_seed(0)
        losses = model.diffusion.loss_at(model.denoiser, latents, conditions, times, generator, weight=weight)
        found[name] = {str(t): round(v, 4) for t, v in losses.items()}
    return found


def main() -> None:
    """Measure one model and add what came out to the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="world")
    parser.add_argument("--name", help="what the row is called; default the model")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--first", type=int, default=7000)
    parser.add_argument("--given", type=int, default=8)
    parser.add_argument("--scenarios", default=",".join(CLASSES))
    parser.add_argument("--objects", type=int, default=3, help="most objects of a clip")
    parser.add_argument("--sampling", action="store_true")
    parser.add_argument("--listening", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/drift.json"))
    asked = parser.parse_args()
    model = VideoModel.load(asked.model, precision="float32")
    clips = heldout(model, asked.count, asked.scenarios.split(","), asked.objects, asked.first)
    ahead = range(1, model.config.frames - asked.given + 1)
    row: dict[str, Any] = {"processor": processor_name(), "clips": asked.count, "first": asked.first,
                           "given": asked.given, "scenarios": asked.scenarios, "objects": asked.objects}  # fmt: skip
    through = rebuilt(model, [clip.frames for clip in clips])
    row["autoencoder"] = summary([match(f, c, asked.given) for f, c in zip(through, clips, strict=True)], ahead)
    for name, (sampler, scale) in SAMPLING.items() if asked.sampling else [("euler 25", SAMPLING["euler 25"])]:
        made = predict(model, clips, asked.given, sampler, scale)
        row[name] = summary([match(f, c, asked.given) for f, c in zip(made, clips, strict=True)], ahead)
    if asked.listening:
        row["loss"] = listening(model, clips, asked.given, (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98))
    keep(asked.out, asked.name or asked.model, row)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
