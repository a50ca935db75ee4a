"""Progressive distillation (Salimans & Ho 2022): what a student of N steps learns from a teacher of 2N.

From z at time t the teacher takes two steps of DDIM, to the middle and to the end of the student's one. The target is
the clean sample that brings the student there at once. On any Gaussian path z = alpha x + sigma e, a DDIM step goes to

    z' = alpha' x + (sigma' / sigma) (z - alpha x),

so that from z'' at the end (appendix G)

    x* = (z'' - (sigma'' / sigma) z) / (alpha'' - (sigma'' / sigma) alpha).

In the last step, where the end is clean, x* is z'', the teacher's own estimate in its second step.

Shapes: z, x (B, ...); alpha and sigma broadcast against them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from kinolab.diffusion.conversions import sample_gain, sample_to_noise
from kinolab.diffusion.diffusion import Diffusion

Weight = Literal["constant", "snr", "truncated", "snr_plus_one"]
"""Of the squared error of the clean sample, by the signal-to-noise ratio: 1, SNR (that of the noise), max(SNR, 1), or
SNR + 1 (that of v)."""
Estimate = Callable[[Tensor, Tensor], Tensor]
"""estimate(z, t): z (B, ...), noisy at times t (B,), in the path's units -> the clean sample, of the shape of z."""
Level = tuple[Tensor, Tensor]
"""alpha and sigma."""


def ddim_step(sample: Tensor, z: Tensor, now: Level, then: Level) -> Tensor:
    """z at the level `then`, along the line from z at the level `now` to its clean sample."""
    return then[0] * sample + then[1] * sample_to_noise(sample, z, *now)


def jump_target(z: Tensor, end: Tensor, now: Level, then: Level) -> Tensor:
    """The clean sample by which one step of DDIM from z at the level `now` comes to `end`, at the level `then`."""
    ratio = then[1] / now[1]
    return (end - ratio * z) / (then[0] - ratio * now[0])


def two_step_target(diffusion: Diffusion, estimate: Estimate, z: Tensor, times: Tensor) -> Tensor:
    """x* for z (B, ...) at times[0] of `times` (3, B): where a student's step begins, its middle, and where it ends."""
    levels = [diffusion.coefficients(t, z) for t in times]
    middle = ddim_step(estimate(z, times[0]), z, levels[0], levels[1])
    end = ddim_step(estimate(middle, times[1]), middle, levels[1], levels[2])
    return jump_target(z, end, levels[0], levels[2])


def sample_weight(weight: Weight, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The weight of the squared error of the clean sample, float64 like alpha and sigma."""
    snr = (alpha / sigma).square()
    if weight == "snr":
        return snr
    if weight == "truncated":
        return snr.clamp(min=1.0)
    return snr + 1.0 if weight == "snr_plus_one" else torch.ones_like(snr)


def distance(diffusion: Diffusion, prediction: Tensor, target: Tensor, t: Tensor, weight: Weight) -> Tensor:
    """The weighted squared error of a prediction (B, C, T, H, W), element by element.

    It is the error of the clean sample by its weight, computed from that of the prediction, which nothing is subtracted
    from at small sigma. Both are of the diffusion's type, at times t (B,).
    """
    alpha, sigma = diffusion.path.alpha_sigma(t)
    gain = sample_gain(alpha, sigma, diffusion.config.prediction, diffusion.config.sigma_data)
    factor = (sample_weight(weight, alpha, sigma) * gain.square()).to(prediction.dtype).to(prediction.device)
    return factor.view(-1, *[1] * (prediction.ndim - 1)) * (prediction - target).square()


def as_prediction(diffusion: Diffusion, sample: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """What a denoiser predicts whose clean sample for z at times t (B,) is `sample`, in the diffusion's type."""
    return diffusion.target(sample, sample_to_noise(sample, z, *diffusion.coefficients(t, z)), t)
