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
from kinolab.models import ModelConfig, VideoModel
from kinolab.toyworld.clips import CLASSES, WorldConfig, make_clip

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
    sampler, guidance = evaluate.sampling(own, "heun", None, 3.0)
    assert (sampler.name, sampler.steps, sampler.eta, guidance.scale) == ("heun", 20, 0.0, 3.0)
    sampler, guidance = evaluate.sampling(own, None, 7, None)
    assert (sampler.name, sampler.steps, sampler.eta, guidance) == ("ddim", 7, 1.0, own.guidance)
    with pytest.raises(InputError, match="name"):
        evaluate.sampling(own, "magic", None, None)


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
