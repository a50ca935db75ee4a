"""A cascade of two stages: the second refines what the first made at half the size; by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kinolab import VideoModel, video
from kinolab.denoisers import Conditions
from kinolab.models import Request, save_autoencoder
from kinolab.models.cascade import stage_seed
from tests.closeness import NETWORK, assert_close
from tests.outside.commands import run
from tests.tiny_model import tiny_model
from tests.training.tiny import denoiser_recipe

PORTS = {"num_classes": 0, "vectors": {"noise_level": 0}, "fields": {"low_resolution": 4}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 32 px with labels, followed by one of 64 px that is told the low resolution alone."""
    room = tmp_path_factory.mktemp("cascade")
    save_autoencoder(tiny_model(text=False).autoencoder, room / "autoencoder")
    for name, side, ports in (("base", 32, {}), ("sr", 64, PORTS)):
        recipe = denoiser_recipe(room / "autoencoder", steps=4, learning_rate=0.1)
        recipe["denoiser"] |= {"input_size": side // 4, "num_frames": 2, "patch_size": 2, **ports}
        recipe["data"]["world"]["size"] = side
        recipe["samples"] = {"count": 1, "sampler": {"steps": 2}}
        (room / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        run("train", room / f"{name}.yaml", "--run", room / name)
    run("pack", room / "base", "--stage", f"sr={room / 'sr'}", "--out", room / "packed", "--stored", "float32")
    return room / "packed"


@pytest.mark.slow
def test_the_second_stage_refines_the_first(packed: Path) -> None:
    model = VideoModel.load(packed, precision="float32")
    (stage,), told = model.stages, list[Conditions]()
    assert stage.autoencoder is model.autoencoder and not (packed / "sr-autoencoder.safetensors").exists()
    stage.denoiser.register_forward_pre_hook(lambda _, args: told.append(args[2]))
    assert model.generate(label=1, seed=3, stages={"sr": {"sampler": {"steps": 1}}}).shape == (1, 3, 5, 64, 64)
    first = VideoModel.load(packed.parent / "base", precision="float32").generate(label=1, seed=3)
    asked = Request(frames=5, size=(64, 64), seed=stage_seed(3, 1), conditions={"low_resolution": first[0]})
    (conditions,) = told  # one step of the second stage
    assert set(conditions) == {"low_resolution", "noise_level"}
    for name, value in stage.conditions([asked]).items():
        assert_close(conditions[name].value, value.value, NETWORK)


@pytest.mark.slow
def test_it_is_sampled_and_made_again(packed: Path, tmp_path: Path) -> None:
    asked = ("-s", "stages.sr.sampler.steps=3", "-s", "conditions.noise_level=0.3")
    run("generate", "--model", packed, "--label", 1, "--count", 2, "--out", tmp_path / "clip.webp", *asked)
    assert video.read(tmp_path / "clip-1.webp").frames.shape == (5, 64, 64, 3)
    assert json.loads((tmp_path / "clip-1.json").read_text())["request"]["stages"]["sr"]["sampler"]["steps"] == 3
    assert "identical" in run("rerun", tmp_path / "clip-1.webp", "--out", tmp_path / "again.webp")
    said = run("generate", "--model", packed, "--out", tmp_path / "no.webp", "-s", "stages.st.sampler.steps=3")
    assert "stages.st: no later stage of that name; expected one of sr" in said
