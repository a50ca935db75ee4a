"""Convolutions of videos (B, C, T, H, W) that never look ahead, and what they remember between chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.layers.normalization import fold_frames, unfold_frames


class Stream:
    """What the layers of one model keep between consecutive chunks of one clip.

    Pass the same object with every chunk of a clip, and a fresh one for the next clip; the model itself holds
    nothing, so that streams of one model can be interleaved. `last` tells layers which look ahead that no chunk
    follows. `strips` is what is kept of pictures that go through in strips (`kinolab.layers.strips`).
    """

    def __init__(self) -> None:
        self.last = False
        self.strips: Stream | None = None
        self._kept: dict[nn.Module, Tensor] = {}

    def get(self, layer: nn.Module) -> Tensor | None:
        """The frames that `layer` kept, or None at the start of the clip."""
        return self._kept.get(layer)

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        """Remember `frames` for `layer`; copied, so that the chunk that they are part of can be freed."""
        self._kept[layer] = frames.clone()

    def elements(self) -> int:
        """How many numbers are kept in all; constant after the first chunks."""
        of_strips = 0 if self.strips is None else self.strips.elements()
        return of_strips + sum(frames.numel() for frames in self._kept.values())


class FrameConv2d(nn.Conv2d):
    """A 2D convolution of every frame by itself: (B, C, T, H, W) -> (B, C', T, H', W')."""

    def forward(self, input: Tensor, stream: Stream | None = None) -> Tensor:
        return unfold_frames(super().forward(fold_frames(input)), input.shape[0])


class CausalConv3d(nn.Module):
    """A 3D convolution whose output at time t sees frames up to t only: time is padded in front by the first frame.

    With kernel (kt, kh, kw) and stride (st, sh, sw), T frames give 1 + (T - 1) // st; output i sees frames
    st*i - kt + 1 .. st*i. `padding` is of zeros, in space (height, width).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> None:
        super().__init__()
        assert stride[0] <= kernel[0], (
            "a stride in time beyond the kernel would skip frames that a stream can't know of"
        )
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride=stride, padding=(0, *padding), bias=bias)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W'); a chunk of a stream may give no frame (T' = 0)."""
        conv = self.conv
        if (conv.kernel_size[0] == 1 and conv.stride[0] == 1) or (stream is None and x.shape[2] == 1):
            return self._frame_by_frame(x)
        x = prepend_past(self, x, conv.kernel_size[0] - 1, stream)
        if stream is None:
            return conv(x)
        outputs = max(0, (x.shape[2] - conv.kernel_size[0]) // conv.stride[0] + 1)  # windows of kt frames, st apart
        stream.keep(self, x[:, :, outputs * conv.stride[0] :])  # from where the next window begins
        if outputs == 0:
            return x.new_empty(x.shape[0], conv.out_channels, 0, *x.shape[3:])
        return conv(x)

    def _frame_by_frame(self, x: Tensor) -> Tensor:
        """As a 2D convolution, which is faster: for one tap in time, and for an image, which every tap sees alike."""
        conv = self.conv
        stride, padding = conv.stride[1:], conv.padding[1:]
        # Weight (C', C, kt, kh, kw) -> (C', C, kh, kw).
        y = F.conv2d(fold_frames(x), conv.weight.sum(2), conv.bias, stride, padding)
        return unfold_frames(y, x.shape[0])


def convolution(width_in: int, width: int, *, flat: bool) -> FrameConv2d | CausalConv3d:
    """A convolution of kernel 3 that keeps the size: of each frame by itself if `flat`, else 3D and causal."""
    return FrameConv2d(width_in, width, 3, padding=1) if flat else CausalConv3d(width_in, width, padding=(1, 1))


def prepend_past(layer: nn.Module, x: Tensor, frames: int, stream: Stream | None) -> Tensor:
    """Put what `layer` kept in front of the chunk `x`; at the start of a clip, `frames` copies of the first frame."""
    past = None if stream is None else stream.get(layer)
    # Not `expand`: joining with it loses the memory order.
    return torch.cat([x[:, :, :1]] * frames + [x] if past is None else [past, x], dim=2)


def alike(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The chunks, each checked to have frames and, but for their number, the shape of the first one."""
    first: tuple[int, ...] | None = None
    for chunk in chunks:
        shape = tuple(chunk.shape)
        if len(shape) != 5 or shape[2] == 0:
            raise InputError(f"expected chunks (B, C, t, H, W) of at least one frame, got {shape}")
        first = first or shape
        if shape[:2] + shape[3:] != first[:2] + first[3:]:
            raise InputError(f"expected chunks that differ in their frames only; the first was {first}, then {shape}")
        yield chunk
