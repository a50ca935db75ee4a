"""Runs: kill and resume, split over processes and micro-batches, stopping at a non-finite loss."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kinolab.errors import InputError
from kinolab.runtime.locks import held
from kinolab.runtime.precision import NonFiniteError
from kinolab.runtime.weights import read_weights
from kinolab.training.run import train
from tests.closeness import difference
from tests.listening import Listening
from tests.processes import kinolab
from tests.training.tiny import autoencoder_recipe, denoiser_recipe, odvae_recipe

pytestmark = pytest.mark.slow


def write(folder: Path, recipe: dict[str, Any], name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    train(write(folder, autoencoder_recipe(steps=2)), folder / "run")
    return folder / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {f"{p.stem}.{k}": v for p in sorted((run / "model").glob("*.safetensors")) for k, v in load_file(p).items()}


def largest_difference(first: Path, second: Path) -> float:
    """Over all weights, as a share of their spread: a bias alone may be of the size of what Adam makes of rounding."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and a
    return difference(*(torch.cat([w[k].flatten() for k in a]) for w in (a, b)))


def recipe_of(kind: str, autoencoder: Path, **training: Any) -> dict[str, Any]:
    """An OD-VAE's recipe, a denoiser's, or that of one on two frames of each clip."""
    if kind == "odvae":
        return odvae_recipe(**training)
    recipe = denoiser_recipe(autoencoder, **training)
    if kind == "images":
        recipe["frames_per_clip"], recipe["denoiser"]["num_frames"] = 2, 1
    return recipe


@pytest.mark.parametrize("kind", ["odvae", "denoiser", "images"])
@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.wide
def test_a_run_stopped_and_resumed_gives_the_same_weights(
    tmp_path: Path, tiny_autoencoder: Path, kind: str, stop: int
) -> None:
    path = write(tmp_path, recipe_of(kind, tiny_autoencoder))
    train(path, tmp_path / "whole")
    train(path, tmp_path / "split", until=stop)
    report = train(None, tmp_path / "split", resume=True)
    assert report.finished and report.changes == []
    assert largest_difference(tmp_path / "whole", tmp_path / "split") == 0.0


@pytest.mark.wide
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """SIGKILL at an arbitrary moment: the checkpoint under a final name is whole, and the end is the same."""
    path = write(tmp_path, autoencoder_recipe(steps=20, save_every=1))
    train(path, tmp_path / "whole", ["training.save_every=20"])
    process = kinolab(["train", str(path), "--run", str(tmp_path / "killed")])
    deadline = time.monotonic() + 100
    while not list((tmp_path / "killed" / "checkpoints").glob("step-0000000[3-9]")) and time.monotonic() < deadline:
        assert process.running, "the run ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    report = train(None, tmp_path / "killed", resume=True)
    assert report.finished
    assert largest_difference(tmp_path / "whole", tmp_path / "killed") == 0.0
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    trained = [s for s, line in zip(steps, (tmp_path / "killed" / "log.jsonl").read_text().splitlines(), strict=True)
               if json.loads(line)["kind"] == "train"]  # fmt: skip
    assert trained == list(range(1, 21))


@pytest.mark.parametrize("kind", ["odvae", "denoiser", "images"])
def test_accumulation_changes_nothing(tmp_path: Path, tiny_autoencoder: Path, kind: str) -> None:
    """The same draws for every sample, whatever micro-batch it falls into; the adversarial weight is per micro-batch,
    so it is left out here."""
    whole, split = (
        autoencoder_recipe(**settings) if kind == "odvae" else recipe_of(kind, tiny_autoencoder, **settings)
        for settings in ({}, {"micro_batch": 1})
    )  # fmt: skip
    train(write(tmp_path, whole, "a.yaml"), tmp_path / "a")
    train(write(tmp_path, split, "b.yaml"), tmp_path / "b")
    assert largest_difference(tmp_path / "a", tmp_path / "b") < 2e-3


@pytest.mark.wide
def test_two_processes_equal_one(tmp_path: Path, tiny_autoencoder: Path) -> None:
    """Adam amplifies rounding: 3 steps at float32 agree to a thousandth of the weights' spread. Sharded ones are
    compared in test_torchrun."""
    path = write(tmp_path, denoiser_recipe(tiny_autoencoder, steps=3, save_every=2))
    train(path, tmp_path / "one")
    run_two(path, tmp_path / "two", ["--until", "2"])
    run_two(path, tmp_path / "two", ["--resume"])
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3


@pytest.mark.wide
def test_a_checkpoint_of_two_processes_resumes_in_one(tmp_path: Path, tiny_autoencoder: Path) -> None:
    path = write(tmp_path, denoiser_recipe(tiny_autoencoder, steps=3, parallel="fsdp"))
    train(path, tmp_path / "one")
    run_two(path, tmp_path / "mixed", ["--until", "2"])
    train(None, tmp_path / "mixed", resume=True)
    assert largest_difference(tmp_path / "one", tmp_path / "mixed") < 1e-3


