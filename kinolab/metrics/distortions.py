"""Known distortions of clips: what the shipped video encoder learns to notice, and what metrics are tried on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError

DISTORTIONS = ("blur", "noise", "shuffle", "freeze")
"""Two that spoil the picture, two that spoil time alone. The shipped encoder's training counts on their order."""


def distort(video: Tensor, kind: str, strength: float, generator: torch.Generator) -> Tensor:
    """A clip (3, T, H, W) in [-1, 1], distorted: strength 0 = as it was, 1 = the strongest.

    blur: Gaussian, sigma up to 4% of the side; noise: standard deviation up to 0.5; shuffle: that share of the frames
    change places at random; freeze: that share of the frames, at the end, repeat the one before them.

    Raises:
        InputError: for an unknown kind.
    """
    frames = video.shape[1]
    if kind == "blur":
        return blur(video, 0.04 * video.shape[-1] * strength)
    if kind == "noise":
        return (video + 0.5 * strength * torch.randn(video.shape, generator=generator)).clamp(-1, 1)
    if kind == "shuffle":
        chosen = torch.randperm(frames, generator=generator)[: round(strength * frames)]
        order = torch.arange(frames)
        order[chosen.sort().values] = chosen
        return video[:, order]
    if kind == "freeze":
        last = frames - 1 - round(strength * (frames - 1))
        return video[:, torch.arange(frames).clamp(max=last)]
    raise InputError(f"expected a distortion of {', '.join(DISTORTIONS)}, got {kind!r}")


def blur(video: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of every frame of (3, T, H, W), separable, with its edges repeated; sigma in pixels."""
    if sigma < 0.05:
        return video
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=video.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    x = video.flatten(0, 1)[:, None]
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None])  # along the rows
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel[..., None])  # along the columns
    return x[:, 0].view_as(video)
