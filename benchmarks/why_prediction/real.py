"""`python -m benchmarks.why_prediction.real CLIPS AUTOENCODER`: endings of real clips, predicted.

The last 16 frames of every clip of a folder are held out; a small VDT is trained on windows of what comes before, in
the latents of a released autoencoder (TAESD for FLUX.2, converted), by what the toy world taught: what is given as
channels, times shifted towards noise, one attention over all tokens. Then the last 8 frames are predicted from the 8
before them, beside the last given frame shown on, and beside the optical flow of the last two given frames carried on:
each frame moves by the flow, and the flow with it. PSNR and SSIM of the 8 frames, clip by clip.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import processor_name
from benchmarks.why_prediction.kept import keep, trained
from kinolab import video
from kinolab.errors import InputError
from kinolab.metrics.base import Interval
from kinolab.metrics.flow import flow, warp
from kinolab.metrics.reconstruction import psnr, ssim
from kinolab.metrics.statistics import mean_interval, paired_difference
from kinolab.models import Request, VideoModel
from kinolab.tasks import predict_mask

RECIPE = "taesd-vdt-folder"
GIVEN, AHEAD = 8, 8
FRAMES = GIVEN + AHEAD
LEAST = 2 * FRAMES + 2
"""Frames that a clip must have: an ending, and a window before it with room to move."""
RATE = 8
"""Frames a second that clips are brought to, by leaving some out, as far as they are long enough."""
WIDTH = ("denoiser.hidden_size=160", "denoiser.depth=4", "denoiser.num_heads=5", "denoiser.temporal_attention=joint",
         "denoiser.qk_norm=true", "denoiser.given=channels", f"denoiser.num_frames={FRAMES}")  # fmt: skip
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim}
SHOWN = (1, 3, 5, 8)


@dataclass(frozen=True)
class Ending:
    """The last frames (16, S, S, 3) uint8 of a clip."""

    name: str
    frames: np.ndarray


def cut(clips: Path, out: Path, size: int) -> list[Ending]:
    """Write what comes before the endings of clips into a folder, and give the endings."""
    endings = []
    for path in sorted(clips.iterdir()):
        try:
            found = video.probe(path, exact=True)
        except InputError:  # a file that is no clip
            continue
        count = found.frames or 0
        if count < LEAST:
            continue
        every = max(1, min(round(found.fps / RATE), count // LEAST))
        clip = video.read(path, every=every, size=(size, size))
        before = out / f"{path.stem}.mkv"
        if not before.exists():
            video.write(before, clip.frames[:-FRAMES], clip.fps, lossless=True)
        endings.append(Ending(path.stem, clip.frames[-FRAMES:]))
    if not endings:
        raise InputError(f"{clips}: no clip of at least {LEAST} frames")
    return endings


def carried_on(frames: np.ndarray, count: int) -> np.ndarray:
    """The frames that follow (T, S, S, 3) uint8, (count, S, S, 3), where everything moves on as in the last two.

    What is at p in the last frame was at p + b(p) in the one before. So the next frame is the last one seen through b,
    and as b moves with what it moves, the next b is b seen through itself.
    """
    back = torch.from_numpy(flow(frames[-2:], backward=True))  # (1, S, S, 2)
    image = torch.from_numpy(frames[-1]).movedim(-1, 0)[None].float()
    made = []
    for _ in range(count):
        image = warp(image, back)
        back = warp(back.movedim(-1, 1), back).movedim(1, -1)
        made.append(image[0].movedim(0, -1).round().clamp(0, 255).byte().numpy())
    return np.stack(made)


@torch.no_grad()
def predicted(model: VideoModel, endings: list[Ending], batch: int = 4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The frames that follow the given ones by the model, and the true ones through its autoencoder."""
    made: list[np.ndarray] = []
    rebuilt: list[np.ndarray] = []
    for start in range(0, len(endings), batch):
        part = endings[start : start + batch]
        original = torch.stack([video.to_tensor(e.frames) for e in part])
        frames, height, width = original.shape[2:]
        mask = predict_mask(frames, height, width, GIVEN).expand(len(part), 1, -1, -1, -1)
        found = model.complete(original, mask, [Request(seed=start + k) for k in range(len(part))])
        made += list(video.to_uint8(found[:, :, GIVEN:]))
        through = model.autoencoder.decode(model.autoencoder.encode(original).mean)
        rebuilt += list(video.to_uint8(through[:, :, GIVEN:].clamp(-1, 1)))
    return made, rebuilt


