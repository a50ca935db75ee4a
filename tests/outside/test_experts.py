"""A stage of two experts: trained on their intervals, put together, sampled and made again, by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kinolab import VideoModel, video
from kinolab.models import Request, save_autoencoder
from kinolab.models.experts import Experts
from tests.closeness import NETWORK, assert_close
from tests.outside.commands import run
from tests.tiny_model import tiny_model
from tests.training.tiny import denoiser_recipe


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a run on all of time's noisy half and one on its clean half."""
    room = tmp_path_factory.mktemp("experts")
    save_autoencoder(tiny_model(text=False).autoencoder, room / "autoencoder")
    for number, (name, interval) in enumerate({"noisy": [0.5, 1.0], "clean": [0.0, 0.5]}.items()):
        recipe = denoiser_recipe(room / "autoencoder", steps=4, seed=number, evaluate_every=4)
        recipe["denoiser"] |= {"input_size": 8, "num_frames": 2}
        (room / f"{name}.yaml").write_text(yaml.safe_dump(recipe | {"interval": interval}))
        run("train", room / f"{name}.yaml", "--run", room / name)
        logged = [json.loads(line) for line in (room / name / "log.jsonl").read_text().splitlines()]
        times = [line["t"] for line in logged if "t" in line]
        assert times and all(interval[0] * 999 <= t <= interval[1] * 999 for t in times)
        held = {key for line in logged for key in line if "loss_at" in key}
        assert held and all(interval[0] <= float(key.rpartition("_")[2]) <= interval[1] for key in held)
    run("pack", room / "noisy", "--expert", f"0.5={room / 'clean'}", "--out", room / "packed", "--stored", "float32")
    return room / "packed"


@pytest.mark.slow
def test_each_expert_has_its_times(packed: Path) -> None:
    model, clean = VideoModel.load(packed), VideoModel.load(packed.parent / "clean")
    network, (expert,) = model.network, model.experts
    assert isinstance(network, Experts) and yaml.safe_load((packed / "model.yaml").read_text())["format"] == 2
    assert all(torch.equal(a, b) for a, b in zip(expert.parameters(), clean.denoiser.parameters(), strict=True))
    z, conditions = torch.randn(2, 4, 2, 8, 8), model.conditions([Request(label=1)] * 2)
    for times, rows in (([900.0, 100.0], (model.denoiser, expert)), ([100.0, 200.0], (expert, expert))):
        found = network(z, torch.tensor(times), conditions)
        for row, denoiser in enumerate(rows):
            assert_close(found[row], denoiser(z, torch.tensor(times), conditions)[row], NETWORK)


@pytest.mark.slow
def test_it_is_sampled_and_made_again(packed: Path, tmp_path: Path) -> None:
    others = (("noisy", packed.parent / "noisy"), ("cached", packed, "--cache", 0.2))
    for name, model, *more in (("both", packed), *others):
        run("generate", "--model", model, "--label", 1, "--steps", 4, "--out", tmp_path / f"{name}.webp", *more)
    both, noisy, _ = (video.read(tmp_path / f"{name}.webp").frames for name in ("both", "noisy", "cached"))
    assert not np.array_equal(both, noisy)
    assert "identical" in run("rerun", tmp_path / "both.webp", "--out", tmp_path / "again.webp")
