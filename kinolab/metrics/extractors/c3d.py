"""C3D: 3x3x3 convolutions on 16 frames of 112 x 112 (Tran et al. 2015), the network of the video Inception Score.

Reads the public PyTorch layout (`c3d.pickle`, Sports-1M: conv1, conv2, conv3a ... conv5b, fc6, fc7, fc8), with 487
classes or as many as the file's fc8 has (101 for a network trained on UCF101). The last pooling pads space by one
cell, so that 7 x 7 becomes 4 x 4 and fc6 takes 8192 values, as in the Caffe original.

Preprocessing: pixels on 0..255 in BGR order, as the weights come from Caffe, minus one mean per channel, by default
those of Sports-1M's mean cube (90.25, 97.66, 101.41 in BGR). The original subtracts the cube itself, a mean per
position, and crops 112 x 112 out of 128 x 171; here whole frames are resized to 112 x 112, as TGAN does for the
Inception Score, so that no border is lost. Saito et al.'s UCF101 weights come in another format and are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.extractors.base import Extractor
from kinolab.metrics.extractors.public import PublicSpec
from kinolab.metrics.weights import checked_hash, fill, read_tensors
from kinolab.runtime.modules import without_memory

FRAMES = 16
SIDE = 112
SPORTS1M_MEAN = (90.25, 97.66, 101.41)
"""Mean of Sports-1M's frames on 0..255, in BGR order."""
C3dOutput = Literal["fc6", "fc7"]

CONVOLUTIONS = {
    "conv1": (3, 64),
    "conv2": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
"""Channels in and out of the convolutions, in order."""


class C3d(nn.Module):
    """The network, with the names of the public file."""

    def __init__(self, classes: int = 487) -> None:
        super().__init__()
        for name, (channels_in, channels_out) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(channels_in, channels_out, 3, padding=1))
        self.fc6, self.fc7, self.fc8 = nn.Linear(8192, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)

    def activations(self, frames: Tensor) -> dict[str, Tensor]:
        """(B, 3, 16, 112, 112), BGR on 0..255 minus the mean -> fc6 and fc7 after ReLU (B, 4096), fc8 (B, classes)."""
        x = frames
        for name in CONVOLUTIONS:
            x = F.relu(self.get_submodule(name)(x))
            if name == "conv1":  # the first pooling leaves time alone (section 3.2)
                x = F.max_pool3d(x, (1, 2, 2))
            elif name == "conv5b":
                x = F.max_pool3d(x, 2, padding=(0, 1, 1))
            elif name not in ("conv3a", "conv4a", "conv5a"):
                x = F.max_pool3d(x, 2)
        fc6 = F.relu(self.fc6(x.flatten(1)))
        fc7 = F.relu(self.fc7(fc6))
        return {"fc6": fc6, "fc7": fc7, "fc8": self.fc8(fc7)}


class C3dExtractor(Extractor):
    """C3D: fc6 or fc7 activations (4096) of clips of exactly 16 frames, and class probabilities, softmax of fc8.

    mean: what is subtracted from pixels on 0..255, per channel in BGR order.
    """

    spec: PublicSpec

    def __init__(
        self,
        network: C3d,
        sha256: str,
        output: C3dOutput = "fc6",
        mean: tuple[float, float, float] = SPORTS1M_MEAN,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean = mean
        self.spec = PublicSpec(
            "c3d",
            sha256,
            "clip",
            4096,
            network.fc8.out_features,
            size=(SIDE, SIDE),
            min_frames=FRAMES,
            output=output,
            settings=(("extractor_mean_bgr", ", ".join(f"{m:g}" for m in mean)),),
        )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        sha256: str | None = None,
        output: C3dOutput = "fc6",
        mean: tuple[float, float, float] = SPORTS1M_MEAN,
    ) -> C3dExtractor:
        """Read the public layout; raises InputError for another file or hash. The number of classes is that of fc8."""
        digest = checked_hash(path, sha256)
        tensors = read_tensors(path)
        head = tensors.get("fc8.bias")
        with without_memory():
            network = C3d(487 if head is None or head.ndim != 1 else len(head))
        fill(network, tensors, path)
        return cls(network, digest, output, mean).eval()

    def check(self, video: Tensor) -> Tensor:
        """Clips in float32, clamped to [-1, 1]; raises InputError unless they have exactly 16 frames."""
        video = super().check(video)
        if video.shape[2] != FRAMES:
            raise InputError(f"c3d takes clips of exactly {FRAMES} frames, got {video.shape[2]}: cut them first")
        return video

    def features(self, video: Tensor) -> Tensor:
        """Prepared clips (B, 3, 16, 112, 112) -> (B, 4096)."""
        return self._activations(video)[self.spec.output]

    @torch.no_grad()
    def probabilities(self, video: Tensor) -> Tensor:
        """(B, 3, 16, H, W) -> probabilities of the classes (B, classes)."""
        return self._activations(self.prepare(video))["fc8"].softmax(1)

    def _activations(self, video: Tensor) -> dict[str, Tensor]:
        """Of prepared RGB clips in [-1, 1]."""
        mean = torch.tensor(self.mean, device=video.device).view(1, 3, 1, 1, 1)
        return self.network.activations((video.flip(1) + 1) * 127.5 - mean)
