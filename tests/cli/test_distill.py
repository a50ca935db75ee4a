"""`kinolab distill` as a person uses it: it says what it takes, distils, and the model's defaults are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.cli import main
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.generation.request import request_of
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel, read_model_config, save_autoencoder
from kinolab.models.distilled import DistilledConfig
from kinolab.training.distill import DistillConfig, prepare, recipe_values, settled
from kinolab.training.few_steps import ConsistencyRecipe
from kinolab.training.recipe import load_recipe

pytestmark = pytest.mark.slow  # short trainings

QUICK = [
    "--device", "cpu", "-s", "training.precision=float32", "-s", "training.steps=4", "-s", "training.batch_size=2",
    "-s", "heldout_clips=2",
]  # fmt: skip


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Latte of labels, in a model folder, guided by default."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    latte = {
        "kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16,
        "num_frames": 5, "patch_size": 4, "num_classes": 6,
    }  # fmt: skip
    config = ModelConfig.model_validate(
        {
            "autoencoder": pixels, "denoiser": latte, "frames": 5, "size": (32, 32), "fps": 8.0,
            "diffusion": DiffusionConfig(schedule="flow", prediction="flow"), "guidance": GuidanceConfig(scale=3.0),
            "sampler": SamplerConfig(name="euler", steps=8),
        }
    )  # fmt: skip
    assert config.denoiser is not None
    VideoModel(config, ImageAutoencoder(pixels), denoisers.build(config.denoiser)).save(folder / "teacher")
    save_autoencoder(ImageAutoencoder(pixels), folder / "pixels")
    return folder


def test_a_model_is_distilled_and_used(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, words = tmp_path / "few", ["distill", base / "teacher", "--steps", 2, "--data", "world", "--count", 6, *QUICK]
    words += ["--method", "progressive", "-s", "rounds=[4,2]", "--lora", 2]
    assert not run(*words, "--out", out, "--plan", "--json")
    told = capsys.readouterr()
    assert "8 steps of euler become 2 of ddim (progressive, guidance 3 distilled in)" in told.err
    assert "4 steps take about" in told.err and json.loads(told.out)["seconds"] > 0 and not (out / "model").exists()
    assert not run(*words, "--out", out)
    said = capsys.readouterr()
    assert "rounds of training steps: guidance (" in said.err and f"done: {out / 'model'}" in said.out
    made = read_model_config(out / "model")
    assert made.distilled is not None and made.distilled.steps == (2,) and made.distilled.guidance == 3.0
    assert not run("inspect", out / "model")
    assert "distilled   progressive, for 2 steps of ddim, guidance 3 distilled in" in capsys.readouterr().out
    clip = tmp_path / "x.mp4"
    assert not run("generate", "--model", out, "--label", 1, "--steps", 5, "--out", clip, "--device", "cpu")
    assert "5 steps: this model was distilled" in capsys.readouterr().err
    record = json.loads(clip.with_suffix(".json").read_text())
    assert record["distilled"]["method"] == "progressive" and record["request"]["sampler"]["steps"] == 5
    assert not run("report", out, "--out", tmp_path / "page.html")
    assert "A distilled model: progressive" in (tmp_path / "page.html").read_text()
    many = DistillConfig(model=str(base / "teacher"), steps=8, method="consistency", data=str(out / "latents"))
    assert "8 steps are no fewer than its teacher takes, 8: ask for fewer" in prepare(many, tmp_path / "many").notes[-1]
    # The adapter alone makes the same model of its teacher, with the same defaults.
    asked = request_of({"model": str(base / "teacher"), "label": 1, "lora": [{"path": str(out / "adapter")}]})
    assert asked.sampler == made.sampler and asked.guidance == GuidanceConfig()
    off = request_of(
        {"model": str(base / "teacher"), "label": 1, "lora": [{"path": str(out / "adapter"), "weight": 0}]}
    )
    assert off.sampler == SamplerConfig(name="euler", steps=8)
    # A run says what its data was, so that its model is distilled on that.
    assert not run("distill", out, "--steps", 1, "--out", tmp_path / "one", *QUICK)
    recipe = load_recipe(yaml.safe_load((tmp_path / "one" / "recipe.yaml").read_text()))
    assert recipe.data.path == out / "latents"  # type: ignore[attr-defined]
    one = read_model_config(tmp_path / "one" / "model")
    assert one.distilled is not None and (one.distilled.steps, one.distilled.guidance) == ((1,), 3.0)
    assert not run("distill", "--resume", "--out", tmp_path / "one")
    assert run("distill", "--resume", "--out", tmp_path / "one", "-s", "training.steps=5") == 2  # it moves the rounds


def test_what_is_not_asked_for_is_what_lost_least(base: Path, tmp_path: Path) -> None:
    """Consistency distillation, of an adapter with the one scale that it can hold; a student teaches progressively."""
    model = read_model_config(base / "teacher")
    few = model.model_copy(
        update={"distilled": DistilledConfig(method="consistency", steps=(4,), sampler="consistency")}
    )
    plain = DistillConfig(model=str(base / "teacher"))
    assert settled(plain, model).method == "consistency" and settled(plain, model).guidance is None
    assert settled(plain, few).method == "progressive"
    assert settled(plain.model_copy(update={"lora": 4}), model).guidance == 3.0
    assert settled(plain.model_copy(update={"lora": 4, "method": "progressive"}), model).guidance is None
    values = recipe_values(settled(plain, model), model, tmp_path, {"kind": "world"})
    recipe = load_recipe(values)
    assert isinstance(recipe, ConsistencyRecipe) and recipe.guidance == (1.5, 4.5)


def test_mistakes_are_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, out = base / "teacher", tmp_path / "out"
    out.mkdir()
    (out / "recipe.yaml").write_text("kind: denoiser\n")
    new = ["--out", tmp_path / "x"]
    for words, said in (
        ([*new], "expected a model to distil"),
        ([base / "pixels", *new], "an autoencoder alone"),
        ([teacher, *new], "doesn't say what it was trained on: name clips or a cache with --data"),
        ([teacher, "--data", "nowhere", *new], "nowhere: no such file or folder"),
        ([teacher, "--data", base, "--count", 3, *new], "--count is for the toy world"),
        ([teacher, "--data", "world", "--method", "x", *new], "unknown training job 'x'; distillation has progressive"),
        ([teacher, "--data", "world", "--guidance", "a", *new], "expected a scale, such as 4, or a range"),
        ([teacher, "--data", "world", "--guidance", "6:1", *new], "expected least up to most"),
        (
            [teacher, "--data", "world", "--method", "progressive", "-s", "rounds=[3]", "-s", "shares=[1]", *new],
            "shares: expected 2 numbers",
        ),
        ([teacher, "--data", "world", "--out", out], "holds a run already; pass --resume"),
        ([teacher, "--resume", "--out", out], "goes on as it began"),
    ):
        assert run("distill", *words, *(["--device", "cpu"] if "--resume" not in words else [])) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert said in told[-1], told
    assert not (tmp_path / "x").exists()
