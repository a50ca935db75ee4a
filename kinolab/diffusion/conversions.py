"""Every conversion between what a denoiser may predict, for any path z = alpha * sample + sigma * noise.

The four predictions, with x the clean sample and e the noise:

    sample    x
    noise     e                          (Ho et al. 2020)
    v         alpha * e - sigma * x      (Salimans & Ho 2022)
    flow      e - x                      the velocity of rectified flow (Liu et al. 2022)

`alpha` and `sigma` broadcast against the values; none of these functions checks them. Converting a noise prediction
to a sample divides by alpha, converting a sample to noise divides by sigma: neither exists where that is 0. `v` and
`flow` convert to both everywhere, also on a path that does not preserve the variance.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["noise", "sample", "v", "flow"]
Coefficient = Tensor | float


def noise_to_sample(noise: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """x = (z - sigma e) / alpha."""
    return (z - sigma * noise) / alpha


def sample_to_noise(sample: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """e = (z - alpha x) / sigma."""
    return (z - alpha * sample) / sigma


def v_to_sample(v: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """x = (alpha z - sigma v) / (alpha^2 + sigma^2); the denominator is 1 on a variance-preserving path."""
    return (alpha * z - sigma * v) / (alpha * alpha + sigma * sigma)


def v_to_noise(v: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """e = (sigma z + alpha v) / (alpha^2 + sigma^2)."""
    return (sigma * z + alpha * v) / (alpha * alpha + sigma * sigma)


def velocity_to_sample(velocity: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """x = (z - sigma u) / (alpha + sigma); the denominator is 1 on a rectified-flow path."""
    return (z - sigma * velocity) / (alpha + sigma)


def velocity_to_noise(velocity: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """e = (z + alpha u) / (alpha + sigma)."""
    return (z + alpha * velocity) / (alpha + sigma)


def to_sample(value: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient, prediction: Prediction) -> Tensor:
    """The clean sample that a prediction of type `prediction` stands for."""
    if prediction == "noise":
        return noise_to_sample(value, z, alpha, sigma)
    if prediction == "v":
        return v_to_sample(value, z, alpha, sigma)
    if prediction == "flow":
        return velocity_to_sample(value, z, alpha, sigma)
    return value


def to_noise(value: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient, prediction: Prediction) -> Tensor:
    """The noise that a prediction of type `prediction` stands for."""
    if prediction == "sample":
        return sample_to_noise(value, z, alpha, sigma)
    if prediction == "v":
        return v_to_noise(value, z, alpha, sigma)
    if prediction == "flow":
        return velocity_to_noise(value, z, alpha, sigma)
    return value


def from_sample_and_noise(
    sample: Tensor, noise: Tensor, alpha: Coefficient, sigma: Coefficient, prediction: Prediction
) -> Tensor:
    """The value of type `prediction` for a known clean sample and noise: the target of training."""
    if prediction == "noise":
        return noise
    if prediction == "v":
        return alpha * noise - sigma * sample
    if prediction == "flow":
        return noise - sample
    return sample


def convert(
    value: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient, source: Prediction, target: Prediction
) -> Tensor:
    """A prediction of type `source` as one of type `target`; the same tensor where the two are equal."""
    if source == target:
        return value
    if target == "sample":
        return to_sample(value, z, alpha, sigma, source)
    if target == "noise":
        return to_noise(value, z, alpha, sigma, source)
    sample = to_sample(value, z, alpha, sigma, source)
    noise = to_noise(value, z, alpha, sigma, source)
    return from_sample_and_noise(sample, noise, alpha, sigma, target)


def sample_gain(alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
    """|d sample / d prediction| at fixed z: an error in the prediction times this is the error in the clean sample."""
    if prediction == "noise":
        return sigma / alpha
    if prediction == "v":
        return sigma / (alpha.square() + sigma.square())
    if prediction == "flow":
        return sigma / (alpha + sigma)
    return torch.ones_like(alpha)
