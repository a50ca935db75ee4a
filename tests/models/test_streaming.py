"""Streams of causal models: what is made first does not depend on what follows, and nothing but a window is kept."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from kinolab.contracts.causal import BlockCausal, CausalConfig
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.contracts.request import Request
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError, Stopped
from kinolab.methods import GuidanceConfig, SteeringConfig, StepCache
from kinolab.models import VideoModel
from tests.closeness import NETWORK, assert_close, assert_same, differs
from tests.tiny_model import tiny_causal, tiny_model


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return tiny_causal()


@pytest.mark.slow
def test_a_stream_is_a_clip_that_goes_on(model: VideoModel) -> None:
    frames = torch.stack(list(model.stream("a red ball falls", frames=14, seed=3)), 1)
    assert frames.shape == (3, 14, 32, 32)
    assert float(frames.abs().max()) <= 1
    clip = model.generate("a red ball falls", frames=9, seed=3)[0]
    assert_close(frames[:, :9], clip, within=NETWORK)
    endless = itertools.islice(model.stream("a red ball falls", seed=3), 6)
    assert_same(torch.stack(list(endless), 1), frames[:, :6])


def test_each_block_is_sampled_as_the_denoiser_sees_the_whole_past(model: VideoModel) -> None:
    """One Euler step from noise: z - prediction at time 1, without anything kept, is what the stream makes."""
    rule = CausalConfig(block=1, window=2)
    stream = model.opened_stream([Request("a ball", seed=1)], sampler={"steps": 1}, guidance=1.0)
    blocks = [stream.block() for _ in range(4)]
    noise = torch.Generator().manual_seed(1)
    seen = 0.999 * torch.cat(blocks, 2)  # at the least time of rectified flow, 1 of 1000
    for number, block in enumerate(blocks):
        z = torch.randn(4, 1, 8, 8, generator=noise)[None]
        clip = torch.cat([seen[:, :, :number], z], 2)
        times = torch.tensor([[1.0] * number + [1000.0]])
        options = ForwardOptions(reach=Reach(BlockCausal(rule)))
        with torch.no_grad():
            velocity = model.denoiser(clip, times, model.conditions([Request("a ball")]), options)[:, :, -1:]
        assert_close(block, z - velocity, within=NETWORK)


def test_a_block_is_made_at_the_times_of_a_whole_clip(model: VideoModel) -> None:
    """Where the shift depends on the size of a clip: it was trained so."""
    shifted = DiffusionConfig(schedule="flow", prediction="flow", shift_base=48)
    config = model.config.model_copy(update={"diffusion": shifted})
    stream = VideoModel(config, model.autoencoder, model.denoiser).opened_stream(
        [Request("a ball")], sampler={"steps": 3}, guidance=1.0
    )
    seen: list[float] = []
    with stream.stage.denoiser.register_forward_pre_hook(lambda _, given: seen.append(float(given[1][0]))):
        stream.block()
    whole = Diffusion(shifted).times(stream.sampler, positions=3 * 8 * 8)
    assert_close(torch.tensor(seen[:3]), whole[:3].float())


def test_what_is_kept_does_not_grow() -> None:
    model = tiny_causal(block=2, first=1, window=1, sink=True)
    stream, sizes = model.opened_stream([Request("a ball")], sampler={"steps": 1}), list[int]()
    for _ in range(12):
        stream.block()
        sizes.append(stream.kept.size)
    assert sizes[1:] == [sizes[1]] * 11
    assert stream.frames == 23


def test_a_prompt_changes_at_the_block_that_its_frame_lies_in(model: VideoModel) -> None:
    plain = list(model.stream("a red ball falls", frames=13))
    changed = list(model.stream("a red ball falls", frames=13, prompts_at={6: "a blue box floats"}))
    for before, after in zip(plain[:5], changed[:5], strict=True):  # the second latent's frames end before
        assert_same(after, before)
    assert differs(changed[6], plain[6]).any()


@pytest.mark.slow
def test_noise_on_the_past_is_seen_and_repeatable() -> None:
    clean, noisy = tiny_causal(), tiny_causal(noise=0.3)
    first, again = (torch.stack(list(noisy.stream("a ball", frames=9))) for _ in range(2))
    plain = torch.stack(list(clean.stream("a ball", frames=9)))
    assert_same(again, first)
    assert_same(first[0], plain[0])
    assert differs(first[-1], plain[-1]).any()


def test_a_model_of_whole_clips_says_how_a_causal_one_is_made() -> None:
    with pytest.raises(InputError, match="kind: causal"):
        tiny_model().stream("a ball", frames=9)


def test_what_a_causal_model_can_not_take_is_refused(model: VideoModel) -> None:
    with pytest.raises(InputError, match="block by block: leave it out"):
        model.sample_latents([Request("a ball")], cache=StepCache())
    with pytest.raises(InputError, match=r"guidance.frames is spread over a whole clip, .*give one scale"):
        model.opened_stream([Request("a ball")], guidance=GuidanceConfig(frames=(1.0, 3.0)))
    video, mask = torch.zeros(1, 3, 9, 32, 32), torch.ones(1, 1, 9, 32, 32)
    mask[:, :, :1] = 0
    with pytest.raises(InputError, match="can't be steered"):
        model.complete(video, mask, [Request("a ball")], steering=SteeringConfig())


def test_a_folder_remembers_that_it_is_causal(model: VideoModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    tiny_model().save(tmp_path / "plain")
    assert "causal" not in (tmp_path / "plain" / "model.yaml").read_text()
    assert VideoModel.load(tmp_path / "m", device="cpu").config.causal == model.config.causal


def test_a_clip_stops_between_two_steps(model: VideoModel) -> None:
    from tests.listening import Listening

    told = Listening(stop_after=2)
    with pytest.raises(Stopped):
        model.sample_latents([Request("a ball")], sampler=SamplerConfig(name="euler", steps=2), events=told)
    assert told.told == [(1, 6), (2, 6)]
