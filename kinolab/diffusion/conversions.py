"""Every conversion between what a denoiser may predict, for any path z = alpha * sample + sigma * noise.

The predictions, with x the clean sample and e the noise:

    sample    x
    noise     e                          (Ho et al. 2020)
    v         alpha * e - sigma * x      (Salimans & Ho 2022)
    flow      e - x                      the velocity of rectified flow (Liu et al. 2022)
    edm       (sigma x / d - alpha d e) / sqrt(sigma^2 + alpha^2 d^2)      F of EDM (Karras et al. 2022, eq. 7), with
              the data's standard deviation d; with d = 1 on a variance-preserving path it is -v

`alpha` and `sigma` broadcast against the values; none of these functions checks them. Converting a noise prediction
to a sample divides by alpha, converting a sample to noise divides by sigma: neither exists where that is 0. `v`, `flow`
and `edm` convert to both everywhere, also on a path that does not preserve the variance.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["noise", "sample", "v", "flow", "edm"]
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


def edm_to_sample(f: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient, sigma_data: float = 1.0) -> Tensor:
    """x = (alpha d^2 z + sigma d n F) / n^2, with n^2 = sigma^2 + alpha^2 d^2, which is 1 on EDM's own path.

    That is c_skip y + c_out F for EDM's y = z / alpha.
    """
    total = sigma * sigma + alpha * alpha * sigma_data**2
    return (alpha * sigma_data**2 * z + sigma * sigma_data * total**0.5 * f) / total


def edm_to_noise(f: Tensor, z: Tensor, alpha: Coefficient, sigma: Coefficient, sigma_data: float = 1.0) -> Tensor:
    """e = (sigma z - alpha d n F) / n^2."""
    total = sigma * sigma + alpha * alpha * sigma_data**2
    return (sigma * z - alpha * sigma_data * total**0.5 * f) / total


def to_sample(
    value: Tensor,
    z: Tensor,
    alpha: Coefficient,
    sigma: Coefficient,
    prediction: Prediction,
    sigma_data: float = 1.0,
) -> Tensor:
    """The clean sample that a prediction of type `prediction` stands for; `sigma_data` is for edm."""
    if prediction == "noise":
        return noise_to_sample(value, z, alpha, sigma)
    if prediction == "v":
        return v_to_sample(value, z, alpha, sigma)
    if prediction == "flow":
        return velocity_to_sample(value, z, alpha, sigma)
    if prediction == "edm":
        return edm_to_sample(value, z, alpha, sigma, sigma_data)
    return value


def to_noise(
    value: Tensor,
    z: Tensor,
    alpha: Coefficient,
    sigma: Coefficient,
    prediction: Prediction,
    sigma_data: float = 1.0,
) -> Tensor:
    """The noise that a prediction of type `prediction` stands for; `sigma_data` is for edm."""
    if prediction == "sample":
        return sample_to_noise(value, z, alpha, sigma)
    if prediction == "v":
        return v_to_noise(value, z, alpha, sigma)
    if prediction == "flow":
        return velocity_to_noise(value, z, alpha, sigma)
    if prediction == "edm":
        return edm_to_noise(value, z, alpha, sigma, sigma_data)
    return value


def from_sample_and_noise(
    sample: Tensor,
    noise: Tensor,
    alpha: Coefficient,
    sigma: Coefficient,
    prediction: Prediction,
    sigma_data: float = 1.0,
) -> Tensor:
    """The value of type `prediction` for a known clean sample and noise: the target of training."""
    if prediction == "noise":
        return noise
    if prediction == "v":
        return alpha * noise - sigma * sample
    if prediction == "flow":
        return noise - sample
    if prediction == "edm":
        total = sigma * sigma + alpha * alpha * sigma_data**2
        return (sigma / sigma_data * sample - alpha * sigma_data * noise) / total**0.5
    return sample


def convert(
    value: Tensor,
    z: Tensor,
    alpha: Coefficient,
    sigma: Coefficient,
    source: Prediction,
    target: Prediction,
    sigma_data: float = 1.0,
) -> Tensor:
    """A prediction of type `source` as one of type `target`; the same tensor where the two are equal."""
    if source == target:
        return value
    if target == "sample":
        return to_sample(value, z, alpha, sigma, source, sigma_data)
    if target == "noise":
        return to_noise(value, z, alpha, sigma, source, sigma_data)
    sample = to_sample(value, z, alpha, sigma, source, sigma_data)
    noise = to_noise(value, z, alpha, sigma, source, sigma_data)
    return from_sample_and_noise(sample, noise, alpha, sigma, target, sigma_data)


def sample_gain(alpha: Tensor, sigma: Tensor, prediction: Prediction, sigma_data: float = 1.0) -> Tensor:
    """|d sample / d prediction| at fixed z: an error in the prediction times this is the error in the clean sample."""
    if prediction == "noise":
        return sigma / alpha
    if prediction == "v":
        return sigma / (alpha.square() + sigma.square())
    if prediction == "flow":
        return sigma / (alpha + sigma)
    if prediction == "edm":
        return sigma * sigma_data / (sigma.square() + (alpha * sigma_data).square()).sqrt()
    return torch.ones_like(alpha)
