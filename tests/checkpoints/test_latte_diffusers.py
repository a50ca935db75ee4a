"""Latte in diffusers' layout: a tiny random model of diffusers' class computes what ours does, both ways."""

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
from kinolab.denoisers import Conditions, Latte, LatteConfig
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same

CONFIG = LatteConfig(
    hidden_size=24, depth=4, num_heads=2, input_size=8, num_frames=3, text_dim=10, adaln="single", learned_variance=True
)


@pytest.fixture(scope="module")
def classes() -> Any:
    """diffusers' class; its import warns of much that is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        return diffusers.LatteTransformer3DModel


@pytest.fixture
def ours() -> Latte:
    """A Latte with every weight random, those that start at zero too."""
    latte = Latte(CONFIG).eval()
    with torch.no_grad():
        for parameter in latte.parameters():
            parameter.normal_(std=0.2)
    return latte


def of_ours(latte: Latte, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    return latte(z, t.float(), Conditions(text=text))


def of_theirs(latte: Any, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    return latte(z, t, encoder_hidden_states=text, return_dict=False)[0]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, 3, 8, 8), torch.tensor([7, 800]), torch.randn(2, 5, 10)


def test_a_folder_of_diffusers_loads_and_computes_the_same(tmp_path: Path, classes: Any) -> None:
    theirs = classes(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, caption_channels=10, sample_size=8, patch_size=2, video_length=3, attention_bias=True,
        activation_fn="gelu-approximate", norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    module = load(tmp_path)
    assert module.config == CONFIG and inspect(tmp_path).format == "latte_diffusers"
    with torch.no_grad():
        z, t, text = inputs()
        assert_close(of_ours(module, z, t, text), of_theirs(theirs, z, t, text))


def test_a_folder_that_we_write_computes_the_same_in_diffusers(tmp_path: Path, classes: Any, ours: Latte) -> None:
    save(ours, tmp_path, "latte_diffusers")
    theirs = classes.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        z, t, text = inputs()
        assert_close(of_theirs(theirs, z, t, text), of_ours(ours, z, t, text))


def test_what_was_saved_is_loaded_with_its_null_prompt(tmp_path: Path, ours: Latte) -> None:
    save(ours, tmp_path, "latte_diffusers")
    back = load(tmp_path)
    assert back.config == CONFIG
    assert_same(back.state_dict(), ours.state_dict())


def public_file(folder: Path, ours: Latte) -> tuple[Path, dict[str, Tensor]]:
    """The weights as diffusers itself would leave them: no header and no null prompt."""
    save(ours, folder, "latte_diffusers")
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    del tensors["text_embedder.null"]
    path = folder / "alone.safetensors"
    save_file(tensors, path)
    return path, tensors


def test_the_weights_alone_need_what_no_shape_tells(tmp_path: Path, ours: Latte) -> None:
    path, _ = public_file(tmp_path, ours)
    with pytest.raises(InputError, match=r"num_heads=.*input_size=.*num_frames="):
        load(path)
    module = load(path, num_heads=2, input_size=8, num_frames=3)
    assert module.config == CONFIG and not module.text_embedder.null.any()
    joined = "blocks.1.attn.qkv.weight"
    assert torch.equal(module.state_dict()[joined], ours.state_dict()[joined])


def test_missing_and_misshapen_parts_of_a_joined_tensor_are_named(tmp_path: Path, ours: Latte) -> None:
    path, tensors = public_file(tmp_path, ours)
    del tensors["transformer_blocks.0.attn1.to_k.weight"]
    tensors["temporal_transformer_blocks.1.attn1.to_v.bias"] = torch.zeros(7)
    save_file(tensors, path)
    with pytest.raises(InputError) as error:
        load(path, num_heads=2, input_size=8, num_frames=3)
    assert "1 missing: transformer_blocks.0.attn1.to_k.weight; 1 of another shape: " in str(error.value)
    assert "temporal_transformer_blocks.1.attn1.to_v.bias (7,), expected (24,)" in str(error.value)


def test_settings_that_compute_something_else_are_refused(tmp_path: Path, ours: Latte) -> None:
    public_file(tmp_path, ours)[0].rename(tmp_path / "diffusion_pytorch_model.safetensors")
    settings = json.loads((tmp_path / "config.json").read_text())
    for change, said in (({"activation_fn": "geglu"}, "geglu"), ({"sample_size": 128}, "128 is not supported")):
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(InputError, match=said):
            load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"adaln": "block"}, "adaln=block"), ({"text_dim": 0}, "text_dim=0"), ({"num_classes": 3}, "num_classes=3")],
)
def test_what_the_class_of_diffusers_cannot_hold_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        save(Latte(CONFIG.model_copy(update=change)), tmp_path / "x", "latte_diffusers")
    assert not list(tmp_path.iterdir())
