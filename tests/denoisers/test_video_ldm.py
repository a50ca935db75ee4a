"""Video LDM: the mixing of its branches, what its layers over time see, and its context of known frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Conditions, Unet, UnetConfig, VideoLdm, VideoLdmConfig
from kinolab.denoisers.video_ldm import ContextClip, ContextEncoder, Mixed, TemporalAttention, TemporalResnetBlock
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.layers.slots import Clip, Place
from kinolab.methods import Guidance, GuidanceConfig
from tests.closeness import NETWORK, assert_close, assert_same, differs
from tests.random_weights import randomized
from tests.tiny_unets import SMALL

T2 = torch.tensor([300.0, 800.0])
PLACE = Place("down", 0, 0, 8, 2, 4, attends=True)


def build(**values: Any) -> VideoLdm:
    """A network whose every parameter is random."""
    torch.manual_seed(0)
    return randomized(VideoLdm(VideoLdmConfig(**SMALL | {"num_frames": 4} | values)))


def image_of(video: VideoLdm) -> Unet:
    """The image model whose layers a network has."""
    model = Unet(UnetConfig(**SMALL)).eval()
    model.load_state_dict({k: v for k, v in video.state_dict().items() if not video.models_time(k)})
    return model


def told(**more: Any) -> Conditions:
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    return Conditions(label=torch.tensor([1, 2]), text=text, **more)


def known(*frames: int, of: int = 4) -> dict[str, Tensor]:
    """Random latents of some frames of clips, and the mask that says which."""
    mask = torch.ones(2, 1, of, 4, 4)
    mask[:, :, list(frames)] = 0
    return {"given": torch.randn(2, 4, of, 4, 4) * (1 - mask), "mask": mask}


@torch.no_grad()
def test_alpha_one_is_the_image_model_and_layers_over_time_start_as_it() -> None:
    fresh = VideoLdm(VideoLdmConfig(**SMALL)).eval()
    for name, parameter in fresh.named_parameters():
        if not fresh.models_time(name):
            parameter.add_(0.1 * torch.randn_like(parameter))
    video, z = build(), torch.randn(2, 4, 4, 4, 4)
    assert_close(fresh(z, T2, told()), image_of(fresh)(z, T2, told()), NETWORK)
    expected = image_of(video)(z, T2, told())
    assert differs(video(z, T2, told()), expected).any()
    for module in video.modules():
        if isinstance(module, Mixed):
            module.mixer.mix_factor.fill_(100.0)
    assert set(video.alphas().values()) == {1.0}
    assert_close(video(z, T2, told()), expected, NETWORK)


@torch.no_grad()
def test_frames_of_which_images_are_asked_are_the_image_models() -> None:
    video, z = build(), torch.randn(2, 4, 4, 4, 4)
    images = image_of(video)(z, T2, told())
    every = torch.ones(2, 4, dtype=torch.bool)
    assert_close(video(z, T2, told(), ForwardOptions(image_only=every)), images, NETWORK)
    some = torch.tensor([[True, False, False, True], [False] * 4])
    out = video(z, T2, told(), ForwardOptions(image_only=some))
    assert_close(out[0, :, [0, 3]], images[0, :, [0, 3]], NETWORK)
    assert_close(out[1], video(z, T2, told())[1], NETWORK)
    assert differs(out[0, :, 1:3], images[0, :, 1:3]).any()


@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_branches_are_mixed_by_alpha(alpha: float) -> None:
    layer = randomized(TemporalAttention(PLACE, 4, alpha))
    layer.mixer.mix_factor.copy_(torch.logit(torch.tensor([alpha])))
    x, clip = torch.randn(2, 4, 16, 8), Clip(2, 4, torch.zeros(2, 1, 32), Conditions())
    assert_close(layer(x, clip), alpha * x + (1 - alpha) * layer.over_time(x, clip))
    flags = torch.tensor([[True, False, True, False]]).expand(2, -1)
    mixed = layer(x, Clip(2, 4, torch.zeros(2, 1, 32), Conditions(), image_only=flags))
    assert_same(mixed[:, ::2], x[:, ::2])
    assert_close(mixed[:, 1::2], layer(x, clip)[:, 1::2])


@torch.no_grad()
def test_the_convolution_is_told_the_time_and_the_context_of_its_resolution() -> None:
    layer: TemporalResnetBlock = randomized(TemporalResnetBlock(PLACE, 32, 6, 4, 0.5))
    x, time, context = torch.randn(2, 5, 16, 8), torch.randn(2, 1, 32), torch.randn(2, 5, 16, 6)
    clip = ContextClip(2, 5, time, Conditions(), context=(context, torch.randn(2, 5, 4, 6)))
    conv, C = layer.conv, 8
    h = conv.conv1(F.silu(conv.norm1(x.permute(0, 3, 1, 2)[..., None])))  # (B, C, T, S, 1)
    h = h + conv.time_emb_proj(time).view(2, C, 1, 1, 1)
    assert layer.context_proj is not None
    h = h + (context @ layer.context_proj.weight.T).permute(0, 3, 1, 2)[..., None]
    expected = x + conv.conv2(F.silu(conv.norm2(h)))[..., 0].permute(0, 2, 3, 1)
    assert_close(layer.over_time(x, clip), expected, NETWORK)


@torch.no_grad()
def test_attention_over_time_keeps_places_apart_and_knows_the_order() -> None:
    layer = randomized(TemporalAttention(PLACE, 4, 0.5))
    x, clip = torch.randn(1, 4, 16, 8), Clip(1, 4, torch.zeros(1, 1, 32), Conditions())
    out = layer(x, clip)
    other = x.clone()
    other[:, 0, 3] += torch.randn(8)
    changed = differs(layer(other, clip), out).any(-1)[0]  # (T, S)
    assert changed[:, 3].all() and not changed[:, [s for s in range(16) if s != 3]].any()
    assert differs(layer(x.flip(1), clip), out.flip(1)).any()
    with pytest.warns(UserWarning, match="trained on 4 latent frames, got 6"):
        layer(torch.randn(1, 6, 16, 8), Clip(1, 6, torch.zeros(1, 1, 32), Conditions()))


@torch.no_grad()
def test_known_frames_reach_every_frame_through_the_layers_over_time_alone() -> None:
    video, z = build(given="context"), torch.randn(2, 4, 4, 4, 4)
    part = known(0)
    out = video(z, T2, told(**part))
    assert differs(out, video(z, T2, told())).flatten(3).any(-1).any(1).all()
    lighter = part | {"given": 0.5 * part["given"]}
    assert differs(video(z, T2, told(**lighter)), out).any()
    empty = {"given": 0 * part["given"], "mask": part["mask"]}
    assert differs(video(z, T2, told(**empty)), video(z, T2, told())).any(), "the mask is read too"
    images = ForwardOptions(image_only=torch.ones(2, 4, dtype=torch.bool))
    assert_close(video(z, T2, told(**part), images), image_of(video)(z, T2, told()), NETWORK)


@torch.no_grad()
def test_nothing_known_is_no_context() -> None:
    video, z = build(given="context"), torch.randn(2, 4, 4, 4, 4)
    plain = video(z, T2, told())
    assert_same(video(z, T2, told(given=torch.zeros(2, 4, 4, 4, 4), mask=torch.ones(2, 1, 4, 4, 4))), plain)
    part = told(**known(0, 1))
    assert_same(video(z, T2, part.all_null(2, names=["given"])), plain)
    half = video(z, T2, part.with_null(torch.tensor([True, False]), ["given"]))
    assert_close(half[0], plain[0], NETWORK)
    assert_close(half[1], video(z, T2, part)[1], NETWORK)


@torch.no_grad()
def test_the_context_has_the_sizes_of_all_resolutions() -> None:
    encoder = ContextEncoder(5, 6, 3)
    found = encoder(torch.randn(2, 4, 3, 9, 6), torch.zeros(2, 1, 3, 9, 6))
    assert [level.shape for level in found] == [(2, 3, 54, 6), (2, 3, 15, 6), (2, 3, 6, 6)]
    video = build(given="context", block_out_channels=(8, 16, 16))
    z = torch.randn(2, 4, 3, 9, 6)
    part = {"given": torch.randn_like(z), "mask": torch.zeros(2, 1, 3, 9, 6)}
    assert video(z, T2, told(**part)).shape == z.shape


@torch.no_grad()
def test_single_images_pass_by_the_context_too() -> None:
    video, z = build(given="context"), torch.randn(2, 4, 4, 4, 4)
    part = known(0)
    out = video(z, T2, told(**part, image_frames=1))
    clip = {name: value[:, :, :3] for name, value in part.items()}
    assert_close(out[:, :, :3], video(z[:, :, :3], T2, told(**clip)), NETWORK)
    assert_close(out[:, :, 3:], image_of(video)(z[:, :, 3:], T2, told()), NETWORK)


def test_what_is_new_learns_from_the_first_step() -> None:
    torch.manual_seed(0)
    video = VideoLdm(VideoLdmConfig(**SMALL, given="context"))
    with torch.no_grad():
        for name, parameter in video.named_parameters():
            if not video.models_time(name):
                parameter.add_(0.1 * torch.randn_like(parameter))
    video(torch.randn(2, 4, 4, 4, 4), T2, told(**known(0))).square().mean().backward()
    ends = ("conv2.weight", "to_out.0.weight", "ff.net.2.weight")
    learning = {n for n, p in video.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    expected = {n for n, _ in video.named_parameters() if video.models_time(n) and n.endswith(ends)}
    assert expected and expected <= learning


def test_a_config_that_cannot_be_built_says_why() -> None:
    with pytest.raises(ValidationError, match="even widths, got 9"):
        VideoLdmConfig(block_out_channels=(9, 9), norm_groups=3, num_heads=3, attention_levels=(0,))
    with pytest.raises(ValidationError, match="alpha"):
        VideoLdmConfig(**SMALL, alpha=1.0)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_context_guidance_is_from_no_context_towards_it(scale: float) -> None:
    """f(no) + s (f(context) - f(no)), with the prompt told in both (section 3.2)."""
    video, noise = build(given="context"), torch.randn(2, 4, 4, 4, 4)
    conditions = told(**known(0, 1))
    flow = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))
    start = torch.full((2,), 1000.0)
    with_context, without = video(noise, start, conditions), video(noise, start, told())
    guidance = Guidance(GuidanceConfig(scales=(("given", scale),)))
    sampler = SamplerConfig(name="euler", steps=1)
    made = flow.sample(video, noise, conditions, sampler=sampler, methods=[guidance])
    assert differs(with_context, without).any()
    assert_close(made, noise - (without + scale * (with_context - without)), NETWORK)
    both = Guidance(GuidanceConfig(scales=(("given", scale), ("prompt", 2.0))))
    made = flow.sample(video, noise, conditions, sampler=sampler, methods=[both])
    nothing, context = (video(noise, start, c.all_null(2)) for c in (told(), conditions))
    expected = nothing + scale * (context - nothing) + 2.0 * (with_context - context)
    assert_close(made, noise - expected, NETWORK)
