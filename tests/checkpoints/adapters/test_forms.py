"""The names of every form say the same layer; diffusers' own converters agree; other files are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.checkpoints.adapters import LowRank, is_adapter, read_adapter, write_adapter
from kinolab.checkpoints.adapters.forms import Key, form_of, parse
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same

LAYER = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"
NAMES = {
    f"base_model.model.{LAYER}.lora_A.weight": (LAYER, 0, "down", "peft"),
    f"base_model.model.unet.{LAYER}.lora_B.weight": (LAYER, 0, "up", "peft"),
    f"{LAYER}.lora_A.default_0.weight": (LAYER, 0, "down", "peft"),
    f"unet.{LAYER}.lora_B.weight": (LAYER, 0, "up", "peft"),
    f"unet.{LAYER}.lora.down.weight": (LAYER, 0, "down", "diffusers"),
    f"{LAYER.removesuffix('.to_q')}.processor.to_q_lora.up.weight": (LAYER, 0, "up", "diffusers"),
    f"unet.{LAYER.removesuffix('.to_q')}.processor.to_out_lora.down.weight":
        (f"{LAYER.removesuffix('.to_q')}.to_out.0", 0, "down", "diffusers"),
    f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q.lora.down.weight": (LAYER, 0, "down", "diffusers"),
    f"unet.{LAYER}.alpha": (LAYER, 0, "alpha", "diffusers"),
    f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.down.weight.alpha": (LAYER, 0, "alpha", "diffusers"),
    f"lora_unet_{LAYER.replace('.', '_')}.lora_down.weight": (LAYER.replace(".", "_"), 0, "down", "kohya"),
    f"lora_unet_{LAYER.replace('.', '_')}.alpha": (LAYER.replace(".", "_"), 0, "alpha", "kohya"),
    "lora_unet_conv_in.lora_mid.weight": ("conv_in", 0, "mid", "kohya"),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight":
        ("text_model_encoder_layers_0_mlp_fc1", 1, "up", "kohya"),
    "lora_te2_text_projection.lora_up.weight": ("text_projection", 2, "up", "kohya"),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight":
        ("text_model.encoder.layers.0.self_attn.q_proj", 1, "down", "diffusers"),
    "diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight":
        ("joint_blocks.0.x_block.attn.qkv", 0, "down", "peft"),
    "transformer.transformer_blocks.0.attn.to_k.lora_A.weight":
        ("transformer_blocks.0.attn.to_k", 0, "down", "peft"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_its_layer(name: str) -> None:
    layer, text, role, form = NAMES[name]
    assert parse(name) == Key(layer, text, role, form)  # type: ignore[arg-type]


def test_other_names_are_of_no_form() -> None:
    for name in ("conv_in.weight", "lora_A", ".lora_B", "x.lora_C.weight", "a.bias", ""):
        assert parse(name) is None
    assert form_of(["lora_unet_a.lora_up.weight"], settings=False) == "kohya"
    assert form_of(["a.lora_A.weight"], settings=True) == "peft"
    assert form_of(["unet.a.lora_A.weight"], settings=False) == "diffusers"


def pieces(rank: int = 2) -> dict[str, LowRank]:
    source = torch.Generator().manual_seed(0)
    return {
        LAYER: LowRank(torch.randn(rank, 6, generator=source), torch.randn(8, rank, generator=source), 1.0),
        "conv_in": LowRank(torch.randn(3, 4, 3, 3, generator=source), torch.randn(5, 3, generator=source), 6.0),
    }


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_what_is_written_comes_back_with_its_scale(tmp_path: Path, form: Any) -> None:
    path = tmp_path / ("a" if form == "peft" else "a.safetensors")
    write_adapter(path, pieces(), form, "unet")
    found = read_adapter(path)
    assert found.form == form and not found.unexpected and found.ranks == {2: 1, 3: 1}
    layers = {name.replace(".", "_"): layer for name, layer in found.layers.items()}
    for name, layer in pieces().items():
        again = layers[name.replace(".", "_")]
        assert_same(again.down, layer.down)
        assert (again.alpha, again.scale) == (layer.alpha, layer.scale) and again.scale in (0.5, 2.0)
    if form == "peft":
        settings = json.loads((path / "adapter_config.json").read_text())
        assert (settings["r"], settings["rank_pattern"]) == (2, {"conv_in": 3}) and settings["lora_alpha"] == 1
        assert settings["alpha_pattern"] == {"conv_in": 6} and settings["peft_type"] == "LORA"


@pytest.mark.slow
def test_diffusers_converters_read_and_write_the_same(tmp_path: Path) -> None:
    """Its converters between names need no peft."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft

    layers = {LAYER: pieces()[LAYER], "mid_block.attentions.0.proj_in": pieces()["conv_in"]}
    write_adapter(tmp_path / "k.safetensors", layers, "kohya", "unet")
    theirs, alphas = _convert_non_diffusers_lora_to_diffusers(load_file(tmp_path / "k.safetensors"))
    assert sorted(alphas.values()) == [1.0, 6.0]
    save_file(theirs, tmp_path / "d.safetensors")  # to_q as its processor's
    assert any(".processor.to_q_lora." in name for name in theirs)
    again = read_adapter(tmp_path / "d.safetensors")
    assert again.form == "diffusers" and set(again.layers) == set(layers)
    for name, layer in layers.items():
        assert_same(again.layers[name].down, layer.down)
        assert_same(again.layers[name].up, layer.up)
    peft = convert_unet_state_dict_to_peft({n.removeprefix("unet."): v for n, v in theirs.items()})
    write_adapter(tmp_path / "p", layers, "peft", "unet")
    ours = load_file(tmp_path / "p" / "adapter_model.safetensors")
    assert {f"base_model.model.{n.replace('.processor.', '.')}" for n in peft} == set(ours)
    kohya = convert_state_dict_to_kohya({n.replace("base_model.model", "unet"): v for n, v in ours.items()})
    assert set(kohya) == set(load_file(tmp_path / "k.safetensors"))


