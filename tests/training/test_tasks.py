"""Training with a part given: from clips and from a cache, what is weighed, and what does not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab.conditioning import Draws, of_examples
from kinolab.conditioning.given import Given
from kinolab.data import encode_to_cache
from kinolab.errors import InputError
from kinolab.models import VideoModel, load_autoencoder
from kinolab.tasks import CachedDraws, TasksConfig
from kinolab.toyworld.clips import WorldConfig
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.training.randomness import generators
from kinolab.training.recipe import load_recipe
from kinolab.training.run import train
from tests.engines.inside import Sent
from tests.training.test_jobs import batch_of, denoiser_job
from tests.training.tiny import autoencoder_recipe, tasks_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(autoencoder_recipe(steps=2)))
    train(folder / "recipe.yaml", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def cached(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, autoencoder = tmp_path_factory.mktemp("cache"), load_autoencoder(tiny_autoencoder)
    source = WorldSource(WorldSourceConfig(world=WorldConfig(size=32, frames=5), count=24), autoencoder.spec)
    recipe: Any = load_recipe(tasks_recipe(tiny_autoencoder))
    encode_to_cache(source, autoencoder, path / "c", dtype="float32", draws=CachedDraws(recipe.tasks, 2))
    return path / "c"


def from_cache(autoencoder: Path, cache: Path, **changes: Any) -> dict[str, Any]:
    recipe = tasks_recipe(autoencoder)
    recipe["data"] = {"kind": "cache", "path": str(cache), "heldout_fraction": 0.2}
    return recipe | changes


def calls(job: Any) -> list[Any]:
    """What the denoiser is called with in one step: (z, conditions)."""
    seen: list[Any] = []
    hook = job.denoiser.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[2])))
    job.loss("denoiser", batch_of(job, 8), 3)
    hook.remove()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clips", "cache"])
def test_a_step_draws_its_masks_from_the_positions_of_the_batch(
    kind: str, tiny_autoencoder: Path, cached: Path
) -> None:
    recipe = tasks_recipe(tiny_autoencoder) if kind == "clips" else from_cache(tiny_autoencoder, cached)
    job = denoiser_job(recipe)
    [(_, first)], [(_, again)] = calls(job), calls(job)
    assert torch.equal(first.mask, again.mask) and torch.equal(first.given, again.given)
    assert len({m.numpy().tobytes() for m in first.mask}) > 3, "samples of a batch have tasks of their own"
    halves = [
        of_examples(batch_of(job, 8).examples[k : k + 1], job.assembly.setting, _sources(k), job.recipe.tasks)
        for k in range(8)
    ]
    assert torch.equal(torch.cat([h.mask for h in halves if h.mask is not None]), first.mask), (
        "whatever the micro-batch"
    )


def _sources(position: int) -> Draws:
    return partial(generators, 0, 3, [position])


@pytest.mark.parametrize(("given", "weighed"), [("channels", False), ("mask", True), ("tokens", True)])
def test_given_latents_take_no_part_in_the_loss_unless_the_model_makes_them(
    given: str, weighed: bool, tiny_autoencoder: Path
) -> None:
    recipe = tasks_recipe(tiny_autoencoder, given)
    recipe["tasks"] = {"predict": 1, "predict_frames": [4, 4]}
    job = denoiser_job(recipe)
    losses = []
    for shift in (0.0, 3.0):
        with torch.no_grad():  # the output changes in the given frames only
            forward = job.denoiser.forward

            def moved(z: Any, t: Any, c: Any, forward: Any = forward, shift: float = shift) -> Any:
                out = forward(z, t, c).clone()
                out[:, :, :4] += shift
                return out

            job.parts["denoiser"].wrapped = moved  # type: ignore[assignment]
            losses.append(float(job.loss("denoiser", batch_of(job, 4), 0)[0]))
    assert (losses[0] == losses[1]) == weighed


def test_unconditional_samples_come_in_their_share(tiny_autoencoder: Path, cached: Path) -> None:
    recipe = from_cache(tiny_autoencoder, cached)
    recipe["tasks"] = recipe["tasks"] | {"unconditional": 6}
    job = denoiser_job(recipe)
    example, count = job.source[0], 400
    draws = partial(generators, 0, 0, list(range(count)))
    masks = of_examples([example] * count, job.assembly.setting, draws, job.recipe.tasks).mask
    assert masks is not None
    share = float((masks == 1).flatten(1).all(1).float().mean())
    assert abs(share - 0.5) < 0.08


def test_samples_with_something_given_lose_their_condition_at_a_rate_of_their_own(tiny_autoencoder: Path) -> None:
    recipe = tasks_recipe(tiny_autoencoder) | {"condition_dropout": 0.0, "given_condition_dropout": 1.0}
    recipe["denoiser"] = recipe["denoiser"] | {"num_classes": 6}
    recipe["tasks"] = recipe["tasks"] | {"unconditional": 6}
    [(_, conditions)] = calls(denoiser_job(recipe))
    something = (conditions.mask < 1).flatten(1).any(1)
    assert something.any() and not something.all() and torch.equal(conditions.null, something)


def test_one_run_with_mixed_tasks_gives_one_folder_for_every_task(tiny_autoencoder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tasks_recipe(tiny_autoencoder, steps=2)))
    train(tmp_path / "recipe.yaml", tmp_path / "run")
    model = VideoModel.load(tmp_path / "run", precision="float32")
    assert model.config.tasks == TasksConfig(unconditional=1, predict=2, past=1, interpolate=1, animate=1, complete=1)
    from kinolab.evaluation.tasks import TASKS, evaluate_tasks

    report = evaluate_tasks(model, {"count": 2}, batch=2)
    assert [r.task for r in report.results] == list(TASKS) and report.table().row_count == len(TASKS)
    one, other = (
        evaluate_tasks(model, {"count": 2, "tasks": ["complete, resting box"]}, batch=1, engine=e)
        for e in (None, Sent())
    )
    assert one.to_json() == other.to_json(), "by workers"
    assert model.generate(seed=1).shape == (1, 3, 5, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoiser.mask_channels": 4}, "set denoiser.mask_channels=1"),
        ({"denoiser.given": "none"}, "set denoiser.given"),
        ({"tasks.past": 3}, "draws of masks for other tasks"),
        ({"tasks": None}, "expected tasks in the recipe"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, tiny_autoencoder: Path, cached: Path
) -> None:
    recipe = from_cache(tiny_autoencoder, cached)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        recipe[section] = recipe[section] | {name: value} if name else value
    with pytest.raises(InputError, match=message):
        denoiser_job(recipe)


def test_weights_may_have_another_sum(tiny_autoencoder: Path, cached: Path) -> None:
    recipe = from_cache(tiny_autoencoder, cached)
    recipe["tasks"] = {k: 3 * v for k, v in recipe["tasks"].items()} | {"unconditional": 1}
    assert Given(tasks=denoiser_job(recipe).recipe.tasks).unconditional == pytest.approx(1 / 19)


def test_a_cache_without_draws_says_how_to_get_them(tiny_autoencoder: Path, tmp_path: Path) -> None:
    autoencoder = load_autoencoder(tiny_autoencoder)
    source = WorldSource(WorldSourceConfig(world=WorldConfig(size=32, frames=5), count=8), autoencoder.spec)
    encode_to_cache(source, autoencoder, tmp_path / "c", dtype="float32")
    with pytest.raises(InputError, match="kinolab encode with --tasks"):
        denoiser_job(from_cache(tiny_autoencoder, tmp_path / "c"))
