"""ModelScope's text-to-video model (Wang et al. 2023, arXiv:2308.06571), the layout in which most people have one.

Stable Diffusion 2's U-Net. Behind every residual block stand four convolutions over frames, behind every transformer
one over the frames of each place, and one more behind the first convolution. All of them add to what they are given
and begin as nothing; their norms take the statistics of all frames of a clip.

Shapes: B batch, T frames, S places of a frame, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.layers.normalization import add
from kinolab.layers.over_time import NormedConvolution, TemporalTransformer
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer

INPUT_HEADS = 8
"""Heads of the transformer behind the first convolution, of the size that all have."""


class ModelScopeConfig(UnetFields):
    """The U-Net's fields; the released model is size sd2 with 16 frames of 32 x 32 latents."""

    kind: Literal["modelscope"] = "modelscope"
    num_frames: int = 16
    """Latent frames in training; frames have no positions, so that any number is taken."""


class TemporalConvolutions(TimeLayer):
    """Four convolutions over three frames each, the last one zero at first, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(NormedConvolution(width, groups) for _ in range(4))
        last: Any = self.convs[-1]
        nn.init.zeros_(last.conv.weight)
        nn.init.zeros_(last.conv.bias)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        h = x
        for conv in self.convs:
            h = conv(h)
        return add(h, x)


class ModelScopeSlots(Slots):
    """What stands where."""

    def __init__(self, config: UnetFields) -> None:
        self.groups = config.norm_groups

    def at_input(self, place: Place) -> TimeLayer:
        """A transformer with heads of its own number, so that it may be wider than what it is given."""
        return self._transformer(place, INPUT_HEADS)

    def after_resnet(self, place: Place) -> TimeLayer:
        """Convolutions everywhere."""
        return TemporalConvolutions(place.width, self.groups)

    def after_attention(self, place: Place) -> TimeLayer | None:
        """A transformer where there is one over places."""
        return self._transformer(place, place.heads) if place.attends else None

    def _transformer(self, place: Place, heads: int) -> TimeLayer:
        return TemporalTransformer(place.width, heads, place.head_size, self.groups, scope="clip")


class ModelScope(Unet):
    """ModelScope's video U-Net; see `ModelScopeConfig`."""

    Config = ModelScopeConfig

    def slots(self) -> Slots:
        """Convolutions and transformers over time."""
        return ModelScopeSlots(self.config)
