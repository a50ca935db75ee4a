"""ControlVideo and its parts: the smoother, the sampler by key frames, and what they are together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.contracts.options import AS_TRAINED, ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.samplers import SAMPLERS
from kinolab.errors import InputError
from kinolab.layers.rife import Rife
from kinolab.methods import (
    ControlVideo,
    ControlVideoConfig,
    FrameReach,
    FrameReachConfig,
    Held,
    Hierarchical,
    HierarchicalConfig,
    NoiseConfig,
    NoisePolicy,
    Smoother,
    SmootherConfig,
    SteeringConfig,
    StepCache,
    StepCacheConfig,
    Thresholding,
    ThresholdingConfig,
)
from kinolab.methods.between import Between, along_flow, interpolator, mean
from kinolab.methods.gradient import followed
from kinolab.methods.hierarchical import key_frames
from kinolab.methods.smoother import neighbours, smooth, smoothed_steps
from tests.closeness import NETWORK, assert_close, assert_same, difference
from tests.denoisers.test_reach import build

FLOW = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))
SD = Diffusion(DiffusionConfig(schedule="scaled_linear"))
IMAGE_MODELS = ["unet", "dit", "mmdit"]


class Pixels:
    """A codec whose latents are one pixel of three channels in four channels; lossy = it halves what is beyond 0.5."""

    temporal_ratio = spatial_ratio = 1

    def __init__(self, lossy: bool = False) -> None:
        self.lossy = lossy

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 4, T, H, W)."""
        latents = F.pad(video, (0, 0, 0, 0, 0, 0, 0, 1))
        return torch.where(latents.abs() > 0.5, latents / 2, latents) if self.lossy else latents

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, T, H, W) -> (B, 3, T, H, W)."""
        return latents[:, :3]


def noise(frames: int, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(batch, 4, frames, 4, 4, generator=torch.Generator().manual_seed(seed))


def sample(denoiser: Any, z: Tensor, *methods: Method, name: str = "euler", codec: Any = None, **told: Any) -> Tensor:
    how = SamplerConfig(name=name, steps=5)
    with torch.no_grad():
        return FLOW.sample(denoiser, z, Conditions(**told), sampler=how, methods=methods, codec=codec or Pixels())


class Moved(Method):
    """Adds 1 to every estimate, of which the noise stays."""

    Config = ThresholdingConfig
    keeps_noise = True

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        def denoise(z: Tensor, t: float) -> Denoised:
            found, (alpha, sigma) = inner(z, t), run.path.scalars(t)
            return replace(found, sample=found.sample + 1, noise=(z - alpha * found.sample) / sigma)

        return denoise


@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("process", [FLOW, SD], ids=["flow", "scaled linear"])
def test_a_step_goes_from_the_changed_sample_along_the_noise_that_was(name: str, process: Diffusion) -> None:
    z, walked = noise(2).double(), list[Tensor]()
    still = lambda z, t, told: 0.3 * z  # noqa: E731
    process.sample(still, z, Conditions(), sampler=SamplerConfig(name=name, steps=4), methods=[Moved()],
                   callback=lambda step, of, z, x: walked.append(z))  # fmt: skip
    t, s = (float(time) for time in process.times(SamplerConfig(name=name, steps=4), positions=32)[:2])
    (alpha_s, sigma_s), at = process.path.scalars(s), torch.full((1,), t, dtype=torch.float64)
    x, e = process.to_sample(0.3 * z, z, at), process.to_noise(0.3 * z, z, at)
    assert_close(walked[0], alpha_s * (x + 1) + sigma_s * e)


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m", "heun"])
def test_a_sampler_that_makes_its_own_noise_says_so(name: str) -> None:
    with pytest.raises(InputError, match=f"Moved changes the estimate and not its noise, which {name} can't: use ddim"):
        sample(lambda z, t, told: z, noise(2), Moved(), name=name)
    assert {n for n in SAMPLERS if SAMPLERS.get(n).keeps_noise} == {"ddim", "euler", "stochastic"}


def test_methods_outside_leave_the_noise_that_is_kept() -> None:
    inner = Moved().estimate(lambda z, t: Denoised(0.5 * z), Run(None, None, (1, 4, 2, 4, 4), 5, FLOW.path))
    z, kept = noise(2), inner(noise(2), 500.0).noise
    assert kept is not None
    held = Held(torch.zeros_like(z), torch.zeros_like(z, dtype=torch.bool))
    run = Run(None, None, tuple(z.shape), 5, FLOW.path)
    outside: list[Method] = [Thresholding(), SteeringConfig(method="replacement").build(held),
                             SteeringConfig(method="reconstruction").build(held)]  # fmt: skip
    for method in outside:
        found = method.estimate(inner, run)(z, 500.0).noise
        assert found is not None, method
        assert_same(found, kept)
    estimate, _ = followed(inner, z, 500.0, lambda x: x.square().sum())
    assert estimate.noise is not None and not estimate.noise.requires_grad


def test_which_frames_become_what_is_between_their_neighbours() -> None:
    assert neighbours(5, odd=True) == [(1, 0, 2), (3, 2, 4)]
    assert neighbours(5, odd=False) == [(0, 0, 1), (2, 1, 3), (4, 3, 4)]
    assert neighbours(6, odd=True) == [(1, 0, 2), (3, 2, 4)] and neighbours(2, odd=True) == []
    assert neighbours(6, odd=False) == [(0, 0, 1), (2, 1, 3), (4, 3, 5)] and neighbours(1, odd=False) == [(0, 0, 0)]
    assert smoothed_steps(None, 50) == {30, 31} and smoothed_steps(None, 1) == {0} and not smoothed_steps((), 9)
    clip = torch.arange(5.0).square().view(1, 1, 5, 1, 1).expand(2, 3, 5, 2, 2)
    assert smooth(clip, mean, odd=True)[1, 0, :, 0, 0].tolist() == [0, 2, 4, 10, 16]
    assert smooth(clip, mean, odd=False)[1, 2, :, 1, 1].tolist() == [0.5, 1, 5, 9, 12.5]


@pytest.mark.parametrize("between", [mean, along_flow])
@pytest.mark.parametrize("odd", [True, False])
def test_smoothing_of_equal_frames_changes_nothing(between: Between, odd: bool) -> None:
    frame = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    clip = frame.expand(-1, -1, 5, -1, -1).contiguous()
    assert_same(smooth(clip, between, odd=odd), clip)


def test_a_lossy_autoencoder_changes_equal_frames_unless_only_the_change_is_encoded() -> None:
    z = noise(1).expand(-1, -1, 5, -1, -1).contiguous()
    still = lambda z, t, told: 0.5 * z  # noqa: E731
    plain = sample(still, z)
    made = {how: sample(still, z, Smoother(SmootherConfig.model_validate({"encode": how})), codec=Pixels(lossy=True))
            for how in ("all", "change")}  # fmt: skip
    assert_close(made["change"], plain)
    assert difference(made["all"], plain) > 0.1


def test_what_is_between_moves_along_the_flow() -> None:
    seen = F.interpolate(torch.rand(1, 3, 10, 16, generator=torch.Generator().manual_seed(3)), (40, 64), mode="bicubic")
    first, middle, last = (seen[:, :, 4:36, k : k + 48].clamp(0, 1) * 2 - 1 for k in (4, 7, 10))
    inside = (slice(None), slice(None), slice(6, 26), slice(8, 40))
    errors = [float((f(first, last) - middle)[inside].abs().mean()) for f in (along_flow, mean)]
    assert errors[0] < 0.25 * errors[1]


def test_rife_does_not_mind_which_frame_comes_first_and_takes_any_size(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network, clip = Rife(8), torch.rand(2, 3, 2, 40, 52) * 2 - 1
    torch.save({f"module.{n}": v for n, v in network.state_dict().items()}, tmp_path / "flownet.pkl")
    between = interpolator("rife", tmp_path / "flownet.pkl")
    before, after = clip.unbind(2)
    with torch.no_grad():
        made = between(before, after)
        assert_close(between(after, before), made, NETWORK)
        assert_same(between(before, before), before)
    assert made.shape == before.shape and difference(made, mean(before, after)) > 0.01
    torch.save({"module.block0.conv0.1.0.weight": torch.zeros(8, 4, 3, 3)}, tmp_path / "other.pkl")
    for weights, line in ((tmp_path / "other.pkl", "not weights of Rife; 1[0-9]+ missing"), (None, "a file of its")):
        with pytest.raises(InputError, match=line):
            interpolator("rife", weights)


def test_a_smoother_that_can_not_be_is_refused() -> None:
    class Grouped(Pixels):
        temporal_ratio = 4

    held = SteeringConfig(method="replacement").build(Held(noise(2), noise(2) > 0))
    read = FrameReach(FrameReachConfig(frames="all"))
    refused: list[tuple[list[Method], Any, str]] = [
        ([Smoother()], Grouped(), "a latent of each frame, got one that makes one latent of 4 frames"),
        ([ControlVideo()], Grouped(), r"^controlvideo\.smoother: expected an autoencoder"),
        ([Smoother(SmootherConfig(steps=(2, 5)))], Pixels(), "expected steps from 0 to 4, got 5"),
        ([Smoother(), held], Pixels(), "given part"),
        ([Smoother(), ControlVideo()], Pixels(), "Smoother and ControlVideo all say when frames are smoothed"),
        ([read, ControlVideo()], Pixels(), "FrameReach and ControlVideo all say which frames are read"),
        ([NoisePolicy(NoiseConfig(kind="mixed")), ControlVideo()], Pixels(), "all say with which noise the run begins"),
        ([ControlVideo(), StepCache(StepCacheConfig())], Pixels(), "a step cache goes with calls on the same frames"),
    ]
    for methods, codec, line in refused:
        with pytest.raises(InputError, match=line):
            sample(build("unet"), noise(2), *methods, codec=codec, label=torch.tensor([1]))
    with pytest.raises(InputError, match=r"frames of function read what they were trained to read"):
        sample(lambda z, t, told: z, noise(2), Hierarchical())
    with pytest.raises(InputError, match=r"^controlvideo: the frames of function read"):
        sample(lambda z, t, told: z, noise(2), ControlVideo(ControlVideoConfig(smoother=None)))


class Reading:
    """A denoiser that says what it reads: the mean of the read frames' first channels; and its control."""

    reach = Reach("own")

    def __init__(self) -> None:
        self.seen: list[tuple[int, tuple[int, ...]]] = []

    def token_frames(self, frames: int) -> int:
        return frames

    def __call__(self, z: Tensor, t: Tensor, told: Conditions, options: ForwardOptions = AS_TRAINED) -> Tensor:
        lists = (options.reach or self.reach).lists(z.shape[2])
        self.seen.append((z.shape[2], lists[0]))
        read = torch.stack([z[:, :, list(frames)].mean(2) for frames in lists], 2)
        return 0.1 * read + told["control"].value


