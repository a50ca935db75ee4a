"""Noise paths z_t = alpha_t * sample + sigma_t * noise: discrete schedules, rectified flow and cosine log-SNR.

A path owns its time axis, in the units that denoisers are given: 0 .. num_steps - 1 for a discrete schedule (after
the clean sample, which stands at -1), and 1000 * t with t in (0, 1] for the continuous ones (the clean sample stands at
0); edm.py has EDM's. Everything here is float64 on the CPU; who uses it casts at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.layers.refined import LOG_SNR

Spacing = Literal["auto", "linspace", "trailing", "leading", "sd"]
FLOW_TIME_UNITS = 1000.0


class NoisePath:
    """Base of the paths: alpha and sigma at a time, the posterior between two times, and the times of a sampler."""

    clean_time: float
    """The time at which sigma = 0; alpha is 1 there, but for EDM's data of another deviation than 1."""

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times `t` (any shape): float64, on the CPU, of the same shape."""
        raise NotImplementedError

    def scalars(self, t: float) -> tuple[float, float]:
        """alpha and sigma at one time, as numbers: what samplers multiply tensors of any device and dtype with."""
        alpha, sigma = self.alpha_sigma(t)
        return float(alpha), float(sigma)

    def times(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        """The (steps + 1,) falling times of a sampler; the last one is `clean_time`, with spacing sd the first step."""
        raise NotImplementedError

    def fraction(self, t: float) -> float:
        """Time as a fraction: 1 is the noisiest time, 0 the cleanest."""
        raise NotImplementedError

    def at_fraction(self, fraction: Tensor) -> Tensor:
        """The times (float64) at fractions in [0, 1]; a discrete schedule takes the nearest step."""
        raise NotImplementedError

    def warp(self, uniform: Tensor) -> Tensor:
        """Training times (float64) for draws that are uniform over (0, 1)."""
        raise NotImplementedError

    def line(self, t: float) -> tuple[float, float]:
        """Scale n and place tau at time t: along tau, y = z / n moves with `slope` (x, e) where x and e stand still.

        By default those of rectified flow, n = alpha + sigma and tau = sigma / n, which are finite at zero SNR too.
        """
        alpha, sigma = self.scalars(t)
        return alpha + sigma, sigma / (alpha + sigma)

    def slope(self, sample: Tensor, noise: Tensor) -> Tensor:
        """dy / dtau for a clean sample and its noise, in the coordinates of `line`."""
        return noise - sample

    def at_level(self, level: float) -> float:
        """The time at which sigma / alpha is `level`.

        Raises:
            InputError: for a schedule of whole times, which has none for most levels.
        """
        raise InputError("churn raises the noise to any level: use schedule edm or flow, which are continuous")

    def log_snr_half(self, t: Tensor | float) -> Tensor:
        """lambda = log(alpha / sigma); -inf at zero SNR and inf at the clean sample."""
        alpha, sigma = self.alpha_sigma(t)
        return torch.log(alpha) - torch.log(sigma)

    def posterior(self, t: Tensor | float, s: Tensor | float) -> Posterior:
        """q(z_s | z_t, sample) for times s < t; holds on every Gaussian path (Kingma et al. 2021, appendix A)."""
        alpha_t, sigma_t = self.alpha_sigma(t)
        alpha_s, sigma_s = self.alpha_sigma(s)
        ratio = alpha_t / alpha_s
        transition = sigma_t.square() - (ratio * sigma_s).square()
        return Posterior(
            z=ratio * sigma_s.square() / sigma_t.square(),
            sample=alpha_s * transition / sigma_t.square(),
            variance=transition * sigma_s.square() / sigma_t.square(),
            transition=transition,
        )


@dataclass(frozen=True)
class Posterior:
    """mean = z * z_t + sample * x, with two bounds of the reverse variance: `variance` <= `transition` (beta)."""

    z: Tensor
    sample: Tensor
    variance: Tensor
    transition: Tensor


class DiscretePath(NoisePath):
    """A variance-preserving schedule of `num_steps` steps with betas (num_steps,) in float64."""

    clean_time = -1.0

    def __init__(self, betas: Tensor, *, zero_terminal_snr: bool = False) -> None:
        self.num_steps = len(betas)
        self.zero_terminal_snr = zero_terminal_snr
        alphas_bar = torch.cumprod(1.0 - betas.double(), 0)
        if zero_terminal_snr:
            alphas_bar = rescale_to_zero_terminal_snr(alphas_bar)
        padded = torch.cat([alphas_bar.new_ones(1), alphas_bar])
        self.alphas, self.sigmas = padded.sqrt(), (1.0 - padded).sqrt()

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        values = torch.as_tensor(t).detach().cpu()
        index = values.long() + 1
        if index.min() < 0 or index.max() > self.num_steps or not torch.equal(values.double() + 1, index.double()):
            raise InputError(f"expected whole times from 0 to {self.num_steps - 1}, got {values.tolist()}")
        return self.alphas[index], self.sigmas[index]

    def times(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        if not 1 <= steps <= self.num_steps:
            raise InputError(f"expected 1 to {self.num_steps} steps on this schedule, got {steps}")
        if spacing == "auto":
            spacing = "trailing" if self.zero_terminal_snr else "linspace"
        if spacing in ("leading", "sd") and self.zero_terminal_snr:
            never = f"{spacing} spacing never visits the last time, where zero-terminal SNR begins"
            raise InputError(f"{never}: use trailing or linspace")
        falling = spaced_timesteps(self.num_steps, steps, spacing)
        end = 0.0 if spacing == "sd" else self.clean_time
        return torch.tensor([*falling, end], dtype=torch.float64)

    def fraction(self, t: float) -> float:
        return t / max(self.num_steps - 1, 1)

    def at_fraction(self, fraction: Tensor) -> Tensor:
        return (fraction.double() * (self.num_steps - 1)).round()

    def warp(self, uniform: Tensor) -> Tensor:
        return (uniform.double() * self.num_steps).floor().clamp(0, self.num_steps - 1)


class FlowPath(NoisePath):
    """Rectified flow (Liu et al. 2022): alpha = 1 - t, sigma = t; times are given as 1000 * t.

    `shift` moves times towards the noise for larger videos, t' = s t / (1 + (s - 1) t) (Esser et al. 2024,
    section 5.3.2), in training and in sampling alike.
    """

    clean_time = 0.0

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        sigma = torch.as_tensor(t).detach().cpu().double() / FLOW_TIME_UNITS
        if sigma.min() < 0 or sigma.max() > 1 + 1e-6:
            raise InputError(f"expected times from 0 to {FLOW_TIME_UNITS:g}, got {(sigma * FLOW_TIME_UNITS).tolist()}")
        sigma = sigma.clamp(max=1.0)
        return 1.0 - sigma, sigma

    def times(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        if steps < 1:
            raise InputError(f"expected at least 1 step, got {steps}")
        if spacing in ("leading", "sd"):
            raise InputError(
                f"{spacing} spacing never visits t = 1, where rectified flow begins: use trailing or linspace"
            )
        if spacing != "linspace":
            return self.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)) * FLOW_TIME_UNITS
        # Stable Diffusion 3's own: down to the least of 1000 training times, which is shifted once more with the rest.
        least = float(self.shifted(torch.tensor(1.0 / FLOW_TIME_UNITS, dtype=torch.float64)))
        falling = self.shifted(torch.linspace(1, least, steps, dtype=torch.float64))
        return torch.cat([falling, falling.new_zeros(1)]) * FLOW_TIME_UNITS

    def fraction(self, t: float) -> float:
        return t / FLOW_TIME_UNITS

    def at_fraction(self, fraction: Tensor) -> Tensor:
        # At t = 0 there is nothing to denoise: the smallest time is one unit, as in a discrete schedule.
        return (fraction.double() * FLOW_TIME_UNITS).clamp(min=1.0)

    def warp(self, uniform: Tensor) -> Tensor:
        return self.shifted(uniform.double()).clamp(min=1e-5) * FLOW_TIME_UNITS

    def at_level(self, level: float) -> float:
        return FLOW_TIME_UNITS * level / (1.0 + level)

    def shifted(self, t: Tensor) -> Tensor:
        """t' = s t / (1 + (s - 1) t)."""
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)


