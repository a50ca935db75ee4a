"""The variational bound of a discrete schedule with a learned variance (Nichol & Dhariwal 2021, section 3.1).

The network's second half of channels, in about [-1, 1], interpolates the log variance between the posterior's and
beta's. `chain` is the rising list of timesteps that are in use: all of them, or the respaced ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kinolab.diffusion.path import DiscretePath


def chain_neighbours(t: Tensor, chain: Tensor, clean_time: float) -> tuple[Tensor, Tensor, Tensor]:
    """For each time in `chain`: the next cleaner time, and the pair whose posterior variance is its lower bound.

    The cleanest time has posterior variance 0, whose log is -inf; as in the reference it borrows the next one's.
    """
    index = torch.searchsorted(chain, t.to(chain))
    if not torch.equal(chain[index.clamp(max=len(chain) - 1)], t.to(chain)):
        raise ValueError(f"times {t.tolist()} are not all in the chain of {len(chain)} timesteps")
    padded = torch.cat([chain.new_full((1,), clean_time), chain])
    bounded = index.clamp(min=1).clamp(max=len(chain) - 1)
    return padded[index], chain[bounded], padded[bounded]


def learned_log_variance(values: Tensor, log_minimum: Tensor | float, log_maximum: Tensor | float) -> Tensor:
    """Eq. 15: a log variance between `log_minimum` (values = -1) and `log_maximum` (values = 1)."""
    share = (values + 1.0) / 2.0
    return share * log_maximum + (1.0 - share) * log_minimum


def mean_and_log_variance(
    path: DiscretePath, z: Tensor, sample: Tensor, values: Tensor, t: Tensor, chain: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and log variance of p(z_s | z_t) for the estimate `sample` and the raw learned variance `values`."""
    s, upper, lower = chain_neighbours(t.detach().cpu(), chain, path.clean_time)
    q = path.posterior(t, s)
    mean = _cast(q.z, z) * z + _cast(q.sample, z) * sample
    floor = path.posterior(upper, lower).variance
    # The bounds are cast after the log: 1e-8 and the like keep their digits in float32.
    return mean, learned_log_variance(values, _cast(floor.log(), z), _cast(q.transition.log(), z))


def bound(
    path: DiscretePath,
    clean: Tensor,
    z: Tensor,
    sample: Tensor,
    values: Tensor,
    t: Tensor,
    chain: Tensor | None = None,
) -> Tensor:
    """One term of the bound in bits per element, (B,): a KL divergence, or the decoder's likelihood at the last step.

    As in DiT and Latte the decoder's likelihood is that of 8-bit values in [-1, 1], for latents too.

    Args:
        path: the schedule.
        clean: the true sample; `sample` is the network's estimate of it, both (B, ...).
        z: the noisy input at times `t` (B,).
        values: the raw learned variance, (B, ...).
        chain: rising timesteps in use; all of them by default.
    """
    chain = torch.arange(path.num_steps, dtype=torch.float64) if chain is None else chain.double()
    mean, log_variance = mean_and_log_variance(path, z, sample, values, t, chain)
    # Values of -1 give the variance of the true posterior, the lower end of eq. 15.
    true_mean, true_log_variance = mean_and_log_variance(path, z, clean, torch.full_like(values, -1.0), t, chain)
    divergence = normal_kl(true_mean, true_log_variance, mean, log_variance)
    likelihood = discretised_log_likelihood(clean, mean, 0.5 * log_variance)
    first = (t == chain[0].to(t)).to(z.device).reshape(-1, *[1] * (z.ndim - 1))  # times may be drawn on the CPU
    return torch.where(first, -likelihood, divergence).flatten(1).mean(1) / math.log(2.0)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) in nats, per element."""
    gap = log_variance1 - log_variance2
    return 0.5 * (gap.exp() - 1.0 - gap + (mean1 - mean2).square() * torch.exp(-log_variance2))


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the probability that a Gaussian puts on the 8-bit bin around `x`; the outer bins reach to infinity."""
    inverse = torch.exp(-log_scale)
    upper = _normal_cdf((x - mean + 1.0 / 255.0) * inverse)
    lower = _normal_cdf((x - mean - 1.0 / 255.0) * inverse)
    inside = (upper - lower).clamp(min=1e-12).log()
    left, right = upper.clamp(min=1e-12).log(), (1.0 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, left, torch.where(x > 0.999, right, inside))


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation that the reference systems were trained with."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))


def _cast(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample float64 coefficients (B,) in the dtype and device of `like`, shaped to broadcast."""
    return values.to(like.dtype).to(like.device).reshape(-1, *[1] * (like.ndim - 1))
