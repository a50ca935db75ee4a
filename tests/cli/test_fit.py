"""`kinolab fit` as a person uses it: it says what it takes, tunes, and the model is generated with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.autoencoders import ImageConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.cli import main
from kinolab.denoisers import MmditConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.models import ModelConfig, VideoModel, read_model_config

pytestmark = pytest.mark.slow  # short trainings

QUICK = ["--device", "cpu", "-s", "training.precision=float32"]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip and an MMDiT of images that takes labels."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    denoiser = MmditConfig(
        hidden_size=16, depth=1, num_heads=2, in_channels=4, input_size=8, num_frames=1, attention="2d",
        temporal_position="none", num_classes=2,
    )  # fmt: skip
    config = ModelConfig(
        autoencoder=pixels, denoiser=denoiser, frames=1, size=(16, 16), class_names=("fall", "rise"),
        diffusion=DiffusionConfig(schedule="flow", prediction="flow"), sampler=SamplerConfig(name="euler", steps=2),
    )  # fmt: skip
    VideoModel(config, build_autoencoder(pixels), build_denoiser(denoiser)).save(folder / "image")
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    video.write(folder / "clip.mp4", frames, fps=8)
    return folder


def test_a_clip_is_tuned_on_and_a_video_made(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, words = tmp_path / "tuned", ["fit", place / "clip.mp4", "--label", "rise", "--model", place / "image"]
    assert not run(*words, "--steps", 2, "--out", out, *QUICK, "--plan", "--json")
    told = capsys.readouterr()
    assert "1 clip of 5 frames, 16 x 16: 2 steps take about" in told.err and "of memory" in told.err
    planned: dict[str, Any] = json.loads(told.out)
    assert planned["seconds"] > 0 and planned["memory"] > 0 and not (out / "model").exists()
    assert not run(*words, "--steps", 2, "--out", out, *QUICK)
    said = capsys.readouterr()
    assert "are trained" in said.err and f"done: {out / 'model'}" in said.out
    config = read_model_config(out / "model")
    assert config.denoiser is not None and config.denoiser.model_dump()["reach"] == "first_previous"
    assert config.class_names == ("fall", "rise")
    assert not run("generate", "--model", out, "--label", "fall", "--out", tmp_path / "x.mp4", "--device", "cpu")
    assert video.probe(tmp_path / "x.mp4").frames == 5
    assert not run("fit", "--resume", "--out", out, "--steps", 3)
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_mistakes_are_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, image, out = place / "clip.mp4", place / "image", tmp_path / "out"
    out.mkdir()
    (out / "recipe.yaml").write_text("kind: denoiser\n")
    for words, said in (
        (["fit", clip, "--out", tmp_path / "x"], "expected a clip, and a model to tune on it"),
        (["fit", clip, "--model", image, "--label", "sit", "--out", tmp_path / "x"], "label 'sit': expected one of 0"),
        (["fit", clip, "--model", image, "--prompt", "a", "--out", tmp_path / "x"], "takes no prompt"),
        (["fit", clip, "--model", image, "--out", out], "holds a run already; pass --resume"),
        (["fit", clip, "--resume", "--out", out], "is tuned on what it began with"),
        (["fit", clip, "--model", image, "--out", tmp_path / "x", "--what", "keys"], "'keys' is not one of"),
    ):
        assert run(*words) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert said in line
    assert not (tmp_path / "x").exists()