class LogSnrPath(NoisePath):
    """The cosine schedule in continuous time: log(alpha^2 / sigma^2) = -2 log tan(a t + b) for t in (0, 1].

    Salimans & Ho 2022, Progressive Distillation; Imagen Video (Ho et al. 2022, section 2.1). It preserves the variance,
    with alpha = cos(a t + b) and sigma = sin(a t + b), and is cut off at `low` and `high`: b = atan(exp(-high / 2)),
    a = atan(exp(-low / 2)) - b. Times are given as 1000 * t; at 0 stands the clean sample itself, as the last step of a
    sampler takes it.
    """

    clean_time = 0.0

    def __init__(self, low: float = LOG_SNR[0], high: float = LOG_SNR[1]) -> None:
        if not low < high:
            raise InputError(f"log SNR: expected the least below the most, got {low:g} and {high:g}")
        self.start = math.atan(math.exp(-high / 2))
        self.length = math.atan(math.exp(-low / 2)) - self.start

    def angle(self, t: Tensor | float) -> Tensor:
        """a t + b (float64) at times in the path's units; 0 at the clean sample.

        Raises:
            InputError: for times that the schedule has not.
        """
        u = torch.as_tensor(t, dtype=torch.float64).detach().cpu() / FLOW_TIME_UNITS
        found = self.length * u + self.start
        # Up to a right angle, which lies a little behind 1: churn begins there.
        if u.min() < 0 or found.max() > math.pi / 2 + 1e-6:
            raise InputError(f"expected times from 0 to {FLOW_TIME_UNITS:g}, got {(u * FLOW_TIME_UNITS).tolist()}")
        return torch.where(u == 0, 0.0, found)

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        angle = self.angle(t)
        return torch.cos(angle), torch.sin(angle)

    def times(self, steps: int, spacing: Spacing = "auto") -> Tensor:
        if steps < 1:
            raise InputError(f"expected at least 1 step, got {steps}")
        if spacing in ("leading", "sd"):
            raise InputError(f"{spacing} spacing never visits t = 1, where the noise begins: use trailing or linspace")
        if spacing != "linspace":
            return torch.linspace(1, 0, steps + 1, dtype=torch.float64) * FLOW_TIME_UNITS
        falling = torch.linspace(1, 1 / FLOW_TIME_UNITS, steps, dtype=torch.float64)
        return torch.cat([falling, falling.new_zeros(1)]) * FLOW_TIME_UNITS

    def fraction(self, t: float) -> float:
        return t / FLOW_TIME_UNITS

    def at_fraction(self, fraction: Tensor) -> Tensor:
        return (fraction.double() * FLOW_TIME_UNITS).clamp(min=1.0)

    def warp(self, uniform: Tensor) -> Tensor:
        return uniform.double().clamp(min=1e-5) * FLOW_TIME_UNITS

    def at_level(self, level: float) -> float:
        return (math.atan(level) - self.start) / self.length * FLOW_TIME_UNITS


