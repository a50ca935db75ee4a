"""ControlNet's network (Zhang et al. 2023, arXiv:2302.05543): a copy of a U-Net's way down that reads a map as well.

A few convolutions bring the map to the size of the latents, where it is added behind the first convolution; what each
layer of the copy makes goes through a convolution that starts at zero and is added to what the U-Net's way up is given.
So an untrained copy changes nothing. It is an image model whatever the U-Net is: layers over time are not copied, and a
frame's map shapes that frame. Parameter names are those of the diffusers library (ControlNetModel).

Shapes: B batch, T frames, C channels; r pixels of the map for each latent, on a side. Latents are (B, C, T, H, W).
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import BaseDenoiserConfig
from kinolab.denoisers.unet import Unet, UnetFields, WayDown
from kinolab.layers.initialization import zeroed
from kinolab.layers.normalization import fast_layout, fold_frames, unfold_frames
from kinolab.layers.unet_blocks import weights_like_frames


class ControlNetConfig(UnetFields):
    """The fields of the U-Net that it is a copy of, and of the map."""

    kind: Literal["controlnet"] = "controlnet"
    hint_channels: int = Field(3, ge=1)
    """Channels of the map."""
    hint_widths: tuple[int, ...] = Field((16, 32, 96, 256), min_length=1)
    """Channels of the convolutions that read it."""
    hint_ratio: int = Field(8, ge=1)
    """Pixels of the map for each latent on a side, a power of two; 1 = it lies on the latents' grid."""

    @model_validator(mode="after")
    def _check_hint(self) -> ControlNetConfig:
        check_hint(self.hint_ratio, self.hint_widths)
        return self


def check_hint(ratio: int, widths: tuple[int, ...]) -> None:
    """Raises ValueError where the convolutions that read a map can't shrink it so much."""
    halvings = ratio.bit_length() - 1
    if ratio != 2**halvings:
        raise ValueError(
            f"hint_ratio {ratio}: expected a power of two, as each convolution that shrinks the map halves it"
        )
    if halvings > len(widths) - 1:
        least = halvings + 1
        raise ValueError(f"hint_ratio {ratio} takes {halvings} halvings: expected at least {least} of hint_widths")


class HintEncoder(nn.Module):
    """Convolutions that bring a map to the size of the latents (section 3.3); the last one starts at zero.

    Args:
        channels: of the map. widths: of the layers. out: channels of the U-Net's first convolution.
        ratio: the first log2(ratio) steps from one width to the next halve the sides.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], out: int, ratio: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        halvings, layers = ratio.bit_length() - 1, list[nn.Module]()
        for step, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if step < halvings else 1
            layers += [nn.Conv2d(before, before, 3, padding=1), nn.Conv2d(before, after, 3, stride=stride, padding=1)]
        self.blocks = nn.ModuleList(layers)
        self.conv_out = zeroed(nn.Conv2d(widths[-1], out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, r H, r W) -> (N, out, H, W)."""
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class ControlNet(WayDown):
    """The copy; see `ControlNetConfig`. It is no denoiser by itself: `read` gives what is added to one."""

    Config: ClassVar[type[BaseDenoiserConfig]] = ControlNetConfig
    config: ControlNetConfig

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        self.controlnet_cond_embedding = HintEncoder(
            config.hint_channels, config.hint_widths, widths[0], config.hint_ratio
        )
        # Behind the first convolution, every layer and every halving, as the way up is given their outputs.
        kept = [widths[0]]
        for level, width in enumerate(widths):
            kept += [width] * (config.layers_per_block + (level < len(widths) - 1))
        self.controlnet_down_blocks = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in kept)
        self.controlnet_mid_block = zeroed(nn.Conv2d(widths[-1], widths[-1], 1))
        weights_like_frames(self)

    def copy_from(self, denoiser: Unet) -> None:
        """Take the weights of the U-Net that it is beside; what is its own stays as it is."""
        own = self.state_dict()
        self.load_state_dict(
            {name: value for name, value in denoiser.state_dict().items() if name in own}, strict=False
        )

    def read(
        self, z: Tensor, t: Tensor, conditions: Conditions, hint: Tensor, options: ForwardOptions | None = None
    ) -> dict[int, Tensor]:
        """What is added to a U-Net, by the numbers of `Unet.forward`: each (B, C, T, h, w) of the features there.

        Args:
            z, t, conditions: as the U-Net is told them. hint: the map (B, hint_channels, T, r H, r W), pixels in
                [0, 1] or whatever it was trained on.
            options: of these the reach counts, which is that of the copy's own attention.
        """
        clip = self.clip(z, t, conditions, options)
        x = self._add_fields(self.conv_in(fold_frames(fast_layout(self._input(z, conditions)))), clip)
        x = x + self.controlnet_cond_embedding(fold_frames(fast_layout(hint.to(z.dtype))))
        skips = [x]
        for down in self._down():
            skips += down(skips[-1], clip)
        made = [layer(skip) for layer, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        made.append(self.controlnet_mid_block(self.mid_block(skips[-1], clip)))
        return {number: unfold_frames(value, clip.batch) for number, value in enumerate(made)}


def copy_config(config: UnetFields, **hint: object) -> ControlNetConfig:
    """The config of a copy of a U-Net, whatever system it is of; `hint` are the fields of the map, and norm_scope."""
    image = {name: getattr(config, name) for name in UnetFields.model_fields if name not in ("kind", "size")}
    return ControlNetConfig.model_validate({**image, **hint})
