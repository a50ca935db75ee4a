"""`python -m benchmarks.makeavideo_stages between|larger MODEL`: Make-A-Video's last two networks beside what needs no
model, on held-out clips of the toy world.

between: of clips whose every second, or every fourth, frame is given, what a run of toy-makeavideo-interpolate makes of
the others: PSNR of those frames alone, and how far objects are from where they are (pixels of 64), beside repeated and
linearly mixed frames. The model is told nothing but the given frames, or the embedding of the first of them too.

larger: of clips at half the size, what a run of toy-makeavideo-sr makes of them, with the same noise for all frames and
with one of its own for each, beside bilinear and bicubic enlargement: PSNR, detail (energy of differences between
neighbouring pixels, 1 = all), and the error of the change from frame to frame.

In both the true clips through the autoencoder are what the model could reach.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab import video
from kinolab.errors import InputError
from kinolab.evaluation.control import followed
from kinolab.evaluation.world import autoencode
from kinolab.layers.resizing import enlarge, shrink
from kinolab.methods import build as build_methods
from kinolab.metrics.statistics import mean_interval
from kinolab.models import Request, VideoModel, find_model
from kinolab.runtime.files import write_text
from kinolab.tasks import every_nth, keyframe_mask
from kinolab.toyworld.clips import WorldClip, WorldConfig, make_clip
from kinolab.toyworld.source import WorldSource, WorldSourceConfig

EVERY = (2, 4)
"""Every n-th frame is given."""
BATCH = 8
Way = Callable[[list[WorldClip], Tensor], Tensor]
"""Held-out clips, and their pixels (B, 3, T, H, W) in [-1, 1] -> what is made of what is given of them."""
Scores = dict[str, list[float]]
"""Of each way the scores of every clip, by name."""


def psnr(made: Tensor, true: Tensor) -> float:
    """Of pixels in [-1, 1], in dB."""
    return float(10 * torch.log10(4 / (made - true).square().mean()))


def detail(clip: Tensor) -> float:
    """The mean square of differences between neighbouring pixels of the frames of a clip (3, T, H, W)."""
    return float(clip.diff(dim=2).square().mean() + clip.diff(dim=3).square().mean())


def held(clips: Tensor, given: Sequence[int]) -> Tensor:
    """Each frame that is not given as the one before it that is."""
    nearest = [max(k for k in given if k <= t) for t in range(clips.shape[2])]
    return clips[:, :, nearest]


def mixed(clips: Tensor, given: Sequence[int]) -> Tensor:
    """Each frame that is not given as a mix of the two around it, by their distances; behind the last one, that."""
    made = held(clips, given)
    for before, after in itertools.pairwise(given):
        for t in range(before + 1, after):
            share = (t - before) / (after - before)
            made[:, :, t] = (1 - share) * clips[:, :, before] + share * clips[:, :, after]
    return made


def of_between(made: Tensor, clip: WorldClip, true: Tensor, seed: int, missing: Sequence[int]) -> dict[str, float]:
    """The scores of the missing frames of one clip; made, true (3, T, H, W)."""
    found = followed("model", seed, clip, video.to_uint8(made[None])[0])
    objects = len(clip.state)
    errors = [found.errors[t * objects + o] for t in missing for o in range(objects)]
    known = [e for e in errors if np.isfinite(e)]
    return {
        "psnr": psnr(made[:, missing], true[:, missing]),
        "position": statistics.fmean(known) if known else float("nan"),
        "found": len(known) / len(errors),
    }


def of_larger(made: Tensor, true: Tensor) -> dict[str, float]:
    """The scores of one enlarged clip (3, T, H, W)."""
    change = (made.diff(dim=1) - true.diff(dim=1)).abs().mean()
    return {"psnr": psnr(made, true), "detail": detail(made) / detail(true), "flicker": float(change)}


def _completed(model: VideoModel, clips: Tensor, given: Sequence[int], *, picture: bool) -> Tensor:
    _, _, frames, height, width = clips.shape
    mask = keyframe_mask(frames, height, width, given)[None, None].expand(len(clips), -1, -1, -1, -1)
    shown = [{"image_embedding": clip[:, 0]} if picture else {} for clip in clips]
    requests = [Request(seed=k, conditions=told) for k, told in enumerate(shown)]
    return model.complete(clips, mask.contiguous(), requests, exact=True).cpu()


def _refined(model: VideoModel, clips: Tensor, kind: str) -> Tensor:
    size = (clips.shape[3], clips.shape[4])
    low = [_low(clip[None])[0] for clip in clips]
    requests = [
        Request(seed=k, frames=clip.shape[1], size=size, conditions={"low_resolution": clip})
        for k, clip in enumerate(low)
    ]
    noise = build_methods({"noise": {"kind": kind}})
    return model.decode(model.sample_latents(requests, methods=noise)).cpu()


def _low(clips: Tensor) -> Tensor:
    return shrink(clips, (clips.shape[3] // 2, clips.shape[4] // 2), "area")


def _bicubic(clips: Tensor) -> Tensor:
    frames = _low(clips).transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, clips.shape[3:], mode="bicubic", align_corners=False).clamp(-1, 1)
    return large.unflatten(0, (len(clips), -1)).transpose(1, 2)


def _held_out(count: int, config: WorldConfig, spec: Any) -> list[tuple[int, WorldClip]]:
    source = WorldSource(WorldSourceConfig(world=config, heldout_count=count, split="heldout"), spec)
    return [(source.seed(k), make_clip(source.world, source.seed(k))) for k in range(count)]


@torch.no_grad()
def measure(
    clips: Sequence[tuple[int, WorldClip]], ways: dict[str, Way], score: Callable[..., dict[str, float]]
) -> dict[str, Any]:
    """The mean of every score with its interval, and the seconds of a clip, of each way; a clip is one sample."""
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        scores, seconds = Scores(), 0.0
        for start in range(0, len(clips), BATCH):
            several = clips[start : start + BATCH]
            true = torch.stack([video.to_tensor(clip.frames) for _, clip in several])
            began = time.perf_counter()
            made = way([clip for _, clip in several], true)
            seconds += time.perf_counter() - began
            for k, (seed, clip) in enumerate(several):
                for key, value in score(made[k], clip, true[k], seed).items():
                    scores.setdefault(key, []).append(value)
        rows[name] = {"seconds_per_clip": seconds / len(clips)} | {k: _summary(v) for k, v in scores.items()}
    return rows


def _summary(values: list[float]) -> list[float]:
    """Mean, and the ends of its 95% interval."""
    known = [v for v in values if np.isfinite(v)]
    around = mean_interval(known)
    return [statistics.fmean(known), *((around.low, around.high) if around is not None else ())]


def between(model: VideoModel, count: int) -> dict[str, Any]:
    """What a model makes between given frames, by every n-th of `EVERY`."""
    config = model.config
    clips = _held_out(count, WorldConfig(size=config.size[0], frames=config.frames, fps=config.fps), None)
    found = {}
    for n in EVERY:
        given = every_nth(config.frames, n)
        missing = [t for t in range(config.frames) if t not in given]
        ways: dict[str, Way] = {
            "the model, told the given frames": lambda _, true, g=given: _completed(model, true, g, picture=False),  # type: ignore[misc]
            "and the first one's embedding": lambda _, true, g=given: _completed(model, true, g, picture=True),  # type: ignore[misc]
            "repeated": lambda _, true, g=given: held(true, g),  # type: ignore[misc]
            "linearly mixed": lambda _, true, g=given: mixed(true, g),  # type: ignore[misc]
            "true, through the autoencoder": lambda _, true: autoencode(model, true),
        }
        found[f"every {n}th frame given"] = measure(clips, ways, partial(_score_between, missing=missing))
    return found


def _score_between(made: Tensor, clip: WorldClip, true: Tensor, seed: int, missing: Sequence[int]) -> dict[str, float]:
    return of_between(made, clip, true, seed, missing)


def larger(model: VideoModel, count: int) -> dict[str, Any]:
    """What a model makes of clips at half the size, of 8 frames."""
    size = model.config.size[0]
    clips = _held_out(count, WorldConfig(size=size, frames=8, fps=4), None)
    ways: dict[str, Way] = {
        "the model, one noise for all frames": lambda _, true: _refined(model, true, "same"),
        "the model, each frame its own": lambda _, true: _refined(model, true, "independent"),
        "bilinear": lambda _, true: enlarge(_low(true), (size, size)),
        "bicubic": lambda _, true: _bicubic(true),
        "true, through the autoencoder": lambda _, true: autoencode(model, true),
    }
    return {"half the size given": measure(clips, ways, lambda made, clip, true, seed: of_larger(made, true))}


HEADINGS = {
    "psnr": "PSNR, dB", "position": "position error, px", "found": "found", "detail": "detail", "flicker": "flicker",
}  # fmt: skip
SHOWN = {"psnr": "{:.2f}", "position": "{:.2f}", "found": "{:.0%}", "detail": "{:.2f}", "flicker": "{:.4f}"}


def markdown(found: dict[str, Any]) -> str:
    """A table for each of what is given."""
    lines: list[str] = []
    for given, rows in found.items():
        names = [n for n in next(iter(rows.values())) if n in HEADINGS]
        lines += [f"| {given} | {' | '.join(HEADINGS[n] for n in names)} | s per clip |"]
        lines += [f"| --- |{' ---: |' * (len(names) + 1)}"]
        for way, row in rows.items():
            cells = []
            for name in names:
                value, *around = (SHOWN[name].format(v) for v in row[name])
                cells.append(value + (f" ({' to '.join(around)})" if around and name == "psnr" else ""))
            lines.append(f"| {way} | {' | '.join(cells)} | {row['seconds_per_clip']:.2f} |")
        lines.append("")
    return "\n".join(lines)


STAGES = {"between": between, "larger": larger}


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Measure a network and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.makeavideo_stages", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES), help="frames between given ones, or larger frames")
    parser.add_argument("model", help="its run folder or model folder")
    parser.add_argument("--clips", type=int, default=24, help="held-out clips")
    parser.add_argument("--precision", default="auto", help="of the network")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    told = parser.parse_args(arguments)
    if told.clips < 1:
        raise InputError(f"expected at least 1 clip, got {told.clips}")
    model = VideoModel.load(find_model(told.model), device="cpu", precision=told.precision)
    needed = {"between": model.denoiser.spec.given != "none", "larger": "low_resolution" in model.spec.ports}
    if not needed[told.stage]:
        kind = "toy-makeavideo-interpolate" if told.stage == "between" else "toy-makeavideo-sr"
        raise InputError(f"{told.model}: takes nothing of what {told.stage} gives; expected a run such as {kind}")
    found = STAGES[told.stage](model, told.clips)
    say(markdown(found))
    if told.out is not None:
        write_text(told.out, json.dumps({"model": told.model, "clips": told.clips, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"makeavideo_stages: {error}")