def test_alpha_comes_from_the_file_from_settings_or_is_the_rank(tmp_path: Path) -> None:
    tensors = {f"base_model.model.{n}.lora_{k}.weight": torch.ones(2, 2) for n in ("a.q", "a.k", "b") for k in "AB"}
    folder = tmp_path / "p"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    assert {layer.scale for layer in read_adapter(folder).layers.values()} == {1.0}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {"q": 1, "^b": 3}, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    found = read_adapter(folder / "adapter_model.safetensors").layers
    assert {name: layer.scale for name, layer in found.items()} == {"a.q": 0.5, "a.k": 4.0, "b": 1.5}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"use_rslora": True}))
    assert read_adapter(folder).layers["a.k"].scale == pytest.approx(8 / 2**0.5, rel=1e-12)
    tiny = {
        "a__lora_down__weight": torch.ones(4, 2),
        "a__lora_up__weight": torch.ones(2, 4),
        "a__alpha": torch.tensor(2),
    }
    assert read_adapter(write(tmp_path / "i.safetensors", **tiny)).layers["a"].scale == 0.5, "a whole number"
    eight = {name: value.to(torch.float8_e4m3fn) if value.ndim else value for name, value in tiny.items()}
    assert read_adapter(write(tmp_path / "e.safetensors", **eight)).layers["a"].change.delta[0, 0] == 2.0
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6, "text_encoder.lora_alpha": 9})}
    save_file(
        {n.replace("base_model.model", "unet"): v for n, v in tensors.items()}, tmp_path / "d.safetensors", header
    )
    assert {layer.scale for layer in read_adapter(tmp_path / "d.safetensors").layers.values()} == {3.0}