def judged(true: list[np.ndarray], subjects: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Of each subject each measure's mean over clips with its interval, by frame ahead, and beside copy last."""
    found: dict[str, Any] = {subject: {} for subject in subjects}
    per_clip: dict[tuple[str, str], list[float]] = {}
    for name, measure in MEASURES.items():
        for subject, videos in subjects.items():
            rows = np.stack([_by_frame(measure, t, v) for t, v in zip(true, videos, strict=True)])  # (N, AHEAD)
            values = rows.mean(1).tolist()
            per_clip[subject, name] = values
            found[subject][name] = _rounded(float(rows.mean()), mean_interval(values))
            found[subject][f"{name} by frame"] = [round(float(v), 3) for v in rows.mean(0)]
        for subject in subjects:
            points, ends = paired_difference(per_clip[subject, name], per_clip["copy last", name])
            found[subject][f"{name} above copy last"] = _rounded(points, ends)
    return found


def _rounded(value: float, ends: Interval | None) -> list[float]:
    return [round(v, 3) for v in (value, *(() if ends is None else (ends.low, ends.high)))]


def _by_frame(measure: Callable[[Tensor, Tensor], Tensor], true: np.ndarray, made: np.ndarray) -> np.ndarray:
    a, b = (video.to_tensor(v)[None] for v in (true, made))
    return np.array([float(measure(a[:, :, k : k + 1], b[:, :, k : k + 1]).mean()) for k in range(AHEAD)])


def sheet(endings: list[Ending], subjects: dict[str, list[np.ndarray]], names: list[str]) -> np.ndarray:
    """A row for each subject of each named clip: the last given frame, and some of those that follow."""
    rows = []
    for name in names:
        n = next(k for k, e in enumerate(endings) if e.name == name)
        for videos in subjects.values():
            rows.append(np.concatenate([endings[n].frames[GIVEN - 1], *(videos[n][k - 1] for k in SHOWN)], 1))
    return np.concatenate(rows, 0)


def learned(runs: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Encode what comes before the endings, and train on it: the lines of the log."""
    command = ["encode", runs / "before", "--size", asked.size, "--frames", FRAMES, "-s", f"data.stride={asked.stride}",
               "-a", asked.autoencoder, "--out", runs / "latents", "--tasks", "toy-vdt-ablation", "--draws", 1,
               "--batch", 4, "--precision", asked.precision]  # fmt: skip
    subprocess.run([sys.executable, "-m", "kinolab", *map(str, command)], check=True)
    side = asked.size // 8
    overrides = [f"data.path={runs / 'latents'}", "data.heldout_fraction=0.05", f"autoencoder={asked.autoencoder}",
                 "tasks={predict: 1, predict_frames: [8, 8]}", "diffusion.time_shift=3.0", *WIDTH,
                 f"denoiser.input_size={side}", f"denoiser.patch_size={max(2, side // 4)}",
                 f"training.batch_size={asked.batch}", f"training.precision={asked.precision}", "training.ema=0.98",
                 "training.learning_rate=2e-3", "training.warmup=20", "training.save_every=200"]  # fmt: skip
    return trained(RECIPE, runs / "vdt", asked.steps, overrides)


def main() -> None:
    """Train and measure at one size, and write figures and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clips", type=Path)
    parser.add_argument("autoencoder", type=Path, help="a converted one: kinolab convert ENCODER DECODER --out FOLDER")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--stride", type=int, default=4, help="frames between the windows that are trained on")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--show", action="append", default=[], help="clips of the picture, by their names")
    parser.add_argument("--runs", type=Path, default=Path("runs/why-real"))
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/real.json"))
    asked = parser.parse_args()
    runs = asked.runs / str(asked.size)
    (runs / "before").mkdir(parents=True, exist_ok=True)
    endings = cut(asked.clips, runs / "before", asked.size)
    for name in asked.show:
        if name not in [e.name for e in endings]:
            raise InputError(f"--show {name}: expected one of {', '.join(e.name for e in endings)}")
    log = learned(runs, asked)
    model = VideoModel.load(runs / "vdt", precision=asked.precision)
    made, rebuilt = predicted(model, endings)
    true = [e.frames[GIVEN:] for e in endings]
    subjects = {
        "model": made,
        "flow": [carried_on(e.frames[:GIVEN], AHEAD) for e in endings],
        "copy last": [np.repeat(e.frames[GIVEN - 1 : GIVEN], AHEAD, 0) for e in endings],
        "autoencoder": rebuilt,
    }
    steps = [line for line in log if line["kind"] == "train"]
    weights = sum(p.numel() for p in model.denoiser.parameters())
    row = {"processor": processor_name(), "clips": [e.name for e in endings], "steps": asked.steps,
           "batch": asked.batch, "parameters": weights, "seconds": steps[-1]["seconds"],
           "heldout": {str(line["step"]): line["loss"] for line in log if line["kind"] == "heldout"},
           **judged(true, subjects)}  # fmt: skip
    keep(asked.out, f"{asked.size} px", row)
    shown = {"true": true, **{name: subjects[name] for name in ("model", "flow")}}
    video.write(runs / "endings.png", sheet(endings, shown, asked.show or [endings[0].name])[None], 1)
    print(json.dumps({name: row[name] for name in subjects}, indent=1))


if __name__ == "__main__":
    main()
