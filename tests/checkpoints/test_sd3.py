"""SD3's transformer: a tiny random model of diffusers' class computes what ours does, in both layouts, both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.checkpoints import inspect, load, save
from kinolab.denoisers import Conditions, Mmdit, MmditConfig
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same

ARGUMENTS: dict[str, Any] = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 12,
    "num_attention_heads": 2, "joint_attention_dim": 10, "caption_projection_dim": 24, "pooled_projection_dim": 7,
    "pos_embed_max_size": 6,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "sd3": {},
    "sd3.5 large": {"qk_norm": "rms_norm"},
    "sd3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "dual": {"dual_attention_layers": (2,)},
    "one layer": {"num_layers": 1},
}
CONFIG = MmditConfig(
    hidden_size=24, depth=3, num_heads=2, input_size=8, num_frames=1, attention="2d", temporal_position="none",
    pos_embed_max_size=6, text_dim=10, pooled_dim=7, qk_norm=True, dual_attention_layers=(0, 1), null="prompt",
    pooled_norm=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def classes() -> Any:
    """diffusers' class; its import warns of much that is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        return diffusers.SD3Transformer2DModel


def randomize(model: Any) -> Any:
    """Every weight random, those that start at zero or one too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


@pytest.fixture
def ours() -> Mmdit:
    return randomize(Mmdit(CONFIG))


def inputs(sides: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, *sides), torch.tensor([7.0, 800.0]), torch.randn(2, 5, 10), torch.randn(2, 7)


def of_ours(model: Mmdit, z: Tensor, t: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    with torch.no_grad():
        return model(z[:, :, None], t, Conditions(text=text, pooled=pooled))[:, :, 0]


def of_theirs(model: Any, z: Tensor, t: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    with torch.no_grad():
        return model(z, text, pooled, t, return_dict=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_of_diffusers_loads_and_computes_the_same(tmp_path: Path, classes: Any, variant: str) -> None:
    theirs = randomize(classes(**{**ARGUMENTS, **VARIANTS[variant]}))
    theirs.save_pretrained(tmp_path)
    module, found = load(tmp_path), inspect(tmp_path)
    assert found.format == "sd3_diffusers" and not found.problems and not found.assumed
    assert module.config.qk_norm == ("qk_norm" in VARIANTS[variant])
    for sides in ((8, 8), (4, 12)):  # cut from the centre of the table
        given = inputs(sides)
        result = of_ours(module, *given)
        assert result.abs().max() > 0.1
        assert_close(result, of_theirs(theirs, *given))


@pytest.mark.parametrize("change", [{}, {"qk_norm": False, "dual_attention_layers": ()}])
def test_a_folder_that_we_write_computes_the_same_in_diffusers(
    tmp_path: Path, classes: Any, change: dict[str, Any]
) -> None:
    ours = randomize(Mmdit(CONFIG.model_copy(update=change)))
    save(ours, tmp_path, "sd3_diffusers")
    theirs = classes.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    given = inputs()
    assert_close(of_theirs(theirs, *given), of_ours(ours, *given))


@pytest.mark.parametrize("change", [{}, {"qk_norm": False, "dual_attention_layers": ()}])
def test_the_original_layout_is_what_diffusers_converts(tmp_path: Path, classes: Any, change: dict[str, Any]) -> None:
    """The names that we write go through diffusers' own converter into its class, with the prefix and without."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    ours = randomize(Mmdit(CONFIG.model_copy(update=change)))
    save(ours, tmp_path / "sd3.safetensors", "sd3")
    public = load_file(tmp_path / "sd3.safetensors")
    assert not [name for name in public if "null" in name]
    wrapped = {f"model.diffusion_model.{k}": v for k, v in public.items()}
    theirs = classes(**ARGUMENTS | {
        "qk_norm": "rms_norm" if ours.config.qk_norm else None,
        "dual_attention_layers": ours.config.dual_attention_layers,
    })  # fmt: skip
    theirs.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(wrapped)))
    given = inputs()
    assert_close(of_theirs(theirs.eval(), *given), of_ours(ours, *given))

    save_file(wrapped, tmp_path / "alone.safetensors")
    save_file(wrapped | {"first_stage_model.x": torch.ones(1)}, tmp_path / "whole.safetensors")
    fields: dict[str, Any] = {} if ours.config.qk_norm else {"num_heads": 2}
    for name, prefix in (("alone", ""), ("whole", "model.diffusion_model.")):
        back = load(tmp_path / f"{name}.safetensors", prefix=prefix, input_size=8, **fields)
        assert back.config == ours.config
        assert_same(back.state_dict(), ours.state_dict())
    with pytest.raises(InputError, match=r"prefix='model.diffusion_model.'"):
        load(tmp_path / "whole.safetensors")


@pytest.mark.parametrize(("format", "name"), [("sd3", "x.safetensors"), ("sd3_diffusers", "folder")])
def test_what_was_saved_is_loaded_with_its_null_prompt(tmp_path: Path, ours: Mmdit, format: str, name: str) -> None:
    ours.set_null_prompt(torch.randn(4, 10), torch.randn(7))
    save(ours, tmp_path / name, format)
    back = load(tmp_path / name)
    assert back.config == ours.config and back.config.null_tokens == 4
    assert_same(back.state_dict(), ours.state_dict())


def test_the_weights_alone_say_what_they_assume(tmp_path: Path, ours: Mmdit) -> None:
    save(ours, tmp_path / "x.safetensors", "sd3")
    tensors = load_file(tmp_path / "x.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")  # without our header
    found = inspect(tmp_path / "bare.safetensors")
    assert found.format == "sd3" and not found.problems and not found.unknown
    assert found.config["dual_attention_layers"] == [0, 1] and found.config["num_heads"] == 2
    assert found.config["pos_embed_max_size"] == 6 and "input_size" in found.assumed
    assert found.config["input_size"] == 6 * found.config["patch_size"], "the table's side in latents, not in patches"
    without = {k: v for k, v in tensors.items() if "ln_" not in k and k != "pos_embed"}
    save_file(without, tmp_path / "less.safetensors")
    assert set(inspect(tmp_path / "less.safetensors").unknown) == {"num_heads", "pos_embed_max_size", "input_size"}
    del tensors["joint_blocks.2.context_block.attn.qkv.bias"]
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"1 missing: joint_blocks.2.context_block.attn.qkv.bias"):
        load(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("change", [{"qk_norm": "layer_norm"}, {"out_channels": 8}, {"caption_projection_dim": 12}])
def test_settings_that_compute_something_else_are_refused(tmp_path: Path, ours: Mmdit, change: dict[str, Any]) -> None:
    save(ours, tmp_path, "sd3_diffusers")
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights), weights)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(InputError, match=f"{next(iter(change))} .* is not supported"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": "3d"}, {"temporal_patch": 2}, {"temporal_position": "sincos"}, {"num_classes": 3},
        {"text_dim": 0}, {"pos_embed_max_size": None}, {"input_size": (8, 4)}, {"pooled_norm": True},
    ],
)  # fmt: skip
def test_what_the_public_classes_cannot_hold_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    model = Mmdit(CONFIG.model_copy(update=change))
    for format, path in (("sd3", tmp_path / "x.safetensors"), ("sd3_diffusers", tmp_path / "x")):
        with pytest.raises(InputError, match=next(iter(change))):
            save(model, path, format)
    assert not list(tmp_path.iterdir())
