"""Stable Video Diffusion's autoencoder: parity with both public classes, chunks, streams, and what it starts as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.autoencoders import ImageAutoencoder, ImageConfig, TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.autoencoders.inflate import with_temporal_decoder
from kinolab.checkpoints import inspect, load, save
from kinolab.errors import InputError
from tests.closeness import NETWORK, STORED, assert_close, assert_same
from tests.random_weights import randomized

GOLDEN = Path(__file__).parents[1] / "golden" / "svd_vae_sgm.safetensors"
TINY: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 2}


def tiny(**fields: Any) -> TemporalDecoderAutoencoder:
    made: TemporalDecoderAutoencoder = randomized(
        TemporalDecoderAutoencoder(TemporalDecoderConfig.model_validate({**TINY, **fields})), 0.05
    )
    return made


def per_clip(frames: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) as (B, C, T, H, W)."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


@torch.no_grad()
def test_the_first_codes_decoder_gives_its_outputs(tmp_path: Path) -> None:
    with safe_open(GOLDEN, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        frames = json.loads(file.metadata()["config"])["_frames"]
    weights = {name.removeprefix("weights."): v.float() for name, v in tensors.items() if name.startswith("weights.")}
    save_file(weights, tmp_path / "svd.safetensors")
    with pytest.raises(InputError, match=r"under the prefix 'first_stage_model\.'"):
        load(tmp_path / "svd.safetensors")
    ours = load(tmp_path / "svd.safetensors", prefix="first_stage_model.").eval()
    assert type(ours) is TemporalDecoderAutoencoder and not ours.config.use_quant_conv
    scale = ours.latent_scale.view(1, -1, 1, 1, 1)
    z = per_clip(tensors["z"], len(tensors["z"]) // frames)
    assert_close(ours.decode(z * scale), per_clip(tensors["decoded"], len(z)), within=STORED)
    posterior = ours.encode(tensors["video"].transpose(0, 1)[None])
    mean, logvar = per_clip(tensors["moments"], 1).chunk(2, 1)
    assert_close(posterior.mean / scale, mean, within=STORED)
    assert_close(posterior.logvar - 2 * scale.log(), logvar, within=STORED)
    save(ours, tmp_path / "back.safetensors", "svd_autoencoder_sgm")
    assert_same(load_file(tmp_path / "back.safetensors"), {k.split(".", 1)[1]: v for k, v in weights.items()})


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.no_grad()
@pytest.mark.slow
def test_diffusers_class_both_ways(tmp_path: Path, layers: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    cls = diffusers.AutoencoderKLTemporalDecoder
    kinds = ("DownEncoderBlock2D",) * 2
    theirs = randomized(cls(block_out_channels=(32, 64), layers_per_block=layers, down_block_types=kinds), 0.05)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs").eval()
    video, z = torch.rand(2, 3, 3, 8, 12) * 2 - 1, torch.randn(2, 4, 5, 4, 6)

    def compare(ours: Any, theirs: Any) -> None:
        said = theirs.encode(video.transpose(1, 2).flatten(0, 1)).latent_dist.mean
        assert_close(ours.encode(video).mean, per_clip(said * 0.18215, 2), within=NETWORK)
        shown = theirs.decode(z.transpose(1, 2).flatten(0, 1) / 0.18215, num_frames=5).sample
        assert_close(ours.decode(z), per_clip(shown, 2), within=NETWORK)

    compare(ours, theirs)
    save(ours, tmp_path / "ours", "svd_autoencoder")
    again, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()) and again.config.scaling_factor == 0.18215
    compare(ours, again.eval())
    assert inspect(tmp_path / "ours").format == "svd_autoencoder" and load(tmp_path / "ours").config == ours.config


@torch.no_grad()
def test_a_quant_conv_is_written_into_the_encoder_and_comes_out_of_nothing(tmp_path: Path) -> None:
    ours, video = tiny(), torch.rand(1, 3, 2, 8, 8) * 2 - 1
    save(ours, tmp_path / "x.safetensors", "svd_autoencoder_sgm")
    without = load(tmp_path / "x.safetensors").eval()
    assert not without.config.use_quant_conv
    for name in ("mean", "logvar"):
        assert_close(getattr(without.encode(video), name), getattr(ours.encode(video), name), within=NETWORK)
    save(without, tmp_path / "folder", "svd_autoencoder")
    again = load(tmp_path / "folder").eval()
    assert again.config.use_quant_conv
    assert_close(again.encode(video).mean, ours.encode(video).mean, within=NETWORK)


@torch.no_grad()
def test_a_decoder_of_images_is_what_it_starts_as() -> None:
    image = randomized(ImageAutoencoder(ImageConfig.model_validate(TINY)), 0.05)
    image.set_scaling(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 0.5, 2.0, 4.0]))
    fields = {**TINY, "use_post_quant_conv": True, "chunk_frames": 2}
    ours = with_temporal_decoder(image, TemporalDecoderConfig.model_validate(fields)).eval()
    z = torch.randn(1, 4, 3, 4, 4)
    assert_close(ours.decode(z), image.decode(z), within=NETWORK)
    video = torch.rand(1, 3, 3, 8, 8) * 2 - 1
    assert_same(ours.encode(video).mean, image.encode(video).mean)
    with pytest.raises(InputError, match="use_post_quant_conv: expected True, got False"):
        with_temporal_decoder(image, TemporalDecoderConfig.model_validate(TINY))


@torch.no_grad()
def test_frames_see_their_neighbours_and_chunks_do_not() -> None:
    ours, z = tiny(chunk_frames=3), torch.randn(1, 4, 7, 4, 4)
    whole = ours.decode(z)
    parts = [ours.decode(z[:, :, a:b]) for a, b in ((0, 3), (3, 6), (6, 7))]
    assert_same(whole, torch.cat(parts, 2))
    moved = z.clone()
    moved[:, :, 2] += 1.0
    changed = (ours.decode(moved) - whole).abs().amax((0, 1, 3, 4)) > 0
    assert changed.tolist() == [True] * 3 + [False] * 4


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[7], [1] * 7, [2, 5], [5, 2]])
@torch.no_grad()
def test_a_stream_is_what_decoding_all_at_once_gives(sizes: list[int]) -> None:
    ours, z = tiny(chunk_frames=3), torch.randn(2, 4, 7, 4, 4)
    made = list(ours.decode_stream(iter(z.split(sizes, 2))))
    assert max(chunk.shape[2] for chunk in made) <= 3
    assert_close(torch.cat(made, 2), ours.decode(z))
    seen = torch.cat([p.mean for p in ours.encode_stream(iter(torch.zeros(1, 3, 4, 8, 8).split(2, 2)))], 2)
    assert seen.shape == (1, 4, 4, 4, 4)


def test_memory_does_not_grow_with_the_video() -> None:
    """What the widest layer is given at once is a chunk of one clip, however many frames and clips there are."""
    ours, seen = tiny(chunk_frames=2), list[int]()
    last: Any = ours.decoder.get_submodule("conv_out")
    last.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        ours.decode(torch.randn(3, 4, 9, 2, 2))
    assert set(seen) == {1, 2} and sum(seen) == 27


@pytest.mark.parametrize(
    ("fields", "format", "said"),
    [
        ({"norm_num_groups": 16}, "svd_autoencoder", "has no norm_num_groups=16"),
        ({"middle_blocks": 1}, "svd_autoencoder", "has no middle_blocks=1"),
        ({"use_post_quant_conv": True}, "svd_autoencoder_sgm", "has no use_post_quant_conv=True"),
    ],
)
def test_what_the_public_code_can_not_hold(tmp_path: Path, fields: dict[str, Any], format: str, said: str) -> None:
    path = tmp_path / ("folder" if format == "svd_autoencoder" else "x.safetensors")
    with pytest.raises(InputError, match=said):
        save(tiny(**fields), path, format)


def test_every_layer_over_time_learns() -> None:
    ours = tiny().train()
    ours.decode(torch.randn(1, 4, 2, 2, 2)).square().mean().backward()
    without = [name for name, p in ours.decoder.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not without
