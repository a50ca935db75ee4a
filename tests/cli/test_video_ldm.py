"""A Video LDM as a person uses it: from an image model, then prediction, interpolation and long videos with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.autoencoders import ImageConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.tasks import TasksConfig
from tests.cli.every import run

pytestmark = pytest.mark.slow  # many short ones, which take long together

UNET: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "attention_levels": (0,), "num_heads": 2, "norm_groups": 4,
    "in_channels": 4, "input_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip, an image model, and in `video` what inflate made of it, as if trained on tasks."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    config = ModelConfig(
        autoencoder=pixels, denoiser=UnetConfig(**UNET), frames=1, size=(16, 16), fps=8.0,
        diffusion=DiffusionConfig(schedule="flow", prediction="flow"), sampler=SamplerConfig(name="euler", steps=2),
    )  # fmt: skip
    assert config.denoiser is not None
    VideoModel(config, build_autoencoder(pixels), build_denoiser(config.denoiser)).save(folder / "image")
    assert not run(
        "inflate", folder / "image", "--to", "video_ldm", "-s", "num_frames=5", "-s", "given=context", "--out",
        folder / "fresh",
    )  # fmt: skip
    model = VideoModel.load(folder / "fresh", precision="float32")
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tasks = TasksConfig(unconditional=1, predict=1, interpolate=1, predict_frames=(1, 2), interpolate_every=4)
    model.config = model.config.model_copy(update={"tasks": tasks})
    model.save(folder / "video")
    frames = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), dtype=np.uint8)
    video.write(folder / "clip.mp4", frames, fps=8)
    video.write(folder / "short.mp4", frames[:5], fps=8)
    return folder


COMMANDS = {
    "predict clip.mp4": 5,
    "predict clip.mp4 --frames 11": 11,
    'predict clip.mp4 --frames 11 -s guidance.scales={"given":2}': 11,
    "interpolate clip.mp4 --insert 3 --frames 13": 13,
    "extend clip.mp4 --frames 12": 12,
    "extend short.mp4 --frames 29 --stride 4": 29,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_tasks_run_within_what_it_was_trained_on(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(place / w) if w.endswith(".mp4") else w for w in command.split()]
    assert run(*words, "--model", place / "video", "--out", tmp_path / "made.mp4", "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert "trained" not in printed.out + printed.err
    assert video.probe(tmp_path / "made.mp4").frames == COMMANDS[command]


def test_it_has_no_public_layout(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for to in ("public", "diffusers"):
        words = ("convert", place / "video", "--part", "denoiser", "--to", to, "--out", tmp_path / "out")
        assert run(*words) != 0
        assert "there is no public layout for kind video_ldm" in capsys.readouterr().err
