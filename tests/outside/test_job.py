"""A training job from outside: a recipe names it; its parts step at their own pace, and it is resumed as any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from kinolab.runtime.ranks import Ranks
from kinolab.tables import JOBS
from kinolab.training.batches import MicroBatch
from kinolab.training.recipe import BaseRecipe
from kinolab.training.settings import TrainingConfig
from kinolab.training.trainer import Job, Part
from tests.outside.commands import run


class ChaseRecipe(BaseRecipe):
    kind: Literal["chase"] = "chase"
    training: TrainingConfig = TrainingConfig()


class Chase(Job):
    """A hare runs to 1; a tortoise, in every third step, to where the hare is."""

    Recipe = ChaseRecipe

    @classmethod
    def make(cls, recipe: Any, *_: Any) -> Job:
        job = cls()
        job.parts = {"hare": Part(nn.Linear(1, 1)), "tortoise": Part(nn.Linear(1, 1), every=3)}
        return job

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        return iter([[MicroBatch([0], [])]] * 100)

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        one = torch.ones(1, 1)
        aim = one if name == "hare" else self.parts["hare"].wrapped(one).detach()
        return (self.parts[name].wrapped(one) - aim).square().mean(), {f"{name}_steps": 1.0}

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        folder.mkdir()
        (folder / "biases.txt").write_text(str([p.module.state_dict()["bias"] for p in self.parts.values()]))


def test_a_recipe_names_it_and_it_goes_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    JOBS.register("chase")(Chase)
    request.addfinalizer(lambda: JOBS.remove("chase"))
    (recipe := tmp_path / "r.yaml").write_text("{kind: chase, name: chase, training: {steps: 7, log_every: 1}}")
    run("train", recipe, "--run", tmp_path / "a")
    log = enumerate((tmp_path / "a" / "log.jsonl").read_text().splitlines())
    assert [k for k, line in log if '"tortoise_steps"' in line] == [0, 3, 6]
    for words in ([recipe, "--until", 4], ["--resume"]):
        run("train", *words, "--run", tmp_path / "b")
    assert (tmp_path / "a/model/biases.txt").read_text() == (tmp_path / "b/model/biases.txt").read_text()
    assert "or encoder or prior or " in (told := run("train", recipe, "-s", "kind=x")) and "or chase, got" in told
