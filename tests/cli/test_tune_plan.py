"""`tune`, `plan` and the step cache as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kinolab import video
from kinolab.models import save_autoencoder
from kinolab.planning import settings
from kinolab.training.initial import first_autoencoder
from kinolab.training.recipe import AutoencoderRecipe, load_recipe
from tests.cli.every import run
from tests.tiny_model import save_tiny_model, tiny_vdt
from tests.training.tiny import autoencoder_recipe, denoiser_recipe

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "resolve", lambda policy, device: torch.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vdt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vdt")
    tiny_vdt().save(folder)
    return folder


@pytest.mark.slow
def test_tune_prints_the_frontier_and_the_options_work(model: Path, tmp_path: Path, capsys: Printed) -> None:
    (tmp_path / "prompts.txt").write_text("a red ball\n\n a blue box \n", encoding="utf-8")
    out = tmp_path / "new" / "tune.json"
    words = ["--prompts", tmp_path / "prompts.txt", "--steps", "3,2", "--samplers", "euler", "--thresholds", "0.2"]
    assert run("tune", model, *words, "--guidance-interval", "0.2,1", "--repeats", 1, "--drift", 0, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "* euler 6 (full run)" in printed and "euler 3, guided 0.2-1" in printed and "within 0 dB" in printed
    record = json.loads(out.read_text())
    assert (
        record["protocol"]["prompts"] == ["a red ball", "a blue box"] and len(record["protocol"]["model_sha256"]) == 64
    )
    [command] = [line for line in printed.splitlines() if line.startswith("  kinolab generate")]
    video_out = tmp_path / "a.mp4"
    assert run(*command.split()[1:], "a red ball", "--out", video_out) == 0
    best = max((o for o in record["outcomes"]), key=lambda o: o["faster"])
    made = json.loads(video_out.with_suffix(".json").read_text())["request"]
    assert {k: made[k] for k in ("sampler", "guidance", "cache")} == {
        k: best["setting"][k] for k in ("sampler", "guidance", "cache")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tune", "nothing"], "no such model"),
        (["tune", "{model}", "--prompt", "a", "--prompts", "b"], "give one of them"),
        (["tune", "{model}", "--prompts", "{empty}"], "holds no prompts"),
        (["tune", "{model}", "--steps", "a"], "--steps 'a': expected numbers"),
        (["tune", "{model}", "--steps", "0"], "lists.steps"),
        (["tune", "{model}", "--samplers", "magic"], "lists.samplers"),
        (["tune", "{model}", "--thresholds", "-1"], "lists.thresholds"),
        (["tune", "{vdt}", "--prompt", "a"], "takes no prompt"),
        (["plan", "nothing"], "no such recipe"),
        (["plan", "{recipe}", "-s", "training.stepps=2"], "did you mean 'steps'"),
        (["generate", "a", "--model", "{model}", "--cache", "0.1", "--cache-every", "2"], "give one of them"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], expected: str, model: Path, vdt: Path, recipe: Path, tmp_path: Path, capsys: Printed
) -> None:
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    places = {"{model}": model, "{vdt}": vdt, "{recipe}": recipe, "{empty}": tmp_path / "empty"}
    assert run(*(places.get(w, w) for w in words)) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("kinolab: ") and expected in message


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny denoiser's recipe with its autoencoder, as files."""
    folder = tmp_path_factory.mktemp("recipe")
    whole = load_recipe(autoencoder_recipe())
    assert isinstance(whole, AutoencoderRecipe)
    save_autoencoder(first_autoencoder(whole), folder / "autoencoder")
    path = folder / "mine.yaml"
    path.write_text(
        yaml.safe_dump(denoiser_recipe(folder / "autoencoder") | {"autoencoder": str(folder / "autoencoder")})
    )
    return path


@pytest.mark.slow
def test_plan_prints_what_a_run_needs_and_makes_none(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-s", "training.steps=9", "--steps", 1, "--price", 2.5, "--currency", "EUR", "--out", "plan.json"]
    assert run("plan", recipe, *words) == 0
    printed = capsys.readouterr()
    for expected in ("tiny: 9 steps of 4 clips", "parameters", "memory", "disk", "GFLOP/s reached", "EUR an hour"):
        assert expected in printed.out
    assert "measuring 1" in printed.err and [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    record = json.loads(Path("plan.json").read_text())
    assert record["protocol"]["recipe"]["training"]["steps"] == 9 and record["protocol"]["run"] == "runs/tiny"


@pytest.mark.slow
def test_generate_with_a_cache_is_recorded_and_made_again(model: Path, tmp_path: Path, capsys: Printed) -> None:
    words = ["generate", "a red ball", "--model", model, "--precision", "float32", "--steps", 6]
    assert run(*words, "--out", tmp_path / "plain.mkv") == 0
    assert run(*words, "--out", tmp_path / "exact.mkv", "--cache", 0) == 0
    assert run(*words, "--out", tmp_path / "cached.mkv", "--cache", 100, "--guidance-every", 2) == 0
    plain, exact, cached = (video.read(tmp_path / f"{name}.mkv").frames for name in ("plain", "exact", "cached"))
    assert np.array_equal(plain, exact) and not np.array_equal(plain, cached)
    request = json.loads((tmp_path / "cached.json").read_text())["request"]
    assert request["cache"]["threshold"] == 100 and request["cache"]["guidance_every"] == 2
    assert run("rerun", tmp_path / "cached.mkv") == 0
    assert "identical" in capsys.readouterr().out


@pytest.mark.slow
def test_tasks_take_a_cache_window_by_window(vdt: Path, tmp_path: Path, capsys: Printed) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    video.write(tmp_path / "clip.mkv", frames, fps=8)
    words = ["extend", tmp_path / "clip.mkv", "--frames", 13, "--overlap", 2, "--model", vdt, "--precision", "float32"]
    words += ["--steps", 6]
    for name, cache in (("plain", []), ("exact", ["--cache", 0]), ("cached", ["--cache-every", 3])):
        assert run(*words, *cache, "--out", tmp_path / f"{name}.mkv") == 0
    plain, exact, cached = (video.read(tmp_path / f"{name}.mkv").frames for name in ("plain", "exact", "cached"))
    assert np.array_equal(plain, exact) and not np.array_equal(plain, cached)
    capsys.readouterr()
    steered = [*words, "--method", "reconstruction", "--cache", 0.1, "--out", tmp_path / "no.mkv"]
    assert run(*steered) == 2 and "cuts the gradient" in capsys.readouterr().err
    assert not (tmp_path / "no.mkv").exists()
