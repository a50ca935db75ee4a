"""The table of distilled models, with a tiny random one: shares, paired points, drift and speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks.few_steps import lost
from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.distilled import DistilledConfig


def test_points_are_those_of_requests_that_both_have() -> None:
    found = lost([True, True, False, None, True, True], [True, False, False, True, None, False])
    assert found["points"] == pytest.approx(-50) and found["low"] <= -50 <= found["high"]
    assert lost([None], [True]) == {"points": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.slow
def test_a_student_stands_beside_its_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    latte = {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16}
    config = ModelConfig.model_validate(
        {
            "autoencoder": pixels, "denoiser": {**latte, "num_frames": 5, "patch_size": 4}, "frames": 5,
            "size": (32, 32), "diffusion": DiffusionConfig(schedule="flow", prediction="flow"),
            "sampler": SamplerConfig(name="euler", steps=6),
        }
    )  # fmt: skip
    assert config.denoiser is not None
    model = VideoModel(config, ImageAutoencoder(pixels), denoisers.build(config.denoiser))
    model.save(tmp_path / "teacher")
    made = {"distilled": DistilledConfig(method="progressive", steps=(2,)), "sampler": SamplerConfig(steps=2)}
    model.config = config.model_copy(update=made)
    model.save(tmp_path / "student")
    out = tmp_path / "figures.json"
    program.main(
        ["few_steps", str(tmp_path / "teacher"), str(tmp_path / "student"), "--count", "2", "--clips", "1",
         "--repeats", "1", "--precision", "float32", "--out", str(out)]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "identity" in printed and "points beside the teacher" in printed
    teacher, student = json.loads(out.read_text())["rows"]
    assert (teacher["steps"], student["steps"]) == (6, 2) and teacher["distilled"] is None
    assert student["distilled"] == "progressive, for 2 steps of ddim, no guidance distilled in"
    assert teacher["faster"]["mean"] == 1.0 and "psnr" in student and student["points"]["identity"]["points"] <= 100
    with pytest.raises(InputError, match="numbers of at least 1"):
        program.main(["few_steps", "a", "b", "--count", "0"])
