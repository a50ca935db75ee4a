"""Stable Diffusion's U-Net in diffusers' and the original layout: diffusers' class computes the same, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.checkpoints import inspect, load, save
from kinolab.contracts.conditions import Value
from kinolab.denoisers import Conditions, Unet, UnetConfig
from kinolab.errors import InputError
from tests import golden_kinds
from tests.closeness import STORED, assert_close, assert_same
from tests.random_weights import randomized

GOLDEN = Path(__file__).parents[1] / "golden" / "sd15_unet_ldm.safetensors"
CLASS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 12, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 4, "sample_size": 8,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sd2": {
        "block_out_channels": (8, 16, 16), "layers_per_block": 2, "cross_attention_dim": 12, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), "sample_size": 8,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True, "transformer_layers_per_block": 2, "upcast_attention": True,
    },
}  # fmt: skip
"""Arguments of diffusers' class, tiny."""
OURS = {
    "sd1": UnetConfig(
        block_out_channels=(8, 16), layers_per_block=1, attention_levels=(0,), num_heads=2, norm_groups=4, text_dim=12,
        input_size=8, null="prompt",
    ),
    "sd2": UnetConfig(
        block_out_channels=(8, 16, 16), layers_per_block=2, attention_levels=(0, 1), num_heads=(2, 4, 4), norm_groups=4,
        text_dim=12, input_size=8, null="prompt", linear_projection=True, transformer_depth=2, upcast_attention=True,
    ),
}  # fmt: skip


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Of an odd size: the way up has to be told how large."""
    generator = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 9, 7, generator=generator), torch.randn(2, 5, 12, generator=generator)
    return z, torch.tensor([7, 800]), text


@torch.no_grad()
def of_ours(model: Unet, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    return model(z[:, :, None], t.float(), Conditions(text=text))[:, :, 0]


@torch.no_grad()
def of_theirs(model: Any, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    return model(z, t, encoder_hidden_states=text, return_dict=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASS)
def test_a_folder_of_diffusers_loads_and_computes_the_same(tmp_path: Path, diffusers: Any, name: str) -> None:
    theirs = randomized(diffusers.UNet2DConditionModel(**CLASS[name]))
    theirs.save_pretrained(tmp_path)
    module = load(tmp_path)
    expected = OURS[name] if name == "sd2" else OURS[name].model_copy(update={"num_heads": 2})
    assert module.config == expected and inspect(tmp_path).format == "unet_diffusers"
    assert_close(of_ours(module, *inputs()), of_theirs(theirs, *inputs()), STORED)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_a_folder_that_we_write_computes_the_same_in_diffusers(tmp_path: Path, diffusers: Any, name: str) -> None:
    ours = randomized(Unet(OURS[name]))
    save(ours, tmp_path, "unet_diffusers")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert_close(of_theirs(theirs, *inputs()), of_ours(ours, *inputs()), STORED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASS)
def test_a_golden_file_of_diffusers_class_is_run(tmp_path: Path, diffusers: Any, name: str) -> None:
    theirs = randomized(diffusers.UNet2DConditionModel(**CLASS[name]))
    z, t, text = inputs()
    tensors = {"sample": z, "timestep": t, "encoder_hidden_states": text, "out": of_theirs(theirs, z, t, text)}
    golden_kinds.check(
        golden_kinds.write(tmp_path / "x.safetensors", "Unet2D", CLASS[name], theirs.state_dict(), tensors)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_the_original_layout_comes_back(tmp_path: Path, name: str) -> None:
    ours = randomized(Unet(OURS[name]))
    save(ours, tmp_path / "x.safetensors", "unet_ldm")
    back = load(tmp_path / "x.safetensors")
    assert back.config == ours.config
    assert_same(dict(back.state_dict()), dict(ours.state_dict()))


def test_the_original_names_are_written_as_they_were_read(tmp_path: Path) -> None:
    prefix = "weights.model.diffusion_model."
    save(load(GOLDEN, prefix=prefix, num_heads=4), tmp_path / "x.safetensors", "unet_ldm")
    stored = {k.removeprefix(prefix): v.float() for k, v in load_file(GOLDEN).items() if k.startswith(prefix)}
    assert_same(load_file(tmp_path / "x.safetensors"), stored)


def test_a_whole_checkpoint_names_the_prefix(tmp_path: Path) -> None:
    stored = {k.removeprefix("weights."): v for k, v in load_file(GOLDEN).items() if k.startswith("weights.")}
    save_file(stored | {"cond_stage_model.x": torch.zeros(1)}, tmp_path / "sd.safetensors")
    with pytest.raises(InputError, match=r"prefix='model\.diffusion_model\.'"):
        load(tmp_path / "sd.safetensors")
    assert inspect(tmp_path / "sd.safetensors").prefixes == {"model.diffusion_model.": "unet_ldm"}
    assert isinstance(load(tmp_path / "sd.safetensors", prefix="model.diffusion_model.", num_heads=4), Unet)


def test_missing_and_unexpected_names_are_all_listed(tmp_path: Path) -> None:
    ours = Unet(OURS["sd1"])
    save(ours, tmp_path, "unet_diffusers")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    gone = [name for name in tensors if ".ff." in name or name == "conv_out.bias"]
    kept = {name: value for name, value in tensors.items() if name not in gone}
    save_file(kept | {"extra.weight": torch.zeros(2), "more": torch.zeros(1)}, file)
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert all(name in str(error.value) for name in (*gone, "extra.weight", "more"))


@pytest.mark.slow
def test_what_no_file_tells_is_asked_for_or_assumed(tmp_path: Path) -> None:
    save(Unet(OURS["sd1"]), tmp_path, "unet_diffusers")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    alone = tmp_path / "alone.safetensors"
    save_file(load_file(file), alone)
    with pytest.raises(InputError, match=r"num_heads.*norm_groups"):
        load(alone)
    assert load(alone, num_heads=2, norm_groups=4).config == OURS["sd1"].model_copy(update={"input_size": 64})
    found = inspect(alone)
    assert set(found.unknown) == {"num_heads", "norm_groups"} and "64" in found.assumed["input_size"]


def test_channels_beside_the_latents_are_named(tmp_path: Path, diffusers: Any) -> None:
    theirs = randomized(diffusers.UNet2DConditionModel(**CLASS["sd1"], in_channels=7, out_channels=4))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"concatenated.*3 channels beside the 4 of the latents"):
        load(tmp_path)
    model = load(tmp_path, concatenated={"low_resolution": 3})
    z, t, text = inputs()
    beside = torch.randn(2, 3, 9, 7)
    with torch.no_grad():
        told = Conditions(text=text).told(Conditions(low_resolution=Value("field", beside[:, :, None])))
        out = model(z[:, :, None], t.float(), told)[:, :, 0]
    assert_close(out, of_theirs(theirs, torch.cat([z, beside], 1), t, text), STORED)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"act_fn": "gelu"}, "act_fn 'gelu'"), ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'")],
)
def test_a_setting_without_a_counterpart_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save(Unet(OURS["sd1"]), tmp_path, "unet_diffusers")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file)  # without our header
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(InputError, match=said):
        load(tmp_path)


@pytest.mark.parametrize("layout", ["unet_diffusers", "unet_ldm"])
def test_what_the_public_classes_have_not_is_refused(tmp_path: Path, layout: str) -> None:
    model = Unet(OURS["sd1"].model_copy(update={"num_classes": 3, "norm_scope": "clip"}))
    with pytest.raises(InputError, match=r"num_classes=3, norm_scope=clip"):
        save(model, tmp_path / ("x" if layout == "unet_diffusers" else "x.safetensors"), layout)
