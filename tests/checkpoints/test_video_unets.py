"""ModelScope's and AnimateDiff's U-Nets: diffusers' diffusers compute what ours do, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab import denoisers
from kinolab.checkpoints import inspect, load, save
from kinolab.checkpoints.modelscope_original import original_name
from kinolab.denoisers import AnimateDiff, AnimateDiffConfig, Conditions, Denoiser, ModelScope, ModelScopeConfig
from kinolab.errors import InputError
from tests import golden_kinds
from tests.closeness import STORED, assert_close, assert_same
from tests.random_weights import randomized

GOLDEN = Path(__file__).parents[1] / "golden" / "animatediff_v1_unet.safetensors"
SMALL: dict[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 12, "norm_num_groups": 32,
    "sample_size": 8,
}  # fmt: skip
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "modelscope": (
        "UNet3DConditionModel",
        {
            **SMALL, "attention_head_dim": 8, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        },
    ),
    "animatediff": (
        "UNetMotionModel",
        {
            **SMALL, "num_attention_heads": 4, "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"), "motion_num_attention_heads": 2,
            "motion_max_seq_length": 6,
        },
    ),
}  # fmt: skip
FIELDS: dict[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "attention_levels": (0,), "text_dim": 12, "input_size": 8,
    "null": "prompt",
}  # fmt: skip
OURS: dict[str, Any] = {
    "modelscope": ModelScopeConfig(**FIELDS, head_size=8, linear_projection=True),
    "animatediff": AnimateDiffConfig(
        **FIELDS, num_heads=4, motion_heads=2, motion_positions=6, motion_middle=True, num_frames=6,
        motion_norm_scope="clip",
    ),
}  # fmt: skip
LAYOUTS = {"modelscope": "modelscope", "animatediff": "animatediff_diffusers"}
KINDS = {"modelscope": "Unet3D", "animatediff": "UnetMotion"}


def theirs(diffusers: Any, name: str) -> Any:
    kind, values = CLASSES[name]
    return randomized(getattr(diffusers, kind)(**values))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Of an odd size: the way up has to be told how large."""
    generator = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 5, 6, 7, generator=generator), torch.randn(2, 5, 12, generator=generator)
    return z, torch.tensor([7, 800]), text


