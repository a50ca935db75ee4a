"""TAESD: its equations, frames by themselves, the rules of its config; inflated, it streams exactly."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from kinolab.autoencoders import Taesd, TaesdConfig
from kinolab.autoencoders import taesd as taesd_module
from kinolab.layers.tiny_coder import TinyVariant
from tests.closeness import NETWORK, assert_close

TINY: dict[str, Any] = {
    "width": 8,
    "decoder_widths": (8, 8, 8),
    "decoder_blocks": (2, 1, 1),
    "encoder_blocks": (1, 1, 2),
}
VIDEO = [v for v in get_args(TinyVariant) if v != "image"]


def made(**fields: Any) -> Taesd:
    torch.manual_seed(0)
    model = Taesd(TaesdConfig.model_validate(TINY | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def block(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """relu(x' + conv(relu(conv(relu(conv(x')))))), x' = x + W2 relu(norm(W1 x)) with a global part."""

    def conv(x: Tensor, layer: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.{layer}.weight"], w.get(f"{name}.{layer}.bias"), padding=1)

    if f"{name}.pool.norm.weight" in w:
        h = F.conv2d(x, w[f"{name}.pool.conv_in.weight"])
        h = F.group_norm(h, 4, w[f"{name}.pool.norm.weight"], w[f"{name}.pool.norm.bias"], eps=1e-5)
        x = x + F.conv2d(F.relu(h), w[f"{name}.pool.conv_out.weight"])
    return F.relu(x + conv(F.relu(conv(F.relu(conv(x, "conv1")), "conv2")), "conv3"))


def written_out(model: Taesd, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of images (N, 3, H, W) in [0, 1] and what is decoded from twice the latents, layer by layer."""
    w, c = model.state_dict(), model.config
    x = F.conv2d(frames, w["encoder.stem.0.weight"], w["encoder.stem.0.bias"], padding=1)
    for i, blocks in enumerate(c.encoder_blocks):
        if i:
            x = F.conv2d(x, w[f"encoder.levels.{i}.down.weight"], stride=2, padding=1)
        for j in range(blocks):
            x = block(x, w, f"encoder.levels.{i}.blocks.{j}")
    latents = F.conv2d(x, w["encoder.conv_out.weight"], w["encoder.conv_out.bias"], padding=1)
    x = 3 * torch.tanh(2 * latents / 3)
    x = F.relu(F.conv2d(x, w["decoder.conv_in.weight"], w["decoder.conv_in.bias"], padding=1))
    for i, blocks in enumerate(c.decoder_blocks):
        for j in range(blocks):
            x = block(x, w, f"decoder.levels.{i}.blocks.{j}")
        if i < len(c.decoder_blocks) - 1:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.conv2d(x, w[f"decoder.levels.{i}.up.conv.weight"], padding=1)
    return latents, F.conv2d(x, w["decoder.conv_out.weight"], w["decoder.conv_out.bias"], padding=1)


@pytest.mark.parametrize("fields", [{}, {"global_part": True, "latent_channels": 32}], ids=["plain", "global part"])
@torch.no_grad()
def test_it_is_the_published_sequence_of_layers_on_every_frame(fields: dict[str, Any]) -> None:
    model = made(**fields)
    frames = torch.rand(3, 3, 12, 8)
    latents, decoded = written_out(model, frames)
    posterior = model.encode(frames.transpose(0, 1)[None] * 2 - 1)
    assert_close(posterior.mean[0].transpose(0, 1), latents, within=NETWORK)
    assert_close(model.decode(2 * posterior.mean)[0].transpose(0, 1), decoded * 2 - 1, within=NETWORK)
    assert posterior.logvar.max() < -20


@torch.no_grad()
def test_scale_and_shift_are_in_the_latents() -> None:
    plain, scaled = made(), made(latent_shift=0.3, latent_scale=0.5)
    clip = torch.rand(1, 3, 2, 8, 8) * 2 - 1
    latents = plain.encode(clip).mean
    assert_close(scaled.encode(clip).mean, (latents - 0.3) * 0.5, within=NETWORK)
    assert_close(scaled.decode((latents - 0.3) * 0.5), plain.decode(latents), within=NETWORK)


@torch.no_grad()
def test_long_clips_go_through_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = made(), torch.rand(2, 3, 5, 8, 8) * 2 - 1
    latents = model.encode(clip).mean
    decoded = model.decode(latents)
    monkeypatch.setattr(taesd_module, "PIXELS_AT_ONCE", 2 * 8 * 8)
    assert_close(model.encode(clip).mean, latents, within=NETWORK)
    assert_close(model.decode(latents), decoded, within=NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VIDEO)
@pytest.mark.parametrize("ratio", [1, 2, 4])
@torch.no_grad()
def test_videos_stream_exactly(variant: str, ratio: int) -> None:
    model = made(variant=variant, temporal_ratio=ratio, global_part=ratio == 2)
    clip = torch.rand(1, 3, 2 * ratio + 1, 8, 8) * 2 - 1
    whole = model.encode(clip).mean
    assert whole.shape[2] == 3
    for lengths in ([1], [2], [3, 1]):
        pieces: list[Tensor] = []
        start = 0
        while start < clip.shape[2]:
            step = lengths[len(pieces) % len(lengths)]
            pieces.append(clip[:, :, start : start + step])
            start += step
        parts = torch.cat([p.mean for p in model.encode_stream(pieces)], dim=2)
        assert_close(parts, whole, within=NETWORK)
    decoded = torch.cat(list(model.decode_stream(whole.split(1, dim=2))), dim=2)
    assert_close(decoded, model.decode(whole), within=NETWORK)
    assert decoded.shape == clip.shape


@torch.no_grad()
def test_a_latent_sees_no_later_frame() -> None:
    model = made(variant="all3d", temporal_ratio=4)
    clip = torch.rand(1, 3, 9, 8, 8) * 2 - 1
    other = clip.clone()
    other[:, :, 5:] = 0
    assert_close(model.encode(other).mean[:, :, :2], model.encode(clip).mean[:, :, :2])
    assert (model.encode(other).mean[:, :, 2] - model.encode(clip).mean[:, :, 2]).abs().max() > 1e-3


def test_checkpointing_changes_no_gradient() -> None:
    clip = torch.rand(1, 3, 5, 8, 8) * 2 - 1
    gradients = []
    for checkpointing in (False, True):
        model = made(variant="outer2d", temporal_ratio=4, gradient_checkpointing=checkpointing).train()
        model.decode(model.encode(clip).mean).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert_close(gradients[1], gradients[0], within=NETWORK)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"decoder_blocks": (1, 1)}, "as many decoder_widths as decoder_blocks"),
        ({"encoder_blocks": (1, 1)}, r"one ratio, got 2 \(encoder_blocks and stem\) and 4"),
        ({"stem": (4,), "encoder_blocks": (1, 1)}, "a stem that ends with the width 8"),
        ({"temporal_ratio": 4}, "variant 'image' takes every frame by itself: for temporal_ratio 4"),
        ({"variant": "all3d", "temporal_ratio": 8}, "a temporal_ratio of at most 4"),
    ],
)
def test_configs_are_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaesdConfig.model_validate(TINY | fields)
