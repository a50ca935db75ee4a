"""Video LDM (Blattmann et al. 2023, "Align your Latents", arXiv:2304.08818): an image model with layers over time.

The layers of the image model stay as they are and see frames as images. Behind every residual block stands another
one, of convolutions over frames, behind every transformer attention over the frames of each place, which a fixed
encoding tells apart. Layer i over time makes z' of z, and what goes on is

    z <- alpha_i z + (1 - alpha_i) z',    alpha_i in [0, 1], learned (section 3.1).

alpha = 1 is the image model. Here every layer over time begins as the identity, z' = z, so that a fresh network is the
image model at every alpha and learns from the first step.

Known frames (section 3.2) are a context c_S = (m z, m) of their latents and mask, which a small learned network brings
to each resolution; the convolutions over time read it. Nothing known is zeros, and these add nothing.

Shapes: B batch, T frames, S places of a frame, C channels, E width of the time's embedding, W of the context. Frames
are (B, T, S, C) for layers over time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.layers.embeddings import frame_positions, sincos_1d
from kinolab.layers.normalization import add, fold_frames
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer, to_tokens
from kinolab.layers.temporal_mixing import Mixer, TimeConvolution
from kinolab.layers.unet_attention import GatedMlp, QkvAttention


class VideoLdmConfig(UnetFields):
    """The U-Net's fields and those of the layers over time."""

    kind: Literal["video_ldm"] = "video_ldm"
    num_frames: int = Field(16, ge=1)
    """Latent frames in training; for longer clips the encoding of frames is interpolated."""
    alpha: float = Field(0.5, gt=0, lt=1)
    """The image branch's share in every layer before training."""
    given: Literal["none", "channels", "context"] = "none"  # type: ignore[assignment]
    """Take the given part of a video: by the layers over time (`context`, the paper's), so that the image model stays
    as it is, or as more channels of the input."""
    context_width: int = Field(64, ge=1)
    """Channels W of the context at every resolution."""

    @model_validator(mode="after")
    def _check_widths(self) -> VideoLdmConfig:
        odd = [width for width in self.block_out_channels if width % 2]
        if odd:
            raise ValueError(f"block_out_channels: the encoding of frames needs even widths, got {odd[0]}")
        return self


@dataclass(frozen=True)
class ContextClip(Clip):
    """A clip with what is known of it at each resolution, the finest first: (B, T, S, W) each; none = takes none."""

    context: tuple[Tensor, ...] = ()

    @property
    def video(self) -> Clip:
        """The clips without the single images behind them."""
        alone = super().video
        assert isinstance(alone, ContextClip)
        return replace(alone, context=tuple(c[:, : alone.frames] for c in self.context))


