"""A perceptual distance of frames (LPIPS, Zhang et al. 2018) over feature weights that the user has on disk.

As a metric of reconstructions (`Lpips`) and as a part of an autoencoder's loss. Nothing is downloaded. The features
are torchvision's VGG16 or AlexNet (`features.N.weight`), the linear heads those that LPIPS published
(`lin0.model.1.weight` or `lins.0.model.1.weight`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.base import Need, Setup
from kinolab.metrics.clips import ClipScores, Protocol, pixels
from kinolab.metrics.weights import LpipsConfig, file_hash, read_tensors

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""LPIPS normalises frames of [-1, 1] per channel, (x - SHIFT) / SCALE: ImageNet's statistics in that range."""


class PerceptualConfig(LpipsConfig):
    """A distance of deep features as a part of a loss."""

    network: Literal["vgg16", "alexnet"] = "vgg16"
    """The network that `features` holds."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the distance in the loss."""
    frames: int = Field(default=0, ge=0)
    """How many frames of each clip are compared in a training step, spread over the clip and moving on with every
    step; 0 = all. The features are the most expensive part of the loss."""


@dataclass(frozen=True)
class Layer:
    """One convolution with its ReLU: its number in `features.N`, whether it is compared, pooling before it."""

    index: int
    compared: bool = False
    pool: int = 0
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Network:
    """A feature network: its layers, and the smallest side of a frame that its pooling leaves anything of."""

    layers: tuple[Layer, ...]
    smallest: int


NETWORKS = {
    "vgg16": Network(
        (
            Layer(0),
            Layer(2, compared=True),
            Layer(5, pool=2),
            Layer(7, compared=True),
            Layer(10, pool=2),
            Layer(12),
            Layer(14, compared=True),
            Layer(17, pool=2),
            Layer(19),
            Layer(21, compared=True),
            Layer(24, pool=2),
            Layer(26),
            Layer(28, compared=True),
        ),
        smallest=16,
    ),
    "alexnet": Network(
        (
            Layer(0, compared=True, stride=4, padding=2),
            Layer(3, compared=True, pool=3, padding=2),
            Layer(6, compared=True, pool=3),
            Layer(8, compared=True),
            Layer(10, compared=True),
        ),
        smallest=31,
    ),
}


