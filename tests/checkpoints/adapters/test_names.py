"""An adapter's names mean the layers of every family, in every public layout and every form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinolab import denoisers
from kinolab.checkpoints.adapters import (
    Adapter,
    layout_of,
    layouts,
    misfits,
    native_changes,
    public_changes,
    read_adapter,
    write_adapter,
)
from kinolab.checkpoints.base import public_tensors
from kinolab.checkpoints.formats import find_format
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import change_layers
from tests.checkpoints.adapters.tiny import CONFIGS, build, changed_by_hand, random_layers, run
from tests.closeness import NETWORK, assert_close, assert_same
from tests.test_contracts import DENOISERS


def target(folder: Path, form: str) -> Path:
    return folder / ("peft" if form == "peft" else f"{form}.safetensors")


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("layout", CONFIGS)
@pytest.mark.slow
def test_a_file_changes_the_public_weights_by_the_papers_equation(tmp_path: Path, layout: str, form: str) -> None:
    model = build(layout)
    layers = random_layers(model, layout)
    path = target(tmp_path, form)
    write_adapter(path, layers, form, "transformer")  # type: ignore[arg-type]
    expected = changed_by_hand(model, layout, layers, weight=0.5)
    adapter = read_adapter(path)
    assert adapter.form == form and adapter.ranks == {3: len(layers)} and adapter.alphas == {2.0: len(layers)}
    changes = {name: change.times(0.5) for name, change in native_changes(model, adapter).items()}
    change_layers(model, changes)
    found = public_tensors(find_format(layout), model)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert_close(value, expected[name], what=name)


@pytest.mark.parametrize("layout", CONFIGS)
@pytest.mark.slow
def test_beside_the_layers_the_changes_give_what_they_give_in_the_weights(layout: str) -> None:
    model, beside = build(layout), build(layout)
    before = run(model)
    layers = random_layers(model, layout)
    adapter = Adapter(Path("x"), "peft", "", layers)
    changes = native_changes(model, adapter)
    change_layers(model, changes)
    change_layers(beside, changes, merged=False)
    assert (run(model) - before).abs().max() > 0.1
    assert_close(run(beside), run(model), within=1e-4)


@pytest.mark.parametrize("layout", CONFIGS)
def test_public_names_and_back_are_the_same_change(layout: str) -> None:
    model = build(layout)
    layers = random_layers(model, layout)
    changes = native_changes(model, Adapter(Path("x"), "peft", "", layers))
    again = public_changes(layout_of(model, layout), changes)
    assert again.keys() == layers.keys()
    for name, layer in again.items():
        assert layer.rank == 3
        assert_close(layer.change.delta, layers[name].change.delta.reshape(layer.change.delta.shape), what=name)
    back = native_changes(model, Adapter(Path("x"), "peft", "", again))
    assert_same({n: c.down for n, c in back.items()}, {n: c.down for n, c in changes.items()})


def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path) -> None:
    model, layers = build("latte"), random_layers(build("latte"), "latte")
    write_adapter(tmp_path / "a", layers, "peft", "transformer")
    other = build("sd3")
    with pytest.raises(
        InputError, match=r"an adapter for another model: 10 of its 15 layers are not in this model: bl"
    ):
        native_changes(other, read_adapter(tmp_path / "a"))
    write_adapter(tmp_path / "n", {"down.0.to_q": layers["blocks.0.attn.qkv"]}, "peft", "transformer")
    with pytest.raises(InputError, match=r"none of its 1 layers is one of this Latte: down\.0\.to_q"):
        native_changes(model, read_adapter(tmp_path / "n"))
    wide = {n: layer for n, layer in layers.items() if n == "blocks.0.mlp.fc1"}
    wide["blocks.7.attn.qkv"] = layers["blocks.0.attn.qkv"]
    write_adapter(tmp_path / "b", wide, "peft", "transformer")
    said = misfits(model, read_adapter(tmp_path / "b"))
    assert said == ["1 of its 2 layers are not in this model: blocks.7.attn.qkv"]
    wide = {"blocks.0.attn.qkv": layers["blocks.0.mlp.fc1"]}
    write_adapter(tmp_path / "c", wide, "peft", "transformer")
    said = misfits(model, read_adapter(tmp_path / "c"))
    assert said == ["1 changes of another shape: blocks.0.attn.qkv (64, 16), expected (48, 16)"]


def test_layers_of_one_name_with_underscores_are_not_guessed() -> None:
    model = build("latte")
    layout = layout_of(model, "latte")
    assert layout.find("blocks_0_attn_qkv") == "blocks.0.attn.qkv" == layout.find("blocks.0.attn.qkv")
    assert layout.find("blocks_9_attn_qkv") is None
    assert len(layout.flat) == len(layout.places)
    with pytest.raises(InputError, match="sd3: no layout of a Latte; expected one of latte, latte_diffusers, kinolab"):
        layout_of(model, "sd3")


def test_a_part_of_a_joined_layer_changes_its_rows_alone() -> None:
    model = build("sd3_diffusers")
    layers = {n: v for n, v in random_layers(model, "sd3_diffusers").items() if n == "transformer_blocks.0.attn.to_k"}
    ((name, change),) = native_changes(model, Adapter(Path("x"), "peft", "", layers)).items()
    assert name == "joint_blocks.0.x_block.attn.qkv" and change.rank == 3
    q, k, v = change.delta.chunk(3)
    assert not q.any() and not v.any() and torch.linalg.matrix_rank(k) == 3


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.slow
def test_every_denoiser_is_changed_alike_beside_and_in_its_weights_by_every_layouts_names(name: str) -> None:
    def built() -> Denoiser:
        torch.manual_seed(0)
        model = denoisers.build(DENOISERS[name]).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    model = built()
    layers = random_layers(model, "kinolab")
    changes = native_changes(model, Adapter(Path("x"), "peft", "", layers))
    merged, beside, before = built(), built(), run(model)
    change_layers(merged, changes)
    change_layers(beside, changes, merged=False)
    assert (run(merged) - before).abs().max() > 0.1
    assert_close(run(beside), run(merged), within=NETWORK)
    for layout in layouts(model):
        named = public_changes(layout, changes)
        again = native_changes(
            model, Adapter(Path("x"), "kohya", "", {n.replace(".", "_"): c for n, c in named.items()})
        )
        assert again.keys() == changes.keys(), layout.name
        for layer, change in again.items():
            assert_close(change.delta, changes[layer].delta, what=f"{layout.name}: {layer}")
