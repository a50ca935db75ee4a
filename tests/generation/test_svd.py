"""Image to video: a pipeline of diffusers becomes a model by one command, which makes the pipeline's own videos."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kinolab import video
from kinolab.cli import main
from kinolab.conditioning import request_draws
from kinolab.models import Request, VideoModel, load_autoencoder
from tests.closeness import assert_close, assert_same
from tests.svd_pipeline import FRAMES, SIZE, saved

pytestmark = [
    pytest.mark.slow,  # diffusers and transformers take seconds to import
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in diffusers' scheduler
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("svd") / "pipeline"
    return saved(folder), folder


@pytest.fixture(scope="module")
def folder(pipeline: tuple[Any, Path]) -> Path:
    out = pipeline[1].parent / "model"
    run("convert", pipeline[1], "--out", out)
    return out


def run(*words: object, fails: bool = False) -> str:
    """What a command says, in one line."""
    said = io.StringIO()
    with pytest.raises(SystemExit) as stop, redirect_stdout(said), redirect_stderr(said):
        main([str(word) for word in words])
    assert bool(stop.value.code) == fails, said.getvalue()
    return " ".join(said.getvalue().split())


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    height, width = size
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.wide
def test_25_karras_steps_are_the_pipelines(
    pipeline: tuple[Any, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a picture to pixels: image encoder, augmented latents, guidance over frames, sampling, decoding."""
    theirs, seed = pipeline[0], 3
    path = picture(tmp_path / "photo.png")
    model = VideoModel.load(folder, device="cpu", precision="float32")
    assert (model.config.frames, model.config.fps, model.config.sampler.steps) == (FRAMES, 7.0, 25)
    request = Request(seed=seed, frames=FRAMES, size=SIZE)
    start = torch.randn(
        model.autoencoder.spec.latent_shape(FRAMES, *SIZE), generator=torch.Generator().manual_seed(seed)
    )
    [source] = request_draws([request])("image noise")
    noise = torch.randn(3, *SIZE, generator=source)
    module = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: noise[None])
    expected: Tensor = theirs(
        Image.open(path), height=SIZE[0], width=SIZE[1], latents=start.transpose(0, 1)[None], output_type="pt",
        num_frames=FRAMES, num_inference_steps=25,
    ).frames.transpose(1, 2)  # fmt: skip
    clip = torch.zeros(1, 3, FRAMES, *SIZE)
    clip[:, :, 0] = video.to_tensor(np.asarray(Image.open(path))[None])[:, 0]
    mask = torch.ones(1, 1, FRAMES, *SIZE)
    mask[:, :, 0] = 0
    made = model.complete(clip, mask, [request])
    assert_close((made + 1) / 2, expected, within=1e-3)
    assert float(expected.std()) > 0.02  # it is a video, not a flat field


def test_animate_as_a_person_types_it(folder: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "photo.png", (30, 64))
    out = tmp_path / "out.mkv"
    said = run("animate", path, "--model", folder, "--out", out, "--steps", 3, "--size", "24x32")
    assert "photo.png: 64 x 30 pixels, cropped to 32 x 24" in said
    made = video.read(out).frames
    assert made.shape == (FRAMES, 24, 32, 3)
    record = json.loads(out.with_suffix(".json").read_text())["request"]
    assert record["guidance"]["frames"] == [1.0, 3.0] and record["guidance"]["of"] == ["image", "image_tokens"]
    again = tmp_path / "again.mkv"
    run("rerun", out, "--out", again)
    assert_same(video.read(again).frames, made)


@pytest.mark.wide
def test_numbers_and_a_longer_video(folder: Path, tmp_path: Path) -> None:
    path, base = picture(tmp_path / "photo.png"), ("--model", folder, "--steps", 2, "--size", "24x32")
    made = []
    changes: list[list[object]] = [[], ["-s", "conditions.motion_bucket=250"], ["--fps", 12]]
    for k, more in enumerate(changes):
        run("animate", path, *base, "--out", tmp_path / f"{k}.mkv", *more)
        made.append(video.read(tmp_path / f"{k}.mkv").frames)
    assert (made[0] != made[1]).any() and (made[0] != made[2]).any()
    run("animate", path, *base, "--out", tmp_path / "long.mkv", "--frames", 5)
    long = video.read(tmp_path / "long.mkv").frames
    assert long.shape[0] == 5
    assert_same(long[:3], made[0])  # the second window goes on from the third frame


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-s", "conditions.motion_bucket=300"], "motion_bucket: expected 0 (still) to 255 (the most motion), got 300"),
        (
            ["-s", "conditions.noise_augmentation=-1"],
            "noise_augmentation: expected 0 (a clean image; the usual is 0.02) to 10, got -1",
        ),
        (["--size", "24x33"], "multiples of 2, got 24 x 33"),
        (["--at", "1"], "this model makes a video of its first frame"),
    ],
)
def test_bad_input_is_one_line(folder: Path, tmp_path: Path, more: list[str], said: str) -> None:
    path = picture(tmp_path / "photo.png")
    arguments = ["--model", folder, "--out", tmp_path / "x.mkv", "--steps", 2]
    assert said in run("animate", path, *arguments, *more, fails=True)


