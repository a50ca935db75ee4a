"""Reading weights: wrappings, prefixes, what is inferred, and what is said where something does not fit."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kinolab.checkpoints import FORMATS, inspect, load
from kinolab.denoisers import DiT, DiTConfig, Latte, LatteConfig
from kinolab.errors import InputError

CONFIG = LatteConfig(
    hidden_size=24, depth=2, num_heads=2, input_size=8, patch_size=4, num_frames=3, num_classes=5, in_channels=3,
    learned_variance=True, mlp_ratio=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The public names and random values of a tiny Latte."""
    latte = Latte(CONFIG)
    return {k: torch.randn_like(v) if "embed" not in k.split(".")[0] else v for k, v in latte.state_dict().items()}


def same(module: Any, state: dict[str, Tensor]) -> bool:
    """Whether the module holds exactly these values."""
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[k], state[k]) for k in own)


def add(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v + 1 for k, v in state.items()}


def test_the_config_is_inferred_from_names_and_shapes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "latte.safetensors")
    module = load(tmp_path / "latte.safetensors", num_heads=2)
    assert module.config == CONFIG and same(module, state)
    with pytest.raises(InputError, match=r"pass num_heads=\.\.\. \(the file does not tell"):
        load(tmp_path / "latte.safetensors")


def test_heads_of_published_widths_are_known_and_marked_as_assumed(tmp_path: Path) -> None:
    dit = DiT(DiTConfig(depth=1, input_size=4))
    save_file(dit.state_dict(), tmp_path / "dit.safetensors")
    assert load(tmp_path / "dit.safetensors", num_heads=12).config.num_heads == 12
    found = inspect(tmp_path / "dit.safetensors")
    assert found.config["num_heads"] == 6 and "num_heads" in found.assumed and not found.problems


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        OrderedDict,
        lambda s: {"ema": s, "model": shifted(s), "opt": {"state": {0: {"exp_avg": torch.ones(2)}}}, "step": 7},
        lambda s: {"model": shifted(s), "ema": add("module.", s), "args": argparse.Namespace(lr=1e-4)},
        lambda s: {"state_dict": add("module._orig_mod.", s), "epoch": torch.tensor(3)},
        lambda s: {"state_dict": {"gen_model": shifted(s)}, "ema_state_dict": add("module.", s)},
        lambda s: {"state_dict": {"gen_model": s, "dics_model": {"a": torch.ones(1)}}, "ema_state_dict": {}},
        lambda s: add("_orig_mod.", s),
        lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()},
    ],
    ids=["bare", "ordered", "ema", "ema-module-args", "nested", "causal-vae", "empty-ema", "compiled", "block-wise"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappings_come_off(tmp_path: Path, state: dict[str, Tensor], wrap: Any, legacy: bool) -> None:
    torch.save(wrap(state), tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    assert same(load(tmp_path / "x.pt", num_heads=2), state)


def test_wrappings_come_off_in_safetensors_too(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(add("ema.module.", state) | add("model.module.", shifted(state)), tmp_path / "x.safetensors")
    assert same(load(tmp_path / "x.safetensors", num_heads=2), state)
    assert inspect(tmp_path / "x.safetensors").wrappings == ("ema.", "module.")


def test_a_prefix_chooses_the_raw_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"ema": state, "model": add("module.", shifted(state))}, tmp_path / "x.pt")
    assert same(load(tmp_path / "x.pt", prefix="model.", num_heads=2), shifted(state))


def test_the_type_of_the_file_becomes_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    half = {k: v.to(torch.bfloat16) for k, v in state.items()}
    torch.save(half, tmp_path / "x.pt")
    assert same(load(tmp_path / "x.pt", num_heads=2), {k: v.float() for k, v in half.items()})
    assert inspect(tmp_path / "x.pt").dtypes == {"bfloat16": len(state)}


def test_tensors_outside_the_prefix_are_left_alone(tmp_path: Path, state: dict[str, Tensor]) -> None:
    file = tmp_path / "x.safetensors"
    save_file(add("net.denoiser.", state) | {"x": torch.ones(1), "net.other.y": torch.ones(1)}, file)
    assert same(load(file, prefix="net.denoiser.", num_heads=2), state)
    with pytest.raises(InputError) as error:
        load(file, num_heads=2)
    assert "pass prefix='net.denoiser.'" in str(error.value)
    assert "2 names are unexpected: net.other.y, x" in str(error.value)
    with pytest.raises(InputError, match=r"no name starts with 'foo.'; the names start with: net \(\d+\), x \(1\)"):
        load(file, prefix="foo.")


def test_every_missing_unexpected_and_misshapen_name_is_listed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    broken = dict(state)
    gone = ["blocks.0.attn.proj.bias", "final_layer.linear.bias", "t_embedder.mlp.2.weight"]
    for name in gone:
        del broken[name]
    broken |= {"extra.a": torch.ones(1), "extra.b": torch.ones(1), "blocks.1.mlp.fc2.bias": torch.ones(7)}
    torch.save(broken, tmp_path / "x.pt")
    with pytest.raises(InputError) as error:
        load(tmp_path / "x.pt", num_heads=2)
    message = str(error.value)
    assert all(name in message for name in [*gone, "extra.a", "extra.b"]) and "3 missing" in message
    assert "blocks.1.mlp.fc2.bias (7,), expected (24,)" in message and "pos_embed" not in message


def test_fixed_tables_may_be_missing_where_their_sizes_are_given(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({k: v for k, v in state.items() if k not in ("pos_embed", "temp_embed")}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"num_heads=.*input_size=.*num_frames="):
        load(tmp_path / "x.safetensors", format="latte")
    assert same(load(tmp_path / "x.safetensors", format="latte", num_heads=2, input_size=8, num_frames=3), state)


def test_wrong_fields_and_formats_name_the_right_ones(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(InputError, match="did you mean 'num_heads'"):
        load(tmp_path / "x.pt", num_head=2)
    with pytest.raises(InputError, match="unknown format 'lattee'; expected one of latte, dit"):
        load(tmp_path / "x.pt", format="lattee")
    with pytest.raises(InputError, match="lacks what every causal_vae file has; its names start with pos_embed"):
        load(tmp_path / "x.pt", format="causal_vae")


def test_code_in_a_file_is_not_run(tmp_path: Path, state: dict[str, Tensor]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "trapped",))

    torch.save({"ema": state, "config": Trap()}, tmp_path / "x.pt")
    assert same(load(tmp_path / "x.pt", num_heads=2), state)  # the weights are found beside what is never made
    assert not (tmp_path / "trapped").exists()


def test_what_is_no_weights_file_says_so(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-100])
    torch.save(state, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:900])
    (tmp_path / "text.pt").write_text("hello, not weights")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "pickled.pt").write_bytes(b"\x80\x02garbage")
    cases = {"cut.safetensors": "cut off", "cut.pt": "cut off", "text.pt": "not a weights file", "empty.pt": "is empty"}
    for name, said in {**cases, "pickled.pt": "damaged", "none.pt": "no such file"}.items():
        with pytest.raises(InputError, match=f"{name}.*{said}"):
            load(tmp_path / name)