def test_key_frames_read_each_other_and_what_is_between_reads_the_two_beside_it() -> None:
    z, control = noise(9), noise(9, seed=2)
    told = Conditions(control=Value("field", control))
    call: Any = {"sampler": SamplerConfig(name="euler", steps=1)}
    for read, ends in (("keys", (0, 3)), ("released", (0, 2))):
        model = Reading()
        config = HierarchicalConfig.model_validate({"window": 4, "whole": 4, "read": read})
        made = FLOW.sample(model, z, told, methods=[Hierarchical(config)], **call)
        # key frames 0, 3, 6, 8; then 1, 2 and 4, 5 between two of them, and 7 alone
        assert model.seen == [(4, (0, 1, 2, 3)), (4, ends), (4, ends), (3, (0, ends[1] - 1))]
        keys = [0, 3, 6, 8]
        expected = torch.empty_like(z)
        expected[:, :, keys] = z[:, :, keys].mean(2, keepdim=True)
        for first, last in ((0, 3), (3, 6), (6, 8)):
            other = last if read == "keys" else last - 1
            expected[:, :, first + 1 : last] = (z[:, :, [first]] + z[:, :, [other]]) / 2
        # One step of euler from 1 to 0 takes the whole velocity away.
        assert_close(made, z - (0.1 * expected + control))