def test_a_frame_rate_that_the_public_models_do_not_know_is_said(folder: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "photo.png")
    said = run("animate", path, "--model", folder, "--out", tmp_path / "x.mkv", "--steps", 1, "--fps", 60)
    assert "fps 60: the model is told it, and was trained on 5 to 30" in said


def test_it_needs_an_image(folder: Path, tmp_path: Path) -> None:
    said = run("generate", "--model", folder, "--out", tmp_path / "x.mkv", fails=True)
    assert "this model makes a video of an image: kinolab animate IMAGE" in said


def test_a_part_that_is_missing_is_named(pipeline: tuple[Any, Path], tmp_path: Path) -> None:
    shutil.copytree(pipeline[1], tmp_path / "pipeline")
    run("convert", tmp_path / "pipeline", "--out", tmp_path / "model")
    shutil.rmtree(tmp_path / "pipeline" / "image_encoder")
    said = run("convert", tmp_path / "pipeline", "--out", tmp_path / "again", fails=True)
    assert "lacks image_encoder; expected the folders unet, vae, image_encoder, scheduler" in said
    path = picture(tmp_path / "photo.png")
    said = run("animate", path, "--model", tmp_path / "model", "--out", tmp_path / "x.mkv", fails=True)
    assert "image_encoder: no config.json; expected your own folder of a CLIP image encoder" in said


def test_parts_by_themselves(pipeline: tuple[Any, Path], folder: Path, tmp_path: Path) -> None:
    """The U-Net and the autoencoder by the commands for parts, and out again to diffusers' layout."""
    parts = pipeline[1]
    run("convert", parts / "vae", "--out", tmp_path / "vae")
    said = run("convert", parts / "unet", "--out", tmp_path / "model", "--autoencoder", tmp_path / "vae", fails=True)
    assert "give its encoder's folder, --image-encoder FOLDER" in said
    more = ("--autoencoder", tmp_path / "vae", "--image-encoder", parts / "image_encoder")
    run("convert", parts / "unet", "--out", tmp_path / "model", *more)
    one, other = VideoModel.load(folder), VideoModel.load(tmp_path / "model")
    assert_same(one.state_dict(), other.state_dict())
    run("convert", folder, "--part", "denoiser", "--to", "diffusers", "--out", tmp_path / "unet")
    assert "Stable Video Diffusion's U-Net, layout of diffusers" in run("inspect", tmp_path / "unet")


def test_an_image_autoencoder_gets_a_decoder_over_time(pipeline: tuple[Any, Path], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    image = diffusers.AutoencoderKL(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=2,
    )  # fmt: skip
    image.save_pretrained(tmp_path / "vae")
    said = run("inflate", tmp_path / "vae", "--to", "temporal_decoder", "--out", tmp_path / "over-time")
    assert "TemporalDecoderAutoencoder" in said and "over time filled: as nothing" in said
    ours = load_autoencoder(tmp_path / "over-time", device="cpu")
    z = torch.randn(1, 4, 3, 4, 4)
    with torch.no_grad():
        expected = image.decode(z[0].transpose(0, 1) / 0.18215).sample.transpose(0, 1)[None]
        assert_close(ours.decode(z), expected, within=1e-4)


def test_churn_is_asked_for_by_the_command(folder: Path, tmp_path: Path) -> None:
    path, base = picture(tmp_path / "photo.png"), ("--model", folder, "--steps", 3, "--size", "24x32")
    for k, more in enumerate(([], ["-s", "sampler.churn={amount: 2}"])):
        run("animate", path, *base, "--out", tmp_path / f"{k}.mkv", *more)
    made = [video.read(tmp_path / f"{k}.mkv").frames for k in range(2)]
    assert (made[0] != made[1]).any()
    said = run("animate", path, *base, "--sampler", "ddim", "-s", "sampler.churn={amount: 2}", fails=True)
    assert "churn is for the samplers euler and heun, not ddim" in said
