"""The ablations: every row is a valid recipe, a small run of the whole command goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ablations
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import build
from kinolab.models import autoencoder_config, find_autoencoder, save_autoencoder
from kinolab.training.recipe import DenoiserRecipe, load_recipe


@pytest.mark.slow
@pytest.mark.parametrize("cell", ablations.cells(), ids=lambda c: c.name)
def test_every_row_is_a_model_of_its_own(cell: ablations.Cell) -> None:
    recipe = load_recipe(ablations.RECIPE, cell.overrides)
    base = load_recipe(ablations.RECIPE)
    assert isinstance(recipe, DenoiserRecipe) and isinstance(base, DenoiserRecipe)
    assert (recipe.denoiser == base.denoiser) == (cell is ablations.BASE)
    assert build(recipe.denoiser).spec.given != "none"


@pytest.fixture(scope="module")
def small_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of the shipped autoencoder's shape from one that is a third as wide and knows nothing."""
    shipped = autoencoder_config(find_autoencoder("world"))
    network = build_autoencoder(shipped.model_copy(update={"hidden_size": 8, "norm_num_groups": 8}))
    folder = tmp_path_factory.mktemp("small")
    save_autoencoder(network, folder)
    return folder


@pytest.mark.wide
def test_results_are_kept_and_the_page_has_every_row(
    tmp_path: Path, small_autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {title: row[:2] for title, row in list(ablations.TABLES.items())[:1]}
    monkeypatch.setattr(ablations, "TABLES", few)
    monkeypatch.setattr(ablations, "ASKED", (1, 8))
    small = [
        "data.kind=world", "denoiser.hidden_size=16", "denoiser.depth=1", "denoiser.num_heads=2", "training.steps=2",
        "training.batch_size=2", "training.evaluate_every=1", "training.tensorboard=false", "heldout_clips=2",
        "samples.sampler.steps=1", "training.precision=float32", f"autoencoder={small_autoencoder}",
    ]  # fmt: skip
    monkeypatch.setattr(ablations, "RECIPE", str(_recipe(tmp_path)))
    words = [w for o in small[1:] for w in ("-s", o)]
    arguments = ["--runs", str(tmp_path / "runs"), "--clips", "2", "--out", str(tmp_path / "page.md"), *words]
    said: list[str] = []
    ablations.main(arguments, said.append)
    text = (tmp_path / "page.md").read_text()
    assert "| base | none |" in text and "`-s denoiser.given=adaln`" in text and "| tokens (base) |" in text
    assert len(said) == 3
    monkeypatch.setattr(ablations, "train", None)  # nothing is trained again
    ablations.main(arguments, said.append)
    assert (tmp_path / "page.md").read_text() == text


def _recipe(folder: Path) -> Path:
    """The ablations' recipe on clips that are encoded on the fly."""
    import yaml

    from kinolab.training.recipe import find_recipe

    values = yaml.safe_load(find_recipe(ablations.RECIPE).read_text())
    values["data"] = {"kind": "world", "count": 4, "heldout_count": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"
