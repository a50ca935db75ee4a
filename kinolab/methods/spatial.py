"""Super-resolution without training: reconstruction guidance by a low-resolution clip (Ho et al. 2022, Video Diffusion
Models, section 3.1, the spatial form).

The estimate is moved so that, shrunk, it looks like the clip, by the gradient through the resize and the denoiser:

    x <- x - weight * alpha_t / 2 * grad_z |x_low - down(x(z_t))|^2

Each low-resolution pixel counts as often as pixels it stands for, and pixels count as many as latents they make, so
that one weight suits every factor and every autoencoder; the paper's sum is that for a factor of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.errors import InputError
from kinolab.layers.resizing import Filter, shrink
from kinolab.methods.gradient import followed

Pixels = Callable[[Tensor], Tensor]
"""Clean latents (B, C, T', H', W') -> video (B, 3, T, H, W), with a gradient."""


class SpatialConfig(BaseConfig):
    """How far the gradient is followed, and what the low-resolution clip was made by."""

    weight: float = Field(4.0, gt=0)
    """Weight w_r of the gradient. Too high makes noise."""
    filter: Filter = "area"
    """How the made video is shrunk to be compared; all but nearest are antialiased."""


class SpatialReconstruction(Method):
    """Holds a sample to a low-resolution clip, by the gradient of the error that its shrunk estimate makes.

    Args:
        low: the clip (1 or B, 3, T, h, w) in [-1, 1]; further frames that are made are free.
        pixels: latents -> video; none = the latents are pixels.
        down: video (B, 3, T, H, W) -> (B, 3, T, h, w); none = the config's filter.
    """

    Config: ClassVar[type[BaseConfig]] = SpatialConfig
    option = "low_resolution"
    follows_gradient = True
    whole_clips = True
    config: SpatialConfig

    def __init__(
        self,
        config: SpatialConfig | None = None,
        *,
        low: Tensor,
        pixels: Pixels | None = None,
        down: Pixels | None = None,
    ) -> None:
        super().__init__(config)
        self.low, self.pixels, self.down = low, pixels, down

    def error(self, x: Tensor) -> Tensor:
        """The squared error (a scalar) of clean latents (B, C, T', H', W'), in units of latents."""
        video = x if self.pixels is None else self.pixels(x)
        frames, size = self.low.shape[2], (self.low.shape[3], self.low.shape[4])
        if frames > video.shape[2] or size[0] > video.shape[3] or size[1] > video.shape[4]:
            raise InputError(
                f"low_resolution: expected a clip of at most {video.shape[2]} frames of {video.shape[3]} x "
                f"{video.shape[4]}, as large as what is made, got {frames} of {size[0]} x {size[1]}"
            )
        shrunk = self.down(video) if self.down is not None else shrink(video, size, self.config.filter)
        stands_for = video.shape[3] * video.shape[4] / (size[0] * size[1])
        latents_of_pixel = x[0].numel() / video[0].numel()
        missing = (self.low.to(video) - shrunk[:, :, :frames]).float()
        return stands_for * latents_of_pixel * missing.square().sum()

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The same estimate held to the clip."""

        def denoise(z: Tensor, t: float) -> Denoised:
            found, gradient = followed(inner, z, t, self.error)
            alpha, _ = run.path.scalars(t)
            return replace(found, sample=found.sample - self.config.weight * alpha / 2 * gradient)

        return denoise
