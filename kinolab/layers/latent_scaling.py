"""Raw latents <-> normalised latents, per channel: normalised = (raw - shift) * scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LOGVAR_RANGE = (-30.0, 20.0)
"""Log variances of raw latents are clamped to this range, as the public KL autoencoders do."""


class ScaledLatents(nn.Module):
    """Gives a module the persistent buffers `latent_shift` and `latent_scale`, each (C',).

    Public weights do not carry the two: a state dict without them loads, and the values of the config stay.
    """

    latent_shift: Tensor
    latent_scale: Tensor

    def register_scaling(self, channels: int, shift: float, scale: float) -> None:
        """Create the buffers, filled with one shift and one scale for all channels."""
        self.register_buffer("latent_shift", torch.full((channels,), shift))
        self.register_buffer("latent_scale", torch.full((channels,), scale))

    def set_scaling(self, shift: Tensor, scale: Tensor) -> None:
        """Overwrite the buffers with per-channel values (C',) of raw latents, for example -mean and 1 / std."""
        self.latent_shift.copy_(shift)
        self.latent_scale.copy_(scale)

    def normalise_moments(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Raw moments (B, 2C', T', H', W'), mean then log variance -> both in normalised units."""
        mean, logvar = moments.chunk(2, dim=1)
        shift, scale = _columns(self.latent_shift), _columns(self.latent_scale)
        return (mean - shift) * scale, logvar.clamp(*LOGVAR_RANGE) + 2 * scale.abs().log()

    def to_normalised(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C', T', H', W') -> normalised latents."""
        return (raw - _columns(self.latent_shift)) * _columns(self.latent_scale)

    def to_raw(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C', T', H', W') -> raw latents."""
        return latents / _columns(self.latent_scale) + _columns(self.latent_shift)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("latent_shift", "latent_scale"):
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _columns(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)
