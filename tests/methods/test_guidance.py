"""Classifier-free guidance: the formula, the interval (whose outside costs nothing), rescaling, learned variances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.contracts.method import CONDITIONAL, Call, Run, check_methods
from kinolab.contracts.sampling import settled_guidance
from kinolab.denoisers.base import Conditions
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.run import calls
from kinolab.errors import InputError
from kinolab.methods import Guidance, GuidanceConfig, OscillationConfig
from kinolab.methods.guidance import mix
from tests.closeness import assert_close

FLOW = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))
LABELS = Conditions(label=torch.tensor([1, 2]))


class Counting:
    """Gives its label, or -1 without one, in the first half of its channels; counts the samples it has seen."""

    def __init__(self, variance: bool = False) -> None:
        self.variance, self.batches = variance, []  # type: ignore[var-annotated]

    def __call__(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        assert conditions.label is not None and t.shape == z.shape[:1]
        self.batches.append((float(t[0]), z.shape[0]))
        value = conditions.label.float()
        if conditions.null is not None:
            value = torch.where(conditions.null, -1.0, value)
        out = value.reshape(-1, 1, 1, 1, 1).expand_as(z) + 0.0 * z
        return torch.cat([out, 10.0 * out], 1) if self.variance else out


def predict(
    config: GuidanceConfig,
    denoiser: Any,
    conditions: Conditions = LABELS,
    negative: Conditions | None = None,
    frames: int = 1,
) -> Tensor:
    """The guided prediction (2, 4 or 8, T, 2, 2) half way."""
    method, z = Guidance(config, negative), torch.zeros(2, 4, frames, 2, 2)
    run = Run(denoiser, conditions, tuple(z.shape), 1, FLOW.path, [method])
    check_methods(run)
    return method.branches(calls(denoiser), run)(Call(z, 500.0, {CONDITIONAL: conditions}))[CONDITIONAL]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("scale", [0.0, 2.0, 7.5])
def test_formula(batched: bool, scale: float) -> None:
    denoiser = Counting()
    out = predict(GuidanceConfig(scale=scale, batched=batched), denoiser)
    for row, label in enumerate((1.0, 2.0)):
        assert_close(out[row], torch.full_like(out[row], -1.0 + scale * (label + 1.0)))
    assert [b for _, b in denoiser.batches] == ([4] if batched else [2, 2])


def test_dropped_rows_stay_unconditional() -> None:
    conditions = LABELS.with_null(torch.tensor([True, False]))
    out = predict(GuidanceConfig(scale=3.0), Counting(), conditions=conditions)
    assert float(out[0].mean()) == -1.0 and float(out[1].mean()) == -1.0 + 3.0 * 3.0


@pytest.mark.parametrize("batched", [True, False])
def test_a_negative_takes_the_place_of_the_unconditional_branch(batched: bool) -> None:
    negative = Conditions(label=torch.tensor([5, 7]), null=torch.tensor([False, True]))
    config = GuidanceConfig(scale=3.0, batched=batched)
    assert predict(config, Counting(), negative=negative)[:, 0, 0, 0, 0].tolist() == [5 + 3 * (1 - 5), -1 + 3 * (2 + 1)]
    with pytest.raises(InputError, match="scale 1 has none"):
        predict(GuidanceConfig(), Counting(), negative=negative)


def test_scale_one_costs_one_call() -> None:
    denoiser = Counting()
    out = predict(GuidanceConfig(), denoiser)
    assert denoiser.batches == [(500.0, 2)]
    assert out[:, 0, 0, 0, 0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("schedule", ["linear", "flow"])
def test_outside_the_interval_the_unconditional_branch_is_not_run(schedule: str) -> None:
    prediction = "flow" if schedule == "flow" else "noise"
    diffusion = Diffusion(DiffusionConfig.model_validate({"schedule": schedule, "prediction": prediction}))
    denoiser = Counting()
    diffusion.sample(
        denoiser,
        (2, 4, 1, 2, 2),
        LABELS,
        sampler=SamplerConfig(name="ddim", steps=10, spacing="trailing"),
        methods=[Guidance(GuidanceConfig(scale=3.0, interval=(0.3, 0.8)))],
    )
    for t, batch in denoiser.batches:
        inside = diffusion.path.fraction(t) + 1e-6 >= 0.3 and diffusion.path.fraction(t) - 1e-6 <= 0.8
        assert batch == (4 if inside else 2), t
    sizes = [batch for _, batch in denoiser.batches]
    assert len(sizes) == 10 and 5 <= sizes.count(4) <= 6


def test_only_the_prediction_is_guided_and_the_variance_is_the_conditional_one() -> None:
    for batched in (True, False):
        out = predict(GuidanceConfig(scale=4.0, batched=batched), Counting(variance=True))
        assert out.shape[1] == 8
        assert out[:, 0, 0, 0, 0].tolist() == [-1.0 + 4.0 * 2.0, -1.0 + 4.0 * 3.0]
        assert out[:, 4, 0, 0, 0].tolist() == [10.0, 20.0]


def test_rescaling_sets_the_deviation_back() -> None:
    conditional, unconditional = torch.randn(2, 3, 4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    unconditional = 0.5 * unconditional
    dims = (1, 2, 3, 4)
    plain = mix([unconditional], conditional, GuidanceConfig(scale=6.0))
    full = mix([unconditional], conditional, GuidanceConfig(scale=6.0, rescale=1.0))
    part = mix([unconditional], conditional, GuidanceConfig(scale=6.0, rescale=0.7))
    assert (plain.std(dims) > 3 * conditional.std(dims)).all()
    assert_close(full.std(dims), conditional.std(dims))
    assert_close(part, 0.7 * full + 0.3 * plain)


def test_guidance_shifts_a_gaussian_as_its_closed_form_says() -> None:
    """Targets N(m, 1) and N(0, 1) on rectified flow: guidance by w is the exact flow of N(w m, 1)."""
    diffusion = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        assert conditions.label is not None
        mean = conditions.label.double()
        if conditions.null is not None:
            mean = torch.where(conditions.null, 0.0, mean)
        mean = mean.reshape(-1, 1, 1, 1, 1)
        alpha, sigma = diffusion.path.scalars(float(t[0]))
        x = mean + alpha / (alpha**2 + sigma**2) * (z - alpha * mean)
        return (z - x) / sigma

    noise = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = diffusion.sample(
        denoiser,
        noise,
        LABELS,
        sampler=SamplerConfig(name="heun", steps=100),
        methods=[Guidance(GuidanceConfig(scale=2.5))],
    )
    means = 2.5 * torch.tensor([1.0, 2.0]).double().reshape(2, 1, 1, 1, 1)
    assert_close(z, noise + means, within=0.002)


def test_nothing_to_guide_towards_is_an_error() -> None:
    with pytest.raises(InputError, match="needs a label or a text"):
        predict(GuidanceConfig(scale=2.0), Counting(), conditions=Conditions())


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 0.5), (0.0, 1.5)])
def test_bad_intervals_are_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        GuidanceConfig(interval=interval)


class Parts:
    """Tells a label and what is given apart: 10 for the prompt, 100 for the given part."""

    def __call__(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        assert conditions.mask is not None
        prompt = torch.ones(len(z)) if conditions.null is None else (~conditions.null).float()
        given = 1.0 - conditions.mask.flatten(1).amin(1)
        return (10.0 * prompt + 100.0 * given + 1.0).view(-1, 1, 1, 1, 1) + 0.0 * z


BOTH = Conditions(label=torch.tensor([1, 2]), given=torch.zeros(2, 4, 1, 2, 2), mask=torch.zeros(2, 1, 1, 2, 2))


@pytest.mark.parametrize("batched", [True, False])
def test_conditions_have_scales_of_their_own(batched: bool) -> None:
    """Brooks et al. 2023, eq. 3: nothing told, towards what is given, and from there towards the prompt too."""

    def value(scales: Any) -> float:
        config = GuidanceConfig.model_validate({"scales": scales, "batched": batched})
        return float(predict(config, Parts(), BOTH)[0, 0, 0, 0, 0])

    assert value({"given": 1.5, "prompt": 7}) == 1 + 1.5 * 100 + 7 * 10
    assert value({"given": 3}) == 11 + 3 * 100, "what is not named is always told"
    assert value({"prompt": 3}) == 101 + 3 * 10
    assert value([["prompt", 2], ["given", 0.5]]) == 1 + 2 * 10 + 0.5 * 100


def test_one_condition_alone_can_be_null() -> None:
    told = Conditions(label=torch.tensor([1, 2]), text=torch.zeros(2, 3, 8), fps=torch.tensor([8.0, 8.0]))
    seen: list[Conditions] = []

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        seen.append(conditions)
        return z

    predict(GuidanceConfig.model_validate({"scales": {"text": 2.0, "fps": 3.0}, "batched": False}), denoiser, told)
    nulls = [{name: bool(rows.all()) for name, rows in conditions.nulls.items()} for conditions in seen]
    assert nulls == [{}, {"text": True, "fps": True}, {"fps": True}]


def test_scales_are_read_back_as_they_were_written() -> None:
    config = GuidanceConfig.model_validate({"scales": {"given": 1.5, "prompt": 7}, "rescale": 0.5})
    assert config.active and config.scales == (("given", 1.5), ("prompt", 7.0))
    assert GuidanceConfig.model_validate_json(config.model_dump_json()) == config and hash(config)


def test_frames_have_scales_of_their_own() -> None:
    out = predict(GuidanceConfig(frames=(1.0, 3.0)), Counting(), frames=5)
    assert out[0, 0, :, 0, 0].tolist() == [-1 + 2 * s for s in (1.0, 1.5, 2.0, 2.5, 3.0)]
    assert out[1, 0, :, 0, 0].tolist() == [-1 + 3 * s for s in (1.0, 1.5, 2.0, 2.5, 3.0)]
    assert not GuidanceConfig(frames=(1.0, 1.0)).active


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scale": 2.0, "frames": (1.0, 2.0)}, "give one"),
        ({"scales": {"text": 2.0}, "frames": (1.0, 2.0)}, "give one"),
        ({"frames": (2.0,)}, "two or more"),
        ({"scales": {"text": -1.0}}, "at least 0"),
        ({"scales": [["text", 1.0], ["text", 2.0]]}, "each condition once"),
    ],
)
def test_scales_that_contradict_each_other_are_refused(values: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GuidanceConfig.model_validate(values)


def test_a_condition_that_was_not_told_can_not_be_guided_towards() -> None:
    config = GuidanceConfig.model_validate({"scales": {"given": 2.0}})
    with pytest.raises(InputError, match="no given was given"):
        predict(config, Counting())
    with pytest.raises(InputError, match="leave scales out"):
        predict(config, Parts(), BOTH, negative=LABELS)


def test_oscillating_guidance_is_high_first_and_then_low_and_high_by_turns() -> None:
    denoiser, config = Counting(), GuidanceConfig(scale=5.0, oscillate=OscillationConfig(low=2.0, after=2))
    method, z = Guidance(config), torch.zeros(2, 4, 1, 2, 2)
    run = Run(denoiser, LABELS, tuple(z.shape), 6, FLOW.path, [method])
    check_methods(run)
    predict, found = method.branches(calls(denoiser), run), []
    for run.step in range(6):
        found.append(float(predict(Call(z, 500.0, {CONDITIONAL: LABELS}))[CONDITIONAL][0, 0, 0, 0, 0]))
    assert found == [-1 + w * 2 for w in (5, 5, 2, 5, 2, 5)]


@pytest.mark.parametrize(("name", "calls_each"), [("euler", 1), ("heun", 2)])
def test_a_low_scale_of_1_costs_one_branch_and_counts_the_samplers_steps(name: str, calls_each: int) -> None:
    denoiser, config = Counting(), GuidanceConfig(scale=5.0, oscillate=OscillationConfig(after=1))
    how = SamplerConfig(name=name, steps=4)
    FLOW.sample(denoiser, (2, 4, 1, 2, 2), LABELS, sampler=how, methods=[Guidance(config)])
    steps = [4] * calls_each + [2] * calls_each + [4] * calls_each + [2]  # heun's last step is one call
    assert [batch for _, batch in denoiser.batches] == steps


def test_what_oscillates_is_scale_alone_and_goes_with_it() -> None:
    own = GuidanceConfig(scale=15.0, oscillate=OscillationConfig(low=3.0, after=5))
    for asked, scale, oscillates in ((None, 15.0, True), (4.0, 4.0, True), (2.0, 2.0, False)):
        found = settled_guidance(own, asked, told=True)
        assert (found.scale, found.oscillate is not None) == (scale, oscillates)
    assert settled_guidance(own, None, told=False) == GuidanceConfig()
    assert settled_guidance(own, {"frames": (1.0, 3.0)}, told=True).oscillate is None
    for fields, message in (
        ({"scale": 2.0, "oscillate": {"low": 3.0}}, "low 3 is above the scale 2"),
        ({"frames": (1, 3), "oscillate": {"low": 1.0}}, "oscillate goes between scale and a lower one"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(GuidanceConfig, fields)
