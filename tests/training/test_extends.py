"""A recipe on top of another: what wins, what is refused; and the recipes that ship mean what they always meant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinolab.config import merged
from kinolab.errors import InputError
from kinolab.training.recipe import (
    DEEPEST,
    AutoencoderRecipe,
    BaseRecipe,
    DenoiserRecipe,
    load_recipe,
    shipped_recipes,
)
from kinolab.training.run import train
from tests.training.tiny import autoencoder_recipe

DIGESTS: dict[str, str] = json.loads(Path(__file__).with_name("recipe_digests.json").read_text(encoding="utf-8"))
"""`digest` of every recipe as version 0.1.0 shipped it, each whole in its own file."""


def kinds(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Where a config names a `kind`, and which."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        yield from [(f"{name}{key}", value)] if key == "kind" else kinds(value, f"{name}{key}.")


def digest(recipe: BaseRecipe) -> str:
    """A sum of what a recipe says, by which a field that is new and has its default makes no difference."""
    said = recipe.model_dump(mode="json", exclude_defaults=True)
    named = {key for key, _ in kinds(said)}
    of = [pair for pair in kinds(recipe.model_dump(mode="json")) if pair[0] in named or pair[0].count(".") < 2]
    return hashlib.sha256(json.dumps([said, sorted(of)], sort_keys=True).encode()).hexdigest()[:16]


def write(folder: Path, file: str, **values: Any) -> Path:
    path = folder / f"{file}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_recipes_that_shipped_whole_load_to_the_same_configs() -> None:
    assert set(DIGESTS) <= set(shipped_recipes())
    assert {name: digest(load_recipe(name)) for name in DIGESTS} == DIGESTS


def test_a_digest_tells_recipes_apart() -> None:
    assert len(set(DIGESTS.values())) == len(DIGESTS)
    assert digest(load_recipe("toy-vdt", ["training.steps=1"])) != DIGESTS["toy-vdt"]


def test_what_is_nearer_wins_and_overrides_win_over_all(tmp_path: Path) -> None:
    write(tmp_path, "base", **autoencoder_recipe(steps=4, batch_size=4, warmup=0))
    write(tmp_path, "middle", extends="base.yaml", training={"batch_size": 8, "warmup": 1}, loss={"kl_weight": 0.5})
    top = write(tmp_path, "top", extends="middle.yaml", training={"warmup": 2}, heldout_clips=3)
    recipe = load_recipe(top, ["training.log_every=7"])
    assert isinstance(recipe, AutoencoderRecipe)
    training = recipe.training
    assert (training.steps, training.batch_size, training.warmup, training.log_every) == (4, 8, 2, 7)
    assert (recipe.loss.kl_weight, recipe.heldout_clips, recipe.sample_clips) == (0.5, 3, 1)


def test_it_is_named_after_its_file_where_it_does_not_say(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "mine", extends="toy-vdt")).name == "mine"
    assert load_recipe(write(tmp_path, "mine", extends="toy-vdt", name="other")).name == "other"


def test_a_mapping_extends_a_recipe_that_ships_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe({"extends": "toy-vdt", "name": "mine", "training": {"steps": 3}})
    assert isinstance(recipe, DenoiserRecipe) and recipe.training.steps == 3 and recipe.name == "mine"
    write(tmp_path, "base", **autoencoder_recipe())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^recipe: extends: 'base\.yaml': no such recipe; expected one of "):
        load_recipe({"extends": "base.yaml"})


def test_a_path_is_taken_from_the_folder_of_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "shared", "whole", **autoencoder_recipe(steps=9))
    write(tmp_path / "shared", "base", extends="whole.yaml")
    top = write(tmp_path, "top", extends="shared/base.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(top)
    assert isinstance(recipe, AutoencoderRecipe) and recipe.training.steps == 9


def test_a_group_of_another_kind_takes_the_place_of_the_former() -> None:
    base = {
        "denoiser": {"kind": "latte", "depth": 2, "variant": "joint"},
        "training": {"steps": 1},
        "initial": {"a": 1},
    }
    changed = merged(base, {"denoiser": {"kind": "vdt", "depth": 3}, "training": {"warmup": 2}, "initial": None})
    assert changed == {
        "denoiser": {"kind": "vdt", "depth": 3}, "training": {"steps": 1, "warmup": 2}, "initial": None,
    }  # fmt: skip
    assert merged(base, {"denoiser": {"kind": "latte", "depth": 3}})["denoiser"]["variant"] == "joint"
    assert base["training"] == {"steps": 1}


@pytest.mark.parametrize(
    ("extended", "message"),
    [
        ("toy-vtd", r"mine\.yaml: extends: 'toy-vtd': no such .* a YAML file in its folder or one of .*toy-vdt"),
        ("nothing.yaml", r"mine\.yaml: extends: 'nothing\.yaml': no such recipe"),
        ("../base.yaml", r"mine\.yaml: extends: .*'\.\./base\.yaml'.*folder above"),
        ("/tmp/base.yaml", r"mine\.yaml: extends: .*absolute path"),
        ("a\x00.yaml", r"mine\.yaml: extends: .*control character"),
        (["toy-vdt", "toy-latte"], r"mine\.yaml: extends: .*: no such recipe"),
        (None, r"mine\.yaml: extends: None: no such recipe"),
        ("mine.yaml", r"mine\.yaml: extends goes round in a circle: mine\.yaml -> mine\.yaml"),
    ],
)  # fmt: skip
def test_what_can_not_be_extended_is_said_with_the_file(tmp_path: Path, extended: object, message: str) -> None:
    write(tmp_path, "base", **autoencoder_recipe())
    (tmp_path / "inner").mkdir()
    with pytest.raises(InputError, match=message):
        load_recipe(write(tmp_path / "inner", "mine", extends=extended, name="mine"))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link.yaml").symlink_to(write(tmp_path, "base", **autoencoder_recipe()))
    with pytest.raises(InputError, match=r"mine\.yaml: extends: .*leads out"):
        load_recipe(write(tmp_path / "inner", "mine", extends="link.yaml"))


def test_a_circle_of_several_names_them_all(tmp_path: Path) -> None:
    for name, extended in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, name, extends=f"{extended}.yaml")
    with pytest.raises(InputError, match=r"c\.yaml: .*a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(("above", "taken"), [(DEEPEST - 1, True), (DEEPEST, False)])
def test_recipes_stand_on_top_of_each_other_to_a_limit(tmp_path: Path, above: int, taken: bool) -> None:
    path = write(tmp_path, "0", **autoencoder_recipe())
    for number in range(above):
        path = write(tmp_path, str(number + 1), extends=path.name)
    if taken:
        assert load_recipe(path).name == str(above)
        return
    with pytest.raises(InputError, match=rf"extends 0\.yaml: more than {DEEPEST} recipes"):
        load_recipe(path)


def test_wrong_values_name_both_files_and_another_job_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "base", **autoencoder_recipe(setps=3))
    with pytest.raises(InputError, match=r"mine\.yaml \(extends 'base\.yaml'\): unknown key 'training\.setps'"):
        load_recipe(write(tmp_path, "mine", extends="base.yaml"))
    with pytest.raises(InputError, match=r"mine\.yaml: kind: 'denoiser' can't extend base\.yaml, of kind autoencoder"):
        load_recipe(write(tmp_path, "mine", extends="base.yaml", kind="denoiser"))


@pytest.mark.slow
def test_a_run_records_the_whole_recipe_and_resumes_without_the_files(tmp_path: Path) -> None:
    base = write(tmp_path, "base", **autoencoder_recipe(steps=2, save_every=1))
    mine = write(tmp_path, "mine", extends="base.yaml", training={"batch_size": 2})
    expected = load_recipe(mine)
    train(mine, tmp_path / "run", until=1)
    base.unlink()
    mine.unlink()
    recorded = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert "extends" not in recorded and load_recipe(recorded) == expected
    train(None, tmp_path / "run", resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == expected
    assert (tmp_path / "run" / "model").is_dir()
