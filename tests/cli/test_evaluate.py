"""`evaluate world`, `reconstruct` and `demo` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from kinolab import video
from kinolab.autoencoders import build
from kinolab.autoencoders.odvae import OdVaeConfig
from kinolab.cli import demo, evaluate, reconstruct
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.latte import LatteConfig
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig, StepCacheConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.toyworld.clips import CLASSES, WorldConfig, make_clip
from tests.outside.commands import run as printed

app = typer.Typer()
for command in (evaluate, reconstruct, demo):
    command.register(app)


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that takes labels of the toy world."""
    torch.manual_seed(0)
    autoencoder = OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1, norm_num_groups=4)
    denoiser = LatteConfig(hidden_size=32, depth=2, num_heads=2, input_size=8, num_frames=5, num_classes=len(CLASSES))
    sampler = SamplerConfig(name="ddim", steps=20, eta=1.0)
    config = ModelConfig(autoencoder=autoencoder, denoiser=denoiser, class_names=CLASSES, sampler=sampler)
    folder = tmp_path_factory.mktemp("model")
    VideoModel(config, build(autoencoder), build_denoiser(denoiser)).save(folder)
    return folder


@pytest.mark.slow
def test_evaluate_world_prints_a_table_and_writes_a_report(model: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report.json"
    text = run("evaluate", "world", "--model", model, "--count", 2, "--steps", 2, "--seed", 5, "--out", report)
    assert "identity" in text and "PSNR (dB)" in text and "labels only" in text and "ddim, 2 steps" in text
    assert "colours" not in text.split("note:")[0], "a label promises no colours"
    protocol = json.loads(report.read_text())["protocol"]
    assert protocol["noise_seeds"] == [5, 6] and protocol["sampler"]["eta"] == 1.0 and protocol["batch"] == 16


def test_sampling_options_go_on_top_of_the_models_own(model: Path) -> None:
    own = VideoModel.load(model).config
    how = evaluate.sampling(own, "heun", None, 3.0)
    assert how.sampler == SamplerConfig(name="heun", steps=20) and how.guidance == GuidanceConfig(scale=3.0)
    how = evaluate.sampling(own, None, 7, None)
    assert how.sampler == SamplerConfig(name="ddim", steps=7, eta=1.0) and how.guidance == own.guidance
    how = evaluate.sampling(own, steps=7, setting=["sampler.steps=9", "cache=0.1", "reach=own"])
    assert how.sampler == SamplerConfig(name="ddim", steps=9, eta=1.0), "-s counts where both are given"
    assert how.cache == StepCacheConfig(threshold=0.1) and how.reach == "own"
    with pytest.raises(InputError, match="name"):
        evaluate.sampling(own, "magic", None, None)
    with pytest.raises(InputError, match="step"):
        evaluate.sampling(own, setting=["sampler.step=9"])


@pytest.mark.slow
def test_the_grammar_of_a_run_is_that_of_the_commands_that_measure(model: Path, tmp_path: Path) -> None:
    """-s reaches the sampling and the protocol; the sampling is no part of the hash, the protocol is."""
    (tmp_path / "few.yaml").write_text("{name: few, kind: world, count: 2, seed: 5}")
    words = ("evaluate", "world", "--model", model, "--protocol", tmp_path / "few.yaml", "-s", "sampler=euler")
    plain, other, more = (tmp_path / name for name in ("plain.json", "other.json", "more.json"))
    run(*words, "--steps", 1, "--out", plain)
    run(*words, "-s", "sampler.steps=2", "-s", "cache.every=2", "--out", other)
    run(*words, "--steps", 1, "-s", "count=1", "--out", more)
    a, b, c = (json.loads(path.read_text()) for path in (plain, other, more))
    assert (a["protocol"]["sampler"]["steps"], b["protocol"]["sampler"]["steps"]) == (1, 2)
    assert a["protocol"]["protocol"] == "few" and a["protocol"]["noise_seeds"] == [5, 6]
    assert b["protocol"]["cache"]["every"] == 2 and "cache" not in a["protocol"]
    assert a["protocol_hash"] == b["protocol_hash"] != c["protocol_hash"]
    assert all(value["interval"] for name, value in a["metrics"].items() if name.startswith("asked_"))
    said = printed("evaluate", "world", "--help")
    assert "of the sampling: stages, reach, methods; sampler.name" in said
    assert "of the protocol: name, description, count, first, seed, kind, label" in said
    with pytest.raises(InputError, match="counts"):
        run(*words, "-s", "counts=1")


@pytest.mark.slow
def test_reconstruct_prints_what_the_autoencoder_costs(model: Path, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "r.mp4"
    video.write(clip, make_clip(WorldConfig(size=32, frames=19), 0).frames, fps=8)
    text = run("reconstruct", clip, "--autoencoder", model, "--out", out, "--precision", "float32")
    assert "PSNR" in text and "the last 2 frames left out" in text and "frames/s" in text and "peak" in text
    assert "3 x 17 x 32 x 32 pixels : 4 x 5 x 4 x 4 latents" in text
    assert json.loads((tmp_path / "r.json").read_text())["mode"] == "stream" and out.exists()
    text = run("reconstruct", clip, "-a", model, "-o", tmp_path / "w.mp4", "--whole", "--frames", 5)
    assert "; whole" in text


def test_the_demo_needs_a_model_that_takes_prompts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no prompt"):
        run("demo", "--out", tmp_path, "--model", model)
