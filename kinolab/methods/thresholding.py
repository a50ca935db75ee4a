"""Thresholding of the clean estimate, for models of pixels: no pixel is beyond black and white.

Guidance pushes estimates out of the range of pixels; a sampler that goes on from there makes them saturated. Static
thresholding cuts them off. Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3; Imagen Video too) divides
by a high percentile of their sizes first, so that colours keep their relations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Denoised, Method, Run


class ThresholdingConfig(BaseConfig):
    """How estimates are brought back into range."""

    kind: Literal["dynamic", "static", "none"] = "dynamic"
    """dynamic: divide by the percentile where that is above the limit; static: cut off; none: leave them."""
    percentile: float = Field(0.995, gt=0, le=1)
    """Of the sizes of one clip's values, for dynamic (Imagen: 0.995)."""
    limit: float = Field(1.0, gt=0)
    """Largest size of a value: 1 for pixels."""


class Thresholding(Method):
    """Keeps the estimate of the clean sample in range."""

    Config: ClassVar[type[BaseConfig]] = ThresholdingConfig
    config: ThresholdingConfig

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The same estimate in range."""
        if self.config.kind == "none":
            return inner

        def denoise(z: Tensor, t: float) -> Denoised:
            found = inner(z, t)
            return replace(found, sample=thresholded(found.sample, self.config))

        return denoise


def thresholded(x: Tensor, config: ThresholdingConfig) -> Tensor:
    """x (B, C, T, H, W) within -limit .. limit; a clip of which all is in range stays as it is."""
    limit = config.limit
    if config.kind == "static":
        return x.clamp(-limit, limit)
    sizes = x.detach().flatten(1).abs()
    scale = _quantile(sizes, config.percentile).clamp(min=limit).view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return x.clamp(-scale, scale) / scale * limit


def _quantile(values: Tensor, share: float) -> Tensor:
    """The quantile (B,) of values (B, N), interpolated; torch.quantile takes at most 16 million values."""
    values = values.float() if values.dtype not in (torch.float32, torch.float64) else values
    place = share * (values.shape[1] - 1)
    below = int(place)
    low = values.kthvalue(below + 1, dim=1).values
    high = values.kthvalue(min(below + 2, values.shape[1]), dim=1).values
    return low + (place - below) * (high - low)
