"""Denoisers that read block-causally: with keys and values that are kept they give what they give without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.causal import BlockCausal, CausalConfig
from kinolab.contracts.conditions import Value
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import (
    BaseDenoiserConfig,
    Conditions,
    Denoiser,
    LatteConfig,
    MmditConfig,
    UnetConfig,
    VdtConfig,
    build,
)
from kinolab.errors import InputError
from kinolab.methods.step_cache import StepCache
from kinolab.methods.streaming import Kept
from tests.closeness import assert_close, assert_same, differs

SHARED = {"depth": 2, "num_heads": 2, "in_channels": 2, "input_size": 4, "num_frames": 5, "patch_size": 2}
CONFIGS: dict[str, BaseDenoiserConfig] = {
    "mmdit": MmditConfig(hidden_size=32, text_dim=6, pooled_dim=6, qk_norm=True, vectors={"told": 0}, **SHARED),
    "mmdit, two attentions": MmditConfig(
        hidden_size=32, text_dim=6, attention="2d+3d", dual_attention_layers=(0,), **SHARED
    ),
    "mmdit, two attentions, places that turn": MmditConfig(
        hidden_size=32, attention="2d+3d", spatial_position="rotary", temporal_position="sincos", **SHARED
    ),
    "mmdit, no text": MmditConfig(
        hidden_size=32, temporal_position="sincos", dual_attention_layers=(0,), fields={"more": 1}, **SHARED
    ),
    "mmdit, 3D positions": MmditConfig(hidden_size=32, spatial_position="rotary", num_classes=3, **SHARED),
    "vdt": VdtConfig(hidden_size=32, adaln="single", text_dim=6, given="channels", **SHARED),
    "vdt, joint": VdtConfig(hidden_size=32, temporal_attention="joint", num_classes=3, **SHARED),
    "latte": LatteConfig(hidden_size=32, text_dim=6, pooled_dim=6, num_classes=3, **SHARED),
    "latte, joint": LatteConfig(
        hidden_size=32, variant="joint_block", temporal_position="rotary", adaln="single", **SHARED
    ),
    "latte, split": LatteConfig(
        hidden_size=32, variant="split_heads", temporal_position="rotary", injection="all_tokens", **SHARED
    ),
    "vdt, time last": VdtConfig(hidden_size=32, temporal_attention="last", pooled_dim=6, **SHARED),
}
RULES = [
    CausalConfig(block=1),
    CausalConfig(block=3, window=1),
    CausalConfig(block=2, first=1, window=2, sink=True),
    CausalConfig(block=1, window=4, period=5),
]
FRAMES = 9


def made(config: BaseDenoiserConfig) -> Denoiser:
    denoiser = build(config).double().eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.15)
    return denoiser.requires_grad_(False)


def told(denoiser: Denoiser, frames: int = FRAMES) -> Conditions:
    values = Conditions()
    for name, port in denoiser.spec.ports.items():
        if name == "text":
            mask = torch.tensor([[True, True, False], [True, True, True]])
            values = values.replace(text=torch.randn(2, 3, 6, dtype=torch.float64), text_mask=mask)
        elif name == "label":
            values = values.replace(label=torch.tensor([0, 2]))
        elif name == "given":
            given = torch.randn(2, 2, frames, 4, 4, dtype=torch.float64)
            values = values.replace(given=given, mask=torch.ones(2, 1, frames, 4, 4, dtype=torch.float64))
        elif port.kind == "field":
            field = torch.randn(2, port.width or 0, frames, 4, 4, dtype=torch.float64)
            values = values.told(Conditions.of({name: Value("field", field)}))
        else:
            vector = torch.randn((2, port.width) if port.width else (2,), dtype=torch.float64)
            values = values.told(Conditions.of({name: Value("vector", vector)}))
    return values


def at(values: Conditions, frames: range) -> Conditions:
    return values.at_frames(list(frames))


def causal(rule: CausalConfig, kept: Kept | None = None, *, doubled: bool = False) -> ForwardOptions:
    return ForwardOptions(reach=Reach(BlockCausal(rule, doubled)), kept=kept)


def streamed(denoiser: Denoiser, rule: CausalConfig, z: Tensor, clean: Tensor, values: Conditions) -> Tensor:
    """Each block's answer to its noisy frames, with what was kept of the clean ones before it."""
    kept, answers = Kept(rule), []
    while kept.start + kept.next_frames <= z.shape[2]:
        frames = range(kept.start, kept.start + kept.next_frames)
        part, options = at(values, frames), causal(rule, kept)
        answers.append(denoiser(z[:, :, frames.start : frames.stop], torch.full((2,), 500.0), part, options))
        kept.keeping = True
        denoiser(clean[:, :, frames.start : frames.stop], torch.ones(2), part, options)
        kept.keeping = False
        kept.advance()
    return torch.cat(answers, 2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_kept_keys_and_values_change_nothing(name: str, rule: CausalConfig) -> None:
    denoiser = made(CONFIGS[name])
    z, clean = torch.randn(2, 2, 2, FRAMES, 4, 4, dtype=torch.float64)
    values = told(denoiser)
    cached = streamed(denoiser, rule, z, clean, values)
    done = cached.shape[2]
    assert done >= 7
    # At once: all clean frames, and behind them all noisy ones, each block at its own place.
    frames = [*range(done), *range(done)]
    times = torch.cat([torch.ones(2, done), torch.full((2, done), 500.0)], 1)
    both = torch.cat([clean[:, :, :done], z[:, :, :done]], 2)
    whole = denoiser(both, times, values.at_frames(frames), causal(rule, doubled=True))[:, :, done:]
    assert_close(cached, whole, within=1e-10)
    # And block by block without anything kept: the last block of a clip whose other blocks are clean.
    first, last = rule.bounds(rule.block_of(done - 1))
    mixed = torch.cat([clean[:, :, :first], z[:, :, first:last]], 2)
    times = torch.cat([torch.ones(2, first), torch.full((2, last - first), 500.0)], 1)
    plain = denoiser(mixed, times, at(values, range(last)), causal(rule))[:, :, first:]
    assert_close(cached[:, :, first:], plain, within=1e-10)


@pytest.mark.parametrize("name", ["mmdit", "vdt", "vdt, joint"])
def test_so_it_is_in_float32(name: str) -> None:
    denoiser, rule = made(CONFIGS[name]).float(), RULES[2]
    values = told(denoiser).map(lambda v: v.float() if v.is_floating_point() else v)
    z, clean = torch.randn(2, 2, 2, FRAMES, 4, 4)
    times = torch.cat([torch.ones(2, FRAMES), torch.full((2, FRAMES), 500.0)], 1)
    doubled = values.at_frames([*range(FRAMES), *range(FRAMES)])
    whole = denoiser(torch.cat([clean, z], 2), times, doubled, causal(rule, doubled=True))[:, :, FRAMES:]
    assert_close(streamed(denoiser, rule, z, clean, values), whole)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_block_of_a_whole_clip_is_the_model_as_it_was_trained(name: str) -> None:
    denoiser = made(CONFIGS[name])
    z, t, values = torch.randn(2, 2, 5, 4, 4, dtype=torch.float64), torch.tensor([300.0, 700.0]), told(denoiser, 5)
    assert_close(denoiser(z, t, values, causal(CausalConfig(block=5))), denoiser(z, t, values))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_block_sees_a_later_one_and_each_sees_the_one_before(name: str) -> None:
    denoiser, rule = made(CONFIGS[name]), CausalConfig(block=2, window=1)
    z, t, values = torch.randn(2, 2, 6, 4, 4, dtype=torch.float64), torch.full((2,), 500.0), told(denoiser, 6)
    before = denoiser(z, t, values, causal(rule))
    z[:, :, 2:4] += 1.0
    after = denoiser(z, t, values, causal(rule))
    assert_same(after[:, :, :2], before[:, :, :2])
    assert differs(after[:, :, 4:], before[:, :, 4:]).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmdit", "mmdit, two attentions", "vdt", "vdt, joint", "latte"])
def test_layers_that_are_run_again_for_gradients_read_what_was_kept_then(name: str) -> None:
    """Blocks that all learn at the end, when the stream has gone on (Self Forcing)."""
    z, rule = torch.randn(2, 2, 4, 4, 4, dtype=torch.float64), CausalConfig(window=2)
    plain = made(CONFIGS[name])
    values, found = told(plain, 4), []
    for again in (False, True):
        denoiser = build(CONFIGS[name].model_copy(update={"gradient_checkpointing": again})).double().train()
        denoiser.load_state_dict(plain.state_dict())
        kept, answers = Kept(rule), []
        for frame in range(4):
            options, part = causal(rule, kept), at(values, range(frame, frame + 1))
            answers.append(denoiser(z[:, :, frame : frame + 1], torch.full((2,), 500.0), part, options))
            kept.keeping = True
            with torch.no_grad():
                denoiser(z[:, :, frame : frame + 1], torch.ones(2), part, options)
            kept.keeping = False
            kept.advance()
        torch.cat(answers, 2).square().sum().backward()
        found.append({name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for parameter, gradient in found[0].items():
        assert_close(found[1][parameter], gradient, within=1e-10, what=parameter)


def test_a_stream_keeps_its_window_and_no_more() -> None:
    denoiser, rule, sizes = made(CONFIGS["mmdit, 3D positions"]), CausalConfig(window=3, sink=True), []
    kept = Kept(rule)
    for _ in range(40):
        kept.keeping = True
        z = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)
        denoiser(z, torch.ones(2), Conditions(), causal(rule, kept))
        kept.keeping = False
        kept.advance()
        sizes.append(kept.size)
    assert kept.numbers == (0, 37, 38, 39)
    assert sizes[3:] == [sizes[3]] * 37
    assert sizes[3] == 4 * sizes[0]


def test_denoisers_without_a_block_causal_form_say_so() -> None:
    wrong: list[tuple[BaseDenoiserConfig, str]] = [
        (
            LatteConfig(hidden_size=16, patch_embedding="compression", temporal_patch=5, **SHARED),
            "have no block-causal form",
        ),
        (UnetConfig(block_out_channels=(8,), attention_levels=(), norm_groups=4), "expected a transformer"),
        (MmditConfig(hidden_size=32, attention="2d", temporal_position="none", **SHARED), "no frame reads another"),
        (MmditConfig(hidden_size=32, temporal_patch=2, **SHARED), "temporal_patch 1"),
        (VdtConfig(hidden_size=32, given="tokens", **SHARED), "use channels or mask"),
    ]
    for config, message in wrong:
        with pytest.raises(InputError, match=message):
            build(config).check_causal()


def test_what_does_not_fit_a_stream_is_refused() -> None:
    denoiser = made(CONFIGS["vdt, joint"])
    z = torch.randn(2, 2, 4, 4, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="leave it out of a stream"):
        cache: Any = StepCache()
        options = ForwardOptions(reach=Reach(BlockCausal(CausalConfig())), cache=cache)
        denoiser(z, torch.ones(2), Conditions(), options)
    with pytest.raises(InputError, match="one time per sample"):  # times of frames are for a block-causal reach
        denoiser(z, torch.ones(2, 4), Conditions())
    with pytest.raises(InputError, match="has no past in this stream"):
        kept = Kept(CausalConfig())
        kept.keeping = True
        denoiser(z[:, :, :1], torch.ones(2), Conditions(), causal(kept.rule, kept))
        kept.advance()
        kept.of(("unconditional",)).joined(denoiser, z, z)
