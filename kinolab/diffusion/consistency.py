"""Consistency functions in latents (Song et al. 2023; Luo et al. 2023, Latent Consistency Models, "LCM").

f(z, t) maps every point of a trajectory of the probability-flow ODE to where that trajectory ends, the clean sample. A
denoiser becomes one by its estimate x of the clean sample, with the boundary built in (LCM, section 3 and eq. 9):

    f(z, t) = c_skip(t) z + c_out(t) x(z, t),     c_skip = d^2 / (r^2 + d^2),     c_out = r / sqrt(r^2 + d^2)

with d = 0.5 and r = 10 k, where k counts thousandths of the path from the clean end (LCM's timestep), so that f is z
where nothing is left to remove. Nothing here depends on the kind of path: discrete schedules, rectified flow and EDM
alike have a fraction, alpha and sigma at every time.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kinolab.diffusion.diffusion import weighted_mean
from kinolab.diffusion.path import NoisePath

Distance = Literal["huber", "squared"]
SIGMA_DATA = 0.5
"""d of the boundary condition, in LCM as in EDM."""
TIME_SCALE = 10.0
"""By which LCM's timesteps are multiplied, so that f leaves z behind within the first thousandth."""
UNITS = 1000.0
"""LCM's timesteps, in the whole path."""


def boundary(path: NoisePath, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out at times t (any shape): float64, on the CPU; (1, 0) at the clean end, (0, 1) far from it."""
    times = torch.as_tensor(t, dtype=torch.float64).detach().cpu()
    fractions = torch.tensor([path.fraction(float(u)) for u in times.flatten()], dtype=torch.float64)
    r = TIME_SCALE * UNITS * fractions.clamp(0, 1).reshape(times.shape)
    return SIGMA_DATA**2 / (r.square() + SIGMA_DATA**2), r / (r.square() + SIGMA_DATA**2).sqrt()


def consistency_function(sample: Tensor, z: Tensor, t: Tensor, path: NoisePath) -> Tensor:
    """f(z, t) of an estimate of the clean sample; sample and z (B, C, T, H, W), t (B,).

    z stands in it as it would at the clean end: EDM's path has its samples at another scale than 1 there.
    """
    c_skip, c_out = (_like(c, z) for c in boundary(path, t))
    clean = path.scalars(path.clean_time)[0]
    return c_skip * (z if clean == 1 else z / clean) + c_out * sample


def ode_step(z: Tensor, sample: Tensor, t: Tensor, s: Tensor, path: NoisePath) -> Tensor:
    """z at times s, from z at times t, along the probability-flow ODE: one step of DDIM, which is Euler's as well.

    Sample and noise stand still: z_s = alpha_s x + sigma_s (z_t - alpha_t x) / sigma_t (Song et al. 2021, eq. 12). In
    the coordinates of any of our paths (`NoisePath.line`) that is Euler's step.

    Args:
        z, sample: (B, C, T, H, W), noisy at t and the estimate of the clean sample.
        t, s: (B,) in the path's units, s < t; s may be the clean end.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
    ratio = sigma_s / sigma_t
    return _like(alpha_s - ratio * alpha_t, z) * sample + _like(ratio, z) * z


def distance(
    found: Tensor, target: Tensor, kind: Distance, huber: float = 1e-3, weight: Tensor | None = None
) -> Tensor:
    """(B,) mean over all values of a sample: squares, or with huber sqrt(d^2 + c^2) - c (LCM's code, c = 0.001).

    weight: (B, 1, T, H, W) of each latent; none = all alike.
    """
    squared = (found - target).square()
    return weighted_mean((squared + huber**2).sqrt() - huber if kind == "huber" else squared, weight)


def _like(coefficient: Tensor, z: Tensor) -> Tensor:
    """(B,) float64 on the CPU -> (B, 1, ...) as z is."""
    dtype = torch.promote_types(z.dtype, torch.float32)
    return coefficient.to(dtype).to(z.device).reshape(-1, *[1] * (z.ndim - 1))