def test_a_convolution_in_tuckers_form_is_the_convolutions_one_after_the_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    down, mid, up = torch.randn(2, 4, 1, 1), torch.randn(3, 2, 3, 3), torch.randn(5, 3, 1, 1)
    start = "lora_unet_conv_in"
    save_file(
        {f"{start}.lora_down.weight": down, f"{start}.lora_mid.weight": mid, f"{start}.lora_up.weight": up},
        tmp_path / "a.safetensors",
    )
    change = read_adapter(tmp_path / "a.safetensors").layers["conv_in"].change
    x, conv = torch.randn(2, 4, 6, 6), torch.nn.functional.conv2d
    assert_close(conv(x, change.delta), conv(conv(conv(x, down), mid), up))


def write(path: Path, **tensors: Tensor) -> Path:
    save_file({name.replace("__", "."): tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def test_what_is_no_adapter_is_said_in_one_line(tmp_path: Path) -> None:
    one, path = torch.ones(2, 2), tmp_path / "x.safetensors"
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({"conv_in__weight": one}, "no LoRA adapter in a known form"),
        ({"a__lora_A__weight": one}, "a: holds down of a change and no up"),
        ({"a__lora_A__weight": one, "a__lora_B__weight": torch.ones(2, 3)}, r"ranks don't fit .*, up \(2, 3\)"),
        ({"a__lora_A__weight": torch.ones(0, 2), "a__lora_B__weight": torch.ones(2, 0)}, "ranks don't fit"),
        ({"a__lora_A__weight": one, "a__lora_B__weight": one * torch.nan}, "holds NaN"),
        ({"a__lora_A__weight": one, "a__lora_B__weight": one * torch.inf}, "expected finite numbers"),
        ({"a__lora_A__weight": one.int(), "a__lora_B__weight": one}, "expected finite numbers"),
        ({"a__lora_A__weight": one, "a__lora_B__weight": one, "a__alpha": one}, r"alpha is \(2, 2\), expected one"),
        ({"a__lora_A__weight": one, "a__lora_B__weight": one, "unet__a__lora_A__weight": one}, "layer's down twice"),
        ({"a__lora_A__weight": one, "a__lora_magnitude_vector": one}, "an adapter of another kind, DoRA"),
        ({"lora_unet_a__hada_w1_a": one}, "another kind, LoHa"),
        ({"a__diff": one}, "whole changes of weights"),
    ]  # fmt: skip
    for tensors, said in cases:
        with pytest.raises(InputError, match=said):
            read_adapter(write(path, **tensors))
    huge = {
        "lora_unet_a__lora_down__weight": torch.ones(1, 2**16, 1, 1),
        "lora_unet_a__lora_up__weight": torch.ones(2, 2**11),
    }
    with pytest.raises(InputError, match="makes a change of more than"):
        read_adapter(write(path, **huge, lora_unet_a__lora_mid__weight=torch.ones(2**11, 1, 1, 1)))
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match="not a weights file"):
        read_adapter(path)
    with pytest.raises(InputError, match="no such file; expected a LoRA adapter"):
        read_adapter(tmp_path / "gone.safetensors")
    with pytest.raises(InputError, match=r"expected a folder with an adapter's weights .* found none"):
        (tmp_path / "empty").mkdir()
        read_adapter(tmp_path / "empty")


def test_settings_of_another_equation_are_refused(tmp_path: Path) -> None:
    write(
        tmp_path / "adapter_model.safetensors", a__lora_A__weight=torch.ones(2, 2), a__lora_B__weight=torch.ones(2, 2)
    )
    for values, said in (
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected LORA"),
        ({"use_dora": True}, "use_dora is True, expected false"),
        ({"modules_to_save": ["x"]}, "modules_to_save is not supported"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', expected a number"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "is a regular expression"),
        ([], "expected a JSON object"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=said):
            read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1e999}')
    with pytest.raises(InputError, match="finite"):
        read_adapter(tmp_path)


def test_adapters_are_told_from_models() -> None:
    assert is_adapter({"a.lora_A.weight": 1, "a.lora_B.weight": 1, "x": 1}) and is_adapter({"lora_unet_a.hada_w1_a": 1})
    assert not is_adapter({"conv_in.weight": 1, "a.bias": 1, "a.alpha": 1})
