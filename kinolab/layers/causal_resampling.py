"""Layers that halve or double space and time causally: T = 1 + r*k frames <-> 1 + k, the first frame by itself."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.causal_conv import CausalConv3d, FrameConv2d, Stream, prepend_past
from kinolab.layers.normalization import fold_frames, like, unfold_frames
from kinolab.layers.upsampling import double_space, double_space_time

Interpolation = Literal["nearest", "trilinear"]


class Downsample(nn.Module):
    """A strided convolution that halves the sides, and the frame rate with `time`; zeros pad right and bottom only.

    `dimensions=2` is a plain 2D convolution, 3 a 3D one (with a kernel of one frame, unless `time`).
    """

    def __init__(self, width: int, *, dimensions: int, time: bool) -> None:
        super().__init__()
        self.conv: nn.Module
        if dimensions == 2 and not time:
            self.conv = FrameConv2d(width, width, 3, stride=2)
        else:
            kt, st = (3, 2) if time else (1, 1)
            self.conv = CausalConv3d(width, width, (kt, 3, 3), stride=(st, 2, 2))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)), stream)  # W, then H: a column at the right, a row at the bottom


class TimePool(nn.Module):
    """Averages each second frame with the two frames before it; no weights."""

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = prepend_past(self, x, 2, stream)
        if stream is not None:
            outputs = max(0, (x.shape[2] - 3) // 2 + 1)  # windows of three frames, two apart
            stream.keep(self, x[:, :, 2 * outputs :])  # from where the next window begins
            if outputs == 0:
                return x[:, :, :0]
        return self.reduce(x)

    def reduce(self, x: Tensor) -> Tensor:
        """Frames (B, C, 1 + 2t, H, W) -> the t averages of three."""
        return (x[:, :, 0:-2:2] + x[:, :, 1:-1:2] + x[:, :, 2::2]) / 3  # frames 2i, 2i + 1 and 2i + 2


class ResidualTimePool(TimePool):
    """A mixture a * average + (1 - a) * convolution of the same three frames, a = sigmoid(mix_factor)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def reduce(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return torch.lerp(h, like(h, super().reduce(x)).to(h.dtype), self.mix_factor.sigmoid().to(h.dtype))


class Upsample(nn.Module):
    """Doubles the sides by nearest neighbours, then a convolution of each frame; 2D or 3D with a one-frame kernel."""

    def __init__(self, width: int, *, dimensions: int, width_out: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.conv: FrameConv2d | CausalConv3d
        if dimensions == 2:
            self.conv = FrameConv2d(width, width_out or width, 3, padding=1, bias=bias)
        else:
            self.conv = CausalConv3d(width, width_out or width, (1, 3, 3), padding=(1, 1), bias=bias)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if isinstance(self.conv, CausalConv3d):
            weight, bias = self.conv.conv.weight.squeeze(2), self.conv.conv.bias
        else:
            weight, bias = self.conv.weight, self.conv.bias
        return unfold_frames(double_space(fold_frames(x), weight, bias), x.shape[0])  # by (B * T, C', 2H, 2W)


class SpaceTimeUpsample(nn.Module):
    """Doubles the sides and the frames but the first, then a causal 3D convolution.

    "nearest" repeats; "trilinear" interpolates, which looks one frame ahead: its stream is one frame late.
    """

    def __init__(
        self, width: int, interpolation: Interpolation, *, width_out: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.time = TimeUpsample(interpolation)
        self.conv = CausalConv3d(width, width_out or width, padding=(1, 1), bias=bias)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.interpolation == "trilinear":
            frames = F.interpolate(fold_frames(x), scale_factor=2.0, mode="bilinear")
            return self.conv(self.time(unfold_frames(frames, x.shape[0]), stream), stream)
        conv = self.conv.conv
        if stream is None and x.shape[2] == 1:
            frames = double_space(x.squeeze(2), conv.weight.sum(2), conv.bias)  # an image: every tap in time sees it
            return frames.unsqueeze(2)
        first = stream is None or stream.get(self) is None
        x = prepend_past(self, x, 1, stream)
        if stream is not None:
            stream.keep(self, x[:, :, -1:])
        y = double_space_time(x, conv.weight, conv.bias)  # (B, C, 1 + T, H, W) -> (B, C', 2T, 2H, 2W)
        return y[:, :, 1:] if first else y


class TimeUpsample(nn.Module):
    """Doubles every frame but the first of a clip; no weights.

    "trilinear" interpolates linearly between the frames after the first: y[2i] = (x[i-1] + 3 x[i]) / 4 and
    y[2i+1] = (3 x[i] + x[i+1]) / 4, where the neighbour outside is the frame itself.
    """

    def __init__(self, interpolation: Interpolation) -> None:
        super().__init__()
        self.interpolation = interpolation

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        past = None if stream is None else stream.get(self)
        head, rest = (x[:, :, :1], x[:, :, 1:]) if past is None else (x[:, :, :0], x)
        if self.interpolation == "nearest":
            if stream is not None:
                stream.keep(self, x[:, :, :0])  # no frames: it only says that the clip has begun
            return like(x, torch.cat([head, rest.repeat_interleave(2, dim=2)], dim=2))
        # `past` is the last frame after the first one, or no frame while only the first one came.
        if past is not None:
            rest = torch.cat([past, rest], dim=2)
        if stream is not None:
            stream.keep(self, rest[:, :, -1:])
        if rest.shape[2] == 0:
            return head
        before, after = rest[:, :, :-1], rest[:, :, 1:]
        # y[2i+1] and y[2i+2] of each two neighbours: (B, C, n - 1, 2, H, W) -> (B, C, 2 (n - 1), H, W).
        between = torch.stack([torch.lerp(before, after, 0.25), torch.lerp(before, after, 0.75)], dim=3).flatten(2, 3)
        start = rest[:, :, :1] if past is None or past.shape[2] == 0 else rest[:, :, :0]  # y[0] = x[0], once
        end = rest[:, :, -1:] if stream is None or stream.last else rest[:, :, :0]
        return like(x, torch.cat([head, start, between, end], dim=2))


class ResidualTimeUpsample(TimeUpsample):
    """A mixture a * y + (1 - a) * causal convolution of y, where y are the doubled frames, a = sigmoid(mix_factor)."""

    def __init__(self, width: int, interpolation: Interpolation) -> None:
        super().__init__(interpolation)
        self.conv = CausalConv3d(width, width, padding=(1, 1))
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = super().forward(x, stream)
        h = self.conv(y, stream)
        return torch.lerp(h, y.to(h.dtype), self.mix_factor.sigmoid().to(h.dtype))
