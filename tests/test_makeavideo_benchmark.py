"""The comparison of Make-A-Video: its trainings are those of the recipes, and its table says what was counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.makeavideo import CACHE, PRIOR, ROWS, TRAININGS, _recipe_of, markdown
from kinolab.conditioning.image_embedding import ImageEmbeddingConfig
from kinolab.errors import InputError
from kinolab.training.recipe import DenoiserRecipe, load_recipe


def test_every_row_asks_a_model_that_is_trained_on_what_comes_before_it() -> None:
    names: list[str] = [CACHE]
    for training in TRAININGS:
        fields = [f"{field}=runs/{name}" for field, name in training.after]
        assert all(name in names for _, name in training.after)
        recipe = load_recipe(training.recipe, [*training.overrides, *fields])
        if isinstance(recipe, DenoiserRecipe):
            # Words are never told with clips, but in the row that is trained with captions.
            assert recipe.unlabelled == (training.name in ("video", "null"))
            assert recipe.trained == ("all" if training.name == "image" else "temporal")
        else:
            assert training.name == PRIOR
        names.append(training.name)
    assert {row.model for row in ROWS} <= set(names)
    for row in ROWS:
        if row.prompt is not None:
            ImageEmbeddingConfig.model_validate({"prompt": row.prompt})


def test_the_table_holds_shares_and_their_intervals() -> None:
    rows = {"prior": {"shares": {"colours": [0.5, 0.25, 0.75], "motion": [1.0, 0.9, 1.0]}}}
    assert markdown(rows).splitlines()[0] == "| told | colours | motion |"
    assert markdown(rows).splitlines()[2] == "| prior | 50% (25% to 75%) | 100% (90% to 100%) |"


def test_captioned_pictures_are_those_of_the_image_models_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("kind: denoiser\n")
    assert _recipe_of(tmp_path) == tmp_path / "recipe.yaml"
    assert _recipe_of(Path("world-image")) == "toy-unet-image", "a model that ships has no run folder"
    with pytest.raises(InputError, match="no such model"):
        _recipe_of(tmp_path / "nothing")
