"""Save now and sample now: done after the step at hand, and the training is that of a run that nobody asked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kinolab.contracts.events import Silent
from kinolab.runtime.yaml_files import to_yaml
from kinolab.studio.work import SIGNALS as SENT
from kinolab.training.asking import SIGNALS, Asked, hearing
from kinolab.training.run import train
from tests.closeness import assert_same
from tests.training.tiny import autoencoder_recipe


class Asking(Silent):
    """Sends this process both signals when a step is done."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        self.told: list[str] = []

    def progress(self, done: int, total: int) -> None:
        if done == self.step:
            for name in SIGNALS.values():
                os.kill(os.getpid(), getattr(signal, name))

    def wrote(self, path: Path, what: str = "file") -> None:
        self.told.append(f"{what} {path.name}")


@pytest.mark.slow
def test_asked_it_saves_and_samples_and_trains_on_as_if_nobody_had(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(autoencoder_recipe(steps=3, save_every=100, keep=9)))
    asking, quiet = Asking(2), Asking(None)
    train(recipe, tmp_path / "asked", events=asking)
    train(recipe, tmp_path / "quiet", events=quiet)
    assert len([t for t in asking.told if t.startswith("checkpoint")]) == 2  # one of them at the end
    assert len([t for t in asking.told if t.startswith("samples")]) == 2
    assert len([t for t in quiet.told if t.startswith("checkpoint")]) == 1
    one, other = (load_file(tmp_path / k / "model" / "autoencoder.safetensors") for k in ("asked", "quiet"))
    for name, tensor in one.items():
        assert_same(tensor, other[name])


def test_signals_are_heard_inside_and_are_as_before_outside() -> None:
    before, asked = signal.getsignal(signal.SIGUSR1), Asked()
    with hearing(asked):
        assert not asked.any
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.any and asked.take("save") and not asked.take("save") and not asked.take("sample")
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_studio_sends_the_signals_that_a_training_hears() -> None:
    assert SENT == SIGNALS
