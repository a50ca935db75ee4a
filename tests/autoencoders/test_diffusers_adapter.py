"""The adapter of diffusers' classes: equal to calling the class, by rules of its own for frames and scale."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kinolab import video
from kinolab.autoencoders import DiffusersAutoencoder, DiffusersConfig, build
from kinolab.autoencoders.diffusers_adapter import CLASSES
from kinolab.checkpoints import inspect, load
from kinolab.errors import InputError
from kinolab.generation.provenance import model_hash
from kinolab.generation.reconstruct import reconstruct
from kinolab.generation.reconstruct_report import ReconstructConfig
from kinolab.models import autoencoder_config, load_autoencoder, save_autoencoder

pytest.importorskip("diffusers")
import diffusers

from tests.closeness import NETWORK, assert_close

WIDTHS = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
LTX = {
    "latent_channels": 8, "block_out_channels": [8, 8, 8, 8], "decoder_block_out_channels": [8, 8, 8, 8],
    "layers_per_block": [1] * 5, "decoder_layers_per_block": [1] * 5,
}  # fmt: skip
IMAGE = {
    "block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "sd3": ("AutoencoderKL", IMAGE | {"scaling_factor": 1.5, "shift_factor": 0.06}, "1 + 1*k", 2),
    "by-channel": (
        "AutoencoderKL",
        IMAGE | {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 0.5, 4.0]},
        "1 + 1*k",
        2,
    ),
    "svd": (
        "AutoencoderKLTemporalDecoder",
        {"block_out_channels": [32, 32], "down_block_types": ["DownEncoderBlock2D"] * 2, "latent_channels": 4},
        "1 + 1*k",
        2,
    ),
    "cogvideox": ("AutoencoderKLCogVideoX", WIDTHS | {"scaling_factor": 0.7}, "1 + 8*k", 8),
    "wan": (
        "AutoencoderKLWan",
        {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
         "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 0.5, 4.0]},
        "1 + 4*k",
        8,
    ),
    "hunyuan": ("AutoencoderKLHunyuanVideo", WIDTHS, "1 + 4*k", 8),
    "ltx": ("AutoencoderKLLTXVideo", LTX | {"scaling_factor": 0.9}, "1 + 8*k", 32),
    "ltx-timestep": (
        "AutoencoderKLLTXVideo",
        LTX | {"timestep_conditioning": True, "decoder_inject_noise": [True, True, True, True, False]},
        "1 + 8*k",
        32,
    ),
    "allegro": ("AutoencoderKLAllegro", WIDTHS, "4*k", 8),
    "taesd": (
        "AutoencoderTiny",
        {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4,
         "num_encoder_blocks": [1] * 4, "num_decoder_blocks": [1] * 4},
        "1 + 1*k",
        8,
    ),
}  # fmt: skip


def saved(case: str, folder: Path) -> Any:
    """A random instance of the class, written as diffusers writes it."""
    name, settings, _, _ = CASES[case]
    network = getattr(diffusers, name)(**settings).eval()
    if name == "AutoencoderKLLTXVideo":
        network.latents_mean.copy_(torch.linspace(-0.5, 0.5, 8))
        network.latents_std.copy_(torch.linspace(0.5, 2.0, 8))
        for parameter_name, parameter in network.named_parameters():
            if parameter_name.endswith("per_channel_scale1"):  # zero at first, which would hide the noise
                torch.nn.init.constant_(parameter, 0.1)
    network.save_pretrained(folder)
    return network


def columns(values: Any) -> Tensor:
    return torch.as_tensor(values).view(1, -1, 1, 1, 1)


def direct(case: str, network: Any, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Latents as the class's pipeline normalises them, and the clip that the class decodes from the raw ones."""
    frames, c = clip.shape[2], network.config
    images = clip[0].transpose(0, 1)
    if case in ("sd3", "by-channel", "svd", "taesd"):
        raw = network.encode(images).latents if case == "taesd" else network.encode(images).latent_dist.mean
        decoded = network.decode(raw, num_frames=frames) if case == "svd" else network.decode(raw)
        raw, rebuilt = (x.transpose(0, 1)[None] for x in (raw, decoded.sample))
    elif case == "allegro":  # a single tile, which is all of the clip
        network.enable_tiling()
        network.kernel = network.stride = tuple(clip.shape[2:])
        raw = network.encode(clip).latent_dist.mean
        rebuilt = network.decode(raw).sample.transpose(1, 2)
    elif case == "ltx-timestep":
        raw = network.encode(clip).latent_dist.mean
        torch.manual_seed(0)
        rebuilt = network.decode(raw, torch.zeros(1)).sample
    else:
        raw = network.encode(clip).latent_dist.mean
        rebuilt = network.decode(raw).sample
    match case:
        case "sd3":
            latents = (raw - 0.06) * 1.5
        case "by-channel":
            latents = (raw - columns(c.latents_mean)) * 0.5 / columns(c.latents_std)
        case "wan":
            latents = (raw - columns(c.latents_mean)) / columns(c.latents_std)
        case "ltx" | "ltx-timestep":
            latents = (raw - columns(network.latents_mean)) * c.scaling_factor / columns(network.latents_std)
        case _:
            latents = raw * c.scaling_factor
    return latents, rebuilt


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_folder_of_diffusers_gives_what_its_class_gives(case: str, tmp_path: Path) -> None:
    name, _, rule, ratio = CASES[case]
    network = saved(case, tmp_path)
    ours = load_autoencoder(tmp_path)
    assert isinstance(ours, DiffusersAutoencoder) and not ours.training
    spec = ours.spec
    assert (spec.frame_rule, spec.spatial_ratio) == (rule, ratio) and ours.config.class_name == name
    frames = 2 * spec.frame_step + spec.first_frame
    clip = torch.rand(1, 3, frames, 2 * ratio, 3 * ratio) * 2 - 1
    latents, rebuilt = direct(case, network, clip)
    posterior = ours.encode(clip)
    assert_close(posterior.mean, latents, within=NETWORK)
    assert tuple(posterior.mean.shape[1:]) == spec.latent_shape(frames, 2 * ratio, 3 * ratio)
    assert ours.bits_per_latent is None
    before = torch.random.get_rng_state()
    assert_close(ours.decode(posterior.mean), rebuilt, within=NETWORK)
    assert torch.equal(torch.random.get_rng_state(), before), "decoding leaves the random state alone"
    twice = torch.cat([clip, clip.flip(2)])
    if case != "ltx-timestep":  # each clip of a batch gets noise of its own
        assert_close(ours.decode(ours.encode(twice).mean)[:1], rebuilt, within=NETWORK)


