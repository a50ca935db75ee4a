"""The step cache: exact when it never reuses, one state for each branch and run, the same for every denoiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from kinolab import denoisers
from kinolab.config import Config
from kinolab.contracts.method import Method, Run
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Conditions, Denoiser
from kinolab.diffusion import SAMPLERS, Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import Guidance, GuidanceConfig, Held, SteeringConfig, StepCache, StepCacheConfig
from kinolab.methods.step_cache import CachedRun
from kinolab.runtime import compiling as compiling
from kinolab.runtime.compiling import compile_for_inference
from tests.closeness import assert_close
from tests.tiny_unets import UNETS

SMALL: dict[str, Any] = {"hidden_size": 16, "depth": 2, "num_heads": 2, "input_size": 4, "num_classes": 5}
VIDEO: dict[str, Any] = SMALL | {"num_frames": 3}
CONFIGS: dict[str, Config] = {
    "dit": denoisers.DiTConfig(**SMALL),
    "latte": denoisers.LatteConfig(**VIDEO),
    "latte single": denoisers.LatteConfig(**VIDEO, adaln="single"),
    "latte tokens": denoisers.LatteConfig(**VIDEO, injection="all_tokens"),
    "latte joint": denoisers.LatteConfig(**VIDEO, variant="joint_block"),
    "latte checkpointed": denoisers.LatteConfig(**VIDEO, gradient_checkpointing=True),
    "vdt": denoisers.VdtConfig(**VIDEO),
    "vdt single": denoisers.VdtConfig(**VIDEO, adaln="single"),
    "vdt adaln": denoisers.VdtConfig(**VIDEO, given="adaln"),
    "vdt tokens": denoisers.VdtConfig(**VIDEO, given="tokens"),
    "mmdit": denoisers.MmditConfig(**VIDEO, text_dim=8),
    "mmdit both": denoisers.MmditConfig(**VIDEO, text_dim=8, attention="2d+3d", dual_attention_layers=(0,)),
    "mmdit alone": denoisers.MmditConfig(**VIDEO, temporal_patch=2, gradient_checkpointing=True),
    **UNETS,
}
UNET: dict[str, Any] = {
    "dim": 8, "dim_mults": (1, 2), "num_heads": 2, "head_dim": 4, "spatial_head_dim": 4, "input_kernel": 3,
    "input_size": 4, "num_frames": 3, "num_classes": 5,
}  # fmt: skip
CONFIGS |= {
    "vdm": denoisers.VdmConfig(**UNET),
    "space_time_unet": denoisers.SpaceTimeUnetConfig(
        dim=8,
        dim_mults=(2,),
        attention=(True,),
        halves_time=(False,),
        depths=(1,),
        num_heads=2,
        head_dim=4,
        input_size=4,
        num_classes=5,
    ),
    "vdm checkpointed": denoisers.VdmConfig(**UNET, gradient_checkpointing=True),
}
DIFFUSION = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))
LABELS = Conditions(label=torch.tensor([1, 2]))
GUIDED = GuidanceConfig(scale=3.0)


def build(name: str) -> Denoiser:
    """A denoiser whose every parameter is random, so that its blocks do something."""
    torch.manual_seed(0)
    model = denoisers.build(CONFIGS[name]).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def cache_of(**values: Any) -> StepCache:
    return StepCache(StepCacheConfig.model_validate(values))


def running(model: Any, steps: int) -> Run:
    return Run(model, LABELS, (2, 4, 3, 4, 4), steps, DIFFUSION.path)


def sample(
    model: Any,
    cache: StepCache | None = None,
    *,
    name: str = "euler",
    steps: int = 8,
    guidance: GuidanceConfig | None = None,
    others: tuple[Method, ...] = (),
    **values: Any,
) -> Tensor:
    methods = [Guidance(guidance), *others, *([cache] if cache is not None else [])]
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    sampler = SamplerConfig.model_validate({"name": name, "steps": steps})
    return DIFFUSION.sample(model, noise, LABELS, sampler=sampler, methods=methods, **values)


def test_every_denoiser_is_here() -> None:
    assert {name.split()[0] for name in CONFIGS} == set(denoisers.DENOISERS)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_threshold_zero_is_exact_and_a_large_one_runs_the_ends_only(name: str) -> None:
    model = build(name)
    plain = sample(model, guidance=GUIDED)
    exact, loose = cache_of(threshold=0), cache_of(threshold=1e9)
    assert torch.equal(sample(model, exact, guidance=GUIDED), plain)
    assert (exact.hits, exact.misses) == (0, 8)
    drifted = sample(model, loose, guidance=GUIDED)
    assert (loose.hits, loose.misses) == (6, 2)
    assert torch.isfinite(drifted).all() and not torch.equal(drifted, plain)
    assert torch.equal(sample(model, guidance=GUIDED), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_is_exact_where_every_step_runs(name: str) -> None:
    model = build("vdt")
    plain = sample(model, name=name, generator=torch.Generator().manual_seed(2))
    for config in ({"threshold": 0}, {"method": "interval", "every": 1}, {"threshold": 9, "start": 1.0}):
        cache = cache_of(**config)
        assert torch.equal(sample(model, cache, name=name, generator=torch.Generator().manual_seed(2)), plain)
        assert cache.hits == 0 and cache.misses == (15 if name == "heun" else 8)


def test_a_residual_is_added_again_exactly() -> None:
    """x + residual of the last run of the blocks, worked out from the modules themselves."""
    model: Any = build("dit")
    cache = cache_of(threshold=1e9)
    t, first, second = torch.tensor([900.0, 900.0]), torch.randn(2, 4, 3, 4, 4), torch.randn(2, 4, 3, 4, 4)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.final_layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.x_embedder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    run = running(model, 5)
    options = ForwardOptions(cache=CachedRun(cache, run))
    with torch.no_grad():
        model(first, t, LABELS, options)
        run.step = 1
        model(second, t, LABELS, options)
    embedded, before, after, _, embedded_again, last = seen
    assert_close(last, embedded_again + (before - embedded) + (after - before))


def test_the_blocks_run_when_the_added_up_change_reaches_the_threshold() -> None:
    """A modulated input that grows by a known relative change in each call."""
    run, cache = running(None, 12), cache_of(threshold=0.25)
    cached = CachedRun(cache, run)
    ran: list[int] = []

    def blocks(x: Tensor) -> Tensor:
        ran.append(run.step)
        return x + 1.0

    for step in range(12):
        run.step = step
        factor = 1.1**step
        out = cached.run(torch.zeros(2, 3), blocks, lambda x, factor=factor: x + factor)  # type: ignore[misc]
        assert_close(out, torch.ones(2, 3))
    assert ran == [0, 3, 6, 9, 11], "0.1 a call adds up to 0.3 at every third; the last step always runs"
    assert (cache.hits, cache.misses) == (7, 5)


def test_a_batch_runs_where_one_of_its_clips_has_to() -> None:

    def run(changes: list[float]) -> int:
        sampling, cache = running(None, 12), cache_of(threshold=0.25)
        cached = CachedRun(cache, sampling)
        for step in range(12):
            sampling.step = step
            scale = torch.tensor([[(1 + c) ** step] for c in changes])
            cached.run(torch.zeros(2, 3), lambda x: x, lambda x, scale=scale: x + scale)  # type: ignore[misc]
        return cache.misses

    assert run([0.0, 0.0]) == 2 and run([0.0, 0.1]) == 5 and run([0.1, 0.1]) == 5


def test_intervals_count_the_samplers_steps_not_the_calls() -> None:
    model = build("vdt")
    for name, hits, misses in (("euler", 5, 4), ("heun", 10, 7)):
        cache = cache_of(method="interval", every=3)
        sample(model, cache, name=name, steps=9)
        assert (cache.hits, cache.misses) == (hits, misses), "steps 0, 3, 6 and the last one, 8"


def test_start_and_end_are_never_cached() -> None:
    cache = cache_of(threshold=1e9, start=0.3, end=0.2)
    sample(build("vdt"), cache, steps=10)
    assert (cache.hits, cache.misses) == (5, 5)


def test_branches_have_features_of_their_own() -> None:
    """As one doubled batch or one after the other, the same features are reused and the same latents come out."""
    model = build("vdt")
    caches = [cache_of(threshold=0.5) for _ in range(2)]
    together, apart = (
        sample(model, cache, steps=12, guidance=GuidanceConfig(scale=3.0, batched=batched))
        for cache, batched in zip(caches, (True, False), strict=True)
    )
    assert caches[0].hits and caches[1].hits >= 2 * caches[0].hits
    every = [cache_of(method="interval", every=2) for _ in range(2)]
    together, apart = (
        sample(model, cache, steps=12, guidance=GuidanceConfig(scale=3.0, batched=batched))
        for cache, batched in zip(every, (True, False), strict=True)
    )
    assert_close(together, apart)
    assert every[1].hits == 2 * every[0].hits


def test_a_branch_that_comes_later_has_to_run_first() -> None:
    """Guidance that begins in the middle: the unconditional branch has nothing to reuse there."""
    cache, guidance = cache_of(threshold=1e9), GuidanceConfig(scale=3.0, interval=(0.0, 0.5))
    sample(build("latte"), cache, steps=10, guidance=guidance)
    assert (cache.hits, cache.misses) == (7, 3), "the first step, the first with guidance, the last"


def test_runs_do_not_see_each_other() -> None:
    model, cache = build("latte"), cache_of(threshold=0.5, guidance_every=2)
    first = sample(model, cache, guidance=GUIDED)
    counted = cache.hits, cache.misses
    assert torch.equal(sample(model, cache, guidance=GUIDED), first)
    assert (cache.hits, cache.misses) == (2 * counted[0], 2 * counted[1])


def test_guidance_reuses_the_difference_of_its_branches() -> None:
    """A denoiser whose branches differ by a constant: leaving the unconditional one out changes nothing."""
    calls: list[int] = []

    class Constant:
        def __call__(self, z: Tensor, t: Tensor, conditions: Conditions, options: object = None) -> Tensor:
            calls.append(len(z))
            assert conditions.label is not None
            null = torch.zeros_like(conditions.label) > 0 if conditions.null is None else conditions.null
            return 0.3 * z + torch.where(null, 0.0, 1.0).view(-1, 1, 1, 1, 1)

    plain = sample(Constant(), guidance=GUIDED)
    assert calls == [4] * 8
    for batched in (True, False):
        calls.clear()
        guidance = GuidanceConfig(scale=3.0, batched=batched)
        out = sample(Constant(), cache_of(threshold=0, guidance_every=3), guidance=guidance)
        assert_close(out, plain)
        full = [4] if batched else [2, 2]
        assert calls == [*full, 2, 2, *full, 2, 2, *full, *full]


def test_a_learned_variance_stays_the_conditional_one() -> None:
    torch.manual_seed(0)
    model = denoisers.build(denoisers.LatteConfig(**VIDEO, learned_variance=True)).eval()
    diffusion = Diffusion(DiffusionConfig(learned_variance=True, loss="mse_vb"))
    cache = cache_of(threshold=1e9, guidance_every=2)
    out = diffusion.sample(
        model, torch.randn(2, 4, 3, 4, 4), LABELS, sampler=SamplerConfig(name="ddpm", steps=6),
        methods=[cache, Guidance(GUIDED)], generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert out.shape == (2, 4, 3, 4, 4) and cache.hits == 4


def test_what_can_not_be_cached_is_refused() -> None:
    with pytest.raises(InputError, match="needs a transformer denoiser, got function"):
        sample(lambda z, t, conditions: z, cache_of())
    model, known = build("dit"), torch.ones(2, 1, 3, 4, 4, dtype=torch.bool)
    held = Held(torch.zeros(2, 4, 3, 4, 4), known)
    with pytest.raises(InputError, match="cuts the gradient"):
        sample(model, cache_of(), others=(SteeringConfig(method="reconstruction").build(held),))
    kept = SteeringConfig(method="replacement").build(held)
    assert_close(sample(model, cache_of(), others=(kept,)), torch.zeros(2, 4, 3, 4, 4))
    for values in ({"every": 3}, {"method": "interval", "threshold": 0.3}):
        with pytest.raises(ValueError, match="is for the method"):
            StepCacheConfig.model_validate(values)


def test_a_run_that_fails_leaves_nothing_in_the_cache() -> None:
    model, cache = build("dit"), cache_of(threshold=1e9)

    def stop(step: int, *_: Any) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sample(model, cache, callback=stop)
    assert torch.equal(sample(model, cache), sample(model, cache_of(threshold=1e9)))


@pytest.mark.filterwarnings("ignore:not compiled")
@pytest.mark.parametrize("failing", [1, 3, 8])
def test_a_call_that_is_made_again_where_the_compiler_fails_counts_once(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compiles what stands behind the cache after the cache was asked."""
    model, calls = build("dit"), [0]
    eager, expected = cache_of(threshold=0.3), cache_of(threshold=0.3)
    drifted = sample(model, expected, guidance=GUIDED)

    def compiled(function: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            result = function(*given, **named)
            if calls[0] == failing:
                raise TorchDynamoException("no vectors here")
            return result

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(compiling, "find_compiler", lambda: "g++")
    compile_for_inference(model, torch.float32)
    assert torch.equal(sample(model, eager, guidance=GUIDED), drifted)
    assert calls[0] == failing and (eager.hits, eager.misses) == (expected.hits, expected.misses)
    assert eager.hits + eager.misses == 8


@pytest.mark.wide("compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.timeout(900)
def test_compiled_denoisers_reuse_the_same_features_and_compile_once() -> None:
    from torch._dynamo.utils import counters

    model = denoisers.build(denoisers.DiTConfig(**SMALL | {"depth": 1})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    eager, cache = sample(model, cache_of(threshold=0.5), guidance=GUIDED), cache_of(threshold=0.5)
    compile_for_inference(model, torch.float32)
    assert_close(sample(model, cache, guidance=GUIDED), eager)
    graphs = counters["stats"]["unique_graphs"]
    again = cache_of(threshold=0.5)
    assert_close(sample(model, again, guidance=GUIDED), eager)
    assert again.hits == cache.hits > 0 and counters["stats"]["unique_graphs"] == graphs
