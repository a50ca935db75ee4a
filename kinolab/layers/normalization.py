"""Group normalisation of videos: per frame (each frame by itself) or per clip (over all frames)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormScope = Literal["frame", "clip"]


def fast_layout(video: Tensor) -> Tensor:
    """The same video in the memory order that the convolutions here are fastest in.

    On a CPU that is channels last: frames are then adjacent in memory, so that folding time into the batch, joining
    chunks in time and normalising per frame copy nothing. CUDA's GroupNorm wants channels first.
    """
    cpu = video.device.type == "cpu"
    return video.contiguous(memory_format=torch.channels_last_3d if cpu else torch.contiguous_format)


def like(x: Tensor, y: Tensor) -> Tensor:
    """The video `y` in the memory order of the video `x`."""
    last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return y.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W); a view of a channels-last video, else one copy."""
    B, C, T, H, W = x.shape
    return x.transpose(1, 2).reshape(B * T, C, H, W)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W) as a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x); in place where no gradient is recorded, so that `x` must be owned by the caller."""
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def add(h: Tensor, x: Tensor) -> Tensor:
    """h + x; in place where no gradient is recorded, so that `h` must be owned by the caller."""
    return h + x if torch.is_grad_enabled() or h.dtype != x.dtype else h.add_(x)


class GroupNorm(nn.GroupNorm):
    """Group normalisation of (N, C, H, W) images or (B, C, T, H, W) videos.

    `scope="frame"` takes the statistics of a video frame by frame, which keeps a causal model causal; "clip" takes
    them over all frames at once, as the published OD-VAE weights do. Images have one frame: both are the same.
    """

    def __init__(self, groups: int, channels: int, *, scope: NormScope = "frame", eps: float = 1e-6) -> None:
        super().__init__(groups, channels, eps=eps)
        self.scope = scope

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == 4:
            return self.of_images(input)
        if self.scope == "clip":
            # Frames below each other: one tall image has the same statistics, and a channels-last form that is fast.
            return self.of_images(input.flatten(2, 3)).unflatten(2, input.shape[2:4])
        return unfold_frames(self.of_images(fold_frames(input)), input.shape[0])

    def of_images(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) normalised, each by itself."""
        if torch.is_grad_enabled() and self.weight.requires_grad and not images.requires_grad:
            # Behind frozen layers: of channels-last images PyTorch's backward pass writes the input's gradient even
            # where nobody asked for it, to no address (torch 2.13, on a processor).
            found = super().forward(images.clone(memory_format=torch.contiguous_format))
            last = images.is_contiguous(memory_format=torch.channels_last)
            return found.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return super().forward(images)
