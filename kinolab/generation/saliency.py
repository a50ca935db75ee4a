"""A mask of what is salient, given as a file: where Text2Video-Zero leaves the background alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from kinolab import video
from kinolab.errors import InputError
from kinolab.methods import Method, Text2VideoZero


def with_saliency(methods: Sequence[Method], path: Path | None, frames: int, fps: float) -> list[Method]:
    """The methods of a request, Text2Video-Zero with the mask of a file.

    Raises:
        InputError: for a mask that no method takes, or that can't be read, or of another number of frames.
    """
    if path is None:
        return list(methods)
    if not any(isinstance(method, Text2VideoZero) for method in methods):
        raise InputError(
            "saliency is a mask for text2video_zero's smoothing: set -s methods.text2video_zero.smooth=0.6, or leave "
            "saliency out"
        )
    mask = read_saliency(path, frames, fps)
    return [Text2VideoZero(m.config, saliency=mask) if isinstance(m, Text2VideoZero) else m for m in methods]


def read_saliency(path: Path, frames: int, fps: float) -> Tensor:
    """A mask (1, 1, 1 or frames, h, w) of 0 and 1: what is brighter than middle grey in a picture or a clip."""
    read = [f.image for f in islice(video.iter_frames(path, fps=fps), frames)]
    if len(read) not in (1, frames):
        raise InputError(f"{path}: has {len(read)} frames at {fps:g} fps, and {frames} are made; give 1, or as many")
    return (video.to_tensor(np.stack(read))[None].mean(1, keepdim=True) > 0).float()
