"""AnimateDiff's motion modules by themselves: read in both layouts, put under an image model, written again."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinolab.checkpoints import inspect, load, save
from kinolab.checkpoints.adapters import native_changes, read_adapter
from kinolab.denoisers import (
    AnimateDiff,
    AnimateDiffConfig,
    Conditions,
    ModelScope,
    ModelScopeConfig,
    MotionModules,
    Unet,
    UnetConfig,
)
from kinolab.errors import InputError
from kinolab.layers.lora import change_layers
from tests.closeness import STORED, assert_close, assert_same
from tests.random_weights import randomized

GOLDEN = Path(__file__).parents[1] / "golden" / "animatediff_v1_unet.safetensors"
FIELDS: dict[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "attention_levels": (0,), "text_dim": 12, "input_size": 8,
    "null": "prompt", "num_heads": 4,
}  # fmt: skip
MOTION: dict[str, Any] = {"motion_heads": 8, "motion_positions": 24, "motion_middle": True, "norm_scope": "clip"}


@pytest.fixture
def whole() -> AnimateDiff:
    made: AnimateDiff = randomized(AnimateDiff(AnimateDiffConfig(**FIELDS, **MOTION)))
    return made


@pytest.mark.slow
def test_modules_taken_off_and_put_under_the_image_again_are_the_same_model(tmp_path: Path, whole: AnimateDiff) -> None:
    save(MotionModules.of(whole), tmp_path / "mm.safetensors", "motion_modules")
    stored = load_file(tmp_path / "mm.safetensors")
    assert stored["down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1."
                  "pos_encoder.pe"].shape == (1, 24, 32)  # fmt: skip
    assert all(".motion_modules." in name for name in stored)
    # As released: by torch.save, under state_dict and module., without our header.
    torch.save({"state_dict": {f"module.{k}": v for k, v in stored.items()}}, tmp_path / "mm.ckpt")
    found = inspect(tmp_path / "mm.ckpt")
    assert found.format == "motion_modules" and not found.problems and found.config["motion_middle"]
    modules = load(tmp_path / "mm.ckpt")
    assert isinstance(modules, MotionModules) and modules.config.norm_scope == "clip"
    image = Unet(UnetConfig(**FIELDS)).eval()
    image.load_state_dict({k: v for k, v in whole.state_dict().items() if not whole.models_time(k)})
    again = modules.under(image)
    assert again.config == whole.config
    assert_same(dict(again.state_dict()), dict(whole.state_dict()))


@pytest.mark.slow
def test_a_motion_adapter_of_diffusers_computes_the_same_both_ways(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
    adapter = randomized(
        diffusers.MotionAdapter(
            block_out_channels=(32, 64), motion_layers_per_block=1, motion_num_attention_heads=4,
            motion_max_seq_length=6,
        )
    )  # fmt: skip
    adapter.save_pretrained(tmp_path / "adapter")
    modules = load(tmp_path / "adapter")
    assert inspect(tmp_path / "adapter").format == "motion_adapter"
    image: Unet = randomized(Unet(UnetConfig(**FIELDS)))
    save(image, tmp_path / "unet", "unet_diffusers")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    reference = diffusers.UNetMotionModel.from_unet2d(theirs, adapter).eval()
    z, text, t = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 5, 12), torch.tensor([300])
    with torch.no_grad():
        expected = reference(z, t, encoder_hidden_states=text.repeat_interleave(4, 0), return_dict=False)[0]
        assert_close(modules.under(image)(z, t.float(), Conditions(text=text)), expected, STORED)
    save(modules, tmp_path / "again", "motion_adapter")
    back = diffusers.MotionAdapter.from_pretrained(tmp_path / "again", low_cpu_mem_usage=False)
    for name, value in adapter.state_dict().items():  # tables are made in another precision
        assert_close(back.state_dict()[name], value, what=name)


def test_missing_and_unexpected_names_are_all_listed(tmp_path: Path, whole: AnimateDiff) -> None:
    save(MotionModules.of(whole), tmp_path / "mm.safetensors", "motion_modules")
    stored = load_file(tmp_path / "mm.safetensors")
    gone = [name for name in stored if ".ff_norm." in name]
    save_file(
        {k: v for k, v in stored.items() if k not in gone} | {"other": torch.zeros(1)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(InputError) as error:
        load(tmp_path / "x.safetensors")
    assert all(name in str(error.value) for name in (*gone, "other"))


def test_what_the_modules_are_not_for_is_refused(whole: AnimateDiff) -> None:
    modules = MotionModules.of(whole)
    with pytest.raises(InputError, match=r"for block_out_channels \(32, 64\), the image model has \(64, 64\)"):
        modules.under(Unet(UnetConfig(**FIELDS | {"block_out_channels": (64, 64)})))
    with pytest.raises(InputError, match="under a U-Net of images, got a ModelScope"):
        modules.under(ModelScope(ModelScopeConfig(**FIELDS)))


@pytest.mark.slow
def test_a_layout_whose_code_normalises_otherwise_is_refused(tmp_path: Path, whole: AnimateDiff) -> None:
    modules = MotionModules.of(whole)
    with pytest.raises(InputError, match="over all frames"):
        save(modules, tmp_path / "x", "motion_adapter")
    modules.config = modules.config.model_copy(update={"motion_norm_scope": "clip"})
    with pytest.raises(InputError, match="each frame"):
        save(modules, tmp_path / "x.safetensors", "motion_modules")


def test_a_motion_lora_is_put_on_as_released_ones_are_named(tmp_path: Path, whole: AnimateDiff) -> None:
    """Files such as v2_lora_ZoomIn.ckpt: the attention's processor holds the changes, under state_dict and module."""
    place = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1"
    tensors: dict[str, torch.Tensor] = {}
    before = whole.state_dict()
    block = "down_blocks.0.after_attention.0.transformer_blocks.0.attn2"
    expected = {name: value.clone() for name, value in before.items()}
    for layer, ours in (("to_q", "to_q"), ("to_v", "to_v"), ("to_out", "to_out.0")):
        down, up = torch.randn(4, 32), torch.randn(32, 4)
        tensors |= {
            f"{place}.processor.{layer}_lora.down.weight": down,
            f"{place}.processor.{layer}_lora.up.weight": up,
        }
        expected[f"{block}.{ours}.weight"] += 0.7 * up @ down
    torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "zoom.ckpt")
    changes = native_changes(whole, read_adapter(tmp_path / "zoom.ckpt"))
    change_layers(whole, {name: change.times(0.7) for name, change in changes.items()})
    for name, value in whole.state_dict().items():
        assert_close(value, expected[name], what=name)