def resolution_shift(positions: int, base: int) -> float:
    """sqrt(m / n): the shift for m latent positions where n need none (Esser et al. 2024, eq. 23).

    At equal time more positions leave less doubt about a picture's coarse content, the standard deviation of its mean
    being sigma / alpha / sqrt(m); the shift makes it equal. Shifts of shifts multiply.
    """
    return math.sqrt(positions / base)


def shifted_times(path: NoisePath, times: Tensor, shift: float) -> Tensor:
    """Falling times of a sampler moved towards the noise: each fraction f of the path to s f / (1 + (s - 1) f).

    The last time, which is the clean sample's, stays. A discrete schedule takes the nearest of its steps.

    Raises:
        InputError: where two steps of a discrete schedule fall on one.
    """
    if shift == 1.0:
        return times
    fractions = torch.tensor([path.fraction(float(t)) for t in times[:-1]], dtype=torch.float64)
    moved = torch.cat([path.at_fraction(shift * fractions / (1.0 + (shift - 1.0) * fractions)), times[-1:]])
    if bool((moved[1:] >= moved[:-1]).any()):
        raise InputError(f"shift {shift:g}: {len(times) - 1} steps fall on fewer times of this schedule; take fewer")
    return moved


def linear_betas(num_steps: int) -> Tensor:
    """Ho et al. 2020: 1e-4 to 2e-2 over 1000 steps, scaled for other counts so that the last SNR is about the same."""
    scale = 1000.0 / num_steps
    if scale * 2e-2 >= 1.0:
        raise InputError(
            f"a linear schedule needs more than 20 steps, got {num_steps}: use more, or the cosine schedule"
        )
    return torch.linspace(scale * 1e-4, scale * 2e-2, num_steps, dtype=torch.float64)


def spaced_betas(num_steps: int, first: float, last: float, *, roots: bool) -> Tensor:
    """Betas from first to last, even in themselves or in their square roots (Rombach et al. 2022)."""
    power = 0.5 if roots else 1.0
    return torch.linspace(first**power, last**power, num_steps, dtype=torch.float64) ** (1 / power)


def cosine_betas(num_steps: int, largest: float = 0.999) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar = cos^2((t + 0.008) / 1.008 * pi / 2), betas of at most `largest`."""
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    alphas_bar = torch.cos((u + 0.008) / 1.008 * (math.pi / 2)).square()
    return (1.0 - alphas_bar[1:] / alphas_bar[:-1]).clamp(max=largest)


def rescale_to_zero_terminal_snr(alphas_bar: Tensor) -> Tensor:
    """Lin et al. 2024, algorithm 1: shift and scale sqrt(alpha_bar) so that the last is 0 and the first stays."""
    root = alphas_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def spaced_timesteps(num_steps: int, steps: int, spacing: Spacing) -> list[int]:
    """`steps` falling timesteps of a schedule of `num_steps`.

    linspace: both ends included (DiT's and Latte's respacing); trailing: from the last timestep down in equal
    strides (Lin et al. 2024, table 2); leading: from 0 up in equal whole strides, the last timestep left out; sd: the
    same from 1 up (Stable Diffusion).
    """
    if spacing == "sd":
        return [min(i * (num_steps // steps) + 1, num_steps - 1) for i in reversed(range(steps))]
    if spacing == "leading":
        return [i * (num_steps // steps) for i in reversed(range(steps))]
    if spacing == "trailing":
        return [round(num_steps - i * num_steps / steps) - 1 for i in range(steps)]
    if steps == 1:
        return [num_steps - 1]
    return [int(i) for i in np.linspace(0, num_steps - 1, steps).round()[::-1]]
