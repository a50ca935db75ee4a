"""Text2Video-Zero on tiny image models of every family: what it leaves as it is, and what it moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.conditions import Value
from kinolab.contracts.method import Method, Run
from kinolab.contracts.request import Request
from kinolab.denoisers import Conditions, DiTConfig, LatteConfig, MmditConfig, UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.base import Denoiser
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.layers.translation import translated
from kinolab.methods import FrameReach, FrameReachConfig, Guidance, GuidanceConfig, StepCache
from kinolab.methods.text2video_zero import PUBLISHED_LEVELS, Schedule, Text2VideoZero, Text2VideoZeroConfig
from tests.closeness import NETWORK, assert_close, assert_same, difference
from tests.tiny_model import tiny_image_model
from tests.tiny_unets import SMALL

CONFIGS: dict[str, Any] = {
    "unet": UnetConfig(**SMALL, fields={"control": 4}),
    "dit": DiTConfig(hidden_size=16, depth=2, num_heads=2, input_size=4, num_classes=5),
    "mmdit": MmditConfig(hidden_size=16, depth=2, num_heads=2, in_channels=4, input_size=4, num_frames=1, patch_size=1,
                         attention="2d", temporal_position="none", num_classes=5),
}  # fmt: skip
SCHEDULES: dict[str, Diffusion] = {
    "flow": Diffusion(DiffusionConfig(schedule="flow", prediction="flow")),
    "linear": Diffusion(DiffusionConfig(schedule="linear", prediction="noise")),
    "edm": Diffusion(DiffusionConfig(schedule="edm", prediction="edm", edm={"sigma_max": 80.0})),
}
NOISE = torch.randn(2, 4, 6, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = Conditions(label=torch.tensor([1, 3]))


@pytest.fixture(scope="module")
def networks() -> dict[str, Denoiser]:
    torch.manual_seed(0)
    made = {name: build_denoiser(config).eval() for name, config in CONFIGS.items()}
    with torch.no_grad():
        for parameter in (p for network in made.values() for p in network.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def sample(
    denoiser: Any, *methods: Method, noise: Tensor = NOISE, told: Conditions = LABELS, diffusion: str = "flow",
    **others: Any,
) -> Tensor:  # fmt: skip
    sampler = SamplerConfig(name="euler" if diffusion != "linear" else "ddim", steps=10)
    return SCHEDULES[diffusion].sample(denoiser, noise, told, sampler=sampler, methods=methods, **others)


def zero(**fields: Any) -> Text2VideoZero:
    return Text2VideoZero(Text2VideoZeroConfig.model_validate(fields))


def run_of(config: dict[str, Any], diffusion: str = "flow") -> tuple[Text2VideoZero, Run]:
    process = SCHEDULES[diffusion]
    times = process.times(SamplerConfig(name="euler", steps=10))
    return zero(**config), Run(None, LABELS, tuple(NOISE.shape), 10, process.path, times=times)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_frame_that_reads_itself_is_the_image_models(networks: dict[str, Denoiser], name: str) -> None:
    made = sample(networks[name], zero(start="same", reach="own"))
    image = sample(networks[name], noise=NOISE[:, :, :1])
    assert_close(made, image.expand_as(made), NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("diffusion", SCHEDULES)
def test_the_first_frame_is_the_image_models_and_the_others_are_not(
    networks: dict[str, Denoiser], name: str, diffusion: str
) -> None:
    made = sample(networks[name], zero(motion=[1, 0], t0=0.5, t1=0.8), diffusion=diffusion)
    image = sample(networks[name], noise=NOISE[:, :, :1], diffusion=diffusion)
    assert_close(made[:, :, :1], image, NETWORK)
    assert bool(((made[:, :, 1:] - image).abs().mean((1, 3, 4)) > 1e-3).all())


def test_frames_that_stand_still_and_read_themselves_are_the_first_one(networks: dict[str, Denoiser]) -> None:
    made = sample(networks["unet"], zero(motion=[0, 0], t0=0.8, t1=0.8, reach="own"))
    assert_close(made, made[:, :, :1].expand_as(made), NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [2, 3, 5])
def test_chunks_make_the_same_frames(networks: dict[str, Denoiser], chunk: int) -> None:
    fields = {"motion": [1, 2], "t0": 0.5, "t1": 0.8, "smooth": 0.5, "grow": 1}
    assert_close(
        sample(networks["mmdit"], zero(**fields, chunk=chunk)), sample(networks["mmdit"], zero(**fields)), NETWORK
    )


def test_chunks_need_a_sampler_that_draws_no_noise(networks: dict[str, Denoiser]) -> None:
    process, draws = SCHEDULES["linear"], torch.Generator().manual_seed(2)
    how: dict[str, Any] = {"sampler": SamplerConfig(name="ddpm", steps=6), "generator": draws}
    with pytest.raises(InputError, match="chunk: this sampler draws noise"):
        process.sample(networks["unet"], NOISE, LABELS, methods=[zero(motion=[1, 0], chunk=3)], **how)
    made = process.sample(networks["unet"], NOISE, LABELS, methods=[zero(motion=[1, 0], chunk=6)], **how)
    assert bool(made.isfinite().all())


def test_a_clip_does_not_depend_on_the_batch_it_is_made_in(networks: dict[str, Denoiser]) -> None:
    both = sample(networks["dit"], zero(motion=[1, 0]))
    alone = sample(
        networks["dit"], zero(motion=[1, 0]), noise=NOISE[1:], told=Conditions(label=torch.tensor([3])),
        generator=torch.Generator().manual_seed(9),
    )  # fmt: skip
    assert_close(both[1:], alone, NETWORK)


@pytest.mark.slow
def test_maps_that_are_told_frame_by_frame_move_what_begins_with_the_same_noise(networks: dict[str, Denoiser]) -> None:
    field = torch.randn(2, 4, 6, 4, 4, generator=torch.Generator().manual_seed(4))
    told = LABELS.told(Conditions(control=Value("field", field)))
    made = sample(networks["unet"], zero(reach="own", chunk=4), Guidance(GuidanceConfig(scale=3.0)), told=told)
    for frame in range(6):
        own = LABELS.told(Conditions(control=Value("field", field[:, :, frame : frame + 1])))
        image = sample(
            networks["unet"], Guidance(GuidanceConfig(scale=3.0)), told=own, noise=NOISE[:, :, :1]
        )  # fmt: skip
        assert_close(made[:, :, frame : frame + 1], image, NETWORK)
    # Asked for, the first frame's latents move there too; its walk alone is told of the first map alone.
    moving = sample(networks["unet"], zero(motion=[1, 0]), told=told)
    first = LABELS.told(Conditions(control=Value("field", field[:, :, :1])))
    assert_close(moving[:, :, :1], sample(networks["unet"], told=first, noise=NOISE[:, :, :1]), NETWORK)


@pytest.mark.slow
def test_an_instruction_edits_each_frame_of_a_clip_by_three_branches() -> None:
    model = tiny_image_model(concatenated={"image": 4})
    clip = torch.rand(3, 4, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    asked = Request("make the ball blue", frames=4, conditions={"image": {"clip": clip}})

    def edited(request: Request, *methods: Method) -> Tensor:
        guidance = Guidance(GuidanceConfig(scales=(("image", 1.5), ("prompt", 3.0))))
        noise = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(6))[:, :, : request.frames]
        return sample(model.network, guidance, *methods, noise=noise, told=model.conditions([request]))

    with torch.no_grad():
        made, held = edited(asked, zero(reach="own", chunk=3)), edited(asked, zero())
        for frame in range(4):
            alone = edited(replace(asked, frames=1, conditions={"image": clip[:, frame]}))
            assert_close(made[:, :, frame : frame + 1], alone, NETWORK)
    assert_close(held[:, :, :1], made[:, :, :1], NETWORK)
    assert difference(held[:, :, 1:], made[:, :, 1:]) > 100 * NETWORK


def test_whole_latents_move_exactly() -> None:
    method, run = run_of({"motion": [2, -1]})
    x = torch.randn(2, 4, 1, 4, 4)
    moved = method.moved(x, 3, run)
    assert_same(moved[:, :, 0], x[:, :, 0])
    assert_same(moved[:, :, 1, :3, 2:], x[:, :, 0, 1:, :2])
    assert_same(moved[:, :, 1, 3, 2:], x[:, :, 0, 3, :2])  # mirrored at the edge
    assert_same(moved[:, :, 2, :2], x[:, :, 0, 2:].flip(-1))  # four to the right: all of it is the mirror image


def test_the_published_times_are_those_of_stable_diffusion_and_less_for_small_latents() -> None:
    method, process = zero(), Diffusion(DiffusionConfig(schedule="scaled_linear", prediction="noise"))
    times = process.times(SamplerConfig(steps=50, spacing="sd"))
    run = Run(None, LABELS, (1, 4, 8, 64, 64), 50, process.path, times=times)
    plan = Schedule.of(method.config, run)
    assert (plan.at(plan.t0), plan.at(plan.t1)) == (881.0, 941.0)
    levels = [sigma / alpha for alpha, sigma in map(process.path.scalars, (881.0, 941.0))]
    assert levels == pytest.approx(PUBLISHED_LEVELS, rel=1e-4)
    for name in ("flow", "edm"):
        path = SCHEDULES[name].path
        times = SCHEDULES[name].times(SamplerConfig(name="euler", steps=400))
        small = Schedule.of(method.config, Run(None, LABELS, (1, 4, 8, 16, 16), 400, path, times=times))
        for place, level in ((small.t0, levels[0]), (small.t1, levels[1])):
            alpha, sigma = path.scalars(small.at(place))
            assert sigma / alpha == pytest.approx(level / 4, rel=0.02), name


@pytest.mark.parametrize("diffusion", SCHEDULES)
@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_new_noise_leads_from_t0_to_the_noise_level_of_t1(diffusion: str, sampling: str) -> None:
    method, run = run_of({"motion": [1.3, 0.5], "sampling": sampling, "t0": 0.4, "t1": 0.8}, diffusion)
    run.shape = (1, 1, 3, 64, 64)
    plan = Schedule.of(method.config, run)
    (a0, s0), (a1, s1) = (run.path.scalars(plan.at(k)) for k in (plan.t0, plan.t1))
    assert s0 / a0 < s1 / a1
    drawn = lambda frames, seed: torch.randn(  # noqa: E731
        400, 1, frames, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    made = method.renoised(a0 + s0 * drawn(1, 1), drawn(2, 2), plan, run)
    inner = made[..., 3:13, 3:13]
    # alpha_t1 of the clean sample, which is 1 everywhere, and sigma_t1 of noise: 80,000 values
    assert float(inner.mean()) == pytest.approx(a1, abs=0.02 * s1)
    assert float(inner.std()) == pytest.approx(s1, rel=0.02)


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_repeated_edges_are_the_estimates_and_their_noise_is_not(sampling: str) -> None:
    method, run = run_of({"motion": [2.5, 0], "edges": "repeat", "sampling": sampling, "t0": 0.4, "t1": 0.8})
    plan = Schedule.of(method.config, run)
    (a0, s0), (a1, _) = (run.path.scalars(plan.at(k)) for k in (plan.t0, plan.t1))
    x, e = torch.randn(2, 1, 4, 1, 4, 4).unbind(0)
    made = method.renoised(a0 * x + s0 * e, torch.zeros(1, 4, 2, 4, 4), plan, run, x)
    clean = (made - s0 * a1 / a0 * translated(e, 2.5, 0, blend=False)) / a1  # of the first of the moved frames
    share = 0.5 if sampling == "bilinear" else 1.0
    assert_close(clean[:, :, 0, :, :2], x[:, :, 0, :, :1].expand(-1, -1, -1, 2))
    assert_close(clean[:, :, 0, :, 3], share * x[:, :, 0, :, 0] + (1 - share) * x[:, :, 0, :, 1])


@pytest.mark.slow
def test_the_estimate_of_repeated_edges_is_the_runs_own(networks: dict[str, Denoiser]) -> None:
    fields = {"motion": [1, 0], "t0": 0.5, "t1": 0.8}
    made, mirrored = (sample(networks["unet"], zero(**fields, **edge)) for edge in ({"edges": "repeat"}, {}))
    whole = sample(networks["unet"], zero(motion=[1, 0], t0=0, t1=0.8, edges="repeat"))  # moved when it is clean
    assert_close(whole[:, :, 0], made[:, :, 0], NETWORK)
    assert bool(whole.isfinite().all())
    assert_close(made[:, :, 0], mirrored[:, :, 0], NETWORK)
    assert difference(made[:, :, 1:], mirrored[:, :, 1:]) > 100 * NETWORK


def test_backgrounds_are_mixed_where_neither_frame_shows_what_is_salient() -> None:
    mask = torch.zeros(1, 1, 1, 4, 4)
    mask[..., 1, 0] = 1  # one latent, which moves to the right by one a frame
    method, run = run_of({"motion": [1, 0], "smooth": 0.25, "grow": 1})
    method = Text2VideoZero(method.config, saliency=mask)
    z = torch.randn(2, 4, 3, 4, 4)
    found = method.smoothed(z, method.foreground(z, run), run)
    assert_same(found[:, :, 0], z[:, :, 0])
    moved = method.moved(z[:, :, :1], 3, run)
    expected = 0.25 * z + 0.75 * moved
    for frame in (1, 2):
        assert_same(found[:, :, frame, 1, frame], z[:, :, frame, 1, frame])
        assert_close(found[:, :, frame, 2:], expected[:, :, frame, 2:])


@pytest.mark.slow
def test_without_a_mask_all_frames_are_sampled_twice_and_progress_says_so(networks: dict[str, Denoiser]) -> None:
    told: list[tuple[int, int]] = []
    heard: dict[str, Any] = {"callback": lambda step, steps, *_: told.append((step, steps))}
    once = sample(networks["unet"], zero(motion=[1, 0], t0=0.5, t1=0.8), **heard)
    assert told == [(k, told[0][1]) for k in range(1, told[0][1] + 1)] and told[-1][0] > 10
    told.clear()
    smooth = sample(networks["unet"], zero(motion=[1, 0], t0=0.5, t1=0.8, smooth=0.5, grow=1), **heard)
    assert told == [(k, told[0][1]) for k in range(1, told[0][1] + 1)] and told[-1][0] > 18
    assert_same(once[:, :, 0], smooth[:, :, 0])
    assert not torch.equal(once, smooth)


@pytest.mark.parametrize(
    ("config", "methods", "noise", "message"),
    [
        ({}, [], NOISE[:, :, :1], "makes a clip, and 1 frame is asked for: use --frames"),
        (
            {},
            [FrameReach(FrameReachConfig(frames="first"))],
            NOISE,
            "all say which frames are read",
        ),
        ({}, [StepCache()], NOISE, "samples some frames of a clip at a time, and StepCache holds all"),
        ({}, [Guidance(GuidanceConfig(frames=(1.0, 2.0)))], NOISE, "guidance.frames is spread over a whole clip"),
    ],
)
def test_what_cannot_be_is_said(
    networks: dict[str, Denoiser], config: dict[str, Any], methods: list[Method], noise: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sample(networks["unet"], zero(**config), *methods, noise=noise)


def test_a_video_model_is_refused() -> None:
    latte = LatteConfig(hidden_size=16, depth=2, num_heads=2, in_channels=4, input_size=4, num_frames=6, num_classes=5)
    with pytest.raises(InputError, match="Latte models time itself; expected an image model"):
        sample(build_denoiser(latte), zero())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"t0": 0.9, "t1": 0.5}, "expected t0 at most t1"),
        ({"t0": 0.5}, "t0 and t1 go together"),
        ({"start": "same", "motion": [1, 0]}, "start=same has no motion"),
        ({"units": "published"}, "units=published counts motion, which is missing"),
        ({"smooth": 0.5, "grow": 4}, "expected an odd number, got 4"),
        ({"motion": 3}, "motion"),
        ({"motion": [1, 2, 3]}, "motion"),
    ],
)
def test_fields_that_say_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zero(**fields)


def test_a_mask_is_for_smoothing_and_shows_something() -> None:
    with pytest.raises(InputError, match="set smooth"):
        Text2VideoZero(saliency=torch.ones(1, 1, 1, 4, 4))
    _, run = run_of({})
    empty = Text2VideoZero(Text2VideoZeroConfig(smooth=0.5), saliency=torch.zeros(1, 1, 1, 4, 4))
    with pytest.raises(InputError, match="nothing is marked in the mask"):
        empty.foreground(NOISE, run)
    many = Text2VideoZero(Text2VideoZeroConfig(smooth=0.5), saliency=torch.ones(1, 1, 3, 4, 4))
    with pytest.raises(InputError, match="expected 1 mask or one per frame, 6, got 3"):
        many.foreground(NOISE, run)
