"""Layers over space and time that are two, one behind the other (Make-A-Video, Singer et al. 2022, section 3.2).

A pseudo-3D convolution is a convolution of each frame and then one over the frames of each place, which begins as the
identity; pseudo-3D attention is attention within each frame and then along each place's track, whose output begins at
zero. So image weights go on being an image model until the layers over time have learned something.

Shapes: B batch, C or D channels, T frames, S places of a frame, N heads of size d. Tokens are (B, T, S, D).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.attention import dot_product_attention
from kinolab.layers.normalization import fold_frames, unfold_frames
from kinolab.layers.slots import Clip, TimeLayer


class RmsNorm(nn.Module):
    """Channels of root mean square 1, times a learned scale of each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, axis: int = -1) -> Tensor:
        """x with D channels at an axis, of any shape."""
        shape = [1] * x.ndim
        shape[axis] = -1
        return F.normalize(x, dim=axis) * (x.shape[axis] ** 0.5) * self.gamma.view(shape).to(x.dtype)


class FrameConv1d(nn.Conv1d):
    """A convolution over the frames of each place, from one to the other with a kernel k; begins as the identity.

    Args:
        width: channels C.
        kernel: an odd number of frames; frames before the first and behind the last are zeros.
    """

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__(width, width, kernel, padding=kernel // 2)
        self.reset()

    def reset(self) -> None:
        """Let it be the identity: 1 from each channel to itself in the kernel's middle (`dirac`)."""
        nn.init.dirac_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def over_tracks(self, x: Tensor) -> Tensor:
        """Tokens (B, T, S, C) -> (B, T, S, C)."""
        return self._rows(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def over_video(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        return self._rows(x.flatten(3)).unflatten(3, x.shape[3:])

    def _rows(self, x: Tensor) -> Tensor:
        """x (B, C, T, S): frames as the rows of a picture, for which processors have fast kernels."""
        return F.conv2d(x, self.weight[..., None], self.bias, padding=(self.kernel_size[0] // 2, 0))


class PseudoConv3d(nn.Module):
    """A convolution of each frame, then one over frames; a kernel of one place has none over frames.

    Args:
        dim, dim_out: channels before and after. kernel: side of the kernel within a frame, an odd number.
        temporal_kernel: frames of the kernel over them.
    """

    def __init__(self, dim: int, dim_out: int, kernel: int = 3, temporal_kernel: int = 3) -> None:
        super().__init__()
        self.spatial_conv = nn.Conv2d(dim, dim_out, kernel, padding=kernel // 2)
        self.temporal_conv = FrameConv1d(dim_out, temporal_kernel) if kernel > 1 else None

    def forward(self, x: Tensor, *, time: bool = True) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W); without time each frame by itself."""
        x = unfold_frames(self.spatial_conv(fold_frames(x)), len(x))
        return self.temporal_conv.over_video(x) if time and self.temporal_conv is not None else x


class PositionBias(nn.Module):
    """A bias of attention by how far two tokens are apart on each axis, as a small network's output (Swin v2, Liu et
    al. 2021, section 3.3), so that any number of places or frames can be attended to.

    Args:
        dim: width of the network. heads: N. axes: 2 in space, 1 in time.
    """

    def __init__(self, dim: int, heads: int, axes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(axes, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, heads))

    def forward(self, sizes: Sequence[int]) -> Tensor:
        """(N, L, L) for the tokens of a grid of these sizes in row-major order: of each query (second) and key."""
        first = self.net[0]
        assert isinstance(first, nn.Linear)
        like = first.weight
        # The network is asked once for every distance there is: (2 n - 1) of them on an axis of n.
        axes = [torch.arange(1 - n, n, device=like.device) for n in sizes]
        distances = torch.cartesian_prod(*axes).view(-1, len(sizes))
        table = self.net(distances.to(like.dtype))  # (distances, N)
        places = torch.cartesian_prod(*(torch.arange(n, device=like.device) for n in sizes)).view(-1, len(sizes))
        apart = places[:, None] - places[None]  # (L, L, axes)
        index = torch.zeros_like(apart[..., 0])
        for axis, n in enumerate(sizes):
            index = index * (2 * n - 1) + apart[..., axis] + n - 1
        return table[index].permute(2, 0, 1)


class ResidualAttention(nn.Module):
    """x + attention(norm(x)), whose output begins at zero.

    Args:
        dim: D. heads, head_size: N and d. axes: 2 for places, 1 for frames, of which a bias knows the distances; 0 =
            none does, and no order is known.
    """

    def __init__(self, dim: int, heads: int, head_size: int, axes: int = 0) -> None:
        super().__init__()
        self.heads = (heads, head_size)
        inner = heads * head_size
        self.norm = RmsNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.bias = PositionBias(max(dim // 2, 1), heads, axes) if axes else None
        self.reset()

    def reset(self) -> None:
        """Let it begin as the identity."""
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Sequences (R, L, D) of grids of these sizes -> the same."""
        h = self.norm(x)
        q = self.to_q(h).unflatten(-1, self.heads).transpose(1, 2)  # (R, N, L, d)
        k, v = self.to_kv(h).unflatten(-1, (2, *self.heads)).transpose(1, 3).unbind(2)  # (R, N, 2, L, d) -> two
        bias = None if self.bias is None else self.bias(sizes)[None]  # (1, N, L, L)
        return x + self.to_out(dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))

    def over_places(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, T, S, D) of frames (H, W), each frame by itself."""
        return self(x.flatten(0, 1), grid).view_as(x)

    def over_tracks(self, x: Tensor) -> Tensor:
        """Tokens (B, T, S, D), each place by itself over all frames."""
        B, T, S, _ = x.shape
        tracks = x.transpose(1, 2).reshape(B * S, T, -1)
        return self(tracks, (T,)).unflatten(0, (B, S)).transpose(1, 2)


class ResidualConv1d(nn.Module):
    """x + convolution over the frames of each place of silu(norm(x)), whose output begins at zero.

    The norm is of each place of each frame by itself, so that nothing further away than the kernel reaches is seen.

    Args:
        dim: channels D. kernel: an odd number of frames; frames before the first and behind the last are zeros.
    """

    def __init__(self, dim: int, kernel: int = 3) -> None:
        super().__init__()
        self.norm = RmsNorm(dim)
        self.conv = FrameConv1d(dim, kernel)
        self.reset()

    def reset(self) -> None:
        """Let it begin as the identity."""
        nn.init.zeros_(self.conv.weight)

    def over_tracks(self, x: Tensor) -> Tensor:
        """Tokens (B, T, S, D) -> (B, T, S, D)."""
        return x + self.conv.over_tracks(F.silu(self.norm(x)))


class SecondHalf(TimeLayer):
    """What a pseudo-3D layer does over time, behind what it does in each frame.

    One frame alone passes by, and so do frames of which a run asks for the image model's answer.

    Args:
        layer: tokens of tracks (B, T, S, C) -> the same.
    """

    def __init__(self, layer: FrameConv1d | ResidualAttention | ResidualConv1d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        if x.shape[1] == 1:
            return x
        h = self.layer.over_tracks(x)
        return h if clip.image_only is None else torch.where(clip.image_only[..., None, None], x, h)