class PerceptualDistance(nn.Module):
    """LPIPS: squared differences of unit-length features, weighed per channel by the heads, averaged over positions.

    d(x, y) = sum_l mean_hw sum_c w_lc (f_lc(x) / |f_l(x)| - f_lc(y) / |f_l(y)|)^2, averaged over frames. Without
    heads every w_lc is 1: the plain distance of normalised features, which is not calibrated to human judgement and
    not comparable with published LPIPS values.

    The weights are frozen, non-persistent buffers: not among `parameters()`, not saved in checkpoints.
    """

    def __init__(
        self,
        network: Network,
        weights: dict[int, tuple[Tensor, Tensor]],
        heads: list[Tensor] | None = None,
        frames: int = 0,
    ) -> None:
        """weights: layer index -> (kernel (O, I, k, k), bias (O,)); heads: one (O,) per compared layer."""
        super().__init__()
        self.network = network
        self.frames = frames
        for layer in network.layers:
            kernel, bias = weights[layer.index]
            self.register_buffer(f"kernel{layer.index}", kernel.float(), persistent=False)
            self.register_buffer(f"bias{layer.index}", bias.float(), persistent=False)
        self.has_heads = heads is not None
        for i, head in enumerate(heads or ()):
            self.register_buffer(f"head{i}", head.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def load(cls, config: LpipsConfig) -> PerceptualDistance:
        """Read the weights that the config names; raises InputError for a missing file or keys, listing them."""
        network = NETWORKS[config.network]
        state = read_tensors(config.features)
        weights = _feature_weights(state, network, config)
        if config.heads is not None:
            heads = _head_weights(read_tensors(config.heads), network, weights, config.heads)
        elif any(name.startswith(("lin0.", "lins.0.")) for name in state):
            heads = _head_weights(state, network, weights, config.features)
        else:
            heads = None
        return cls(network, weights, heads, config.frames if isinstance(config, PerceptualConfig) else 0)

    def forward(self, original: Tensor, reconstruction: Tensor, *, step: int = 0) -> Tensor:
        """The mean distance (a scalar, 0 for equal clips) of two clips (B, 3, T, H, W) in [-1, 1].

        step: which of the frames are compared where `frames` limits them.
        """
        self._check(original, reconstruction)
        return self._distances(self._pick(original, step), self._pick(reconstruction, step)).mean()

    @torch.no_grad()
    def frame_distances(self, original: Tensor, reconstruction: Tensor) -> Tensor:
        """The distance of every frame, (B, T), of two clips (B, 3, T, H, W) in [-1, 1]; all frames, one at a time."""
        self._check(original, reconstruction)
        frames = zip(original.unbind(2), reconstruction.unbind(2), strict=True)
        return torch.stack([self._distances(x, y) for x, y in frames], dim=1)

    def _check(self, original: Tensor, reconstruction: Tensor) -> None:
        if original.ndim != 5 or original.shape != reconstruction.shape or original.shape[1] != 3:
            raise InputError(
                "expected two clips of one shape (B, 3, T, H, W), "
                f"got {tuple(original.shape)} and {tuple(reconstruction.shape)}"
            )
        if min(original.shape[3:]) < self.network.smallest:
            raise InputError(
                f"the perceptual distance needs frames of at least {self.network.smallest} pixels, "
                f"got {original.shape[3]} x {original.shape[4]}"
            )

    def _distances(self, x: Tensor, y: Tensor) -> Tensor:
        """Of images (N, 3, H, W) twice -> (N,)."""
        total = torch.zeros(len(x), device=x.device)
        for i, (f, g) in enumerate(zip(self._features(x), self._features(y), strict=True)):
            difference = (_unit(f) - _unit(g)).square()
            if self.has_heads:
                difference = difference * self.get_buffer(f"head{i}")
            total = total + difference.sum(1).mean((1, 2))
        return total

    def _pick(self, video: Tensor, step: int) -> Tensor:
        """The frames to compare, as images (B*T, 3, H, W)."""
        T = video.shape[2]
        if 0 < self.frames < T:
            chosen = [(i * T // self.frames + step) % T for i in range(self.frames)]
            video = video[:, :, chosen]
        return video.transpose(1, 2).flatten(0, 1)

    def _features(self, images: Tensor) -> list[Tensor]:
        """The compared activations of images (N, 3, H, W)."""
        x = (images - self.get_buffer("shift")) / self.get_buffer("scale")
        compared = []
        for layer in self.network.layers:
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, 2)
            kernel, bias = self.get_buffer(f"kernel{layer.index}"), self.get_buffer(f"bias{layer.index}")
            x = F.relu(F.conv2d(x, kernel, bias, layer.stride, layer.padding))
            if layer.compared:
                compared.append(x)
        return compared


class Lpips(ClipScores):
    """Mean LPIPS over clips, a clip's score being the mean over its frames. 0 = equal, lower is better.

    Without heads the distance is not calibrated to human judgement, and the protocol says so (`calibrated`).
    """

    name = "lpips"
    better = "lower"
    needs = frozenset[Need]({"pairs"})
    weights = "perceptual"

    def __init__(self, config: LpipsConfig) -> None:
        """Raises InputError for a missing file, or one that does not hold the network's weights."""
        super().__init__()
        self.distance = PerceptualDistance.load(config)
        self._files: Protocol = {"network": config.network, "features_sha256": file_hash(config.features)}
        if config.heads is not None:
            self._files["heads_sha256"] = file_hash(config.heads)

    @classmethod
    def build(cls, setup: Setup) -> Lpips:
        """Over the protocol's weights."""
        assert setup.perceptual is not None
        return cls(setup.perceptual)

    def to(self, device: torch.device | str) -> Lpips:
        """Move the network; clips may come on any device."""
        self.distance.to(device)
        return self

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W): both float in [-1, 1], or both uint8; the reconstruction is clamped."""
        device = self.distance.get_buffer("shift").device
        x, y = (clips.to(device) for clips in pixels(original, reconstruction))
        scores = self.distance.frame_distances(x, y).cpu().double().mean(1)
        self._add(scores.tolist(), original)

    def _settings(self) -> Protocol:
        return self._files | {"calibrated": self.distance.has_heads, "clamped": True}


def _unit(features: Tensor) -> Tensor:
    """Features divided by their length over channels, in float32; dead positions stay 0, with gradient 0."""
    features = features.float()
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def _feature_weights(
    state: dict[str, Tensor], network: Network, config: LpipsConfig
) -> dict[int, tuple[Tensor, Tensor]]:
    names = [f"features.{layer.index}.{part}" for layer in network.layers for part in ("weight", "bias")]
    missing = [name for name in names if name not in state]
    # torchvision's files also hold the classifier, which is not used
    foreign = [name for name in state if name not in names and not name.startswith(("classifier.", "lin"))]
    if missing or foreign:
        raise InputError(
            f"{config.features}: not the features of {config.network}; "
            f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(foreign) or 'none'}"
        )
    weights = {}
    before = 3
    for layer in network.layers:
        kernel, bias = state[f"features.{layer.index}.weight"], state[f"features.{layer.index}.bias"]
        if kernel.ndim != 4 or kernel.shape[1] != before or bias.shape != kernel.shape[:1]:
            raise InputError(
                f"{config.features}: expected features.{layer.index} to take {before} channels, "
                f"got weight {tuple(kernel.shape)} and bias {tuple(bias.shape)}"
            )
        weights[layer.index] = (kernel, bias)
        before = kernel.shape[0]
    return weights


def _head_weights(
    state: dict[str, Tensor], network: Network, weights: dict[int, tuple[Tensor, Tensor]], path: Path
) -> list[Tensor]:
    compared = [layer.index for layer in network.layers if layer.compared]
    heads, missing = [], []
    for i, index in enumerate(compared):
        head = next((state[n] for n in (f"lin{i}.model.1.weight", f"lins.{i}.model.1.weight") if n in state), None)
        width = weights[index][0].shape[0]
        if head is None:
            missing.append(f"lin{i}.model.1.weight")
        elif head.numel() != width:
            raise InputError(f"{path}: expected head {i} to weigh {width} channels, got shape {tuple(head.shape)}")
        else:
            heads.append(head.flatten())
    if missing:
        raise InputError(f"{path}: not LPIPS heads; missing: {', '.join(missing)} (or lins.N.model.1.weight)")
    return heads
