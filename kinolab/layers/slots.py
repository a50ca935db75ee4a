"""Where a U-Net of images takes layers over time, and what these are told.

A U-Net works on frames as a batch of images. Layers over time stand at five kinds of places: behind a convolution, at
the input, after a residual block, after a block of the transformer inside it, and after the transformer (or, where a
level has none, after the residual block once more). A system says by its `Slots` what stands where; the U-Net knows
none of them by name.

Shapes: B batch, T frames, S places of a frame, C channels of a place, E width of the time's embedding. Frames are
(B * T, C, H, W), what a layer over time is given (B, T, S, C): a view of frames in channels-last order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.reach import Lists
from kinolab.layers.sharing import ContextRanks


@dataclass(frozen=True)
class Place:
    """A place in a U-Net.

    part: which half it is in. level: of the resolution, 0 the finest. layer: number of the residual block at it.
    width: channels C. heads, head_size: of the attention at this level. attends: whether a transformer follows the
    residual block. depth: number of the block inside the transformer.
    """

    part: Literal["input", "down", "middle", "up"]
    level: int
    layer: int
    width: int
    heads: int
    head_size: int
    attends: bool
    depth: int = 0


@dataclass(frozen=True)
class Clip:
    """What every block of one forward pass is told of its clips.

    batch, frames: B and T. time: the embedding (B, 1 or T, E), after its SiLU. text: token states (B, L, D), or
    (B, 1 + images, L, D) with a prompt for each image, none = no prompt is read; text_mask: the same without D, True =
    a token to attend to. lists: which frames each frame's self-attention reads, none = its own. images: how many of
    the last frames are single images, which layers over time leave alone. image_only: (B, T) bool, frames that such
    layers see and leave as the image model makes them. conditions: all that is told. among: the processes that share
    the places of what transformers work on; none = this one alone.
    """

    batch: int
    frames: int
    time: Tensor
    conditions: Conditions
    text: Tensor | None = None
    text_mask: Tensor | None = None
    lists: Lists | None = None
    images: int = 0
    image_only: Tensor | None = None
    among: ContextRanks | None = None

    @property
    def video(self) -> Clip:
        """The clips without the single images behind them."""
        if not self.images:
            return self
        frames = self.frames - self.images
        text, mask = self.text, self.text_mask
        if text is not None and text.ndim == 4:
            text, mask = text[:, 0], None if mask is None else mask[:, 0]
        time = self.time if self.time.shape[1] == 1 else self.time[:, :frames]
        flags = None if self.image_only is None else self.image_only[:, :frames]
        return replace(self, frames=frames, time=time, text=text, text_mask=mask, images=0, image_only=flags)


class TimeLayer(nn.Module):
    """Base of the layers over time."""

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """x (B, T, S, C) -> (B, T, S, C); x may be written to where no gradient is recorded."""
        raise NotImplementedError


class Empty(TimeLayer):
    """A place where nothing stands."""

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """x as it is."""
        return x


class Slots:
    """What a system puts at the places of a U-Net; none = nothing. This one is the image model's."""

    def after_conv(self, width: int) -> TimeLayer | None:
        """Behind every convolution of more than one place, with so many channels, before anything else is done."""
        return None

    def at_input(self, place: Place) -> TimeLayer | None:
        """Behind the first convolution."""
        return None

    def after_resnet(self, place: Place) -> TimeLayer | None:
        """Behind a residual block."""
        return None

    def inside_transformer(self, place: Place) -> TimeLayer | None:
        """Behind a block of a transformer, before the projection out of it; width is the transformer's own."""
        return None

    def after_attention(self, place: Place) -> TimeLayer | None:
        """Behind the transformer, or behind the residual block (and its slot) where there is none."""
        return None

    def attends_to_places(self, place: Place) -> bool:
        """Whether blocks of the transformer attend to the places of a frame, before they read the prompt."""
        return True

    def norm_eps(self, place: Place) -> float:
        """What is added to the variance in the norms of a residual block."""
        return 1e-5


def filled(layer: TimeLayer | None) -> TimeLayer:
    """The layer of a slot, or an empty one."""
    return Empty() if layer is None else layer


def to_tokens(x: Tensor) -> Tensor:
    """Images (N, C, H, W) -> (N, H * W, C); a view of channels-last images, else one copy."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def to_images(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, H * W, C) -> channels-last images (N, C, H, W), a view."""
    return x.unflatten(1, grid).permute(0, 3, 1, 2)


def over_time(layer: nn.Module, x: Tensor, clip: Clip) -> Tensor:
    """What a layer over time makes of (B, T, S, C): of the video alone where single images follow it."""
    if isinstance(layer, Empty):
        return x
    if not clip.images:
        return layer(x, clip)
    count = clip.frames - clip.images
    video, images = x[:, :count], x[:, count:]
    return x if not count else torch.cat([layer(video.contiguous(), clip.video), images], 1)


def over_frames(layer: nn.Module, x: Tensor, clip: Clip) -> Tensor:
    """The same of frames (B * T, C, H, W)."""
    if isinstance(layer, Empty):
        return x
    tokens = to_tokens(x).unflatten(0, (clip.batch, clip.frames))
    return to_images(over_time(layer, tokens, clip).flatten(0, 1), (x.shape[2], x.shape[3]))
