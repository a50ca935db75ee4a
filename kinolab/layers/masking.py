"""Latents of which a part is given: the one place that says where, and puts it into a model's input.

A mask is 1 where something is to be generated and 0 where it is given. Masks of latents are (B, R, T, H, W): R is the
number of frames that a latent frame stands for (the autoencoder's temporal ratio), and a value is the share of the
latent's pixels in that frame that is to be generated. `kinolab.tasks` makes them; training and sampling both apply
them by the functions here, through the denoiser.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Given = Literal["none", "adaln", "cross_attention", "tokens", "mask", "channels", "context"]
"""How a denoiser takes what is given (see `VdtConfig.given` and `VideoLdmConfig.given`)."""
BESIDE: frozenset[Given] = frozenset({"channels", "context"})
"""Ways that tell of what is given beside noisy latents of all frames, which the denoiser then makes all of."""


def told_of(z: Tensor, given: Tensor | None, mask: Tensor | None, channels: int) -> tuple[Tensor, Tensor]:
    """What a model of latents z (B, C, T, H, W) is told: given (B, C, T, H, W) and mask (B, R, T, H, W), R `channels`.

    Where nothing is given, zeros and a mask of ones.
    """
    if given is None or mask is None:
        return torch.zeros_like(z), z.new_ones(len(z), channels, *z.shape[2:])
    return given.to(z.dtype), mask.to(z.dtype)


def fully_given(mask: Tensor) -> Tensor:
    """(B, R, T, H, W) -> (B, 1, T, H, W) bool: the latents all of whose pixels are given."""
    return (mask <= 0).all(1, keepdim=True)


def partly_given(mask: Tensor) -> Tensor:
    """(B, R, T, H, W) -> (B, 1, T, H, W) bool: the latents of which at least one pixel is given."""
    return (mask < 1).any(1, keepdim=True)


def place_given(z: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """z (B, C, T, H, W) with the latents that are fully given replaced by `given` (B, C, T, H, W), clean."""
    return torch.where(fully_given(mask), given.to(z.dtype), z)


def generated_weight(mask: Tensor) -> Tensor:
    """The weight (B, 1, T, H, W) of each latent in the loss: 1 where something is generated, 0 where all is given.

    A sample of which everything is given weighs evenly instead of not at all.
    """
    weight = (~fully_given(mask)).float()
    nothing = weight.flatten(1).sum(1) == 0
    return torch.where(nothing.view(-1, 1, 1, 1, 1), torch.ones_like(weight), weight)
