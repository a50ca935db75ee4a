"""A control network beside a DiT: a part that is told a map's latents (`kinolab.denoisers.controlnet_dit`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor

from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import Denoiser
from kinolab.denoisers.controlnet_dit import ControlNetDiT, copy_config
from kinolab.denoisers.dit import DiT
from kinolab.errors import InputError
from kinolab.models.controlnet import ControlConfig, ControlPart, copied_blocks


class ControlNetDiTPartConfig(ControlConfig):
    """How many blocks are copied, and what the map is."""

    kind: Literal["controlnet_dit"] = "controlnet_dit"
    hint: Literal["latents"] = "latents"
    """The map as the autoencoder's latents of it."""
    depth: int | None = Field(None, ge=1)
    """Blocks that are copied, the first ones; none = half of the model's."""


class ControlNetDiTPart(ControlPart):
    """A control network beside a DiT.

    Raises:
        InputError: for a denoiser of another family, or with fewer blocks.
    """

    Config = ControlNetDiTPartConfig
    config: ControlNetDiTPartConfig
    net: ControlNetDiT

    def __init__(self, config: ControlNetDiTPartConfig, denoiser: Denoiser) -> None:
        super().__init__(config, denoiser)
        if not isinstance(denoiser, DiT):
            raise InputError(
                f"a controlnet_dit is a copy of a DiT's blocks, and this denoiser is of kind {denoiser.config.kind}"
            )
        channels = denoiser.spec.channels
        self.ports = (Port(config.port, "field", channels),)
        depth = copied_blocks(config.depth, denoiser.config.depth)
        self.net = ControlNetDiT(copy_config(denoiser.config, depth, hint_channels=channels))
        self.net.copy_from(denoiser)

    def added(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions
    ) -> Mapping[int, Tensor]:
        """See `ControlNetDiT.read`."""
        return dict(enumerate(self.net.read(z, t, conditions, hint, options)))