class ContextEncoder(nn.Module):
    """Known latents and their mask -> features at each resolution; no layer has a bias, so that zeros stay zeros.

    Args:
        channels: C + R of what is known. width: W. levels: resolutions, each half as fine as the one before.
    """

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.halving = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False) for _ in range(levels - 1)
        )

    def forward(self, given: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """given (B, C, T, H, W), mask (B, R, T, H, W) with 1 = to be generated -> of each level (B, T, S, W)."""
        known = torch.cat([given, 1 - mask], 1)  # the paper's mask m is 1 where a frame is known
        x = F.silu(self.conv_in(fold_frames(known)))
        found = [x]
        for conv in self.halving:
            x = F.silu(conv(x))
            found.append(x)
        return tuple(to_tokens(level).unflatten(0, (len(given), -1)) for level in found)


class Mixed(TimeLayer):
    """alpha z + (1 - alpha) z' with z' of the layer over time and a learned alpha.

    Frames of which a run asks for the image model's answer have alpha = 1.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.mixer = Mixer(math.log(alpha / (1 - alpha)))

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        images = None if clip.image_only is None else clip.image_only[..., None, None]
        return self.mixer(x, self.over_time(x, clip), images)

    def over_time(self, x: Tensor, clip: Clip) -> Tensor:
        """z' of z, (B, T, S, C) each."""
        raise NotImplementedError


class TemporalResnetBlock(Mixed):
    """A residual block of convolutions over three frames, told the time and what is known.

    Args:
        place: where it stands. time_width: E. context_width: W; 0 = reads none.
    """

    def __init__(self, place: Place, time_width: int, context_width: int, groups: int, alpha: float) -> None:
        super().__init__(alpha)
        self.level = place.level
        self.conv = TimeConvolution(place.width, groups, eps=1e-5, time_width=time_width)
        self.context_proj = nn.Linear(context_width, place.width, bias=False) if context_width else None

    def reset(self) -> None:
        """Let it begin as the identity, and the context as nothing."""
        self.conv.reset()
        if self.context_proj is not None:
            nn.init.zeros_(self.context_proj.weight)

    def over_time(self, x: Tensor, clip: Clip) -> Tensor:
        """z' of z."""
        told = None
        if self.context_proj is not None and isinstance(clip, ContextClip):
            told = self.context_proj(clip.context[self.level])
        return self.conv.over_places(x, clip.time, told)


class TemporalAttention(Mixed):
    """Self-attention over the frames of each place, told apart by sines and cosines, then a gated MLP."""

    def __init__(self, place: Place, frames: int, alpha: float) -> None:
        super().__init__(alpha)
        C, self.frames = place.width, frames
        self.norm1 = nn.LayerNorm(C)
        self.attn1 = QkvAttention(C, place.heads, place.head_size)
        self.norm2 = nn.LayerNorm(C)
        self.ff = GatedMlp(C)

    def reset(self) -> None:
        """Let it begin as the identity."""
        for last in (self.attn1.to_out[0], self.ff.net[2]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def over_time(self, x: Tensor, clip: Clip) -> Tensor:
        """z' of z."""
        T, C = x.shape[1], x.shape[3]
        positions = frame_positions(T, self.frames) if self.frames < T else torch.arange(T)
        table = sincos_1d(positions, C).to(x)[:, None]  # (T, 1, C), on what attention reads and not on z
        h = add(self.attn1.over_tracks(self.norm1(x) + table), x)
        return add(self.ff(self.norm2(h)), h)


class VideoLdmSlots(Slots):
    """What stands where."""

    def __init__(self, config: VideoLdmConfig) -> None:
        self.config = config

    def after_resnet(self, place: Place) -> TimeLayer:
        """Convolutions over time everywhere."""
        c = self.config
        context = c.context_width if c.given == "context" else 0
        return TemporalResnetBlock(place, 4 * c.block_out_channels[0], context, c.norm_groups, c.alpha)

    def after_attention(self, place: Place) -> TimeLayer | None:
        """Attention over time where there is one over places."""
        return TemporalAttention(place, self.config.num_frames, self.config.alpha) if place.attends else None


class VideoLdm(Unet):
    """A U-Net of images with layers over time; see `VideoLdmConfig`."""

    Config = VideoLdmConfig
    config: VideoLdmConfig

    def __init__(self, config: VideoLdmConfig) -> None:
        super().__init__(config)
        if config.given == "context":
            known = config.in_channels + config.mask_channels
            self.context_encoder = ContextEncoder(known, config.context_width, len(config.block_out_channels))

    def slots(self) -> Slots:
        """Convolutions and attention over time."""
        return VideoLdmSlots(self.config)

    def reset_parameters(self) -> None:
        """As the image model, with layers over time that begin as the identity."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, TemporalResnetBlock | TemporalAttention):
                module.reset()

    def models_time(self, name: str) -> bool:
        """The layers over time and what brings the context to them."""
        return super().models_time(name) or name.startswith("context_encoder.")

    def clip(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None) -> Clip:
        """What every block is told, with the context of what is given."""
        told = super().clip(z, t, conditions, options)
        given, mask = conditions.given, conditions.mask
        if self.config.given != "context" or given is None or mask is None:
            return told
        context = self.context_encoder(given.to(z.dtype), mask.to(z.dtype))
        return ContextClip(**vars(told), context=context)

    def alphas(self) -> dict[str, float]:
        """The image branch's share in each layer over time, by the layer's name."""
        layers = ((name, layer) for name, layer in self.named_modules() if isinstance(layer, Mixed))
        return {name: float(layer.mixer.mix_factor.sigmoid()) for name, layer in layers}