@pytest.mark.wide
def test_two_processes_train_an_autoencoder(tmp_path: Path) -> None:
    path = write(tmp_path, autoencoder_recipe(steps=3))
    train(path, tmp_path / "one")
    run_two(path, tmp_path / "two", [])
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3


@pytest.mark.wide
def test_two_processes_train_on_images_a_model_that_has_pairs_of_frames(tmp_path: Path, tiny_autoencoder: Path) -> None:
    """Images leave the embedding and the head of pairs without a gradient."""
    recipe = denoiser_recipe(tiny_autoencoder, steps=3) | {"frames_per_clip": 1}
    recipe["denoiser"] = {
        "kind": "mmdit", "hidden_size": 16, "depth": 1, "num_heads": 2, "in_channels": 4, "input_size": 16,
        "num_frames": 5, "temporal_patch": 2, "attention": "2d", "temporal_position": "none", "num_classes": 6,
    }  # fmt: skip
    path = write(tmp_path, recipe)
    train(path, tmp_path / "one")
    run_two(path, tmp_path / "two", [])
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3


def run_two(recipe: Path, run: Path, options: list[str]) -> None:
    """The recipe under torchrun's environment with two processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    words = ["train", str(recipe), "--run", str(run), *options]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [kinolab(words, {**group, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)]
    for status, said in [rank.wait() for rank in ranks]:
        assert status == 0, said


def test_the_first_non_finite_loss_stops_the_run_and_keeps_the_last_state(
    tmp_path: Path, tiny_autoencoder: Path
) -> None:
    path = write(tmp_path, denoiser_recipe(tiny_autoencoder, steps=6, save_every=1))
    train(path, tmp_path / "run", until=2)
    with pytest.raises(NonFiniteError, match=r"step \d.*step-0000000\d.*learning_rate"):
        train(None, tmp_path / "run", ["training.learning_rate=1e30"], resume=True)
    report = train(None, tmp_path / "run", ["training.learning_rate=1e-2"], resume=True, until=2)
    assert report.step >= 2
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    found = _checkpoint_weights(kept[0])
    assert found and all(torch.isfinite(v).all() for v in found.values())


def _checkpoint_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    stored = [read_weights(path, nan="allow").tensors for path in checkpoint.glob("rank-*.safetensors")]
    found = {name: value for tensors in stored for name, value in tensors.items()}
    return {name: value for name, value in found.items() if name.startswith("denoiser.weights.")}


def test_resuming_says_what_changed(tmp_path: Path) -> None:
    path = write(tmp_path, autoencoder_recipe(steps=3))
    train(path, tmp_path / "run", until=1)
    heard = Listening()
    report = train(None, tmp_path / "run", ["training.learning_rate=5e-4"], resume=True, events=heard)
    assert report.changes == ["training.learning_rate: 0.001 -> 0.0005"]
    assert any("0.001 -> 0.0005" in line for line in heard.notes)


def test_a_second_trainer_is_kept_out_of_a_run_that_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path, autoencoder_recipe(steps=3))
    train(path, tmp_path / "run", until=1)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with (
        held(tmp_path / "run" / ".lock", "not reached"),
        pytest.raises(InputError, match="another process is training this run"),
    ):
        train(None, tmp_path / "run", resume=True)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    assert train(None, tmp_path / "run", resume=True).finished


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path, autoencoder_recipe(steps=1))
    train(path, tmp_path / "run")
    with pytest.raises(InputError, match="--resume"):
        train(path, tmp_path / "run")
    with pytest.raises(InputError, match="no run to resume"):
        train(None, tmp_path / "other", resume=True)


def test_log_samples_and_heldout_numbers(tmp_path: Path, tiny_autoencoder: Path) -> None:
    path = write(tmp_path, denoiser_recipe(tiny_autoencoder, evaluate_every=2, sample_every=2))
    train(path, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    heldout = [r for r in rows if r["kind"] == "heldout"]
    assert [r["step"] for r in heldout] == [2, 4]
    assert heldout[-1]["loss"] < heldout[0]["loss"]
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == [
        "step-00000002-0.mp4", "step-00000004-0.mp4",
    ]  # fmt: skip


@pytest.mark.wide
def test_samples_before_the_first_step_change_nothing(tmp_path: Path, tiny_autoencoder: Path) -> None:
    """Step 0 is among the samples, once, and whether it is asked for decides no bit of what is trained."""
    for name, first in (("without", False), ("with", True)):
        path = write(
            tmp_path, denoiser_recipe(tiny_autoencoder, steps=2, sample_first=first, save_every=1), f"{name}.yaml"
        )
        train(path, tmp_path / name, until=1)
        begun = {p.name: p.stat().st_mtime_ns for p in (tmp_path / name).glob("samples/*")}
        train(None, tmp_path / name, resume=True)
        found = {p.name: p.stat().st_mtime_ns for p in (tmp_path / name).glob("samples/*")}
        assert list(begun) == ["step-00000000-0.mp4"] * first
        assert sorted(found) == [*begun, "step-00000002-0.mp4"] and found.items() >= begun.items()
    assert largest_difference(tmp_path / "without", tmp_path / "with") == 0.0
