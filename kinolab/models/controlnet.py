"""A ControlNet beside a U-Net: a part that is told a map of every frame (`kinolab.denoisers.controlnet`).

Several may stand beside one model, each with a port of its own (`control`, `depth`, `canny`, ...): what they add is
summed. How strongly one counts is `scale` of its config, or what a run asks for (`kinolab.methods.control_strength`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.config import Config
from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import AS_TRAINED, ForwardOptions
from kinolab.contracts.table import KindConfig
from kinolab.denoisers.base import Denoiser
from kinolab.denoisers.controlnet import ControlNet, check_hint, copy_config
from kinolab.denoisers.unet import Unet
from kinolab.errors import InputError
from kinolab.layers.normalization import NormScope
from kinolab.models.part import Inner, ModelPart


class ControlConfig(KindConfig):
    """What every control network's config has."""

    port: str = "control"
    """The condition that it reads, a map: control, or one of the table of maps such as depth."""
    hint: Literal["pixels", "latents"] = "pixels"
    """The map as pixels in [0, 1] (ControlNet), or as the autoencoder's latents of it (Stable Diffusion 3's)."""
    scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    """What its contributions are multiplied by, where a run asks for nothing else."""


class ControlNetPartConfig(ControlConfig):
    """How a map is read, and how much of the U-Net's config the copy shares."""

    kind: Literal["controlnet"] = "controlnet"
    hint_channels: int | None = Field(None, ge=1)
    """Channels of the map; none = 3 of pixels, of latents as many as they have."""
    hint_widths: tuple[int, ...] = Field((16, 32, 96, 256), min_length=1)
    """Channels of the convolutions that read it."""
    hint_ratio: int = Field(8, ge=1)
    """Pixels of the map for each latent on a side: the autoencoder's; of latents it is 1."""
    norm_scope: NormScope | None = None
    """Statistics of the copy's norms, of each frame or over the clip; none = as in the U-Net."""
    in_place: bool = False
    """Count the last skip's contribution at the middle block's input too, as ControlVideo's code and diffusers before
    0.15 do, which add in place to a tensor that both read; ControlNet's paper and code don't."""

    @model_validator(mode="after")
    def _check(self) -> ControlNetPartConfig:
        check_hint(self.ratio, self.hint_widths)
        return self

    @property
    def ratio(self) -> int:
        """Pixels of the map for each latent on a side."""
        return self.hint_ratio if self.hint == "pixels" else 1


class ControlPart(ModelPart):
    """What all control networks share: their port, and how what they make joins what others do."""

    config: Any
    net: nn.Module
    """The copy."""
    controls = True

    def strength(self, options: ForwardOptions) -> float:
        """What its contributions are multiplied by in a run."""
        asked = options.strength or {}
        return asked.get(self.config.port, self.config.scale)

    def told(self, options: ForwardOptions) -> ForwardOptions:
        """What the copy is asked for: the reach, where the run says that it is meant too."""
        if not options.reach_beside:
            return ForwardOptions(image_only=options.image_only)
        return ForwardOptions(reach=options.reach, image_only=options.image_only, text_beside=options.text_beside)

    def added(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions
    ) -> Mapping[int, Tensor]:
        """What is added behind the denoiser's blocks at full strength, by their number; batch first."""
        raise NotImplementedError

    def forward(
        self, inner: Inner, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions = AS_TRAINED
    ) -> Tensor:
        """The prediction of `inner` with what the map adds; rows whose map is null add nothing."""
        port, strength = self.config.port, self.strength(options)
        if not strength:
            return inner(z, t, options)
        null, joined = conditions.null_of(port), dict(options.residuals or {})
        for number, value in self.added(z, t, conditions, conditions[port].value, self.told(options)).items():
            weighted = value * strength
            if null is not None:
                weighted = weighted * (~null).to(value.dtype).view(-1, *[1] * (value.ndim - 1))
            joined[number] = weighted + joined[number] if number in joined else weighted
        return inner(z, t, replace(options, residuals=joined))


def copied_blocks(asked: int | None, depth: int) -> int:
    """How many of a transformer's blocks are copied: what is asked for, or half of them.

    Raises:
        InputError: for more than there are.
    """
    if asked is not None and asked > depth:
        raise InputError(f"depth {asked}: the model has {depth} blocks that could be copied")
    return asked or max(1, depth // 2)


class ControlNetPart(ControlPart):
    """A ControlNet beside a U-Net of images, or of a video system that is made of it.

    Raises:
        InputError: for a denoiser of another family.
    """

    Config = ControlNetPartConfig
    config: ControlNetPartConfig
    net: ControlNet

    def __init__(self, config: ControlNetPartConfig, denoiser: Denoiser) -> None:
        super().__init__(config, denoiser)
        if not isinstance(denoiser, Unet):
            raise InputError(
                f"a controlnet is a copy of a U-Net's way down, and this denoiser is of kind {denoiser.config.kind}; "
                "beside an mmdit stands kind: controlnet_mmdit, beside a dit kind: controlnet_dit"
            )
        channels = config.hint_channels or (3 if config.hint == "pixels" else denoiser.spec.channels)
        pixels = config.ratio if config.hint == "pixels" else 0
        self.ports = (Port(config.port, "field", channels, pixels=pixels),)
        fields = {"hint_channels": channels, "hint_widths": config.hint_widths, "hint_ratio": config.ratio}
        scope = config.norm_scope or denoiser.config.norm_scope
        self.net = ControlNet(copy_config(denoiser.config, **fields, norm_scope=scope))
        self.net.copy_from(denoiser)

    def added(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions
    ) -> Mapping[int, Tensor]:
        """See `ControlNet.read`."""
        found = self.net.read(z, t, conditions, hint, options)
        middle = max(found)
        return {**found, middle + 1: found[middle - 1]} if self.config.in_place else found


FREE = ("kind", "size", "input_size", "norm_scope", "null", "null_tokens", "gradient_checkpointing", "upcast_attention")
"""Fields in which a ControlNet's config may differ from that of the U-Net that it stands beside."""


def differences(theirs: Config, ours: Config, free: Collection[str]) -> list[str]:
    """Where two configs of one class differ, but for some fields."""
    values = [(name, getattr(theirs, name), getattr(ours, name)) for name in type(theirs).model_fields]
    return [f"{name} {a} against {b}" for name, a, b in values if name not in free and a != b]


def control_part(net: ControlNet, denoiser: Denoiser, **fields: Any) -> ControlNetPart:
    """A ControlNet of public weights as a part beside a denoiser; `fields` are those of the part's config.

    The empty prompt is the denoiser's.

    Raises:
        InputError: where it is the copy of another U-Net.
    """
    own = net.config
    config = ControlNetPartConfig(
        hint_channels=own.hint_channels,
        hint_widths=own.hint_widths,
        hint_ratio=own.hint_ratio,
        norm_scope=own.norm_scope,
        **fields,
    )
    part = ControlNetPart(config, denoiser)
    ours = part.net.config
    levels = range(len(own.block_out_channels))
    differing = differences(own, ours, (*FREE, "num_heads", "head_size"))
    if not differing and any(own.heads(level) != ours.heads(level) for level in levels):
        differing = ["other heads"]
    if differing:
        raise InputError(f"this ControlNet is for another U-Net than the model's: {'; '.join(differing)}")
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("null_prompt.")}
    part.net.load_state_dict(state, strict=False)
    return part
