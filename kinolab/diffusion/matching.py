"""Distribution matching: a generator's gradient from two denoisers (Yin et al. 2024, "DMD" and "DMD2").

The KL divergence of a generator's samples from the teacher's has the gradient E[s_fake(z, t) - s_real(z, t)] with
respect to a sample, averaged over noise: s_real is the teacher's score, s_fake that of a critic trained on the
generator's own samples (DMD, eq. 3 and 7). With scores as denoisers' estimates of the clean sample the weight of the
paper (eq. 8) leaves

    gradient = (x_fake - x_real) / mean |x - x_real|

which has no alpha and no sigma in it: it is the same on every path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.diffusion.diffusion import weighted_mean


def matching_gradient(sample: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """What the loss pushes each value of a sample by; all (B, C, T, H, W).

    Args:
        sample: of the generator, clean.
        real, fake: the teacher's and the critic's estimates of it, from the same noisy version.
    """
    scale = (sample - real).abs().flatten(1).mean(1).reshape(-1, *[1] * (sample.ndim - 1))
    # A sample that the teacher gives back unchanged has nothing to be moved by: 0 in place of 0 / 0.
    return torch.where(scale == 0, 0.0, (fake - real) / scale.clamp(min=torch.finfo(scale.dtype).tiny))


def matching_loss(sample: Tensor, real: Tensor, fake: Tensor, weight: Tensor | None = None) -> Tensor:
    """(B,) a loss whose gradient with respect to `sample` is `matching_gradient` over the number of its values.

    1/2 || x - (x - g) ||^2 with x - g held fixed (DMD, appendix); its value is half the mean square of g.
    weight: (B, 1, T, H, W) of each latent; none = all alike.
    """
    with torch.no_grad():
        aim = sample - matching_gradient(sample, real, fake)
    return 0.5 * weighted_mean((sample - aim).square(), weight)
