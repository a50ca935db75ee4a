"""Make-A-Video (Singer et al. 2022, arXiv:2209.14792): an image model that learns motion from clips without captions.

Section 3.2 makes every layer of a U-Net of images a pseudo-3D one: behind each 2-D convolution stands one over the
frames of each place, which begins as the identity, and behind attention over places stands attention over frames, whose
output begins at zero. So a fresh network is the image model frame by frame, and one frame alone is the image model ever
after. How fast a clip runs is told by its frame rate.

What a clip shows comes from the embedding of a picture (the condition `image_embedding`): in training of the clip's own
frames, in sampling of a prior that makes it of the prompt (`kinolab.training.jobs.prior`). So clips need no captions.

This is the paper's way with the U-Net of Stable Diffusion, whose weights it takes; the most used public code has a
U-Net of its own, without public weights (the kind `space_time_unet`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.layers.pseudo3d import FrameConv1d, ResidualAttention, SecondHalf
from kinolab.layers.slots import Place, Slots, TimeLayer


class MakeAVideoConfig(UnetFields):
    """The U-Net's fields and those of the layers over time."""

    kind: Literal["makeavideo"] = "makeavideo"
    num_frames: int = Field(16, ge=1)
    """Latent frames in training; others need no change of the network."""
    temporal_kernel: int = Field(3, ge=1)
    """Frames that a convolution over time reads, an odd number."""
    fps_condition: bool = True
    """Take the frame rate, embedded like the time; its last layer starts at zero, so that it changes nothing then."""

    @model_validator(mode="after")
    def _check_kernel(self) -> MakeAVideoConfig:
        if self.temporal_kernel % 2 == 0:
            raise ValueError(f"temporal_kernel: expected an odd number, got {self.temporal_kernel}")
        return self


class MakeAVideoSlots(Slots):
    """What stands where."""

    def __init__(self, config: MakeAVideoConfig) -> None:
        self.config = config

    def after_conv(self, width: int) -> TimeLayer:
        """A convolution over frames behind every one of a frame."""
        return SecondHalf(FrameConv1d(width, self.config.temporal_kernel))

    def inside_transformer(self, place: Place) -> TimeLayer:
        """Attention over frames behind that over places (with what a block reads of a prompt between the two)."""
        return SecondHalf(ResidualAttention(place.width, place.heads, place.head_size, axes=1))


class MakeAVideo(Unet):
    """A U-Net of images with pseudo-3D layers; see `MakeAVideoConfig`."""

    Config = MakeAVideoConfig
    config: MakeAVideoConfig

    def slots(self) -> Slots:
        """Convolutions and attention over time."""
        return MakeAVideoSlots(self.config)
