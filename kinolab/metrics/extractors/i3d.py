"""I3D: Inception v1 inflated to 3D, trained on Kinetics-400 (Carreira & Zisserman 2017), the network of FVD.

Two public files hold it. `rgb_imagenet.pt` (pytorch-i3d's `InceptionI3d(400)`) is a dictionary of tensors that `I3d`
below reads. `i3d_torchscript.pt` (StyleGAN-V's FVD, a copy of the network that the first FVD took from TF Hub) is a
TorchScript network that brings its own code. Their weights differ, and so do their scores: the hash tells them apart.

Shapes: B clips, C channels, T frames, H height, W width. Frames are RGB in [-1, 1].
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.extractors.base import Extractor
from kinolab.metrics.extractors.public import PublicSpec, read_network
from kinolab.metrics.weights import checked_hash, is_torchscript
from kinolab.runtime.text import first_line

CLASSES = 400
WIDTH = 1024
I3dOutput = Literal["logits", "features"]

MIXED: dict[str, tuple[int, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Blocks in order: channels in, and the widths of the convolutions b0, b1a, b1b, b2a, b2b, b3b."""


def pad_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zeros around (B, C, T, H, W) as TensorFlow's SAME has them: the odd one goes to the end.

    The zeros may be pooled over as well: every pooled activation here comes out of a ReLU.
    """
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads)


def pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maximum pooling of (B, C, T, H, W) with SAME padding."""
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution with SAME padding, batch normalisation (eps 1e-3) and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W'), sides divided by the stride and rounded up."""
        return F.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))))


class Mixed(nn.Module):
    """Four branches side by side: 1x1x1; 1x1x1 then 3x3x3, twice; maximum pooling then 1x1x1."""

    def __init__(self, channels_in: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(channels_in, b0, 1)
        self.b1a, self.b1b = Unit(channels_in, b1a, 1), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(channels_in, b2a, 1), Unit(b2a, b2b, 3)
        self.b3b = Unit(channels_in, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, sum of the last widths, T, H, W)."""
        pooled = self.b3b(pool_same(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], dim=1)


class Head(nn.Module):
    """The classifier: a 1x1x1 convolution with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(WIDTH, CLASSES, 1)


class I3d(nn.Module):
    """The RGB network, with the names of pytorch-i3d's file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (channels_in, widths) in MIXED.items():
            self.add_module(name, Mixed(channels_in, widths))
        self.logits = Head()

    def pooled(self, video: Tensor) -> Tensor:
        """(B, 3, T, 224, 224) -> (B, 1024, T'): averages over 2 steps and 7 x 7 positions, T' = ceil(T / 8) - 1."""
        x = pool_same(self.Conv3d_1a_7x7(video), (1, 3, 3), (1, 2, 2))
        x = pool_same(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                x = pool_same(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = pool_same(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        return F.avg_pool3d(x, (2, 7, 7), stride=1).flatten(2)

    def classify(self, pooled: Tensor) -> Tensor:
        """(B, 1024, T') -> logits (B, 400, T')."""
        conv = self.logits.conv3d
        return F.conv1d(pooled, conv.weight.flatten(2), conv.bias)


class I3dExtractor(Extractor):
    """I3D by the native module, from `rgb_imagenet.pt`.

    output: "logits" (400, as the reference implementations of FVD use) or "features" (1024, the pooled activations
    before the classifier); both averaged over time. Clips need 9 frames: 8 become one step, and 2 are averaged.
    """

    spec: PublicSpec

    def __init__(self, network: I3d, sha256: str, output: I3dOutput = "logits") -> None:
        super().__init__()
        self.network = network
        width = CLASSES if output == "logits" else WIDTH
        self.spec = PublicSpec("i3d", sha256, "clip", width, CLASSES, min_frames=9, output=output)

    @classmethod
    def load(cls, path: Path, *, sha256: str | None = None, output: I3dOutput = "logits") -> I3dExtractor:
        """Read pytorch-i3d's file; raises InputError for another file or hash."""
        if path.is_file() and is_torchscript(path):
            raise InputError(f"{path}: a TorchScript network; i3d reads rgb_imagenet.pt, i3d_torchscript reads this")
        network, digest = read_network(I3d, path, sha256)
        return cls(network, digest, output).eval()

    def features(self, video: Tensor) -> Tensor:
        """Prepared clips (B, 3, T, 224, 224) -> (B, width)."""
        pooled = self.network.pooled(video)
        return (self.network.classify(pooled) if self.spec.output == "logits" else pooled).mean(2)

    @torch.no_grad()
    def probabilities(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> probabilities of the 400 classes of Kinetics (B, 400)."""
        return self.network.classify(self.network.pooled(self.prepare(video))).mean(2).softmax(1)


class I3dTorchScript(Extractor):
    """I3D from StyleGAN-V's `i3d_torchscript.pt`: 400 logits per clip.

    The network is called as StyleGAN-V's FVD calls it, with return_features=True, which gives the logits before the
    softmax. own_resize: frames go to the network as they are and it resizes them itself (resize=True, bilinear without
    antialiasing), as there; else they get the antialiased filter of all extractors first. The two differ for frames
    larger than 224 pixels. Clips need 10 frames: the file pads time otherwise than the native module.
    """

    def __init__(self, network: Any, sha256: str, own_resize: bool = True) -> None:
        super().__init__()
        self.network = network
        self.own_resize = own_resize
        settings = (("extractor_resize", "bilinear, not antialiased, by the network"),) if own_resize else ()
        self.spec = PublicSpec(
            "i3d_torchscript", sha256, "clip", CLASSES, CLASSES, min_frames=10, output="logits", settings=settings
        )

    @classmethod
    def load(cls, path: Path, *, sha256: str | None = None, own_resize: bool = True) -> I3dTorchScript:
        """Read the TorchScript file; raises InputError for another file or hash.

        TorchScript is code that runs in torch's own interpreter: give the hash where the file comes from elsewhere.
        """
        digest = checked_hash(path, sha256)
        if not is_torchscript(path):
            raise InputError(f"{path}: not a TorchScript network; a file of tensors (rgb_imagenet.pt) is read by i3d")
        with warnings.catch_warnings():  # torch advises against TorchScript, but published scores hang on this file
            warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
            try:
                network = torch.jit.load(path, map_location="cpu")
            except RuntimeError as error:
                raise InputError(f"{path}: damaged TorchScript file ({first_line(error)})") from None
        arguments = {argument.name for argument in network.forward.schema.arguments}
        if not {"rescale", "resize", "return_features"} <= arguments:
            raise InputError(
                f"{path}: expected StyleGAN-V's I3D with the arguments rescale, resize and return_features, "
                f"got {', '.join(sorted(arguments - {'self'}))}"
            )
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        return cls(network, digest, own_resize).eval()

    def prepare(self, video: Tensor) -> Tensor:
        """Check and clamp clips; resize them unless the network does."""
        return self.check(video) if self.own_resize else super().prepare(video)

    def features(self, video: Tensor) -> Tensor:
        """Prepared clips (B, 3, T, H, W) -> logits (B, 400)."""
        logits: Tensor = self.network(video, rescale=False, resize=self.own_resize, return_features=True)
        return logits

    @torch.no_grad()
    def probabilities(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> probabilities of the 400 classes of Kinetics (B, 400)."""
        return self.features(self.prepare(video)).softmax(1)