def test_a_layout_that_is_not_read_is_named(tmp_path: Path) -> None:
    save_file({"transformer_blocks.0.attn1.to_q.weight": torch.zeros(24, 24)}, tmp_path / "other.safetensors")
    said = "a transformer in the layout of diffusers, which is not supported yet; known formats: latte, dit, vdt"
    with pytest.raises(InputError, match=said):
        load(tmp_path / "other.safetensors")
    assert inspect(tmp_path / "other.safetensors").title.startswith("a transformer in the layout of diffusers")
    save_file({"a.b": torch.ones(2), "c": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"no known format .*; its names start with a \(1\), c \(1\)"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_sharded_folder_is_one_file(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    names = list(state)
    shards = {f"a.{suffix}": names[::2], f"b.{suffix}": names[1::2]}
    write = save_file if suffix == "safetensors" else torch.save
    for file, part in shards.items():
        write({k: state[k] for k in part}, tmp_path / file)
    index = {"weight_map": {k: file for file, part in shards.items() for k in part}}
    place = tmp_path / f"diffusion_pytorch_model.{suffix}.index.json"
    place.write_text(json.dumps(index))
    assert same(load(tmp_path, num_heads=2), state)
    write({k: state[k] for k in shards[f"b.{suffix}"][1:]}, tmp_path / f"b.{suffix}")
    with pytest.raises(InputError, match=rf"b\.{suffix}: no tensor {names[1]} in it \(1 that"):
        load(tmp_path, num_heads=2)
    (tmp_path / f"b.{suffix}").unlink()
    with pytest.raises(InputError, match=rf"b\.{suffix}: missing"):
        load(tmp_path, num_heads=2)
    for wrong in (f"../b.{suffix}", "/etc/hostname"):
        place.write_text(json.dumps({"weight_map": {names[0]: wrong}}))
        with pytest.raises(InputError, match="no name of something inside this folder"):
            load(tmp_path, num_heads=2)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "folder"])
def test_weights_with_nan_are_refused_by_name(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    name = next(k for k, v in state.items() if v.ndim == 2)
    broken = state | {name: state[name].clone()}
    broken[name].view(-1)[-1] = float("nan")
    path = tmp_path / ("diffusion_pytorch_model.bin" if suffix == "folder" else f"x.{suffix}")
    if suffix == "safetensors":
        save_file(broken, path)
    else:
        torch.save({"ema": broken, "optimizer": {"state": torch.tensor([float("nan")])}}, path)
    with pytest.raises(InputError, match=rf"{name} holds NaN"):
        load(tmp_path if suffix == "folder" else path, num_heads=2)
    if suffix == "pt":
        torch.save({"ema": state, "optimizer": {"state": torch.tensor([float("nan")])}}, path)
        assert same(load(path, num_heads=2), state)


def test_inspection_says_whether_a_file_would_load(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"ema": add("module.", state), "model": state}, tmp_path / "x.pt")
    found = inspect(tmp_path / "x.pt")
    assert (found.format, found.container, found.problems) == ("latte", "torch.save", "")
    assert found.wrappings == ("ema.", "module.") and found.left_out == {"model": len(state)}
    assert found.parameters == sum(v.numel() for v in state.values()) and list(found.unknown) == ["num_heads"]
    dit = DiT(DiTConfig(depth=1, input_size=4)).state_dict()
    del dit["blocks.0.attn.proj.bias"]
    save_file(dit, tmp_path / "dit.safetensors")
    assert inspect(tmp_path / "dit.safetensors").problems == "1 missing: blocks.0.attn.proj.bias"


def test_every_format_has_a_name_and_a_title() -> None:
    assert all(name == format.name and format.title for name, format in ((name, FORMATS.get(name)) for name in FORMATS))
