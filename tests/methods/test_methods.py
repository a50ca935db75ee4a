"""What wraps a sampling run: in any order where that can be, each run by itself, several runs of one model at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.denoisers import Conditions, DiT, DiTConfig
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import (
    METHODS,
    FrameReach,
    FrameReachConfig,
    Guidance,
    GuidanceConfig,
    Held,
    SteeringConfig,
    StepCache,
    StepCacheConfig,
)
from kinolab.models import VideoModel
from tests.tiny_model import tiny_model, tiny_vdt

DIFFUSION = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))


@pytest.fixture(scope="module")
def dit() -> DiT:
    model = DiT(DiTConfig(hidden_size=16, depth=2, num_heads=2, input_size=4, num_classes=5)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return tiny_model(text=False)


def sample(denoiser: Any, methods: list[Method]) -> Tensor:
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = Conditions(label=torch.tensor([1, 2]))
    return DIFFUSION.sample(denoiser, noise, labels, sampler=SamplerConfig(name="euler", steps=6), methods=methods)


def four(caches: list[StepCache]) -> list[Method]:
    """One method of every kind that goes with the others."""
    known = torch.zeros(2, 1, 3, 4, 4, dtype=torch.bool)
    known[:, :, 0] = True
    caches.append(StepCache(StepCacheConfig(threshold=0.5, guidance_every=2)))
    return [
        Guidance(GuidanceConfig(scale=3.0)),
        FrameReach(FrameReachConfig(frames="first")),
        caches[-1],
        SteeringConfig(method="replacement").build(Held(torch.ones(2, 4, 3, 4, 4), known)),
    ]


def test_methods_of_different_places_may_be_listed_in_any_order(dit: DiT) -> None:
    caches: list[StepCache] = []
    plain = sample(dit, four(caches))
    for order in ([3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]):
        methods = four(caches)
        assert torch.equal(sample(dit, [methods[k] for k in order]), plain)
    assert caches[0].hits > 0 and len({(cache.hits, cache.misses) for cache in caches}) == 1


class Added(Method):
    """Adds to the estimate; so does `Doubled` to what is inside it."""

    Config = GuidanceConfig

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        return lambda z, t: Denoised(inner(z, t).sample + 1.0)


class Doubled(Method):
    Config = GuidanceConfig

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        return lambda z, t: Denoised(inner(z, t).sample * 2.0)


def test_in_one_place_the_first_one_listed_is_innermost() -> None:
    still = lambda z, t, conditions: torch.zeros_like(z)  # noqa: E731
    # A velocity of zero: the estimate is z itself, and euler's last step goes all the way to it.
    one = DIFFUSION.sample(still, torch.ones(1, 1, 1, 1, 1), None, sampler=SamplerConfig(name="euler", steps=1),
                           methods=[Added(), Doubled()])  # fmt: skip
    other = DIFFUSION.sample(still, torch.ones(1, 1, 1, 1, 1), None, sampler=SamplerConfig(name="euler", steps=1),
                             methods=[Doubled(), Added()])  # fmt: skip
    assert (float(one), float(other)) == (4.0, 3.0)


def test_a_method_wraps_a_run_once(dit: DiT) -> None:
    with pytest.raises(InputError, match="Guidance wraps this run twice"):
        sample(dit, [Guidance(), Guidance(GuidanceConfig(scale=2.0))])


def test_every_method_of_the_table_says_what_it_takes() -> None:
    assert len([*METHODS]) >= 5
    for name in METHODS:
        kind = METHODS.get(name)
        assert kind.Config.model_fields is not None and kind.__doc__, name


SETTINGS: list[dict[str, Any]] = [
    {"seed": 1, "guidance": GuidanceConfig(scale=3.0), "threshold": 0.2},
    {"seed": 2, "guidance": GuidanceConfig(scale=2.0, batched=False), "threshold": 0.6},
]


def generated(model: VideoModel, seed: int, guidance: GuidanceConfig, threshold: float) -> Tensor:
    cache = StepCache(StepCacheConfig(threshold=threshold))
    reach = FrameReach(FrameReachConfig(frames="first" if seed == 1 else "first_previous"))
    made = model.generate(
        label="throw", seed=seed, guidance=guidance, cache=cache, methods=[reach],
        sampler=SamplerConfig(name="euler", steps=8),
    )  # fmt: skip
    assert cache.hits and cache.misses
    return made


def at_once(calls: list[Any]) -> list[Tensor]:
    """What the calls give when each runs in a thread of its own, all begun together."""
    made: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(k: int) -> None:
        start.wait()
        made[k] = calls[k]()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def test_two_runs_of_one_model_at_once_give_what_they_give_one_after_the_other(model: VideoModel) -> None:
    calls = [lambda k=k: generated(model, **SETTINGS[k]) for k in (0, 1)]
    expected = [call() for call in calls]
    for _ in range(2):
        made = at_once(calls)
        assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


def test_a_run_that_follows_a_gradient_does_not_disturb_another() -> None:
    model, mask = tiny_vdt("none"), torch.ones(1, 1, 5, 32, 32)
    mask[:, :, :1] = 0
    clip = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    calls = [
        lambda: model.complete(clip, mask, steering=SteeringConfig(weight=2.0)),
        lambda: model.generate(seed=4, sampler=SamplerConfig(name="euler", steps=6)),
    ]
    expected = [call() for call in calls]
    made = at_once(calls)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))
