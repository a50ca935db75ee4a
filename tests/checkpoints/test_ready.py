"""Public models where a model folder is expected: converted once, found again, or refused in a line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinolab import video
from kinolab.checkpoints import load
from kinolab.checkpoints.ready import converted_models, ready_model
from kinolab.conditioning.text import ClipTextConfig
from kinolab.errors import InputError
from kinolab.generation.generate import generate
from kinolab.generation.request import is_public
from kinolab.models import VideoModel
from tests.cli.every import run
from tests.closeness import assert_same
from tests.listening import Listening
from tests.svd_pipeline import saved

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.slow
def test_a_pipeline_is_converted_once(pipeline: Path, tmp_path: Path, capsys: Printed) -> None:
    asked = ("generate", "a cat", "--model", pipeline, "--steps", 1, "--precision", "float32", "--out")
    assert run(*asked, tmp_path / "a.mkv") == 0
    said = capsys.readouterr()
    (folder,) = converted_models().iterdir()
    assert folder.name.startswith("sd-") and f"converted once into {folder}" in said.err
    assert run(*asked, tmp_path / "b.mkv") == 0 and "converted" not in capsys.readouterr().err
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert first["frames_sha256"] == second["frames_sha256"] and first["request"]["model"] == str(folder)
    assert run("rerun", tmp_path / "a.mkv", "--out", tmp_path / "c.mkv") == 0
    # It is the model that `convert` writes, and that `load` reads.
    ours, model = VideoModel.load(folder, device="cpu"), load(pipeline)
    assert isinstance(model, VideoModel) and model.config == ours.config
    assert_same(dict(ours.denoiser.state_dict()), dict(model.denoiser.state_dict()))


def test_a_pipeline_that_has_changed_is_converted_anew(pipeline: Path, tmp_path: Path) -> None:
    mine, heard = tmp_path / "mine", Listening()
    shutil.copytree(pipeline, mine)
    before = ready_model(mine, heard, place=tmp_path / "made")
    assert ready_model(mine, heard, place=tmp_path / "made") == before and len(heard.notes) == 1
    os.utime(mine / "model_index.json", (1, 1))
    assert ready_model(mine, heard, place=tmp_path / "made") != before and len(heard.notes) == 2


@pytest.mark.slow
def test_a_checkpoint_needs_what_it_does_not_hold(
    checkpoint: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: Printed,
) -> None:
    path = tmp_path / "v1-5.safetensors"
    shutil.copy(checkpoint, path)
    whole = load(path, num_heads=2)
    assert isinstance(whole, VideoModel) and whole.config.text_encoder == "none"
    asked = ("generate", "a cat", "--model", path, "--out", tmp_path / "x.mkv")
    assert run(*asked) == 2
    assert "pass num_heads=... " in capsys.readouterr().err and not list(converted_models().glob("*/model.yaml"))
    with pytest.raises(InputError, match=r"num_heads.*convert it by hand: kinolab convert .* --out FOLDER"):
        ready_model(path)
    assert not is_public(str(tmp_path)) and is_public(str(path))


def test_a_file_of_one_part_is_no_model(pipeline: Path, tmp_path: Path, capsys: Printed) -> None:
    path = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    assert run("generate", "a cat", "--model", path, "--out", tmp_path / "x.mkv") == 2
    assert f"{path}: no whole model, which has a denoiser and an autoencoder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_photo_moves_by_a_pipeline_of_stable_video_diffusion(tmp_path: Path, capsys: Printed) -> None:
    saved(folder := tmp_path / "svd")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)).save(tmp_path / "photo.png")
    asked = ("--model", folder, "--steps", 1, "--precision", "float32", "--out", tmp_path / "a.mkv")
    assert run("animate", tmp_path / "photo.png", *asked) == 0
    assert "converted once into" in capsys.readouterr().err and video.read(tmp_path / "a.mkv").frames.shape[0] == 3


def test_measuring_commands_find_it_too(pipeline: Path, tmp_path: Path, capsys: Printed) -> None:
    (tmp_path / "clips").mkdir()
    assert run("evaluate", "generation", pipeline, tmp_path / "clips", "-s", "frames=1") == 2
    said = capsys.readouterr().err
    assert "converted once into" in said and "no clips" in said  # it is the clips that are missing, not the model


@pytest.mark.slow
def test_the_library_converts_too(pipeline: Path, tmp_path: Path) -> None:
    heard = Listening()
    asked = {"model": str(pipeline), "prompts": ["a cat"], "sampler": {"steps": 1}, "precision": "float32"}
    (made,) = generate(asked, tmp_path / "a.mkv", events=heard)
    assert made.exists() and "converted once into" in heard.notes[0]
    assert VideoModel.load(next(converted_models().iterdir())).config.text_encoder == ClipTextConfig(
        folder=(pipeline / "text_encoder").absolute(), padded=True, max_tokens=12
    )
