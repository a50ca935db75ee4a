"""The image autoencoder's two public layouts, against diffusers and with each other; CausalVAE's variants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.autoencoders import ImageAutoencoder, ImageConfig, OdVae, OdVaeConfig
from kinolab.checkpoints import inspect, load, save
from kinolab.errors import InputError
from tests.closeness import NETWORK, assert_close

TINY: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
FILE = "diffusion_pytorch_model.safetensors"


def tiny(**fields: Any) -> ImageAutoencoder:
    model = ImageAutoencoder(ImageConfig.model_validate({**TINY, **fields})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return a.config == b.config and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def reference(**fields: Any) -> Any:
    """diffusers' class of the same size, with random weights."""
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL

    levels = len(TINY["block_out_channels"])
    model: Any = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels, **TINY, **fields
    )  # fmt: skip
    return model.eval()


def compare(ours: ImageAutoencoder, theirs: Any, shift: Tensor, scale: Tensor) -> None:
    """Equal latents (ours normalised) and images for a clip of two frames."""
    frames = torch.rand(2, 3, 16, 8) * 2 - 1
    raw = theirs.encode(frames).latent_dist
    shift, scale = shift.view(-1, 1, 1), scale.view(-1, 1, 1)
    posterior = ours.encode(frames.transpose(0, 1)[None])
    assert_close(posterior.mean[0].transpose(0, 1), (raw.mean - shift) * scale, within=NETWORK)
    deviation = torch.exp(0.5 * posterior.logvar[0].transpose(0, 1))
    assert_close(deviation, raw.std * scale, within=NETWORK)
    video = ours.decode(posterior.mean)[0].transpose(0, 1)
    assert_close(video, theirs.decode(raw.mean).sample, within=NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"scaling_factor": 0.18215},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False},
        {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 0.5, 4.0]},
        {"mid_block_add_attention": False},
    ],
    ids=["sd", "sd3", "by-channel", "no-attention"],
)
@torch.no_grad()
def test_what_diffusers_saved_gives_its_outputs(tmp_path: Path, fields: dict[str, Any]) -> None:
    theirs = reference(**fields)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    scale = torch.full((4,), fields.get("scaling_factor", 0.18215)) / torch.tensor(fields.get("latents_std", [1.0] * 4))
    compare(ours, theirs, torch.tensor(fields.get("latents_mean", [fields.get("shift_factor", 0.0)] * 4)), scale)
    assert load(tmp_path / FILE).config == ours.config, "the file brings its folder's config.json"


@pytest.mark.parametrize(
    "fields",
    [
        {"latent_scale": 0.18215},
        {"latent_scale": 1.5305, "latent_shift": 0.0609, "use_quant_conv": False, "mid_block_attention": False},
    ],
)
@torch.no_grad()
def test_diffusers_loads_what_we_write(tmp_path: Path, fields: dict[str, Any]) -> None:
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL

    ours = tiny(**fields)
    save(ours, tmp_path / "vae", "autoencoder_kl")
    theirs, report = AutoencoderKL.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(report.values())
    assert theirs.config.scaling_factor == fields["latent_scale"]
    assert (theirs.config.shift_factor or 0.0) == fields.get("latent_shift", 0.0)
    compare(ours, theirs.eval(), ours.latent_shift, ours.latent_scale)
    assert equal(load(tmp_path / "vae"), ours)


def test_a_scale_by_channel_survives_the_round_trip(tmp_path: Path) -> None:
    ours = tiny()
    ours.set_scaling(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 0.5, 2.0, 4.0]))
    save(ours, tmp_path / "vae", "autoencoder_kl")
    written = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert written["latents_std"] == [1.0, 2.0, 0.5, 0.25] and written["scaling_factor"] == 1.0
    assert equal(load(tmp_path / "vae"), ours)
    assert load(tmp_path / "vae", latent_scale=3.0).latent_scale.tolist() == [3.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "scale", "shift"), [(4, 0.18215, 0.0), (16, 1.5305, 0.0609), (8, 1.0, 0.0)])
def test_a_file_alone_gets_the_scale_of_the_known_models(
    tmp_path: Path, channels: int, scale: float, shift: float
) -> None:
    state = {k: v for k, v in tiny(latent_channels=channels).state_dict().items() if not k.startswith("latent_")}
    save_file(state, tmp_path / "vae.safetensors")
    config = load(tmp_path / "vae.safetensors", norm_num_groups=4).config
    assert (config.latent_scale, config.latent_shift) == (scale, shift)
    assert load(tmp_path / "vae.safetensors", norm_num_groups=4, latent_scale=0.13025).config.latent_scale == 0.13025
    assert "latent_scale" in inspect(tmp_path / "vae.safetensors").assumed
    with pytest.raises(InputError, match=r"pass norm_num_groups=\.\.\. \(32 groups"):
        load(tmp_path / "vae.safetensors")


def test_old_names_of_attention_are_read(tmp_path: Path) -> None:
    ours = tiny(latent_scale=0.18215)
    state: dict[str, Tensor] = {}
    for name, value in ours.state_dict().items():
        for new, old in (
            (".to_q.", ".query."),
            (".to_k.", ".key."),
            (".to_v.", ".value."),
            (".to_out.0.", ".proj_attn."),
        ):
            name = name.replace(new, old)
        if not name.startswith("latent_"):
            state[name] = value[..., None, None] if ".query." in name and value.ndim == 2 else value
    torch.save(state, tmp_path / "vae.bin")
    assert equal(load(tmp_path / "vae.bin", norm_num_groups=4), ours)


