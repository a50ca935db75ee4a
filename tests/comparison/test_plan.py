"""What a plan may say, which cells it makes, and when a cell is another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.autoencoders import AutoencoderSpec, DpVaeConfig
from kinolab.comparison.cells import fitted, is_trained, make_recipe, model_of, steps_of
from kinolab.comparison.hashes import cell_folder, cell_hash
from kinolab.comparison.matrix import Cell, cells_of, find_cell, needs, owner_of
from kinolab.comparison.measure import protocol_of
from kinolab.comparison.plan import Budget, ComparePlan, load_plan
from kinolab.config import load_config
from kinolab.denoisers import Conditions
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.inflate import start_from_image
from kinolab.diffusion import DiffusionConfig
from kinolab.errors import InputError
from kinolab.planning import a_step
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe
from tests.closeness import NETWORK, assert_close
from tests.comparison.tiny_plan import ODVAE, tiny_plan
from tests.tiny_model import tiny_model
from tests.training.tiny import autoencoder_recipe

LATTE = tiny_plan()["denoisers"]["latte"]["denoiser"]


def plan_of(**changes: Any) -> ComparePlan:
    return load_config(ComparePlan, tiny_plan(**changes))


def test_every_cell_comes_after_those_it_needs() -> None:
    plan = plan_of(seeds=[0, 1])
    cells = cells_of(plan)
    assert len(cells) == 2 * (2 + 2) and len(set(cells)) == len(cells)
    for k, cell in enumerate(cells):
        assert all(other in cells[:k] for other in needs(plan, cell))
    assert [c.autoencoder for c in cells[:2]] == ["image", "odvae"], "the plan lists them the other way round"


def test_the_matrix_is_data_by_budgets_by_autoencoders_by_denoisers_by_tasks() -> None:
    tiny = tiny_plan()
    plan = plan_of(
        budgets={"a": tiny["budgets"]["small"], "b": tiny["budgets"]["small"]},
        tasks={"generate": {}, "predict": {"given_frames": 2}},
        denoisers=tiny["denoisers"]
        | {"vdt": {"denoiser": {"kind": "vdt", "hidden_size": 16, "depth": 1, "num_heads": 2}}},
    )
    cells = cells_of(plan)
    assert sum(c.kind == "autoencoder" for c in cells) == 2 * 2
    assert sum(c.kind == "denoiser" for c in cells) == 2 * 2 * 2 * 2
    assert len({c.id for c in cells}) == len(cells)
    assert find_cell(plan, cells[-1].id) == cells[-1]


def test_a_cell_changes_with_what_decides_its_weights_and_with_nothing_else() -> None:
    plan = plan_of()
    odvae, image = Cell("world", "small", 0, "odvae"), Cell("world", "small", 0, "image")
    latte = Cell("world", "small", 0, "odvae", "latte", "generate")
    before = {c: cell_hash(plan, c) for c in (odvae, image, latte)}

    def changed(**changes: Any) -> set[Cell]:
        other = plan_of(**changes)
        return {c for c, h in before.items() if cell_hash(other, c) != h}

    assert changed(name="another", description="words", videos=3, sampler={"steps": 9}) == set()
    assert changed(reconstruction_changes={"samples": 5}) == set(), "measuring differently trains nothing again"
    assert changed(denoiser_training={}) == {latte}
    assert changed(autoencoder_training={}) == {odvae, image, latte}
    smaller = {"odvae": {"autoencoder": {**ODVAE, "latent_channels": 2}}, "image": tiny_plan()["autoencoders"]["image"]}
    assert changed(autoencoders=smaller) == {odvae, latte}, "the image autoencoder does not start from the OD-VAE"


def test_each_seed_is_a_cell_of_its_own() -> None:
    """A seed decides the weights: cells of two seeds that share a hash would share a training."""
    plan = ComparePlan.model_validate(tiny_plan(seeds=[0, 1, 7]))
    cells = cells_of(plan)
    assert len(cells) == 3 * 4 and {c.seed for c in cells} == {0, 1, 7}
    assert len({cell_hash(plan, c) for c in cells}) == len(cells)
    assert len({cell_folder(plan, c, Path("out")) for c in cells}) == len(cells)
    alone = ComparePlan.model_validate(tiny_plan(seeds=[7]))
    seven = [c for c in cells if c.seed == 7]
    assert [cell_hash(alone, c) for c in seven] == [cell_hash(plan, c) for c in seven], "a cell's own seed counts alone"
    images = [c for c in cells if c.autoencoder == "image" and c.kind == "autoencoder"]
    assert [make_recipe(plan, c, Path("out")).training.seed for c in images] == [0, 1, 7]


def test_what_a_denoiser_starts_from_and_trains_otherwise_makes_another_cell(tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        model = tiny_model(text=False)
        with torch.no_grad():
            model.denoiser.get_parameter("blocks.0.attn.qkv.weight").mul_(scale)
        model.save(tmp_path / name)

    def hashed(**entry: Any) -> str:
        plan = plan_of(denoisers={"latte": {"denoiser": LATTE, **entry}})
        return cell_hash(plan, Cell("world", "small", 0, "image", "latte", "generate"))

    def starting(path: str, method: str = "image") -> str:
        return hashed(initial={"path": str(tmp_path / path), "method": method})

    nothing = hashed()
    assert hashed(initial=None, recipe={}, autoencoders=["image"]) == nothing, "where else it stands decides nothing"
    assert starting("a") == starting("b"), "weights count by their content, not by their place"
    file = tmp_path / "public.safetensors"
    file.write_bytes((tmp_path / "a/denoiser.safetensors").read_bytes())
    (tmp_path / "public").mkdir()
    (tmp_path / "public/config.json").write_text("{}")
    different = [nothing, hashed(recipe={"trained": "temporal"}), starting("a", "weights")]
    different += [starting(path) for path in ("a", "c", "public", "public.safetensors")]
    assert len(set(different)) == len(different)


def test_a_row_with_the_weights_of_another_needs_it_and_stands_where_it_stands() -> None:
    entries = {"late": {"weights_of": "latte", "sampling": {"sampler": {"steps": 7}}},
               "latte": {"denoiser": LATTE, "autoencoders": ["image"]}}  # fmt: skip
    plan = plan_of(denoisers=entries)
    cells = [c for c in cells_of(plan) if c.kind == "denoiser"]
    assert [(c.autoencoder, c.denoiser) for c in cells] == [("image", "latte"), ("image", "late")]
    latte, late = cells
    assert needs(plan, late) == [Cell("world", "small", 0, "image"), latte] and owner_of(plan, late) == latte
    assert model_of(plan, late, Path("out")) == model_of(plan, latte, Path("out"))
    assert cell_folder(plan, late, Path("out")) != cell_folder(plan, latte, Path("out")), "scores of its own"
    assert plan.sampling("late")["sampler"] == plan.sampler.model_dump(mode="json") | {"steps": 7}
    assert plan.sampling("latte") == {"sampler": plan.sampler.model_dump(mode="json")}


def test_how_a_row_is_sampled_and_shown_decides_no_weights() -> None:
    def hashed(**entry: Any) -> str:
        plan = plan_of(denoisers={"latte": {"denoiser": LATTE, **entry}})
        return cell_hash(plan, Cell("world", "small", 0, "image", "latte", "generate"))

    plain = hashed()
    assert hashed(start="unet", sampling={"reach": "first"}, frames=4) == plain
    assert hashed(untrained=False) == hashed(path=None) == hashed(shown=None) == plain
    assert hashed(shown={"edit": {}, "fit": 2}) == plain


def test_a_finished_model_counts_by_its_weights_and_trains_nothing(tmp_path: Path) -> None:
    tiny_model(text=False).save(tmp_path / "a")
    tiny_model(text=False).save(tmp_path / "b")
    changed = tiny_model(text=False)
    next(changed.denoiser.parameters()).data.add_(1)
    changed.save(tmp_path / "c")

    def plan(path: str, **changes: Any) -> ComparePlan:
        return plan_of(denoisers={"done": {"path": str(tmp_path / path)}}, **changes)

    cell = Cell("world", "small", 0, "image", "done", "generate")
    first = cell_hash(plan("a"), cell)
    assert cell_hash(plan("b"), cell) == first != cell_hash(plan("c"), cell)
    assert cell_hash(plan("a", denoiser_training={}, cached_clips=9), cell) == first, "how others train decides nothing"
    assert model_of(plan("a"), cell, tmp_path) == tmp_path / "a"
    assert is_trained(plan("a"), cell, tmp_path)
    with pytest.raises(InputError, match=r"denoisers\.done\.path: .*no such model"):
        cell_hash(plan("nowhere"), cell)


def test_what_is_not_trained_is_the_same_for_every_budget(tmp_path: Path) -> None:
    tiny_model(text=False).save(tmp_path / "a")
    entry = {"denoiser": LATTE, "initial": {"path": str(tmp_path / "a")}}
    image = {"image": {"path": "world"}}
    for untrained, folders in ((False, 2), (True, 1)):
        budgets = {name: {"autoencoder": {"steps": 1}, "denoiser": {"steps": k}} for k, name in ((1, "a"), (2, "b"))}
        entries = {"latte": entry | {"untrained": untrained}}
        plan = plan_of(autoencoders=image, denoisers=entries, budgets=budgets)
        cells = [c for c in cells_of(plan) if c.kind == "denoiser"]
        changed = plan_of(autoencoders=image, denoisers=entries, budgets=budgets, denoiser_training={})
        assert len({cell_hash(plan, c) for c in cells}) == folders
        assert cell_hash(changed, cells[0]) != cell_hash(plan, cells[0]), "what it is told decides the model"


def test_a_denoisers_own_recipe_changes_what_it_names_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(
        autoencoders={"image": {"path": "world"}},
        denoisers={"latte": {"denoiser": LATTE, "recipe": {"condition_dropout": 0.3, "training": {"clip": 2.0}}}},
    )
    monkeypatch.setattr("kinolab.comparison.cells.latents_of", lambda *given: tmp_path)
    recipe = make_recipe(plan, Cell("world", "small", 5, "image", "latte", "generate"), tmp_path)
    assert isinstance(recipe, DenoiserRecipe)
    assert (recipe.condition_dropout, recipe.training.clip, recipe.heldout_clips) == (0.3, 2.0, 2)
    assert (recipe.training.seed, recipe.training.steps, recipe.training.batch_size) == (5, 2, 2)


def test_a_folder_of_clips_counts_by_its_content_not_by_its_place(tmp_path: Path, store: Any) -> None:
    hashes, places = [], [str(tmp_path / name) for name in "abc"]
    for place, content in zip(places, (b"one", b"one", b"two"), strict=True):
        Path(place).mkdir()
        (Path(place) / "clip.mp4").write_bytes(content)
    store.pipe_file("/b/clips/clip.mp4", b"one")
    for place in (*places, "memory://b/clips"):
        plan = plan_of(data={"clips": {"kind": "folder", "path": place, "size": 32, "frames": 5}})
        hashes.append(cell_hash(plan, Cell("clips", "small", 0, "image")))
    assert hashes[0] == hashes[1] == hashes[3] != hashes[2]


@pytest.mark.slow
def test_a_budget_is_one_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_config(AutoencoderRecipe, autoencoder_recipe(batch_size=4))
    assert steps_of(Budget(steps=7), recipe) == 7
    assert steps_of(Budget(samples=42), recipe) == 10, "10.5 batches of four"
    assert steps_of(Budget(steps=7), recipe, 2.0) == 14
    one, two = (steps_of(Budget(teraflops=t), recipe) for t in (0.5, 1.0))
    assert one > 1 and abs(two - 2 * one) <= 1, "steps in proportion to the operations"
    monkeypatch.setattr(a_step, "seconds_per_step", lambda recipe: 0.5)
    assert steps_of(Budget(seconds=60), recipe) == 120
    for wrong in ({}, {"steps": 1, "samples": 1}, {"steps": 1, "seconds": 1.0}):
        with pytest.raises(InputError, match="expected one of steps, samples, teraflops, seconds"):
            load_config(Budget, wrong)


@pytest.mark.slow
def test_a_steps_seconds_are_measured_on_the_recipe_itself() -> None:
    recipe = load_config(AutoencoderRecipe, autoencoder_recipe(batch_size=1))
    larger = load_config(AutoencoderRecipe, autoencoder_recipe(batch_size=16))
    assert 0 < a_step.seconds_per_step(recipe, 3) < a_step.seconds_per_step(larger, 3) < 60


def test_budgets_of_plans_from_before_keep_their_cells() -> None:
    """The hashes that these cells had when a budget had no seconds."""
    plan = plan_of()
    hashes = [cell_hash(plan, cell)[:8] for cell in cells_of(plan)]
    assert hashes == ["0c1ec3dd", "8a48697b", "623c3238", "9517ed94"]
    timed = plan_of(budgets={"small": {"autoencoder": {"steps": 2}, "denoiser": {"seconds": 2}}})
    assert [cell_hash(timed, cell)[:8] for cell in cells_of(timed)][:2] == hashes[:2] != hashes[2:]


def test_a_denoiser_is_fitted_to_the_latents_it_stands_behind() -> None:
    spec = AutoencoderSpec(latent_channels=8, temporal_ratio=4, spatial_ratio=8, causal=True)
    vdt = {"num_frames": 16, "mask_channels": 1}
    assert fitted(vdt, spec, (17, 64, 64)) == {
        "in_channels": 8, "input_size": 8, "num_frames": 5, "mask_channels": 4,
    }  # fmt: skip
    assert fitted({}, spec, (17, 64, 128)) == {"in_channels": 8, "input_size": (8, 16)}


def test_the_protocol_has_the_size_and_the_split_of_the_clips(tmp_path: Path) -> None:
    clips = {"kind": "folder", "path": str(tmp_path), "size": [48, 32], "frames": 5, "heldout_fraction": 0.3}
    plan = plan_of(data={"clips": clips})
    protocol = protocol_of(plan, Cell("clips", "small", 0, "image"))
    assert (protocol.size, protocol.heldout_fraction, protocol.frames) == ((48, 32), 0.3, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoders": {"a": {"autoencoder": ODVAE, "initial": {"entry": "b"}}}}, "'b', which the plan does not"),
        ({"autoencoders": {"a": {}}}, "either `autoencoder`"),
        ({"autoencoders": {"a b": {"path": "world"}}}, "without blanks"),
        ({"budgets": {"..": {"autoencoder": {"steps": 1}, "denoiser": {"steps": 1}}}}, "'..' is no name of something"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 stands there twice"),
        ({"seeds": [0] * 2000}, "at most 1000 items"),
        ({"autoencoders": {"a": {"path": "world", "initial": {"entry": "a"}}}}, "taken as it is"),
        ({"bugdets": {}}, "did you mean 'budgets'"),
        (
            {"denoisers": {"latte": {"kind": "latte", "depth": 2}}},
            r"denoisers\.latte: expected the model's kind and fields under denoiser, as in \{denoiser: ",
        ),
        ({"denoisers": {"l": {"denoiser": LATTE, "recipe": {"trianed": "lora"}}}}, "trianed: .*did you mean 'trained'"),
        (
            {"denoisers": {"l": {"denoiser": LATTE, "recipe": {"tasks": None}}}},
            r"denoisers\.l\.recipe\.tasks: the plan",
        ),
        ({"denoisers": {"l": {"weights_of": "m"}}}, r"denoisers\.l\.weights_of: expected one of , got 'm'"),
        (
            {"denoisers": {"l": {"weights_of": "k"}, "m": {"denoiser": LATTE}, "k": {"weights_of": "m"}}},
            "l.weights_of: expected one of m, got 'k'",
        ),
        (
            {
                "denoisers": {
                    "l": {"weights_of": "m", "autoencoders": ["odvae"]},
                    "m": {"denoiser": LATTE, "autoencoders": ["image"]},
                }
            },
            "l stands in front of 'odvae', and 'm' does not",
        ),
        ({"denoisers": {"l": {"weights_of": "m", "untrained": True}}}, "leave initial, untrained and recipe out"),
        ({"denoisers": {"l": {"denoiser": LATTE, "weights_of": "m"}}}, "either `denoiser` .a model., or `weights_of`"),
        ({"denoisers": {"l": {"path": "a", "untrained": True}}}, "path has the weights of a finished model: leave"),
        (
            {"denoisers": {"l": {"path": "a", "shown": {"map": "depth"}}}, "tasks": {"p": {"given_frames": 2}}},
            r"denoisers\.l\.shown: a clip is shown whole; tasks\.p gives frames",
        ),
        (
            {
                "denoisers": {"l": {"path": "a", "shown": {"edit": {}}}},
                "data": {"clips": {"kind": "folder", "path": "x", "size": 32, "frames": 5}},
            },
            r"denoisers\.l\.shown: of clips of the toy world; data\.clips is a folder",
        ),
        ({"denoisers": {"l": {"denoiser": LATTE, "untrained": True}}}, "weights of `initial` as they are; name them"),
        (
            {
                "denoisers": {
                    "l": {
                        "denoiser": LATTE,
                        "untrained": True,
                        "initial": {"path": "a"},
                        "recipe": {"trained": "temporal"},
                    }
                }
            },
            r"recipe\.trained: nothing of an untrained entry is trained",
        ),
        ({"denoisers": {"l": {"denoiser": LATTE, "sampling": {"reech": "own"}}}}, "did you mean 'reach'"),
        ({"denoiser_training": {"initial": {"path": "a"}}}, r"denoiser_training\.initial: the plan's entries"),
        ({"denoiser_training": {"training": {"seed": 3}}}, r"denoiser_training\.training\.seed: the plan's"),
        ({"denoiser_training": {"training": 3}}, r"denoiser_training\.training: expected fields"),
        ({"autoencoder_training": {"training": {"steps": 3}}}, r"autoencoder_training\.training\.steps: the plan's"),
    ],
)
def test_a_wrong_plan_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan_of(**changes)
    assert "\n" not in str(caught.value)


def test_a_circle_of_first_weights_is_refused() -> None:
    circle = {
        "a": {"autoencoder": ODVAE, "initial": {"entry": "b"}},
        "b": {"autoencoder": ODVAE, "initial": {"entry": "a"}},
    }
    with pytest.raises(InputError, match="starts from itself"):
        plan_of(autoencoders=circle)


def test_missing_plan_and_missing_clips() -> None:
    with pytest.raises(InputError, match="no such plan"):
        load_plan(Path("nowhere.yaml"))
    plan = plan_of(autoencoders={"image": {"path": "nowhere"}})
    with pytest.raises(InputError, match=r"autoencoders\.image\.path: nowhere: no such model"):
        cell_hash(plan, Cell("world", "small", 0, "image"))
    plan = plan_of(data={"clips": {"kind": "folder", "path": "nowhere"}})
    with pytest.raises(InputError, match="no such folder of clips"):
        cell_hash(plan, Cell("clips", "small", 0, "image"))


def test_the_plan_of_videodit_has_what_its_comments_say() -> None:
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "videodit.yaml")
    starts = {e.initial.path for e in plan.denoisers.values() if e.initial is not None}
    assert starts == {Path("runs/toy-mmdit-image")}
    image, dpvae = load_recipe("toy-image-16"), plan.autoencoders["dpvae"].autoencoder
    assert isinstance(image, AutoencoderRecipe) and isinstance(dpvae, DpVaeConfig)
    assert dpvae.image == image.autoencoder, "the image autoencoder that the plan takes as it is"
    assert len([c for c in cells_of(plan) if c.kind == "denoiser"]) == 9 + 3


def test_the_plan_of_videos_from_image_models_has_the_starts_that_its_comments_make() -> None:
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "from_image.yaml")
    cells = [c for c in cells_of(plan) if c.kind == "denoiser"]
    assert [c.denoiser for c in cells] == list(plan.denoisers), "the tables have the plan's order"
    recipes = {"unet": load_recipe("toy-unet-image"), "mmdit": load_recipe("toy-mmdit-image-4")}
    for name, entry in plan.denoisers.items():
        recipe = recipes[entry.start]
        assert isinstance(recipe, DenoiserRecipe) and name.startswith(entry.start)
        if entry.initial is not None:
            ships = {"unet": Path("world-image"), "mmdit": Path("runs") / recipe.name}  # what toy-unet-image made
            assert entry.initial.path == ships[entry.start]
        if entry.denoiser is None:
            continue
        spec = AutoencoderSpec(latent_channels=4, temporal_ratio=1, spatial_ratio=4, causal=False)
        model = entry.denoiser.model_dump() | fitted(entry.denoiser.model_dump(), spec, (8, 64, 64))
        video = {"kind", "attention", "temporal_position", "num_frames", "norm_scope", "fps_condition"}
        own = set(type(recipe.denoiser).model_fields) - video
        differing = [n for n in own if getattr(recipe.denoiser, n) != model[n]]
        assert not differing or entry.denoiser.kind == "svd", (name, differing)
        diffusion = entry.recipe.get("diffusion", plan.denoiser_training["diffusion"])
        assert load_config(DiffusionConfig, diffusion) == recipe.diffusion, name


@torch.no_grad()
@pytest.mark.slow
def test_the_rows_from_an_image_model_begin_as_it_frame_by_frame() -> None:
    """What is told apart in the tables is what training makes of one network, not how it was put together."""
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "from_image.yaml")
    spec = AutoencoderSpec(latent_channels=4, temporal_ratio=1, spatial_ratio=4, causal=False)
    for start, recipe in (("unet", load_recipe("toy-unet-image")), ("mmdit", load_recipe("toy-mmdit-image-4"))):
        assert isinstance(recipe, DenoiserRecipe)
        torch.manual_seed(0)
        image = build_denoiser(recipe.denoiser).eval()
        for parameter in image.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        z, t = torch.randn(1, 4, 2, 16, 16), torch.tensor([0.7])
        pooled = torch.randn(1, 384) if start == "mmdit" else None
        told = Conditions(text=torch.randn(1, 3, 384), pooled=pooled)
        expected = image(z, t, told)
        for name, entry in plan.denoisers.items():
            if entry.denoiser is None or entry.start != start or entry.initial is None:
                continue
            values = entry.denoiser.model_dump()
            video = build_denoiser(load_config(type(entry.denoiser), values | fitted(values, spec, (2, 64, 64))))
            if entry.initial.method == "image":
                start_from_image(video, image)
            else:
                video.load_state_dict(image.state_dict())
            assert_close(video.eval()(z, t, told), expected, NETWORK, name)


def test_the_plan_of_pixels_loads() -> None:
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "pixels.yaml")
    assert [c.id for c in cells_of(plan) if c.kind == "denoiser"] == [
        f"world/{budget}/seed0/{latents}/vdm/generate"
        for budget in ("steps", "seconds")
        for latents in ("pixels", "latents")
    ]


def test_the_plan_in_the_repository_loads() -> None:
    plan = load_plan(Path(__file__).parents[2] / "benchmarks" / "comparison.yaml")
    assert len(cells_of(plan)) == 2 * (8 + 16), "two sets of clips, eight autoencoders, two denoisers"
    variants = {e.autoencoder.variant for e in plan.autoencoders.values() if getattr(e.autoencoder, "variant", None)}  # type: ignore[union-attr]
    assert len(variants) == 4
    assert {e.initial.method for e in plan.autoencoders.values() if e.initial} == {
        "tail",
        "average",
        "random",
        "weights",
    }
