"""Clips of any length made larger, or given frames between their own: what is made, and that nothing is seen of how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import VideoModel, video
from kinolab.errors import InputError
from kinolab.generation.generate import generate, rerun
from kinolab.generation.request import request_of
from kinolab.models.assemble import cascade
from tests.outside.commands import run
from tests.tiny_model import tiny_pixels


def write_clip(path: Path, frames: int, height: int = 8, width: int = 8, fps: float = 4.0) -> Path:
    """A clip of coloured noise that moves slowly."""
    source = np.random.default_rng(frames)
    images = source.integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    video.write(path, images, fps=fps, lossless=True)
    return path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("refine")
    tiny_pixels().save(room / "base")
    tiny_pixels(frames=9, fps=8, low={"factor": 1, "frames_factor": 4}).save(room / "tsr")
    tiny_pixels(size=16, frames=9, fps=8, low={"factor": 2}).save(room / "sr")
    whole = cascade(VideoModel.load(room / "base"), {"tsr": room / "tsr", "sr": room / "sr"})
    whole.save(room / "whole")
    return room


def asked(room: Path, clip: Path, task: str = "upscale", model: str = "sr", **refine: Any) -> dict[str, Any]:
    return {
        "model": str(room / model), "label": 1, "precision": "float32", "guidance": 1.0,
        "refine": {"task": task, "video": str(clip), **refine},
    }  # fmt: skip


def read(path: Path) -> np.ndarray:
    return video.read(path).frames


def test_a_clip_is_made_larger_and_made_again(room: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 21, 8, 12)
    said = run(
        "upscale", clip, "--model", room / "sr", "--label", 2, "--guidance", 2, "--out", tmp_path / "large.mkv",
        "--steps", 2, "-s", "guidance.oscillate.after=1", "-s", "conditions.noise_level=0.3", "--precision", "float32",
    )  # fmt: skip
    assert "large.mkv" in said, said
    made = video.read(tmp_path / "large.mkv")
    assert made.frames.shape == (21, 16, 24, 3) and made.fps == pytest.approx(4.0)
    record = json.loads((tmp_path / "large.json").read_text())
    assert record["request"]["refine"] | {"video": ""} == {
        "task": "upscale", "video": "", "start": 0.0, "side": None, "stage": None, "window": 9, "overlap": 3, "tile": 16
    }  # fmt: skip
    assert "identical" in run("rerun", tmp_path / "large.mkv")
    write_clip(clip, 20, 8, 12)
    assert "which was given, has changed since" in run("rerun", tmp_path / "large.mkv")
