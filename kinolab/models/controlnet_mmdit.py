"""A control network beside an MMDiT: a part that is told a map's latents (`kinolab.denoisers.controlnet_mmdit`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import Denoiser
from kinolab.denoisers.controlnet_mmdit import ControlNetMmdit, copy_config, spread_over
from kinolab.denoisers.mmdit import Mmdit
from kinolab.errors import InputError
from kinolab.models.controlnet import ControlConfig, ControlPart, copied_blocks, differences

FREE = ("kind", "depth", "input_size", "num_frames", "null", "null_tokens", "gradient_checkpointing")
"""Fields in which a control network's config may differ from that of the MMDiT that it stands beside."""


class ControlNetMmditPartConfig(ControlConfig):
    """How many blocks are copied, and what the map is."""

    kind: Literal["controlnet_mmdit"] = "controlnet_mmdit"
    hint: Literal["latents"] = "latents"
    """The map as the autoencoder's latents of it."""
    depth: int | None = Field(None, ge=1)
    """Blocks that are copied, the first ones; none = half of the model's."""
    hint_channels: int | None = Field(None, ge=1)
    """Channels of the map; none = those of the latents."""
    pooled: Literal["told", "zeros"] = "told"
    """The pooled prompt as the model is told it, or zeros, as InstantX's control networks were trained."""


class ControlNetMmditPart(ControlPart):
    """A control network beside an MMDiT.

    Raises:
        InputError: for a denoiser of another family, or with fewer blocks.
    """

    Config = ControlNetMmditPartConfig
    config: ControlNetMmditPartConfig
    net: ControlNetMmdit

    def __init__(self, config: ControlNetMmditPartConfig, denoiser: Denoiser) -> None:
        super().__init__(config, denoiser)
        if not isinstance(denoiser, Mmdit):
            raise InputError(
                f"a controlnet_mmdit is a copy of an MMDiT's blocks, and this denoiser is of kind "
                f"{denoiser.config.kind}; beside a U-Net stands kind: controlnet"
            )
        self.depth = denoiser.config.depth
        copied = copied_blocks(config.depth, self.depth)
        channels = config.hint_channels or denoiser.spec.channels
        self.ports = (Port(config.port, "field", channels),)
        self.net = ControlNetMmdit(copy_config(denoiser.config, copied, hint_channels=channels, pooled=config.pooled))
        self.net.copy_from(denoiser)

    def added(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions
    ) -> Mapping[int, Tensor]:
        """See `ControlNetMmdit.read`."""
        return spread_over(self.net.read(z, t, conditions, hint, options), self.depth)


def mmdit_control_part(net: ControlNetMmdit, denoiser: Denoiser, **fields: Any) -> ControlNetMmditPart:
    """A control network of public weights as a part beside an MMDiT; `fields` are those of the part's config.

    Raises:
        InputError: where it is the copy of another one.
    """
    own = net.config
    config = ControlNetMmditPartConfig(depth=own.depth, hint_channels=own.hint_channels, pooled=own.pooled, **fields)
    part = ControlNetMmditPart(config, denoiser)
    differing = differences(own, part.net.config, FREE)
    if differing:
        raise InputError(f"this control network is for another MMDiT than the model's: {'; '.join(differing)}")
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("null_prompt.")}
    part.net.load_state_dict(state, strict=False)
    return part