@torch.no_grad()
def of_ours(model: Denoiser, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    return model(z, t.float(), Conditions(text=text))


@torch.no_grad()
def of_theirs(model: Any, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    if "Motion" in type(model).__name__:  # which is told each frame's prompt
        text = text.repeat_interleave(z.shape[2], 0)
    return model(z, t, encoder_hidden_states=text, return_dict=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_of_diffusers_loads_and_computes_the_same(tmp_path: Path, diffusers: Any, name: str) -> None:
    reference = theirs(diffusers, name)
    reference.save_pretrained(tmp_path)
    module = load(tmp_path)
    assert module.config == OURS[name] and inspect(tmp_path).format == LAYOUTS[name]
    assert_close(of_ours(module, *inputs()), of_theirs(reference, *inputs()), STORED)


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_a_folder_that_we_write_computes_the_same_in_diffusers(tmp_path: Path, diffusers: Any, name: str) -> None:
    ours = randomized(denoisers.build(OURS[name]))
    save(ours, tmp_path, LAYOUTS[name])
    reference = getattr(diffusers, CLASSES[name][0]).from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert_close(of_theirs(reference, *inputs()), of_ours(ours, *inputs()), STORED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_golden_file_of_diffusers_class_is_run(tmp_path: Path, diffusers: Any, name: str) -> None:
    reference, (z, t, text) = theirs(diffusers, name), inputs()
    tensors = {"sample": z, "timestep": t, "encoder_hidden_states": text, "out": of_theirs(reference, z, t, text)}
    path = tmp_path / "x.safetensors"
    golden_kinds.check(golden_kinds.write(path, KINDS[name], CLASSES[name][1], reference.state_dict(), tensors))


@pytest.mark.slow
def test_the_names_of_modelscopes_first_code_are_written_as_they_were_read(tmp_path: Path) -> None:
    path = GOLDEN.with_name("modelscope_unet_sd.safetensors")
    model = load(path, prefix="weights.")
    assert isinstance(model, ModelScope) and inspect(path, prefix="weights.").format == "modelscope_original"
    save(model, tmp_path / "x.safetensors", "modelscope_original")
    stored = {k.removeprefix("weights."): v.float() for k, v in load_file(path).items() if k.startswith("weights.")}
    assert stored["input_blocks.0.1.proj_in.weight"].ndim == 3  # a convolution of kernel 1 there
    assert_same(load_file(tmp_path / "x.safetensors"), stored)
    assert load(tmp_path / "x.safetensors").config == model.config
    # Into diffusers' folder and back, the numbers are the same.
    save(model, tmp_path / "folder", "modelscope")
    assert_same(dict(load(tmp_path / "folder").state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("down_blocks.0.downsamplers.0.conv.bias", "input_blocks.2.op.bias"),
        ("up_blocks.0.upsamplers.0.conv.bias", "output_blocks.1.1.conv.bias"),  # beside a residual block alone
        ("up_blocks.1.upsamplers.0.conv.bias", "output_blocks.3.3.conv.bias"),  # behind both transformers
        ("up_blocks.1.after_attention.0.norm.bias", "output_blocks.2.2.norm.bias"),
        ("mid_block.after_resnet.1.convs.1.conv.bias", "middle_block.3.temopral_conv.conv2.3.bias"),
        ("mid_block.resnets.1.norm2.bias", "middle_block.3.out_layers.0.bias"),
    ],
)
def test_a_block_counts_what_stands_over_time(ours: str, theirs: str) -> None:
    assert original_name(ours, 1, (False, True, True)) == theirs


def test_the_original_names_of_motion_modules_are_written_as_they_were_read(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"num_heads": 4, "motion_heads": 4, "motion_positions": 24}
    model = load(GOLDEN, prefix="weights.", **fields)
    save(model, tmp_path / "x.safetensors", "animatediff")
    stored = {k.removeprefix("weights."): v.float() for k, v in load_file(GOLDEN).items() if k.startswith("weights.")}
    assert_same(load_file(tmp_path / "x.safetensors"), stored)
    back = load(tmp_path / "x.safetensors")
    assert back.config == model.config and back.config.norm_scope == "clip"


def test_what_no_file_of_motion_modules_tells_is_assumed_and_said(tmp_path: Path) -> None:
    stored = {k.removeprefix("weights."): v for k, v in load_file(GOLDEN).items() if k.startswith("weights.")}
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
    tables = {f"{block}.attention_blocks.0.pos_encoder.pe": torch.zeros(1, 32, 32)}
    save_file(stored | tables, tmp_path / "v3.safetensors")
    model = load(tmp_path / "v3.safetensors", num_heads=4)
    assert (model.config.motion_positions, model.config.norm_scope, model.config.motion_heads) == (32, "frame", 8)
    save_file(stored, tmp_path / "v1.safetensors")
    found = inspect(tmp_path / "v1.safetensors")
    assert found.config["motion_positions"] == 24 and found.config["norm_scope"] == "clip"
    assert set(found.assumed) >= {"motion_positions", "motion_heads", "norm_scope"}


@pytest.mark.slow
@torch.no_grad()
def test_one_frame_passes_by_the_motion_modules() -> None:
    model: AnimateDiff = randomized(AnimateDiff(OURS["animatediff"]))
    image = denoisers.Unet(denoisers.UnetConfig(**FIELDS, num_heads=4)).eval()
    image.load_state_dict({k: v for k, v in model.state_dict().items() if not model.models_time(k)})
    z, t, text = inputs()
    assert_same(of_ours(model, z[:, :, :1], t, text), of_ours(image, z[:, :, :1], t, text))


def test_frames_beyond_the_positions_are_one_clear_error() -> None:
    model = AnimateDiff(OURS["animatediff"])
    with pytest.raises(InputError, match="at most 6 frames, one for each position in time, got 7"):
        of_ours(model, torch.zeros(1, 4, 7, 4, 4), torch.zeros(1), torch.zeros(1, 5, 12))


@torch.no_grad()
@pytest.mark.parametrize("name", OURS)
def test_a_fresh_video_system_makes_images_of_its_frames(name: str) -> None:
    model: Any = denoisers.build(OURS[name])
    image = denoisers.Unet(
        denoisers.UnetConfig(**{k: v for k, v in OURS[name] if k in denoisers.UnetConfig.model_fields and k != "kind"})
    )
    randomized(image)
    model.load_state_dict({**model.state_dict(), **image.state_dict()})
    assert_close(of_ours(model, *inputs()), of_ours(image, *inputs()))
    assert isinstance(model, ModelScope | AnimateDiff)


def test_what_diffusers_classes_have_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="linear_projection=False"):
        save(ModelScope(OURS["modelscope"].model_copy(update={"linear_projection": False})), tmp_path, "modelscope")
    with pytest.raises(InputError, match="motion_norm_scope=frame"):
        config = OURS["animatediff"].model_copy(update={"motion_norm_scope": "frame"})
        save(AnimateDiff(config), tmp_path, "animatediff_diffusers")
    with pytest.raises(InputError, match="first code has no norm_groups=4"):
        save(ModelScope(OURS["modelscope"].model_copy(update={"norm_groups": 4})), tmp_path, "modelscope_original")
    with pytest.raises(InputError, match="holds an image U-Net, got a AnimateDiff"):
        save(AnimateDiff(OURS["animatediff"]), tmp_path, "unet_diffusers")
