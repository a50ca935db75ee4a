"""Trainings on a device that is not the CPU, from the first step to the model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kinolab.errors import InputError
from kinolab.training.run import train
from tests.closeness import assert_close
from tests.listening import Listening
from tests.stand_in_device import MPS, StandInDevice
from tests.training import test_encoder
from tests.training.tiny import autoencoder_recipe, denoiser_recipe, dpvae_recipe, odvae_recipe, tasks_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    train(write(folder, autoencoder_recipe(steps=1)), folder / "run")
    return folder / "run"


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> StandInDevice:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    return StandInDevice()


def recipe_of(kind: str, image: Path) -> dict[str, Any]:
    """What differs in what it sends to a device: losses, optimisers, conditions, given parts, precision."""
    recipes: dict[str, Any] = {
        "odvae": lambda: odvae_recipe(steps=2, optimizer="muon"),
        "dpvae": lambda: dpvae_recipe(image, steps=2),
        "latte": lambda: denoiser_recipe(image, steps=2, precision="bfloat16"),
        "vdt": lambda: tasks_recipe(image, steps=2),
        "encoder": lambda: test_encoder.recipe(steps=2),
    }
    recipe: dict[str, Any] = recipes[kind]()
    recipe["training"]["device"] = "auto"
    if "kind" in recipe["data"]:
        recipe["data"] |= {"count": 4, "heldout_count": 2}
    if kind == "latte":
        recipe["diffusion"] = {"schedule": "cosine", "learned_variance": True, "loss": "min_snr_vb"}
        recipe["denoiser"]["learned_variance"] = True
        recipe |= {"image_frames": 2}
        recipe["samples"]["sampler"] = {"name": "ddpm", "steps": 2}
    return recipe


@pytest.mark.parametrize("kind", ["odvae", "dpvae", "latte", "vdt", "encoder"])
def test_a_training_runs_where_auto_says(kind: str, image: Path, tmp_path: Path, mps: StandInDevice) -> None:
    heard = Listening()
    path = write(tmp_path, recipe_of(kind, image))
    with mps:
        report = train(path, tmp_path / "run", events=heard)
    assert report.finished and report.ranks.device == MPS and mps.sent > 100
    assert [line for line in heard.notes if line.startswith("device: ")] == ["device: mps, Apple GPU (auto)"]
    assert all(torch.isfinite(v).all() for p in (tmp_path / "run" / "model").glob("*.safetensors")
               for v in load_file(p).values())  # fmt: skip


def test_a_run_goes_on_where_another_device_left_it(image: Path, tmp_path: Path, mps: StandInDevice) -> None:
    """The draws are the same on every device, and so are the weights but for rounding."""
    path = write(tmp_path, denoiser_recipe(image, steps=3))
    train(path, tmp_path / "whole")
    with mps:
        train(path, tmp_path / "split", ["training.device=mps"], until=2)
        assert mps.sent > 100
    report = train(None, tmp_path / "split", ["training.device=cpu"], resume=True)
    assert report.changes == ["training.device: 'mps' -> 'cpu'"]
    whole, split = (load_file(tmp_path / run / "model" / "denoiser.safetensors") for run in ("whole", "split"))
    assert whole.keys() == split.keys()
    for name in whole:
        assert_close(split[name], whole[name], 1e-3, name)


@pytest.mark.parametrize("word", ["banana", "cuda:9"])
def test_a_device_that_is_not_there_stops_a_training_at_once(word: str, image: Path, tmp_path: Path) -> None:
    path = write(tmp_path, denoiser_recipe(image, device=word))
    with pytest.raises(InputError, match=f"^device '?{word}'?: .*expected auto"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
