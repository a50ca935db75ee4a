"""`kinolab recipes` prints a recipe as it is written, or settled; `train` says what it does after its last step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kinolab.training.recipe import load_recipe, shipped_recipes
from tests.cli import every
from tests.outside.commands import run
from tests.training.tiny import autoencoder_recipe


def test_a_settled_recipe_is_the_same_without_what_it_extends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: object) -> str:
        capsys.readouterr()
        assert every.run("recipes", *words) == 0
        return capsys.readouterr().out

    name = next(n for n, path in shipped_recipes().items() if "\nextends: " in path.read_text())
    written, settled = printed(name), printed(name, "--merged")
    assert json.loads(printed(name, "--merged", "--json"))["yaml"] == settled
    assert "extends" in yaml.safe_load(written) and "extends" not in yaml.safe_load(settled)
    assert load_recipe(yaml.safe_load(settled)) == load_recipe(name)
    assert yaml.safe_load(settled)["training"]["optimizer"] == load_recipe(name).training.optimizer
    (tmp_path / "own.yaml").write_text(f"{{extends: {name}, name: own, training: {{steps: 7}}}}")
    own = yaml.safe_load(printed(tmp_path / "own.yaml", "--merged"))
    assert (own["name"], own["training"]["steps"]) == ("own", 7)
    assert "--merged is for one recipe: name it" in run("recipes", "--merged")


@pytest.mark.slow
def test_training_says_what_comes_after_its_last_step(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(autoencoder_recipe(steps=2)))
    said = run("train", tmp_path / "r.yaml", "--run", tmp_path / "a")
    places = [said.find(part) for part in ("all steps are done", "writing the model", f"done: {tmp_path}")]
    assert -1 < places[0] < places[1] < places[2]
    assert "all steps are done" not in run("train", tmp_path / "r.yaml", "--run", tmp_path / "b", "--until", 1)
