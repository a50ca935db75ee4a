"""`python -m benchmarks.why_prediction.latents`: where colour, shape and place live in the latents of the toy world.

Every clip is drawn again with one thing changed (an object's colour, its shape, its angle, its place by 1 and 4 px) and
encoded again. The squared distance of the two latents says what a squared error in latents pays for that change;
split over the principal directions of all latents, it says whether the change lies where the latents vary or where
they hardly do. Under Gaussian noise z_t = alpha z0 + sigma e the two can be told apart with the detectability index
d' = (alpha / sigma) |dz|; the flow time at which d' falls to 4 (2.3% wrong of two) is how late in sampling a model may
still be free to choose.

Linear probes say whether a thing can be read at all: from the 3 x 3 latents around an object's place to its colour and
shape (ridge regression onto one-hot targets), and from a whole latent frame to its place and velocity.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import processor_name
from kinolab import video
from kinolab.autoencoders.base import Autoencoder
from kinolab.models import load_autoencoder
from kinolab.toyworld.clips import COLOURS, SHAPES, WorldClip, WorldConfig, draw, make_clip
from kinolab.toyworld.scenes import FRAME, Body, Scene, Trajectory

COLOUR_NAMES = list(COLOURS)
DETECTABLE = 4.0
"""The detectability at which one of two is taken wrongly in 2.3% of all cases: Phi(-d' / 2)."""


def redraw(clip: WorldClip, change: Callable[[int, WorldClip], dict[str, Any]] | None = None) -> np.ndarray:
    """The frames (T, S, S, 3) uint8 of a clip without floor or ramp, with what `change` gives for object 0 in place."""
    size = clip.frames.shape[1]
    scale = FRAME / size
    colours, bodies, positions, angles = [], [], [], []
    for n, o in enumerate(clip.state):
        new = change(n, clip) if change is not None and n == 0 else {}
        colours.append(new.get("colour", o.colour))
        bodies.append(Body(new.get("shape", o.shape), o.radius * scale, 0.0, 0.0))
        positions.append((o.position + new.get("shift", 0.0)) * scale)
        angles.append(o.angle + new.get("turn", 0.0))
    scene = Scene(tuple(bodies), gravity=False, bounce=0.0, friction=0.0)
    position = np.stack(positions)
    return draw(scene, Trajectory(position, np.zeros_like(position), np.stack(angles)), colours, size)


def _other_colour(n: int, clip: WorldClip) -> dict[str, Any]:
    taken = {o.colour for o in clip.state}
    free = [c for c in COLOUR_NAMES if c not in taken]
    return {"colour": free[(COLOUR_NAMES.index(clip.state[0].colour) + len(clip.state)) % len(free)]}


CHANGES: dict[str, Callable[[int, WorldClip], dict[str, Any]]] = {
    "colour": _other_colour,
    "shape": lambda n, clip: {"shape": "box" if clip.state[0].shape == "ball" else "ball"},
    "box turned 45 degrees": lambda n, clip: {"turn": np.pi / 4},
    "place, 1 px": lambda n, clip: {"shift": np.array([1.0, 0.0])},
    "place, 4 px": lambda n, clip: {"shift": np.array([4.0, 0.0])},
}


@dataclass(frozen=True)
class Encoded:
    """Latents (N, C, T, h, w) in float64 of some videos, and the frame that each latent frame ends with."""

    latents: Tensor
    ratio: int


@torch.no_grad()
def encode(autoencoder: Autoencoder, frames: list[np.ndarray], batch: int = 16) -> Tensor:
    """Latents (N, C, T', h, w) of videos (T, S, S, 3)."""
    parts = []
    for start in range(0, len(frames), batch):
        clips = torch.stack([video.to_tensor(f) for f in frames[start : start + batch]])
        parts.append(autoencoder.encode(clips).mean.float())
    return torch.cat(parts)


def directions(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (C,), rising, and principal directions (C, C) as columns, of latents (N, C, ...) over all places."""
    flat = latents.transpose(0, 1).flatten(1).double()
    return torch.linalg.eigh(torch.cov(flat))


def change_row(before: Tensor, after: Tensor, variances: Tensor, axes: Tensor) -> dict[str, Any]:
    """What one change does to latents (N, C, T, h, w): its size, its directions, and until when it can be told."""
    dz = (after - before).double()
    energy = torch.einsum("ncthw,cd->ndthw", dz, axes).square().sum((0, 2, 3, 4))
    total = dz.square().flatten(1).sum(1)
    # d' = (alpha / sigma) |dz| = DETECTABLE with alpha = 1 - t, sigma = t.
    size = total.sqrt()
    late = size / (size + DETECTABLE)
    whitened = torch.einsum("ncthw,cd->ndthw", dz, axes / variances.sqrt()).square().flatten(1).sum(1).sqrt()
    return {
        "squared distance": float(total.mean()),
        "share of a clip's variance": float(total.mean() / (variances.sum() * dz[0, 0].numel())),
        "share in the lower half of the directions": float(energy[: len(energy) // 2].sum() / energy.sum()),
        "share by direction, variance rising": [round(float(v), 4) for v in energy / energy.sum()],
        "told until flow time": float(late.median()),
        "told until flow time, latents whitened": float((whitened / (whitened + DETECTABLE)).median()),
    }


def ridge(x: Tensor, y: Tensor, share: float = 0.75) -> tuple[Tensor, Tensor]:
    """Predictions and targets on the last quarter, of a linear map learned on the first part; x (N, D), y (N, K)."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    cut = int(len(x) * share)
    gram = x[:cut].T @ x[:cut]
    weight = torch.linalg.solve(
        gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram)), x[:cut].T @ y[:cut].double()
    )
    return x[cut:] @ weight, y[cut:].double()


