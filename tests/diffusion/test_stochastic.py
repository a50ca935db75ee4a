"""The stochastic sampler of distilled models: a step twice as long, then noise back to where the next step begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinolab.diffusion import SAMPLERS, Denoised, SamplerConfig
from kinolab.diffusion.path import DiscretePath, FlowPath, LogSnrPath, NoisePath, cosine_betas
from tests.closeness import assert_close, assert_same

PATHS: dict[str, NoisePath] = {
    "flow": FlowPath(), "log_snr": LogSnrPath(), "cosine": DiscretePath(cosine_betas(1000), zero_terminal_snr=True)
}  # fmt: skip
MEAN, SPREAD = 0.5, 0.4


def take(name: str, denoise: object, z: Tensor, times: Tensor, path: NoisePath, seed: int = 7) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    sample = SAMPLERS.get(name).sample
    return sample(denoise, z, times, path=path, config=SamplerConfig(name=name), generator=source)  # type: ignore[arg-type]


def width(path: NoisePath, t: float) -> float:
    alpha, sigma = path.scalars(t)
    return float((alpha**2 * SPREAD**2 + sigma**2) ** 0.5)


@pytest.mark.parametrize("name", PATHS)
def test_a_perfect_student_keeps_the_distribution_in_few_steps(name: str) -> None:
    """A student that jumps to the end of its long step exactly, for Gaussian data, whose every level is known."""
    path, N = PATHS[name], 4
    times = path.times(N, "trailing")
    seen: list[tuple[float, Tensor]] = []

    def denoise(z: Tensor, t: float) -> Denoised:
        seen.append((t, z))
        s = float(times[min([float(time) for time in times].index(t) + 2, N)])
        (alpha, sigma), (alpha_s, sigma_s) = path.scalars(t), path.scalars(s)
        end = alpha_s * MEAN + width(path, s) / width(path, t) * (z - alpha * MEAN)
        ratio = sigma_s / sigma
        return Denoised((end - ratio * z) / (alpha_s - ratio * alpha))

    noise = torch.randn(40_000, 1, 1, 1, 1, dtype=torch.float64)
    made = take("stochastic", denoise, noise, times, path)
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.02) and float(made.std()) == pytest.approx(SPREAD, rel=0.03)
    for t, z in seen:
        assert float(z.std()) == pytest.approx(width(path, t), rel=0.03)
        assert float(z.mean()) == pytest.approx(path.scalars(t)[0] * MEAN, abs=0.03)
    # Noise of its own: steps of DDIM from the same start end elsewhere.
    assert float((take("stochastic", denoise, noise, times, path, seed=8) - made).abs().mean()) > 0.05


def test_one_step_is_ddims_and_the_last_step_too() -> None:
    path, z = FlowPath(), torch.randn(3, 1, 1, 2, 2, dtype=torch.float64)

    def denoise(z: Tensor, t: float) -> Denoised:
        return Denoised(torch.tanh(z))

    once = path.times(1)
    assert_same(take("stochastic", denoise, z, once, path), take("ddim", denoise, z, once, path))
    times, source = path.times(2), torch.Generator().manual_seed(7)
    noise = torch.randn(z.shape, generator=source, dtype=z.dtype)
    # Two steps: to the clean sample at once, noise back to the middle, and from there DDIM.
    middle = 0.5 * torch.tanh(z) + 0.5 * noise
    assert_close(take("stochastic", denoise, z, times, path), torch.tanh(middle))