@pytest.mark.parametrize("case", ["sd3", "ltx"])
@torch.no_grad()
@pytest.mark.slow
def test_the_spread_is_scaled_with_the_mean(case: str, tmp_path: Path) -> None:
    network, ours = saved(case, tmp_path), load_autoencoder(tmp_path)
    clip = torch.rand(1, 3, 1, 64, 64) * 2 - 1
    raw = network.encode(clip[:, :, 0] if case == "sd3" else clip).latent_dist.std
    deviation = torch.exp(0.5 * ours.encode(clip).logvar)
    assert_close(deviation, (raw[:, :, None] if case == "sd3" else raw) * columns(ours.latent_scale), within=NETWORK)


@pytest.mark.slow
@torch.no_grad()
def test_hunyuan_is_not_cut_in_time(tmp_path: Path) -> None:
    """The class cuts clips of more than 16 frames into blended pieces of its own accord."""
    network, ours = saved("hunyuan", tmp_path), load_autoencoder(tmp_path)
    clip = torch.rand(1, 3, 21, 16, 16) * 2 - 1
    cut = network.encode(clip).latent_dist.mean
    whole = network.quant_conv(network.encoder(clip)).chunk(2, dim=1)[0]
    assert (cut - whole).abs().max() > 1e-4
    assert_close(ours.encode(clip).mean, whole * network.config.scaling_factor, within=NETWORK)


@torch.no_grad()
def test_a_model_folder_holds_it_whole(tmp_path: Path) -> None:
    saved("ltx", tmp_path / "ltx")
    ours = load_autoencoder(tmp_path / "ltx")
    save_autoencoder(ours, tmp_path / "model")
    shutil.rmtree(tmp_path / "ltx")
    again = load_autoencoder(tmp_path / "model")
    assert again.config == ours.config and again.spec == ours.spec == build(ours.config).spec
    clip = torch.rand(1, 3, 9, 32, 32)
    assert_close(again.encode(clip).mean, ours.encode(clip).mean, within=NETWORK)


