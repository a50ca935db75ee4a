"""Golden numbers of 0.1.0: early quantities of every family and task, relative, so that they hold on any processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.computing import TASKS
from benchmarks.quantities import AUTOENCODERS, DENOISERS, PUBLIC, quantities
from benchmarks.recipes import GIVEN
from tests.closeness import assert_close, assert_same, difference
from tests.net.golden import FILES, stored, thin

pytestmark = pytest.mark.slow  # many short ones, which take long together

WITHIN = {"forward": 1e-4, "autoencoder": 1e-4, "cache": 1e-4, "train": 1e-3, "import": 1e-4}
"""Share of the spread by which processors may differ, by a quantity's first word."""
SAMPLED = 1e-3
"""The same after some steps, each of which passes the last one's difference on."""
GOLDEN = {name: parts for file in FILES for name, parts in stored(file).items()}


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
        if part == "digest" or name.startswith("export"):  # weights that are only moved about
            assert_same(thin(found[part]), values, f"{name}: {part}")
        else:
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


def test_every_format_sampler_and_way_of_giving_is_there(net: Path) -> None:
    """New ones need no numbers of then; those of then keep theirs."""
    assert {path.name for path in (net / "public").iterdir()} == set(PUBLIC)
    assert {path.name for path in (net / "variants").iterdir()} == {*DENOISERS, *AUTOENCODERS}
    for name in PUBLIC:
        assert {f"export {name}", f"import {name}"} <= set(GOLDEN), name
    for name in ("ddpm", "ddim", "dpmpp_2m", "heun"):
        assert {f"sampler {name}", f"discrete sampler {name}"} <= set(GOLDEN)
    for given in GIVEN:
        for task in ("predict", "complete"):
            assert {f"train vdt-{given} {task}", f"task {task} vdt-{given}", f"forward vdt-{given}"} <= set(GOLDEN)
    assert {f"forward {name}" for name in DENOISERS} <= set(GOLDEN)


@pytest.mark.parametrize("kind", ["guidance ", "step cache", "discrete sampler", "steered", "task predict vdt"])
def test_options_are_not_without_effect(kind: str) -> None:
    """Any two of a kind have other numbers, but where one branch after the other has to give the same."""
    found = {k: next(iter(v.values())) for k, v in GOLDEN.items() if k.startswith(kind)}
    assert len(found) > 3
    for first, (shape, values) in found.items():
        for second, (other, more) in found.items():
            same = ("not batched" in second or "one after the other" in second) and first != second
            if first < second and shape == other and not same:
                assert difference(more, values) > 2 * SAMPLED, f"{first} is {second}"


def test_a_small_error_is_found() -> None:
    _, values = GOLDEN["forward world"]["prediction"]
    with pytest.raises(AssertionError, match="of the spread"):
        assert_close(values * 1.001, values, WITHIN["forward"])
    with pytest.raises(AssertionError, match="of the spread"):
        assert_close(values.roll(1), values, SAMPLED)
