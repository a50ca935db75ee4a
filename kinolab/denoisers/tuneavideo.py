"""Tune-A-Video (Wu et al. 2023, arXiv:2212.11565): an image model that is tuned on one clip and its prompt.

Stable Diffusion's U-Net with two changes (section 4.1). The self-attention of frame i reads the first frame and the one
before it instead of its own,

    Q = W_Q z_i,   K = W_K [z_1, z_{i-1}],   V = W_V [z_1, z_{i-1}]

(the first frame reads itself twice, which is as once), and behind the feed-forward of every transformer block stands
attention over the frames of each place, with a norm of its own and no positions. Its output begins at zero, weight and
bias, so that a fresh model is the image model whose frames read those two. The public code's random bias is an option,
and so are its norms of residual blocks and output, whose statistics are those of all frames of a clip.

Shapes: B batch, T frames, S places of a frame, D width of a transformer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach, ReachName
from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.errors import InputError
from kinolab.layers.normalization import add
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer
from kinolab.layers.unet_attention import QkvAttention


class TuneAVideoConfig(UnetFields):
    """The U-Net's fields, and those of the two changes."""

    kind: Literal["tuneavideo"] = "tuneavideo"
    num_frames: int = Field(24, ge=1)
    """Latent frames in training (released models: 24, the first ones 8); frames have no positions, so that any number
    is taken."""
    reach: ReachName = "first_previous"
    """Which frames the self-attention of a frame reads."""
    temporal_bias: Literal["zero", "random"] = "zero"
    """The first bias behind the attention over frames: zero, or random as in the public code, whose fresh model differs
    a little from the image model."""


class TemporalSelfAttention(TimeLayer):
    """Each place reads itself in all frames; normalised first and added. Names are those of the public weights.

    Args:
        place: where it stands: its width D and heads.
        bias: how that of the output begins.
    """

    def __init__(self, place: Place, bias: Literal["zero", "random"]) -> None:
        super().__init__()
        self.norm_temp = nn.LayerNorm(place.width)
        self.attn_temp = QkvAttention(place.width, place.heads, place.head_size)
        self.bias: Literal["zero", "random"] = bias

    def reset(self) -> None:
        """Let it begin as nothing, but for its bias where that is random."""
        last = self.attn_temp.to_out[0]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        if self.bias == "zero":
            nn.init.zeros_(last.bias)
        else:
            limit = 1 / math.sqrt(last.in_features)  # of a fresh linear layer
            nn.init.uniform_(last.bias, -limit, limit)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, D) -> (B, T, S, D)."""
        found = add(self.attn_temp.over_tracks(self.norm_temp(x)), x)
        return found if clip.image_only is None else x.where(clip.image_only[..., None, None], found)


class TuneAVideoSlots(Slots):
    """What stands where."""

    def __init__(self, config: TuneAVideoConfig) -> None:
        self.config = config

    def inside_transformer(self, place: Place) -> TimeLayer:
        """Attention over frames behind every block."""
        return TemporalSelfAttention(place, self.config.temporal_bias)


class TuneAVideo(Unet):
    """A U-Net of images for one-shot tuning; see `TuneAVideoConfig`."""

    Config = TuneAVideoConfig
    config: TuneAVideoConfig
    unlisted = Reach("own")

    def __init__(self, config: TuneAVideoConfig) -> None:
        super().__init__(config)
        self.reach = Reach(config.reach)

    def slots(self) -> Slots:
        """Attention over time."""
        return TuneAVideoSlots(self.config)

    def reset_parameters(self) -> None:
        """As the image model, with attention over time that begins as nothing."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, TemporalSelfAttention):
                module.reset()

    def clip(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None) -> Clip:
        """What every block is told. Single images behind a clip, and frames of which the image model's answer is asked
        for, read themselves alone, unless the options say what is read.

        Raises:
            InputError: where such frames are not the same in all clips.
        """
        told = super().clip(z, t, conditions, options)
        alone = _alone(told)
        if told.lists is None or not any(alone) or (options is not None and options.reach is not None):
            return told
        assert self.reach is not None
        video = told.frames - told.images  # what the rule counts, so that no frame's last one is a single image
        lists = (*self.reach.lists(video), *((frame,) for frame in range(video, told.frames)))
        return replace(told, lists=tuple((i,) if alone[i] else read for i, read in enumerate(lists)))


def _alone(clip: Clip) -> list[bool]:
    """Which frames are single images or are to be as the image model makes them."""
    images = [frame >= clip.frames - clip.images for frame in range(clip.frames)]
    if clip.image_only is None:
        return images
    if (clip.image_only != clip.image_only[:1]).any():
        raise InputError("image_only: expected the same frames in all clips, as one list says what each reads")
    return [one or other for one, other in zip(images, clip.image_only[0].tolist(), strict=True)]
