"""RIFE's network for the frame in the middle of two (Huang et al. 2022, arXiv:2011.06294), version 3 ("HD").

Three blocks, from a quarter of the size up to all of it, each correct the flow from the middle frame to both ends and
how much either end counts. Every block looks at the pair both ways round and the mean is taken, so that it does not
matter which frame comes first. Names are those of the released `flownet.pkl`, whose block for training (`block_tea`) is
left out.

Shapes: frames (N, 3, H, W) in [0, 1]; flows (N, 4, H, W), x and y in pixels from the middle to the first frame, then to
the second one; masks (N, 1, H, W), the logits of the first frame's share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = (4, 2, 1)
"""How much smaller than the frames each block sees them."""
MULTIPLE = 32
"""Sides that the blocks take; others are filled up by their border."""
WIDTH = 90
"""Channels of the released network's blocks."""
TRAINING = ("block_tea.",)
"""Beginnings of names in the released file that only training uses."""


def conv(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 x 3 and a PReLU."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.PReLU(out))


def enlarging(channels: int, out: int) -> nn.Sequential:
    """Two transposed convolutions that make sides four times as long."""
    half = channels // 2
    return nn.Sequential(
        nn.ConvTranspose2d(channels, half, 4, 2, 1), nn.PReLU(half), nn.ConvTranspose2d(half, out, 4, 2, 1)
    )


class RifeBlock(nn.Module):
    """Frames, mask and flow -> what is to be added to flow and mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(conv(11, width // 2, 2), conv(width // 2, width, 2))
        for number in range(4):
            setattr(self, f"convblock{number}", nn.Sequential(conv(width, width), conv(width, width)))
        self.conv1, self.conv2 = enlarging(width, 4), enlarging(width, 1)

    def forward(self, x: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """x (N, 7, H, W): both frames, moved, and the mask -> corrections of flow and mask."""
        seen = torch.cat([_resized(x, 1 / scale), _resized(flow, 1 / scale) / scale], 1)  # (N, 11, H / s, W / s)
        h = self.conv0(seen)
        for number in range(4):
            h = self.get_submodule(f"convblock{number}")(h) + h
        return _resized(self.conv1(h), scale) * scale, _resized(self.conv2(h), scale)


class Rife(nn.Module):
    """The frame in the middle of two."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.block0, self.block1, self.block2 = (RifeBlock(width) for _ in SCALES)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1], twice -> those in the middle."""
        H, W = first.shape[2:]
        fill = (0, -W % MULTIPLE, 0, -H % MULTIPLE)
        a, b = (F.pad(frame, fill, mode="replicate") for frame in (first, second))
        flow, mask = (a.new_zeros(len(a), channels, *a.shape[2:]) for channels in (4, 1))
        moved_a, moved_b = a, b
        for block, scale in zip((self.block0, self.block1, self.block2), SCALES, strict=True):
            there, share = block(torch.cat([moved_a, moved_b, mask], 1), flow, scale)
            back, other = block(torch.cat([moved_b, moved_a, -mask], 1), flow.roll(2, 1), scale)
            flow = flow + (there + back.roll(2, 1)) / 2
            mask = mask + (share - other) / 2
            moved_a, moved_b = moved(a, flow[:, :2]), moved(b, flow[:, 2:])
        share = mask.sigmoid()
        return (moved_a * share + moved_b * (1 - share))[:, :, :H, :W]


def moved(frames: Tensor, flow: Tensor) -> Tensor:
    """Frames (N, C, H, W) seen through a flow (N, 2, H, W): the value at p is frames(p + flow(p)); beyond the border
    that of the border."""
    H, W = frames.shape[2:]
    rows, columns = torch.arange(H, device=frames.device)[:, None], torch.arange(W, device=frames.device)
    # grid_sample counts from -1 to 1, the centres of the first and the last pixel
    x, y = (columns + flow[:, 0]) * (2 / (W - 1)) - 1, (rows + flow[:, 1]) * (2 / (H - 1)) - 1
    grid = torch.stack([x, y], -1).to(frames)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _resized(x: Tensor, scale: float) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False) if scale != 1 else x
