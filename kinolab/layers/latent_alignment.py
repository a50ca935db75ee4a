"""How far latents are from a reference distribution: by their moments, and by their samples.

Both are zero for equal sets of latents and need no trained part. They compare distributions, not latents one by one:
a latent may say something else than its reference, as long as all of them together look alike to a model that was
trained on the reference.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kinolab.config import Config


class AlignmentConfig(Config):
    """What keeps a video autoencoder's latents in the distribution of an image autoencoder's; 0 leaves a term out."""

    moments_weight: float = Field(0.1, ge=0)
    """Weight of the distance of each channel's mean and deviation, over a batch (see `moment_distance`)."""
    samples_weight: float = Field(0.1, ge=0)
    """Weight of the energy distance of the latent vectors of a batch (see `energy_distance`)."""
    samples: int = Field(512, ge=2)
    """Latent vectors that the energy distance is taken of, evenly spread over the batch; it costs their square."""
    image_decoder_weight: float = Field(0.1, ge=0)
    """Weight of the error of what the image decoder reads from the video latents: each one shall still be a picture of
    the last frame that it stands for (mean absolute difference of pixels)."""

    @property
    def active(self) -> bool:
        """Whether any term counts."""
        return max(self.moments_weight, self.samples_weight, self.image_decoder_weight) > 0


def moment_distance(latents: Tensor, reference: Tensor) -> Tensor:
    """(m - m')^2 + (s - s')^2 of each channel's mean and standard deviation, averaged over the channels.

    That is the squared 2-Wasserstein distance of the two normal distributions. Both (B, C, T, H, W), with at least two
    values per channel.
    """
    (m, s), (m_ref, s_ref) = (_moments(z) for z in (latents, reference))
    return ((m - m_ref).square() + (s - s_ref).square()).mean()


def _moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    flat = latents.float().transpose(0, 1).flatten(1)
    variance, mean = torch.var_mean(flat, dim=1, correction=0)
    return mean, (variance + 1e-8).sqrt()  # the gradient of a root at 0 is infinite


def energy_distance(latents: Tensor, reference: Tensor, samples: int) -> Tensor:
    """The energy distance of the two sets of latent vectors (C values at one place): 2 E|x-y| - E|x-x'| - E|y-y'|.

    Székely and Rizzo, "Energy statistics: A class of statistics based on distances" (2013). It is zero for equal sets,
    positive for others, and, unlike a kernel's distance, has no bandwidth to choose. Divided by the root of the
    number of channels, so that it means the same for 4 and 16. At most `samples` vectors of each (B, C, T, H, W) count,
    evenly spread.
    """
    x, y = (_vectors(z, samples) for z in (latents, reference))
    across, within_x, within_y = (_mean_distance(a, b) for a, b in ((x, y), (x, x), (y, y)))
    return (2 * across - within_x - within_y) / x.shape[1] ** 0.5


def _vectors(latents: Tensor, samples: int) -> Tensor:
    """(B, C, T, H, W) -> at most `samples` rows (n, C)."""
    rows = latents.float().movedim(1, -1).flatten(0, -2)  # (B * T * H * W, C)
    n = min(samples, len(rows))
    return rows[torch.arange(n, device=rows.device) * len(rows) // n]


def _mean_distance(x: Tensor, y: Tensor) -> Tensor:
    """The mean Euclidean distance of every x (n, C) from every y (m, C); smooth where two are equal."""
    squares = (x[:, None] - y[None]).square().sum(-1)
    return (squares + 1e-8).sqrt().mean()