def probes(clips: list[WorldClip], latents: Tensor, frames: int) -> dict[str, float]:
    """How well colour, shape, place and velocity of the object of one-object clips are read from the last latent."""
    size = clips[0].frames.shape[1]
    h = latents.shape[-1]
    last = latents[:, :, -1]  # (N, C, h, w)
    padded = torch.nn.functional.pad(last, (1, 1, 1, 1))
    near, place, velocity = [], [], []
    for k, clip in enumerate(clips):
        x, y = (clip.state[0].position[frames - 1] / size * h).astype(int).clip(0, h - 1)
        near.append(padded[k, :, y : y + 3, x : x + 3].flatten())
        place.append(clip.state[0].position[frames - 1])
        velocity.append(clip.state[0].position[frames - 1] - clip.state[0].position[frames - 2])
    local, whole = torch.stack(near), last.flatten(1)
    colour = torch.tensor([COLOUR_NAMES.index(c.state[0].colour) for c in clips])
    shape = torch.tensor([SHAPES.index(c.state[0].shape) for c in clips])
    found: dict[str, float] = {}
    for name, target, count in (("colour", colour, len(COLOUR_NAMES)), ("shape", shape, len(SHAPES))):
        guess, true = ridge(local, torch.nn.functional.one_hot(target, count).float())
        found[f"{name} read right"] = float((guess.argmax(1) == true.argmax(1)).double().mean())
    for name, values in (("place", place), ("velocity", velocity)):
        guess, true = ridge(whole, torch.from_numpy(np.stack(values)).float())
        found[f"{name}, mean error in px"] = float((guess - true).norm(dim=1).mean())
        found[f"{name}, error of the mean in px"] = float((true - true.mean(0)).norm(dim=1).mean())
    return found


def measure(name: str, count: int, first: int) -> dict[str, Any]:
    """All figures of one autoencoder."""
    autoencoder = load_autoencoder(name)
    world = WorldConfig(scenarios={"float": 1.0})
    frames = autoencoder.spec.snap_frames(world.frames)
    world = world.model_copy(update={"frames": frames})
    clips = [make_clip(world, first + k) for k in range(count)]
    base = encode(autoencoder, [redraw(c) for c in clips])
    variances, axes = directions(base)
    result: dict[str, Any] = {
        "autoencoder": name, "latents": list(base.shape[1:]), "clips": count, "first seed": first,
        "variances of the principal directions": [round(float(v), 4) for v in variances], "changes": {}, "probes": {},
    }  # fmt: skip
    for what, change in CHANGES.items():
        chosen = [k for k, c in enumerate(clips) if "box" not in what or c.state[0].shape == "box"]
        after = encode(autoencoder, [redraw(clips[k], change) for k in chosen])
        result["changes"][what] = change_row(base[chosen], after, variances, axes)
    single = world.model_copy(update={"max_objects": 1})
    alone = [make_clip(single, first + 100_000 + k) for k in range(2 * count)]
    latents = encode(autoencoder, [redraw(c) for c in alone])
    result["probes"] = probes(alone, latents, frames)
    whitened = torch.einsum("ncthw,cd->ndthw", latents.double(), axes / variances.sqrt()).float()
    result["probes, whitened"] = probes(alone, whitened, frames)
    return result


def main() -> None:
    """Measure the named autoencoders and write what came out beside those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("autoencoders", nargs="*", default=["world", "world-text"], help="model folders or names")
    parser.add_argument("--count", type=int, default=400, help="clips with changes; twice as many for the probes")
    parser.add_argument("--first", type=int, default=50_000_000, help="seed of the first clip")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/latents.json"))
    asked = parser.parse_args()
    torch.manual_seed(0)
    before = json.loads(asked.out.read_text(encoding="utf-8"))["results"] if asked.out.exists() else []
    results = {result["autoencoder"]: result for result in before}
    for name in asked.autoencoders:
        results[name] = measure(name, asked.count, asked.first)
        print(json.dumps(results[name], indent=1))
    found = {"processor": processor_name(), "results": list(results.values())}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
