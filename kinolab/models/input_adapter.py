"""The input adapter: a few convolutions of a field, added to the latents that a denoiser sees.

The smallest part there is: as an adapter of Mou et al. 2023 (T2I-Adapter) it is trained beside a denoiser that stays as
it is, but it adds to the input alone, so that it fits every family.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import AS_TRAINED, ForwardOptions
from kinolab.contracts.table import KindConfig
from kinolab.denoisers.base import Denoiser
from kinolab.models.part import Inner, ModelPart


class InputAdapterConfig(KindConfig):
    """What it is told and how wide it is."""

    kind: Literal["input_adapter"] = "input_adapter"
    port: str = "control"
    """The condition that it reads, a field."""
    channels: int = Field(4, ge=1)
    """Channels of the field: those of the autoencoder's latents."""
    width: int = Field(32, ge=1)
    """Channels of its hidden layers."""
    depth: int = Field(2, ge=1)
    """Hidden layers."""


class InputAdapter(ModelPart):
    """Convolutions over 3 x 3 x 3 latents; the last one starts at zero."""

    Config = InputAdapterConfig
    config: InputAdapterConfig

    def __init__(self, config: InputAdapterConfig, denoiser: Denoiser) -> None:
        super().__init__(config, denoiser)
        self.ports = (Port(config.port, "field", config.channels),)
        layers: list[nn.Module] = []
        for number in range(config.depth):
            before = config.channels if number == 0 else config.width
            layers += [nn.Conv3d(before, config.width, 3, padding=1), nn.SiLU()]
        last = nn.Conv3d(config.width, denoiser.spec.channels, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(*layers, last)

    def forward(
        self, inner: Inner, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions = AS_TRAINED
    ) -> Tensor:
        """The prediction for z and what the field adds to it; a null row adds nothing."""
        name = self.config.port
        added = self.layers(conditions[name].value.to(z.dtype))  # (B, C, T, H, W)
        null = conditions.null_of(name)
        if null is not None:
            added = added * ~null.view(-1, 1, 1, 1, 1)
        return inner(z + added.to(z.dtype), t, options)
