"""What putting a clip through an autoencoder will take, told within seconds by a small piece of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec
from kinolab.runtime.precision import PrecisionPolicy, autocast
from kinolab.runtime.progress import DEAR, WORTH, Cost, duration

PIECE = 96
"""Side of the piece in pixels, about; larger ones tell no more of the time per pixel."""
FAR = 4
"""How many times the area of its training clips is far from them."""
SMALL = 256
"""A shorter side that is named as the cheaper one where nothing is known of the training's."""


@dataclass(frozen=True)
class Work:
    """A clip for an autoencoder: its frames, its height and width, and those of the training clips where known."""

    frames: int
    size: tuple[int, int]
    trained: tuple[int, int] | None = None

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return self.frames * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Expected:
    """What encoding and decoding take, and the share of the encoding in it."""

    cost: Cost
    encoding: float


@torch.no_grad()
def expected_cost(autoencoder: Autoencoder, work: Work, precision: PrecisionPolicy = "auto") -> Expected | None:
    """The seconds of encoding and of decoding a clip, by a piece of its first frames' size; None for small clips.

    Attention over whole frames, whose cost grows with the square of the area, makes it longer than this says.
    """
    spec, device = autoencoder.spec, next(autoencoder.parameters()).device
    frames = spec.least_frames if spec.temporal_ratio == 1 else spec.pixel_frames(2)
    height, width = (min(side, PIECE) // spec.spatial_ratio * spec.spatial_ratio for side in work.size)
    pixels = frames * height * width
    if min(height, width) < spec.spatial_ratio or work.pixels < 20 * pixels:
        return None
    piece = torch.zeros(1, spec.channels, frames, height, width, device=device)
    with autocast(precision, device):
        for _ in range(2):  # the first time sets the kernels up
            began = time.perf_counter()
            latents = autoencoder.encode(piece).mean
            float(latents.sum())  # which waits for a GPU
            encoded = time.perf_counter()
            float(autoencoder.decode(latents).sum())
            seconds = time.perf_counter() - began
            if seconds > 2:
                break
    return Expected(Cost(seconds * work.pixels / pixels), (encoded - began) / max(seconds, 1e-9))


def cheaper(spec: AutoencoderSpec, work: Work, seconds: float) -> str:
    """The options that make it cheaper, and what they would take; empty where it is short anyway."""
    if seconds < DEAR:
        return ""
    shorter, found = min(work.size), list[str]()
    side = SMALL if shorter > 1.5 * SMALL else max(SMALL // 4, 0 if work.trained is None else min(work.trained))
    if shorter >= 1.5 * side:
        found.append(f"--size {side} would take about {duration(seconds * (side / shorter) ** 2)}")
    frames = spec.snap_frames(max(spec.pixel_frames(3), int(work.frames * WORTH / seconds)))
    if frames < work.frames:
        found.append(f"--frames {frames} about {duration(seconds * frames / work.frames)}")
    return ", ".join(found)


def size_note(work: Work) -> str | None:
    """What to say of frames far larger or smaller than those of the training; None where they are not."""
    if work.trained is None:
        return None
    (height, width), (trained_height, trained_width) = work.size, work.trained
    ratio = height * width / (trained_height * trained_width)
    if 1 / FAR < ratio < FAR:
        return None
    many = f"{ratio:.0f} times" if ratio >= FAR else f"1/{1 / ratio:.0f} of"
    return (
        f"frames of {width}x{height} have {many} the area of those that the autoencoder was trained on "
        f"({trained_width}x{trained_height}), so it may do worse than there"
    )
