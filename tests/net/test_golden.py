"""Golden numbers of 0.1.0: early quantities of every family and task, relative, so that they hold on any processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.quantities import TASKS, quantities
from tests.closeness import assert_close
from tests.net.golden import thin

FILE = Path(__file__).parent / "golden.safetensors"
WITHIN = {"forward": 1e-4, "autoencoder": 1e-4, "cache": 1e-4, "train": 1e-3}
"""Share of the spread by which processors may differ, by a quantity's first word."""
SAMPLED = 1e-3
"""The same after some steps, each of which passes the last one's difference on."""


def stored() -> dict[str, dict[str, tuple[list[int], Tensor]]]:
    """The golden numbers: quantity -> tensor's name -> shape and some values."""
    found: dict[str, dict[str, tuple[list[int], Tensor]]] = {}
    with safe_open(FILE, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        for key in file.keys():  # noqa: SIM118
            quantity, name = key.split(": ")
            found.setdefault(quantity, {})[name] = (shapes[key], file.get_tensor(key))
    return found


GOLDEN = stored()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_numbers_of_then(name: str, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    found = quantities(Path(), tmp_path / "work")[name].compute()
    within = WITHIN.get(name.split()[0], SAMPLED)
    assert set(GOLDEN[name]) <= set(found), "new numbers may come, none of then may go"
    for part, (shape, values) in GOLDEN[name].items():
        assert list(found[part].shape) == shape, part
        assert_close(thin(found[part]), values, within, f"{name}: {part}")


def test_every_family_and_task_is_there(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net)
    assert set(GOLDEN) == {k for k, q in quantities(Path(), tmp_path).items() if q.early}
    for family in ("image", "odvae", "dpvae", "latte", "vdt", "mmdit", "encoder"):
        assert f"train {family}" in GOLDEN
    for task in TASKS:
        assert f"task {task}" in GOLDEN and f"train vdt {task}" in GOLDEN
    for shipped in ("world", "world-text"):
        assert {f"forward {shipped}", f"sample {shipped}", f"autoencoder {shipped}"} <= set(GOLDEN)


def test_a_small_error_is_found() -> None:
    _, values = GOLDEN["forward world"]["prediction"]
    with pytest.raises(AssertionError, match="of the spread"):
        assert_close(values * 1.001, values, WITHIN["forward"])
    with pytest.raises(AssertionError, match="of the spread"):
        assert_close(values.roll(1), values, SAMPLED)
