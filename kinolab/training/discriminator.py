"""The adversary of autoencoder training: a discriminator of space-time patches, its losses, VQGAN's adaptive weight.

Isola et al. 2017 (PatchGAN) with 3D convolutions, as in VideoGPT and OD-VAE; Esser et al. 2021 (VQGAN), eq. 7.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinolab.config import Config
from kinolab.errors import InputError

AdversarialLoss = Literal["hinge", "vanilla"]


class DiscriminatorConfig(Config):
    """A stack of strided 3D convolutions that judges overlapping patches of a clip."""

    width: int = Field(default=64, ge=1)
    """Channels after the first convolution; doubled by every further layer, up to 8 times."""
    layers: int = Field(default=3, ge=1)
    """Strided convolutions: each halves the height and the width, each but the first halves the frames too."""
    norm: Literal["group", "batch"] = "group"
    """`group` does not depend on the batch or on the number of processes; `batch` is what the papers used."""


class PatchDiscriminator(nn.Module):
    """(B, 3, T, H, W) -> one logit per patch (B, 1, T', H', W'); high = looks real.

    Kernels of 3 with padding 1 take any size, so that one frame and 17 frames are judged by the same weights.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        blocks: list[nn.Module] = []
        before = 3
        for i in range(config.layers + 1):
            width = config.width * min(2**i, 8)
            last = i == config.layers  # the last block looks wider without halving
            stride = (1, 1, 1) if last else (1 if i == 0 else 2, 2, 2)
            blocks.append(nn.Conv3d(before, width, 3, stride, padding=1, bias=i == 0))
            if i > 0:
                blocks.append(_norm(config.norm, width))
            blocks.append(nn.LeakyReLU(0.2))
            before = width
        blocks.append(nn.Conv3d(before, 1, 3, padding=1))
        self.blocks = nn.Sequential(*blocks)
        self.apply(_initialise)

    def forward(self, video: Tensor) -> Tensor:
        """Judge a clip (B, 3, T, H, W) in [-1, 1]; T = 1 is an image."""
        if video.ndim != 5 or video.shape[1] != 3:
            raise InputError(f"expected video (B, 3, T, H, W), got {tuple(video.shape)}")
        return self.blocks(video)


def discriminator_loss(real: Tensor, fake: Tensor, kind: AdversarialLoss = "hinge") -> Tensor:
    """The discriminator's scalar loss from its logits (any shapes) on real and on reconstructed clips.

    hinge: (E[max(0, 1 - real)] + E[max(0, 1 + fake)]) / 2; vanilla: cross entropy, (E[softplus(-real)] +
    E[softplus(fake)]) / 2.
    """
    real, fake = real.float(), fake.float()
    if kind == "hinge":
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: Tensor, kind: AdversarialLoss = "hinge") -> Tensor:
    """The autoencoder's scalar loss from the logits on its reconstructions.

    hinge: -E[fake]; vanilla: E[softplus(-fake)], the non-saturating loss of Goodfellow et al. 2014.
    """
    fake = fake.float()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, at: Tensor, maximum: float = 1e4) -> Tensor:
    """VQGAN's weight of the adversarial loss: |grad reconstruction| / (|grad adversarial| + 1e-6), a detached scalar.

    Both losses are scalars that depend on `at`, usually the weight of the decoder's last layer; their graphs are
    kept. With this weight the two losses pull on `at` equally hard. Clamped to [0, maximum].
    """
    pull = torch.autograd.grad(reconstruction, at, retain_graph=True)[0].float().norm()
    push = torch.autograd.grad(adversarial, at, retain_graph=True)[0].float().norm()
    return (pull / (push + 1e-6)).clamp(0.0, maximum).detach()


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm3d(width)
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if width % g == 0 and width // g >= min(width, 4))
    return nn.GroupNorm(groups, width)


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions and N(1, 0.02) for normalisations, as in DCGAN and PatchGAN."""
    if isinstance(module, nn.Conv3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.GroupNorm | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)
