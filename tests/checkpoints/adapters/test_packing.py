"""Adapters in model folders: folded into the weights, or beside them in a file of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from kinolab import video
from kinolab.checkpoints import inspect
from kinolab.checkpoints.adapters import AdapterUse, beside, folded, put_on
from kinolab.contracts.conditions import Value
from kinolab.denoisers import Conditions
from kinolab.errors import InputError
from kinolab.layers.lora import LoraLinear, plain_state
from kinolab.models import ModelConfig, VideoModel, load_denoiser
from kinolab.models.assemble import cascade
from kinolab.models.stage_config import StageConfig
from kinolab.verify import verify
from tests.checkpoints.adapters.test_using import adapter, sampled, uses
from tests.cli.every import run
from tests.closeness import assert_close, assert_same
from tests.tiny_model import save_tiny_model, tiny_cascade, tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and two adapters of it."""
    folder = tmp_path_factory.mktemp("pack")
    save_tiny_model(folder / "model", text=False)
    model = tiny_model(text=False)
    adapter(folder / "a", model, 1)
    adapter(folder / "b", model, 2, rank=1)
    return folder


def load(folder: Path) -> VideoModel:
    return VideoModel.load(folder, device="cpu", precision="float32")


def test_a_folded_adapter_is_in_the_weights(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--lora", f"{place / 'a'}:0.5", "--lora", f"{place / 'b'}:-1", "--stored", "float32"]
    assert run("pack", place / "model", "--out", out, *words) == 0
    found, expected = load(out), put_on(load(place / "model"), uses((place / "a", 0.5), (place / "b", -1.0)))
    assert_same(dict(found.denoiser.state_dict()), dict(expected.denoiser.state_dict()))
    assert found.config.trained.endswith("; a x 0.5; b x -1") and found.config.format == 1 and not found.lora


def test_one_beside_is_a_file_with_a_weight(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        run("pack", place / "model", "--out", out, "--beside", f"style={place / 'a'}:0.5", "--stored", "float32") == 0
    )
    assert yaml.safe_load((out / "model.yaml").read_text())["lora"] == {"style": {"weight": 0.5}}
    assert not list(verify(out)) and load(out).config.format == 2
    base, found = load(place / "model"), load(out)
    assert isinstance(found.denoiser.get_submodule("blocks.0.attn.qkv"), LoraLinear)
    assert_same(plain_state(found.denoiser), dict(base.denoiser.state_dict()))
    assert_same(dict(load_denoiser(out, device="cpu").state_dict()), dict(base.denoiser.state_dict()))
    assert_close(sampled(found), sampled(put_on(base, uses((place / "a", 0.5)))), within=1e-3)
    again = put_on(found, [AdapterUse(path=Path("style"), weight=-0.3)])
    assert_close(sampled(again), sampled(put_on(base, uses((place / "a", -0.3)))), within=1e-3)
    off = put_on(found, [AdapterUse(path=Path("style"), weight=0.0)], merged=False)
    assert_close(sampled(off), sampled(base), within=1e-3)
    part = inspect(out).parts["lora-style"]
    assert part.config == {"weight": 0.5} and part.title.startswith("a LoRA adapter of ")
    found.save(tmp_path / "again")
    for name in ("denoiser.safetensors", "lora-style.safetensors", "model.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_a_request_sets_another_weight_and_folding_takes_what_is_beside(place: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert (
        run("pack", place / "model", "--out", out, "--beside", f"style={place / 'a'}:0.5", "--stored", "float32") == 0
    )
    assert run("pack", out, "--out", whole, "--lora", f"{place / 'b'}:1", "--stored", "float32") == 0
    assert not load(whole).lora and not list(whole.glob("lora-*"))
    expected = put_on(load(place / "model"), uses((place / "a", 0.5), (place / "b", 1.0)))
    assert_close(sampled(load(whole)), sampled(expected), within=1e-3)
    shown = {}
    for name, words in {"off": ["--lora", "style:0"], "on": [], "more": ["--lora", "style:3"]}.items():
        path = tmp_path / f"{name}.mkv"
        assert run("generate", "--label", 1, "--model", out, *words, "--out", path, "-s", "precision=float32") == 0
        shown[name] = video.read(path).frames.astype(int)
    assert abs(shown["more"] - shown["on"]).max() > 2
    assert json.loads((tmp_path / "off.json").read_text())["request"]["lora"] == [{"path": "style", "weight": 0.0}]
    assert run("rerun", tmp_path / "more.mkv", "--out", tmp_path / "again.mkv") == 0


def test_mistakes_and_damage_are_one_line(place: Path, tmp_path: Path) -> None:
    model = load(place / "model")
    beside(model, "style", AdapterUse(path=place / "a"))
    with pytest.raises(InputError, match="style: the model has an adapter of that name already"):
        beside(model, "style", AdapterUse(path=place / "b"))
    with pytest.raises(InputError, match=r"'\.\./x' is no name"):
        beside(model, "../x", AdapterUse(path=place / "b"))
    with pytest.raises(InputError, match="other: no such file"):
        put_on(model, [AdapterUse(path=Path("other"), weight=1.0)])
    model.save(tmp_path / "m")
    target = tmp_path / "m" / "lora-style.safetensors"
    data = target.read_bytes()
    target.write_bytes(data[:-100])
    with pytest.raises(InputError, match=r"lora-style\.safetensors"):
        load(tmp_path / "m")
    target.unlink()
    with pytest.raises(InputError, match=r"lora-style\.safetensors"):
        load(tmp_path / "m")


def test_a_folder_whose_adapter_does_not_fit_its_denoiser(place: Path, tmp_path: Path) -> None:
    from kinolab.runtime.weights import write_weights

    model = load(place / "model")
    beside(model, "style", AdapterUse(path=place / "a"))
    model.save(tmp_path / "m")
    (tmp_path / "m" / "manifest.json").unlink()
    for tensors in (
        {"blocks.0.attn.qkv.lora_down": torch.ones(2, 5), "blocks.0.attn.qkv.lora_up": torch.ones(48, 2)},
        {"blocks.9.attn.qkv.lora_down": torch.ones(2, 16), "blocks.9.attn.qkv.lora_up": torch.ones(48, 2)},
        {"blocks.0.attn.qkv.lora_up": torch.ones(48, 2)},
    ):
        write_weights(tmp_path / "m" / "lora-style.safetensors", tensors)
        with pytest.raises(InputError, match=r"lora-style.safetensors: does not fit model\.yaml"):
            load(tmp_path / "m")


def test_folding_twice_is_folding_once(place: Path) -> None:
    once = folded(load(place / "model"), uses((place / "a", 1.0)))
    state = dict(once.denoiser.state_dict())
    assert_same(dict(folded(once, []).denoiser.state_dict()), state)


def test_a_later_stage_keeps_its_own_beside_it(place: Path, tmp_path: Path) -> None:
    made = tiny_cascade(tiny_model(text=False))
    later = made.stages[0]
    # The later stage by itself is a model that refines what it is told.
    values = {name: getattr(later.config, name) for name in StageConfig.model_fields}
    alone = VideoModel(
        ModelConfig(**values | {"autoencoder": made.autoencoder.config}), made.autoencoder, later.denoiser
    )
    adapter(tmp_path / "sr", alone, 5)
    beside(alone, "sharp", AdapterUse(path=tmp_path / "sr")).save(tmp_path / "alone")
    first = folded(load(place / "model"), uses((place / "a", 1.0)))
    cascade(first, {"sr": tmp_path / "alone"}).save(tmp_path / "whole")
    assert (tmp_path / "whole" / "sr-lora-sharp.safetensors").exists()
    found = load(tmp_path / "whole")
    assert list(found.stages[0].lora) == ["sharp"] and not found.lora
    assert_close(found.stages[0].denoiser(*told(found)), alone.denoiser(*told(found)))
    folded(found, []).save(tmp_path / "again")
    assert list(load(tmp_path / "again").stages[0].lora) == ["sharp"]


def told(model: VideoModel) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    """Latents of the later stage, and its low-resolution input."""
    source = torch.Generator().manual_seed(1)
    z, low = (torch.randn(1, 4, 2, 16, 16, generator=source) for _ in range(2))
    return z, torch.tensor([0.5]), Conditions(low_resolution=Value("field", low))
