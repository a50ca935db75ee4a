"""Errors of memory are a person's line, and other errors of torch stay what they are."""

from __future__ import annotations

import pytest
import torch

from kinolab import cli
from kinolab.cli import too_large


def test_memory_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def huge(*_: object) -> None:
        torch.empty(2**55)

    monkeypatch.setattr("kinolab.training.recipe.find_recipe", huge)
    with pytest.raises(SystemExit) as stop:
        cli.main(["recipes", "toy-vdt"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and len(said) < 310
    assert "not enough memory" in said and "fewer" in said


def test_torchs_own_error_and_others() -> None:
    assert too_large(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")) is not None
    assert too_large(MemoryError()) is not None
    assert too_large(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