def test_it_is_measured_like_any_other(tmp_path: Path) -> None:
    saved("wan", tmp_path / "wan")
    clip = np.random.default_rng(0).integers(0, 255, (12, 16, 24, 3), dtype=np.uint8)
    video.write(tmp_path / "c.mkv", clip, 8, lossless=True)
    config = ReconstructConfig(autoencoder=str(tmp_path / "wan"))
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "r.mkv", load_autoencoder(tmp_path / "wan"), config)
    assert (report.frames, report.latent_shape, report.mode) == (9, (4, 3, 2, 3), "tiled")
    assert json.loads((tmp_path / "r.json").read_text())["model_sha256"] == model_hash(str(tmp_path / "wan"))
    shutil.copytree(tmp_path / "wan", tmp_path / "copy")
    assert model_hash(str(tmp_path / "copy")) == model_hash(str(tmp_path / "wan"))
    settings = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(settings | {"latents_mean": [0.0] * 4}))
    assert model_hash(str(tmp_path / "copy")) != model_hash(str(tmp_path / "wan"))
    found = autoencoder_config(tmp_path / "wan")
    assert isinstance(found, DiffusersConfig) and found.settings["base_dim"] == 8 and found.path is None


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    saved("taesd", tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match=r"a whole diffusers pipeline; name the folder of its autoencoder, .*vae"):
        load_autoencoder(tmp_path)
    settings = json.loads((tmp_path / "vae" / "config.json").read_text())

    def written(name: str, text: str) -> Path:
        shutil.copytree(tmp_path / "vae", tmp_path / name)
        (tmp_path / name / "config.json").write_text(text)
        return tmp_path / name

    other = written("unet", json.dumps(settings | {"_class_name": "UNet2DModel"}))
    with pytest.raises(InputError, match="names the class UNet2DModel; expected one of AutoencoderKL, "):
        load_autoencoder(other)
    with pytest.raises(InputError, match="not valid JSON"):
        load_autoencoder(written("broken", "{"))
    narrow = written("narrow", json.dumps(settings | {"latent_channels": 8}))
    with pytest.raises(InputError, match="AutoencoderTiny does not load: "):
        load_autoencoder(narrow)
    longer = written("longer", json.dumps(settings | {"num_encoder_blocks": [1, 1, 1, 2]}))
    with pytest.raises(InputError, match=r"does not fit AutoencoderTiny: \d+ missing: encoder\.layers\."):
        load_autoencoder(longer)
    (longer / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="AutoencoderTiny does not load: "):
        load_autoencoder(longer)
    (longer / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no diffusion_pytorch_model\.safetensors inside"):
        load_autoencoder(longer)
    with pytest.raises(InputError, match=r"no config\.json inside"):
        build(DiffusersConfig(path=tmp_path / "nowhere"))


def test_public_readers_point_to_the_adapter(tmp_path: Path) -> None:
    saved("allegro", tmp_path)
    assert "AutoencoderKLAllegro; used through diffusers" in inspect(tmp_path).title
    with pytest.raises(InputError, match="AutoencoderKLAllegro, which is used through diffusers and not converted"):
        load(tmp_path)


def test_rules_are_kept_in_both_directions() -> None:
    ours = DiffusersAutoencoder(DiffusersConfig(class_name="AutoencoderKLCogVideoX", settings=CASES["cogvideox"][1]))
    with pytest.raises(InputError, match=r"expected 1 \+ 8\*k frames, got 13; use 9 or 17"):
        ours.encode(torch.zeros(1, 3, 13, 16, 16))
    with pytest.raises(InputError, match=r"expected 1 \+ 8\*k frames, got 13"):
        ours.decode(torch.zeros(1, 4, 4, 2, 2))
    with pytest.raises(InputError, match=r"takes whole clips and has no stream; use encode\(\)"):
        ours.encode_stream(iter(()))
    with pytest.raises(InputError, match=r"takes whole clips and has no stream; use decode\(\)"):
        ours.decode_stream(iter(()))
    # A folder whose stated ratio its layers do not have.
    wrong = LTX | {"spatial_compression_ratio": 16, "temporal_compression_ratio": 8}
    with pytest.raises(InputError, match=r"settings promise latents of \(8, 1, 2, 2\), its layers give \(8, 1, 1, 1\)"):
        DiffusersAutoencoder(DiffusersConfig(class_name="AutoencoderKLLTXVideo", settings=wrong)).encode(
            torch.zeros(1, 3, 1, 32, 32)
        )


def test_configs_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in ({}, {"path": "x", "class_name": "AutoencoderTiny"}):
        with pytest.raises(ValidationError, match="expected a path or a class_name, one of them"):
            DiffusersConfig.model_validate(values)
    with pytest.raises(ValidationError, match="no settings beside path"):
        DiffusersConfig.model_validate({"path": "x", "settings": {"z_dim": 4}})
    with pytest.raises(InputError, match="AutoencoderTiny has no argument z_dim"):
        build(DiffusersConfig(class_name="AutoencoderTiny", settings={"z_dim": 4}))
    with pytest.raises(InputError, match=r"AutoencoderTiny does not take them: .*same length"):
        build(DiffusersConfig(class_name="AutoencoderTiny", settings={"num_encoder_blocks": [1]}))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"AutoencoderTiny needs diffusers.*pip install 'kinolab\[interop\]'"):
        build(DiffusersConfig(class_name="AutoencoderTiny"))


def test_every_class_is_tried_here() -> None:
    assert {name for name, *_ in CASES.values()} == set(CLASSES)
