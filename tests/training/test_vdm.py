"""Video Diffusion Models from a recipe to videos, small: pixels, joint images, prediction, super-resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kinolab import video
from kinolab.cli import main
from kinolab.conditioning import of_requests
from kinolab.errors import InputError
from kinolab.methods import Thresholding, ThresholdingConfig
from kinolab.methods.spatial import shrink
from kinolab.models import Request, VideoModel
from kinolab.training.run import train
from tests.closeness import assert_same
from tests.training.test_jobs import batch_of, denoiser_job
from tests.training.tiny import QUIET

pytestmark = pytest.mark.slow  # many short ones, which take long together


def recipe(**changes: Any) -> dict[str, Any]:
    """A tiny U-Net in the pixels of the toy world, with single images behind every clip."""
    return {
        "kind": "denoiser",
        "name": "tiny",
        "data": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 16, "heldout_count": 4},
        "autoencoder": "pixels",
        "image_frames": 2,
        "class_names": ["fall", "throw", "bounce", "collide", "ramp", "float"],
        "denoiser": {
            "kind": "vdm", "dim": 8, "dim_mults": [1, 2], "num_heads": 2, "head_dim": 4, "spatial_head_dim": 4,
            "input_kernel": 3, "in_channels": 3, "input_size": 32, "num_frames": 5, "num_classes": 6,
        },
        "diffusion": {"schedule": "cosine", "prediction": "v", "loss": "l1"},
        "heldout_clips": 2,
        "samples": {"labels": [0], "sampler": {"steps": 2}, "methods": {"thresholding": {"kind": "static"}}},
        "training": {"steps": 3, "batch_size": 2, "learning_rate": 1e-3, **QUIET},
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vdm")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    train(folder / "recipe.yaml", folder / "run")
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    video.write(folder / "clip.mkv", frames, fps=8, lossless=True)
    video.write(folder / "small.mkv", frames[:, ::8, ::8], fps=8, lossless=True)
    return folder


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return int(stop.value.code or 0)


def test_images_stand_behind_every_clip_with_their_own_labels() -> None:
    job = denoiser_job(recipe())
    batch = job.assembly.batch(batch_of(job, 2), step=0)
    assert batch.latents.shape == (2, 3, 7, 32, 32) and batch.conditions.image_frames == 2
    assert batch.conditions.label is not None and batch.conditions.label.shape == (2, 3)
    loss, parts = job.loss("denoiser", batch_of(job, 2), step=0)
    assert bool(torch.isfinite(loss)) and {"l1", "mse"} <= set(parts)
    loss.backward()
    assert all(p.grad is not None for p in job.denoiser.parameters())


def test_a_share_of_clips_is_trained_in_focus_and_a_request_may_ask_for_it() -> None:
    changes: dict[str, Any] = {"denoiser": {**recipe()["denoiser"], "focus": True}, "image_frames": 0}
    rows = []
    for share in (0.0, 0.5, 1.0):
        job = denoiser_job(recipe(**changes, conditions={"focus": {"share": share}}))
        told = [job.assembly.batch(batch_of(job, 2), step=step).conditions.tensor("focus") for step in range(8)]
        rows.append(torch.cat([t for t in told if t is not None]))
    assert rows[0].sum() == 0 and rows[2].sum() == 16 and 3 <= rows[1].sum() <= 13
    asked = of_requests([Request(conditions={"focus": 1}), Request(label=1)], job.assembly.setting)
    focus = asked.tensor("focus")
    assert focus is not None and focus.tolist() == [1.0, 0.0]
    with pytest.raises(InputError, match="focus: expected 0 or 1"):
        of_requests([Request(conditions={"focus": 3})], job.assembly.setting)
    with pytest.raises(InputError, match="leave out focus"):
        denoiser_job(recipe(denoiser=changes["denoiser"]))


def test_the_models_own_methods_wrap_every_run_that_does_not_name_them(run: Path) -> None:
    model = VideoModel.load(run / "run", device="cpu", precision="float32")
    assert model.config.methods == {"thresholding": {"kind": "static", "percentile": 0.995, "limit": 1.0}}
    own = model.sample_latents([Request(label=1)])
    assert float(own.abs().max()) <= 1.0
    assert_same(
        model.sample_latents([Request(label=1)], methods=[Thresholding(ThresholdingConfig(kind="static"))]), own
    )
    free = model.sample_latents([Request(label=1)], methods=[Thresholding(ThresholdingConfig(kind="none"))])
    assert float(free.abs().max()) > 1.0


LINES = {
    "generate --label fall": 5,
    "predict clip.mkv --given 2": 5,
    "predict clip.mkv --given 2 --method replacement -s methods.langevin.steps=2": 5,
    "extend clip.mkv --frames 9 --overlap 2 --method reconstruction --weight 2": 9,
    "generate --label 1 -s low_resolution.video=small.mkv -s low_resolution.filter=bilinear": 5,
    "predict clip.mkv --given 2 -s low_resolution.video=small.mkv": 5,
}


@pytest.mark.parametrize("line", LINES)
def test_each_command_writes_its_video(line: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    out = tmp_path / "x.mkv"
    assert command(*line.split(), "--model", "run", "--out", out, "--precision", "float32", "--steps", 3) == 0
    assert video.read(out).frames.shape == (LINES[line], 32, 32, 3)
    if "low_resolution" in line:
        assert command("rerun", out, "--out", tmp_path / "again.mkv") == 0
        assert (video.read(tmp_path / "again.mkv").frames == video.read(out).frames).all()


@pytest.mark.wide
def test_a_generated_clip_looks_like_the_low_resolution_one_it_is_held_to(run: Path, tmp_path: Path) -> None:
    small, errors = video.to_tensor(video.read(run / "small.mkv").frames), []
    for weight in (None, 0.5, 2):
        asked = [] if weight is None else ["-s", f"low_resolution.video={run / 'small.mkv'}"]
        asked += [] if weight is None else ["-s", f"low_resolution.weight={weight}"]
        out = tmp_path / f"{weight}.mkv"
        assert command("generate", "--model", run / "run", "--label", 0, "--steps", 10, "--out", out, *asked) == 0
        made = video.to_tensor(video.read(out).frames)[None]
        errors.append(float((shrink(made, (4, 4), "area")[0] - small).square().mean()))
    assert errors[1] < 0.7 * errors[0] and errors[2] < 0.1 * errors[0], errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-s low_resolution.video=none.mkv", "none.mkv: no such file"),
        ("-s low_resolution.video=clip.mkv --size 8", "is 32 x 32, larger than the 8 x 8 that is made"),
        ("-s low_resolution.video=small.mkv --frames 9", "has 5 frames at 8 fps, and 9 are made"),
        ("-s low_resolution.video=small.mkv -s cache.threshold=0.1", "cuts the gradient"),
        ("-s methods.langevin.steps=1 --sampler dpmpp_2m", "Langevin changes z between steps, which dpmpp_2m does not"),
        ("-s methods.thresholding.percentile=2", "percentile"),
        ("--size 15", "multiples of 2, got 15 x 15"),
        ("-s conditions.focus=1", "this model takes no focus"),
    ],
)
def test_what_can_not_be_is_one_clear_line(
    words: str,
    said: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run)
    assert command("generate", "--model", "run", "--out", tmp_path / "x.mkv", "--steps", 2, *words.split()) != 0
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kinolab: ")]
    assert len(errors) == 1 and said in errors[0], errors
    assert not (tmp_path / "x.mkv").exists()


def test_public_weights_become_a_model_and_go_back(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "vdm_unet3d.safetensors"
    made = ("convert", golden, "--prefix", "weights.", "-a", "pixels", "-s", "input_size=8", "-s", "num_frames=3")
    assert command(*made, "-o", tmp_path / "model") == 0
    model = VideoModel.load(tmp_path / "model", device="cpu")
    assert (model.config.diffusion.schedule, model.config.diffusion.max_beta) == ("cosine", 0.9999)
    assert command("generate", "--model", tmp_path / "model", "--steps", 2, "--out", tmp_path / "x.mkv") == 0
    back = tmp_path / "back.safetensors"
    assert command("convert", tmp_path / "model", "--to", "public", "--part", "denoiser", "-o", back) == 0
    assert command("inspect", back) == 0