def test_the_layout_of_latent_diffusion_holds_the_same_model(tmp_path: Path) -> None:
    ours = tiny(latent_scale=0.18215, block_out_channels=(8, 16, 24))
    save(ours, tmp_path / "ldm.safetensors", "ldm_autoencoder")
    stored = load_file(tmp_path / "ldm.safetensors")
    assert stored["encoder.mid.attn_1.q.weight"].shape == (24, 24, 1, 1)
    assert stored["decoder.up.2.upsample.conv.weight"].shape == (24, 24, 3, 3), (
        "resolutions are counted from the finest"
    )
    whole = {f"first_stage_model.{k}": v for k, v in stored.items()} | {
        "model.diffusion_model.out.2.bias": torch.ones(4)
    }
    torch.save({"state_dict": whole, "global_step": 5}, tmp_path / "sd.ckpt")
    leftovers = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
    torch.save({"state_dict": stored | leftovers}, tmp_path / "vae.ckpt")
    assert equal(load(tmp_path / "vae.ckpt", norm_num_groups=4), ours), "the loss of its training is no part of it"
    assert equal(load(tmp_path / "sd.ckpt", prefix="first_stage_model.", norm_num_groups=4), ours)
    with pytest.raises(
        InputError, match=r"pass prefix='state_dict.first_stage_model.'.*model.diffusion_model.out.2.bias"
    ):
        load(tmp_path / "sd.ckpt")


def test_settings_without_a_counterpart_are_refused(tmp_path: Path) -> None:
    save(tiny(), tmp_path, "autoencoder_kl")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"down_block_types": ["AttnDownEncoderBlock2D"]}))
    save_file(load_file(tmp_path / FILE), tmp_path / FILE)  # as another program would write it
    with pytest.raises(InputError, match="down_block_types 'AttnDownEncoderBlock2D' is not supported"):
        load(tmp_path)


def test_a_pipeline_folder_is_no_autoencoder(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "vae", "autoencoder_kl")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="expected a pipeline with a unet or transformer and a vae; it has nothing"):
        load(tmp_path)


PUBLISHED: list[dict[str, Any]] = [
    {"variant": "all3d", "resampling": "separate"},
    {"variant": "all3d", "resampling": "residual"},
    {"variant": "all3d", "resampling": "residual", "time_steps": "early", "temporal_ratio": 2},
    {"variant": "half2d"},
    {"variant": "outer2d"},
    {"variant": "encoder_outer2d", "temporal_ratio": 8},
    {"variant": "all3d", "temporal_ratio": 2, "time_steps": "early", "mid_attention": "none", "use_quant_conv": False},
]


@pytest.mark.parametrize("fields", PUBLISHED, ids=lambda fields: "-".join(map(str, fields.values())))
@pytest.mark.slow
def test_the_variants_of_od_vae_are_told_by_their_shapes(tmp_path: Path, fields: dict[str, Any]) -> None:
    base = {"hidden_size": 32, "hidden_size_mult": (1, 1, 1, 1), "num_res_blocks": 1, "norm": "clip"}
    config = OdVaeConfig.model_validate({**base, "upsampling": "trilinear", "mid_attention": "scrambled", **fields})
    ours = OdVae(config).eval()
    save(ours, tmp_path / "own.safetensors", "causal_vae")
    assert equal(load(tmp_path / "own.safetensors"), ours)
    save_file(load_file(tmp_path / "own.safetensors"), tmp_path / "plain.safetensors")  # without our header
    assert equal(load(tmp_path / "plain.safetensors"), ours)


def test_config_json_says_which_attention_the_weights_were_trained_with(tmp_path: Path) -> None:
    config = OdVaeConfig(
        hidden_size=32, hidden_size_mult=(1, 1), num_res_blocks=1, norm="clip", upsampling="trilinear",
        mid_attention="frame", temporal_ratio=2,
    )  # fmt: skip
    ours = OdVae(config)
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("latent_")}
    torch.save({"state_dict": {"gen_model": state}}, tmp_path / "checkpoint.ckpt")
    assert load(tmp_path).config.mid_attention == "scrambled"
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention": "AttnBlock3DFix"}))
    assert equal(load(tmp_path), ours)
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention": "LinAttnBlock"}))
    with pytest.raises(InputError, match="encoder_attention 'LinAttnBlock' is not supported"):
        load(tmp_path)


def test_a_2d_convolution_stands_for_a_3d_one_of_one_frame(tmp_path: Path) -> None:
    """Version 1.1 has a 2D downsampling where ours is 3D with a kernel of one frame."""
    config = OdVaeConfig(
        hidden_size=32, hidden_size_mult=(1, 1, 1), num_res_blocks=1, norm="clip", upsampling="trilinear",
        mid_attention="scrambled", variant="all3d", resampling="separate",
    )  # fmt: skip
    ours = OdVae(config)
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("latent_")}
    kernel = state.pop("encoder.down.1.downsample.conv.conv.weight")
    state["encoder.down.1.downsample.conv.weight"] = kernel.squeeze(2)
    state["encoder.down.1.downsample.conv.bias"] = state.pop("encoder.down.1.downsample.conv.conv.bias")
    save_file(state, tmp_path / "x.safetensors")
    assert equal(load(tmp_path / "x.safetensors"), ours)