def test_key_frames_by_the_length_of_a_clip() -> None:
    assert key_frames(11, 4) == [0, 3, 6, 9, 10] and key_frames(10, 4) == [0, 3, 6, 9]
    assert key_frames(16) == [0, 3, 6, 9, 12, 15] and key_frames(2) == [0, 1] and key_frames(1) == [0]


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_controlvideo_is_its_parts(name: str) -> None:
    model, z = build(name), noise(5, 2)
    told: dict[str, Any] = {"label": torch.tensor([1, 2])}
    if name != "dit":
        told["text"] = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(4))
    same = z[:, :, :1].expand_as(z).contiguous()
    made = sample(model, z, ControlVideo(), **told)
    by_hand = sample(model, same, FrameReach(FrameReachConfig(frames="all")), Smoother(), **told)
    assert_close(made, by_hand, NETWORK)
    long = ControlVideoConfig(same_noise=False, smoother=None, long=HierarchicalConfig(window=3, whole=4))
    alone = sample(model, z, Hierarchical(HierarchicalConfig(window=3, whole=4)), **told)
    assert_close(sample(model, z, ControlVideo(long), **told), alone, NETWORK)
    assert difference(sample(model, z, **told), alone) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("window", [None, 3])
def test_of_equal_noise_every_frame_is_the_image_models_picture(name: str, window: int | None) -> None:
    """A softmax over the same keys several times is that over the keys."""
    model, z = build(name), noise(5)
    told: dict[str, Any] = {"label": torch.tensor([1])}
    if name == "unet":
        told["text"] = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(4))
    config = ControlVideoConfig(
        smoother=SmootherConfig(encode="change"),
        long=HierarchicalConfig(window=window, whole=16 if window is None else 2),
    )
    picture = sample(model, z[:, :, :1], **told)
    assert_close(sample(model, z, ControlVideo(config), **told), picture.expand_as(z), NETWORK)
