"""Clips that are told to a denoiser as fields: read from requests and examples, and encoded on the grid of its latents.

Shapes: a clip is (3, T, H, W), pixels in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab import video
from kinolab.conditioning.base import Setting
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError


def request_clip(
    name: str, request: Request, setting: Setting, *, frames: int | None = None, slower: int = 1
) -> Tensor | None:
    """The clip that a request gives as condition `name`: a file, or pixels, at the frames, size and rate it asks for.

    Args:
        frames: other frames than are asked for.
        slower: how many times lower the rate is that a file is read at.

    Raises:
        InputError: for anything else, a file that can't be read, and a clip with fewer frames.
    """
    given = request.conditions.get(name)
    if given is None:
        return None
    made, size = request.frames or setting.frames, request.size or setting.size
    frames = frames or made
    if isinstance(given, Tensor):
        if given.ndim != 4 or given.shape[0] != 3:
            raise InputError(f"{name}: expected pixels (3, T, H, W), got {tuple(given.shape)}")
        clip = F.interpolate(given.float().transpose(0, 1), size, mode="bilinear", align_corners=False).transpose(0, 1)
    elif isinstance(given, str | Path):
        rate = (request.fps or setting.fps) / slower
        shown = video.iter_frames(Path(given), fps=rate, size=size)
        clip = video.to_tensor(np.stack([frame.image for frame in islice(shown, frames)]))
    else:
        raise InputError(f"{name}: expected a video's file, or pixels (3, T, H, W), got {given!r}")
    if clip.shape[1] < frames:
        needed = "" if frames == made else f" of {frames}"
        raise InputError(
            f"{name}: the clip has {clip.shape[1]} frames, and {made} are generated{needed}; ask for fewer"
        )
    return clip[:, :frames]


def request_picture(name: str, request: Request, setting: Setting) -> Tensor | None:
    """The picture (3, H, W) in [-1, 1] that a request gives as condition `name`, at the size it asks for.

    A file is cut to the size's shape; pixels have to be of that size.

    Raises:
        InputError: for anything else, pixels of another size, and a file that can't be read.
    """
    given, size = request.conditions.get(name), request.size or setting.size
    if given is None:
        return None
    if isinstance(given, Tensor):
        if tuple(given.shape) != (3, *size):
            raise InputError(f"{name}: expected pixels {(3, *size)}, got {tuple(given.shape)}")
        return given.float()
    if not isinstance(given, str | Path):
        raise InputError(f"{name}: expected an image's file, or pixels (3, H, W), got {given!r}")
    first = next(iter(video.iter_frames(Path(given), size=size, resize="crop")))
    return video.to_tensor(first.image[None])[:, 0]


def example_clips(name: str, examples: Sequence[Example], setting: Setting) -> list[Tensor]:
    """The pixels of training examples.

    Raises:
        InputError: for latents, of which no clip can be made.
    """
    if examples[0].encoded:
        raise InputError(f"{name} is made of a clip's pixels, and a latent cache holds none: train on the clips")
    return [e.video.to(setting.device) for e in examples]


def encoded(clips: Sequence[Tensor | None], setting: Setting) -> list[Tensor | None]:
    """Latents (C, T, H, W) of those clips that are there."""
    there = [clip for clip in clips if clip is not None]
    if not there:
        return [None] * len(clips)
    with torch.no_grad():
        latents = iter(setting.autoencoder.encode(torch.stack(there).to(setting.device)).mean.float())
    return [None if clip is None else next(latents) for clip in clips]
