"""Checkpoints that are written beside the steps: of the state as it was, whole or not there, and none waited for."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from kinolab.runtime import shard_storage
from kinolab.runtime.ranks import Ranks
from kinolab.training.beside import Beside
from kinolab.training.run import train
from kinolab.training.settings import TrainingConfig, make_optimizer
from kinolab.training.state import RunState, checkpoints
from tests.closeness import assert_same
from tests.training.tiny import autoencoder_recipe


def begun() -> tuple[RunState, nn.Linear]:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    optimizer = make_optimizer(module, TrainingConfig())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return RunState({"net": module}, {"net": optimizer}, {}, Ranks()), module


def test_what_is_written_is_the_state_of_then_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, module = begun()
    go_on, real, told = threading.Event(), shard_storage.write_weights, list[Path]()

    def slow(*args: Any) -> None:
        assert go_on.wait(60)
        real(*args)

    monkeypatch.setattr(shard_storage, "write_weights", slow)
    beside = Beside(state, tmp_path, 2, Ranks(), told.append)
    then = module.weight.detach().clone()
    beside.begin(3)
    with torch.no_grad():
        module.weight.add_(1)
    beside.look()
    assert checkpoints(tmp_path) == told == []
    go_on.set()
    beside.settle()
    assert checkpoints(tmp_path) == told == [tmp_path / "step-00000003"]
    assert state.load_newest(tmp_path, pytest.fail) == 3
    assert_same(module.weight.detach(), then)


def test_one_that_is_written_is_sealed_without_being_waited_for(tmp_path: Path) -> None:
    state, _ = begun()
    beside = Beside(state, tmp_path, 1, Ranks(), lambda path: None)
    for step in (1, 2):
        beside.begin(step)
        beside._open.writing.future.result()  # type: ignore[union-attr]
        beside.look()
        assert [p.name for p in checkpoints(tmp_path)] == [f"step-0000000{step}"]
    beside.settle()
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000002"]


def test_a_disk_that_is_full_is_said_when_it_is_settled_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _ = begun()
    state.save(tmp_path, 1, 2)

    def full(path: Path, tensors: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(shard_storage, "write_weights", full)
    beside = Beside(state, tmp_path, 2, Ranks(), lambda path: None)
    with pytest.raises(OSError, match="No space left"), beside.ended():
        beside.begin(2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.wide
def test_a_run_whose_checkpoints_are_written_beside_it_is_the_run_that_waits(tmp_path: Path) -> None:
    made = {}
    for how in ("wait", "beside"):
        recipe = tmp_path / f"{how}.yaml"
        recipe.write_text(yaml.safe_dump(autoencoder_recipe(steps=4, save_every=1, checkpoints=how)))
        train(recipe, tmp_path / how, until=3)
        found = [p.name for p in checkpoints(tmp_path / how / "checkpoints")]
        assert found == ["step-00000002", "step-00000003"]
        train(recipe, tmp_path / how, resume=True)
        made[how] = (tmp_path / how / "model" / "autoencoder.safetensors").read_bytes()
    assert made["wait"] == made["beside"]
