"""Imagen Video (Ho et al. 2022, arXiv:2210.02303): the networks of a cascade that makes a video in stages.

A base model makes a short clip of few pixels; models of temporal super-resolution put frames between, models of spatial
super-resolution enlarge them, in any order and number. All of them are one U-Net of images with layers over time
(section 2.2, figure 7): behind what every block does in each frame, the base model attends over the frames of each
place, which sees far; the others have a convolution over frames instead, which costs little at many frames and pixels
and sees as far as it needs to, between frames that are there.

What a model refines is told as the condition `low_resolution` (`kinolab.conditioning.low_resolution`), joined to the
input's channels, with noise of a level that is embedded beside the time (`noise_level`); the prompt is read at every
stage. Images are clips of one frame, which pass all layers over time by, so that they are trained on together
(section 2.5, after Video Diffusion Models). Latents or pixels (autoencoder: pixels) are alike to it.

A cascade is stages with such networks: `kinolab pack BASE --stage tsr=FOLDER --stage ssr=FOLDER`. Predict v in
continuous time (`diffusion`), threshold dynamically and let guidance oscillate (`methods`), as section 2.4 has it.

Shapes: B batch, T frames, S places of a frame, C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.layers.pseudo3d import ResidualAttention, ResidualConv1d, SecondHalf
from kinolab.layers.refined import refined_v
from kinolab.layers.slots import Place, Slots, TimeLayer

LOW, LEVEL = "low_resolution", "noise_level"
"""The conditions that say what is refined, and how noisy it is."""


class ImagenVideoConfig(UnetFields):
    """The U-Net's fields and those of the layers over time."""

    published = {"diffusion": {"schedule": "cosine", "prediction": "v"}}  # noqa: RUF012

    kind: Literal["imagen_video"] = "imagen_video"
    num_frames: int = Field(16, ge=1)
    """Latent frames in training; others need no change of the network."""
    temporal: Literal["attention", "convolution"] = "attention"
    """What stands behind every block over time: attention in the base model, convolutions in super-resolution."""
    temporal_kernel: int = Field(3, ge=3)
    """Frames that a convolution over time reads, an odd number."""
    spatial_attention: bool = True
    """Attend to the places of a frame in the transformers, as models of few pixels do. Without it they read the prompt
    alone, so that a model that was trained on crops does nothing in whole frames that it did not do in crops."""
    deviation: float | None = Field(None, gt=0, le=1)
    """Root mean square of what clips have that the enlarged clip of low resolution lacks, in latents. The network then
    adds to that clip (`kinolab.layers.refined`; ours, EDM's preconditioning around it) in place of making all of it,
    for v on the cosine log-SNR schedule. None = it makes all, as in the paper."""

    @model_validator(mode="after")
    def _check_kernel(self) -> ImagenVideoConfig:
        if self.temporal_kernel % 2 == 0:
            raise ValueError(f"temporal_kernel: expected an odd number, got {self.temporal_kernel}")
        if self.deviation is not None and (
            self.concatenated.get(LOW) != self.in_channels or self.learned_variance or self.given != "none"
        ):
            raise ValueError(
                f"deviation: is from a clip of low resolution, so it needs concatenated={{{LOW}: {self.in_channels}}}, "
                "and learns no variance and is given nothing else"
            )
        return self

    def check_diffusion(self, schedule: str, prediction: str) -> None:
        """Raises ValueError: a deviation counts with the alpha and sigma of one path."""
        if self.deviation is not None and (schedule, prediction) != ("cosine_logsnr", "v"):
            raise ValueError(
                f"denoiser.deviation is for diffusion: {{schedule: cosine_logsnr, prediction: v}}, got {schedule} and "
                f"{prediction}"
            )


class ImagenVideoSlots(Slots):
    """What stands where."""

    def __init__(self, config: ImagenVideoConfig) -> None:
        self.config = config

    def after_attention(self, place: Place) -> TimeLayer:
        """A layer over time behind every block, whether it attends to places or not; it begins as the identity."""
        if self.config.temporal == "convolution":
            return SecondHalf(ResidualConv1d(place.width, self.config.temporal_kernel))
        return SecondHalf(ResidualAttention(place.width, place.heads, place.head_size, axes=1))

    def attends_to_places(self, place: Place) -> bool:
        """As the config says, alike everywhere."""
        return self.config.spatial_attention


class ImagenVideo(Unet):
    """A U-Net of images with a layer over time behind every block; see `ImagenVideoConfig`."""

    Config = ImagenVideoConfig
    config: ImagenVideoConfig

    def __init__(self, config: ImagenVideoConfig) -> None:
        super().__init__(config)
        if not config.spatial_attention:
            self.reach = None  # type: ignore[assignment]  # no frame reads places, so a run can't say of which frames

    def slots(self) -> Slots:
        """Attention or convolutions over time."""
        return ImagenVideoSlots(self.config)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """As every U-Net's; with a `deviation`, what is predicted is added to the clip of low resolution."""
        output = super().forward(z, t, conditions, options)
        if self.config.deviation is None:
            return output
        low, level, null = conditions.tensor(LOW), conditions.tensor(LEVEL), conditions.null_of(LOW)
        if low is None:  # nothing is refined: the plain prediction, as of noise alone
            low, null = torch.zeros_like(z), torch.ones_like(t, dtype=torch.bool)
        if null is not None:
            level = torch.where(null, 1.0, torch.zeros_like(t) if level is None else level)
            low = low.masked_fill(null.view(-1, 1, 1, 1, 1), 0)
        return refined_v(output, z, t, low, level, self.config.deviation)

    @property
    def partly_used(self) -> bool:
        """Images leave the layers over time out."""
        return True
