"""The critic of distribution matching: a denoiser of the student's samples, with a head that tells them from real ones
where that is asked for (Yin et al. 2024, DMD2, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinolab.config import Config
from kinolab.contracts.conditions import Conditions
from kinolab.denoisers import Denoiser


class GanConfig(Config):
    """The adversarial loss beside distribution matching; its weights are those of DMD2's code."""

    student: float = Field(5e-3, gt=0.0)
    """Weight of the student's part, softplus(-logit)."""
    critic: float = Field(1e-2, gt=0.0)
    """Weight of the critic's part, softplus(logit) of the student's samples and softplus(-logit) of real ones."""
    width: int = Field(32, ge=1)
    """Channels of the head's convolutions."""


class Critic(nn.Module):
    """A denoiser, and a head on what it predicts of a noisy sample.

    DMD2's head reads the features of its U-Net's bottleneck. Denoisers of all kinds have only their predictions alike,
    so here it reads these, beside the noisy sample that they are of, and gradients go through the whole denoiser.
    """

    def __init__(self, denoiser: Denoiser, gan: GanConfig | None) -> None:
        super().__init__()
        self.denoiser, self.head = denoiser, None
        if gan is not None:
            C, W = denoiser.spec.channels, gan.width
            self.head = nn.Sequential(
                nn.Conv3d(2 * C, W, 3, padding=1), nn.SiLU(),
                nn.Conv3d(W, W, 3, padding=1), nn.SiLU(),
                nn.Conv3d(W, 1, 1),
            )  # fmt: skip

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, *, judged: bool = False) -> Any:
        """What a denoiser's forward gives; with `judged` the logits (B,) beside it, high = looks real."""
        output = self.denoiser(z, t, conditions)
        if not judged:
            return output
        assert self.head is not None
        seen = torch.cat([output[:, : z.shape[1]].to(z.dtype), z], 1)  # of a learned variance nothing
        return output, self.head(seen).float().flatten(1).mean(1)

    @property
    def partly_used(self) -> bool:
        """Whether clips of some lengths leave parameters out of the forward pass."""
        return self.denoiser.partly_used


def critics_loss(fake: Tensor, real: Tensor) -> Tensor:
    """(B,) cross entropy of the logits (B,) of the student's samples and of real ones."""
    return F.softplus(fake) + F.softplus(-real)


def students_loss(fake: Tensor) -> Tensor:
    """(B,) softplus(-logit), the non-saturating loss."""
    return F.softplus(-fake)


@contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """Within this context gradients go through a module and not to its parameters."""
    learning = [p for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
