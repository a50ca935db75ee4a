"""Inception v3 (Szegedy et al. 2016), frame by frame: the network of FID, KID and the Inception Score.

Two public files hold it, with the same names and slightly different networks:

- `pt_inception-2015-12-05` (pytorch-fid's copy of the TensorFlow graph that FID was defined with; 1008 classes). Its
  average pools leave padded zeros out of the mean (count_include_pad=False), and the pool in Mixed_7c is a maximum.
- torchvision's `inception_v3` (1000 classes): average pools count the zeros, also in Mixed_7c. Its auxiliary
  classifier is not read. Its scores cannot be compared with published FID.

Both take RGB frames in [-1, 1] of 299 x 299. Published code resizes without antialiasing (and TensorFlow's differs
again); here frames larger than 299 pixels are antialiased (Parmar et al. 2022), and smaller ones come out the same as
by pytorch-fid's bilinear filter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.metrics.extractors.base import Extractor
from kinolab.metrics.extractors.public import PublicSpec, read_network

SIDE = 299
WIDTH = 2048
CHUNK = 16
"""How many frames go through the network at a time: memory then does not grow with the clip."""
InceptionLayout = Literal["fid", "torchvision"]
CLASSES: dict[InceptionLayout, int] = {"fid": 1008, "torchvision": 1000}
Size = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution, batch normalisation (eps 1e-3) and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return F.relu(self.bn(self.conv(x)))


def row(channels_in: int, channels_out: int, size: int) -> Conv:
    """A convolution 1 x size that keeps the size of the frame."""
    return Conv(channels_in, channels_out, (1, size), padding=(0, size // 2))


def column(channels_in: int, channels_out: int, size: int) -> Conv:
    """A convolution size x 1 that keeps the size of the frame."""
    return Conv(channels_in, channels_out, (size, 1), padding=(size // 2, 0))


class Pool(nn.Module):
    """The 3 x 3 pool at stride 1 of a block: a mean with or without the padded zeros, or a maximum."""

    def __init__(self, kind: Literal["mean", "mean_with_zeros", "max"]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if self.kind == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.kind == "mean_with_zeros")


class BlockA(nn.Module):
    """35 x 35 cells: branches of 1x1, 5x5 and twice 3x3, and the pool."""

    def __init__(self, channels_in: int, width: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(channels_in, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(channels_in, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels_in, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(channels_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 224 + width, H, W)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branches = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(self.pool(x))]
        return torch.cat(branches, 1)


class BlockB(nn.Module):
    """35 x 35 -> 17 x 17 cells."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(channels_in, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels_in, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + 480, H', W')."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17 x 17 cells: 7x7 convolutions split into rows and columns."""

    def __init__(self, width: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Conv(768, width, 1), row(width, width, 7)
        self.branch7x7_3 = column(width, 192, 7)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(768, width, 1), column(width, width, 7)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = row(width, width, 7), column(width, width, 7)
        self.branch7x7dbl_5 = row(width, 192, 7)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, H, W) -> (N, 768, H, W)."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(self.pool(x))], 1)


class BlockD(nn.Module):
    """17 x 17 -> 8 x 8 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(768, 192, 1), Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(768, 192, 1), row(192, 192, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = column(192, 192, 7), Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, H, W) -> (N, 1280, H', W')."""
        split = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), split, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8 x 8 cells: 3x3 convolutions that end in a row and a column side by side."""

    def __init__(self, channels_in: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(channels_in, 320, 1)
        self.branch3x3_1 = Conv(channels_in, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = row(384, 384, 3), column(384, 384, 3)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels_in, 448, 1), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = row(384, 384, 3), column(384, 384, 3)
        self.branch_pool = Conv(channels_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2048, H, W)."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x))]
        return torch.cat(branches, 1)


class InceptionV3(nn.Module):
    """The network, with the names of both public files."""

    def __init__(self, layout: InceptionLayout = "fid") -> None:
        super().__init__()
        mean = Pool("mean" if layout == "fid" else "mean_with_zeros")
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32, 3, 2), Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = BlockA(192, 32, mean), BlockA(256, 64, mean)
        self.Mixed_5d, self.Mixed_6a = BlockA(288, 64, mean), BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(128, mean), BlockC(160, mean)
        self.Mixed_6d, self.Mixed_6e = BlockC(160, mean), BlockC(192, mean)
        self.Mixed_7a, self.Mixed_7b = BlockD(), BlockE(1280, mean)
        self.Mixed_7c = BlockE(2048, Pool("max") if layout == "fid" else mean)
        self.fc = nn.Linear(WIDTH, CLASSES[layout])

    def pooled(self, frames: Tensor) -> Tensor:
        """RGB frames (N, 3, 299, 299) in [-1, 1] -> (N, 2048), the mean of the last activations over positions."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(frames)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


class InceptionExtractor(Extractor):
    """Inception v3: 2048 pooled features per frame, and class probabilities.

    Probabilities of the FID file are the softmax without the classifier's bias, as the Inception Score was defined
    (Salimans et al. 2016, their code); those of torchvision's file have the bias.
    """

    def __init__(self, network: InceptionV3, sha256: str, layout: InceptionLayout = "fid") -> None:
        super().__init__()
        self.network = network
        self.layout: InceptionLayout = layout
        name = "inception" if layout == "fid" else "inception_torchvision"
        self.spec = PublicSpec(name, sha256, "frame", WIDTH, CLASSES[layout], size=(SIDE, SIDE))

    @classmethod
    def load(cls, path: Path, *, sha256: str | None = None, layout: InceptionLayout = "fid") -> InceptionExtractor:
        """Read one of the two public files; raises InputError for another file or hash."""
        network, digest = read_network(lambda: InceptionV3(layout), path, sha256, ignored=("AuxLogits.",))
        return cls(network, digest, layout).eval()

    def features(self, video: Tensor) -> Tensor:
        """Prepared clips (B, 3, T, 299, 299) -> (B * T, 2048), all frames of a clip together."""
        frames = video.transpose(1, 2).flatten(0, 1)
        return torch.cat([self.network.pooled(chunk) for chunk in frames.split(CHUNK)])

    @torch.no_grad()
    def probabilities(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> probabilities of the classes (B * T, classes)."""
        bias = None if self.layout == "fid" else self.network.fc.bias
        return F.linear(self(video), self.network.fc.weight, bias).softmax(1)
