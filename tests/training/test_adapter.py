"""An adapter is trained: nothing else moves, checkpoints hold no frozen weights, and what is written is the change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints.adapters import AdapterUse, put_on, read_adapter
from kinolab.denoisers.trained import LowRank, trainable_parameters
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel, load_autoencoder, load_denoiser, save_autoencoder
from kinolab.training.recipe import load_recipe
from kinolab.training.run import train
from tests.closeness import assert_close
from tests.listening import Listening
from tests.training.tiny import denoiser_recipe

pytestmark = pytest.mark.slow  # many short trainings, which take long together


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe that trains an adapter of a random Latte in `base`."""
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    save_autoencoder(ImageAutoencoder(pixels), tmp_path / "pixels")
    values = denoiser_recipe(tmp_path / "pixels")
    autoencoder = load_autoencoder(tmp_path / "pixels")
    config = ModelConfig.model_validate({"autoencoder": autoencoder.config, "denoiser": values["denoiser"]})
    assert config.denoiser is not None
    model = denoisers.build(config.denoiser)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    VideoModel(config, autoencoder, model).save(tmp_path / "base")
    return values | {
        "initial": {"path": str(tmp_path / "base")}, "trained": "adapter", "lora_rank": 2, "lora_alpha": 6.0,
        "lora_targets": ["*.attn.qkv", "blocks.0.mlp.*"],
    }  # fmt: skip


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def tensors(checkpoint: Path) -> int:
    """Bytes of a checkpoint's files."""
    return sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())


def test_the_adapter_is_the_whole_change_and_a_resumed_run_gives_the_same(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    path, heard = write(tmp_path, recipe), Listening()
    train(path, tmp_path / "once", events=heard)
    said = "\n".join(heard.notes)
    assert "adapter: " in said and "parameters are trained" in said
    assert "low-rank changes of 4 layers: blocks.N.attn.qkv, blocks.N.mlp.fc1, blocks.N.mlp.fc2" in said
    assert "frozen: " in said and "blocks.N.attn.proj.weight" in said
    train(path, tmp_path / "twice", until=2)
    train(path, tmp_path / "twice", resume=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "once" / "adapter" / name).read_bytes() == (
            tmp_path / "twice" / "adapter" / name
        ).read_bytes()
    found = read_adapter(tmp_path / "once" / "adapter")
    assert found.ranks == {2: 4} and found.alphas == {6.0: 4}
    assert json.loads((tmp_path / "once" / "adapter" / "adapter_config.json").read_text())["lora_alpha"] == 6
    base = VideoModel.load(tmp_path / "base", device="cpu", precision="float32")
    trained = load_denoiser(tmp_path / "once" / "model", device="cpu").state_dict()
    changed = put_on(base, [AdapterUse(path=tmp_path / "once" / "adapter")]).denoiser.state_dict()
    for name, value in trained.items():
        assert_close(changed[name], value, what=name)
    before = base.denoiser.state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert moved == {f"{name}.weight" for name in found.layers}


def test_a_checkpoint_holds_what_is_trained_alone_and_knows_its_base(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, recipe)
    train(path, tmp_path / "run", until=2)
    [part] = (tmp_path / "run" / "checkpoints").iterdir()
    model = load_denoiser(tmp_path / "base", device="cpu")
    count = trainable_parameters(model, "adapter", LowRank(2, 6.0, ("*.attn.qkv", "blocks.0.mlp.*")))
    # weights, averages, and two moments of the optimiser
    assert 4 * 4 * count.trained < tensors(part) < 4 * 4 * count.trained + 40_000 < 8 * count.model + 40_000
    other = VideoModel.load(tmp_path / "base", device="cpu")
    with torch.no_grad():
        other.denoiser.get_parameter("blocks.0.attn.qkv.weight").add_(0.1)
    other.save(tmp_path / "base")
    with pytest.raises(InputError, match="frozen weights of its denoiser were others"):
        train(path, tmp_path / "run", resume=True)


def test_a_recipe_that_trains_no_adapter_is_refused(recipe: dict[str, Any]) -> None:
    for changes, said in (
        ({"initial": None}, "trained: adapter needs an initial denoiser"),
        ({"trained": "all"}, "lora_targets and lora_alpha are of trained: lora or adapter"),
        ({"lora_alpha": 0}, "lora_alpha: Input should be greater than 0"),
    ):
        with pytest.raises(InputError, match=said):
            load_recipe(recipe | changes)
    model = denoisers.build(denoisers.LatteConfig(hidden_size=16, depth=2, num_heads=2, input_size=4))
    with pytest.raises(
        InputError, match=r"lora_targets: x\.\* is no linear layer of the denoiser, which has .*blocks\.N"
    ):
        trainable_parameters(model, "adapter", LowRank(2, None, ("x.*",)))


def test_changes_alone_are_trained_and_time_stays() -> None:
    config = denoisers.LatteConfig(hidden_size=16, depth=2, num_heads=2, input_size=4, num_frames=3)
    model = denoisers.build(config)
    count = trainable_parameters(model, "adapter", LowRank(1))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert count.layers == ("blocks.0.attn.qkv", "blocks.0.attn.proj"), "those over time are left as they are"
    assert trained == {f"{n}.{k}" for n in count.layers for k in ("lora_down", "lora_up")}
    assert count.trained == count.lora and set(count.kept) | trained == {n for n, _ in model.named_parameters()}
    assert count.model == sum(p.numel() for n, p in model.named_parameters() if n in count.kept)
