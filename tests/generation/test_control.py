"""`kinolab control`: a video that follows a clip's control maps, as a request like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.contracts.events import Silent
from kinolab.denoisers import build as build_denoiser
from kinolab.generation.control import ControlledConfig, controlled
from kinolab.generation.provenance import provenance_path
from kinolab.generation.request import request_of
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.controlnet import ControlNetPart, ControlNetPartConfig
from tests.cli.every import run
from tests.closeness import assert_same
from tests.tiny_images import DENOISERS, tiny_images, with_adapter

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("control")
    with_adapter(tiny_images("unet")).save(root / "model")
    tiny_images("unet").save(root / "plain")
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    video.write(root / "clip.mkv", frames, fps=6, lossless=True)
    video.write(root / "wide.mkv", np.tile(frames, (1, 1, 2, 1)), fps=6, lossless=True)
    return root


def settled(place: Path, model: VideoModel, clip: str = "clip.mkv", **asked: Any) -> Any:
    of_request: dict[str, Any] = {
        name: asked.pop(name) for name in ("frames", "fps", "size", "methods", "sampler") if name in asked
    }
    config = request_of({"model": str(place / "model"), **of_request})
    return controlled(config, ControlledConfig(clip=place / clip, **asked), model, Silent())


def test_what_a_clip_says_and_what_is_asked_for(place: Path) -> None:
    model = with_adapter(tiny_images("unet"))
    found = settled(place, model)
    assert (found.frames, found.fps, found.size) == (5, 6.0, (16, 16))
    assert found.conditions == {"control": str(place / "clip.mkv")} and set(found.methods) == {"controlvideo"}
    maps = settled(place, model, ready=True, frames=3, fps=3.0, method="plain")
    lines = settled(place, model, maps=("control={kind: canny, low: 50}",))
    assert lines.conditions == {"control": {"clip": str(place / "clip.mkv"), "by": {"kind": "canny", "low": 50}}}
    assert settled(place, model, maps=("flow",)).conditions["control"]["by"] == "flow"
    assert maps.conditions == {"control": {"map": str(place / "clip.mkv")}} and maps.methods == {}
    assert (maps.frames, maps.fps) == (3, 3.0)
    own = settled(place, model, methods={"controlvideo": {"same_noise": False}})
    assert own.methods["controlvideo"]["same_noise"] is False
    other = settled(place, model, method="text2video_zero")
    assert set(other.methods) == {"text2video_zero"}


def test_a_sampler_that_can_not_smooth_gives_way_to_ddim_and_only_then(place: Path) -> None:
    model, how = with_adapter(tiny_images("unet")), {"name": "dpmpp_2m", "steps": 7}
    other = settled(place, model, sampler=how).sampler
    assert (other.name, other.steps) == ("ddim", 7)
    unsmoothed = {"controlvideo": {"smoother": None}}
    assert settled(place, model, sampler=how, methods=unsmoothed).sampler.name == "dpmpp_2m"
    assert settled(place, model, sampler=how, method="plain").sampler.name == "dpmpp_2m"
    assert settled(place, model).sampler.name == "euler"


@pytest.mark.slow
def test_a_clip_is_followed_recorded_and_made_again(place: Path, tmp_path: Path, capsys: Printed) -> None:
    out, events = tmp_path / "made", tmp_path / "events.jsonl"  # a folder of images: without loss
    asked = ["control", place / "clip.mkv", "--model", place / "model", "--precision", "float32"]
    assert run(*asked, "--out", out, "--events", events) == 0
    shown, made = video.probe(out), video.read(out).frames
    assert (len(made), shown.height, shown.width) == (5, 16, 16)
    record = json.loads(provenance_path(out).read_text())
    assert record["request"]["fps"] == 6 and set(record["inputs_sha256"]) == {str(place / "clip.mkv")}
    assert record["request"]["methods"]["controlvideo"]["same_noise"] is True
    assert run("rerun", out, "--out", tmp_path / "again") == 0
    assert_same(video.read(tmp_path / "again").frames, made)
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert lines[0]["command"] == "control" and lines[-1]["outcome"] == "done"
    assert [(line["done"], line["total"]) for line in lines if line["kind"] == "progress"][-1] == (4, 4)
    # The maps count: of maps that are ready another video comes.
    assert run(*asked, "--ready", "--out", tmp_path / "ready") == 0
    assert not np.array_equal(video.read(tmp_path / "ready").frames, made)
    # It is what `generate` makes of the same request.
    again = ["generate", "--model", place / "model", "--precision", "float32", "--frames", 5, "--fps", 6]
    fields = [f"conditions.control={place / 'clip.mkv'}", "methods.controlvideo.same_noise=true"]
    assert run(*again, "-s", fields[0], "-s", fields[1], "--out", tmp_path / "same") == 0
    assert_same(video.read(tmp_path / "same").frames, made)


@pytest.mark.slow
def test_a_control_network_is_put_beside_an_image_model_for_one_run(place: Path, tmp_path: Path) -> None:
    model = tiny_images("unet")
    beside = ControlNetPart(ControlNetPartConfig(port="canny", hint_ratio=1, hint_widths=(4, 4)), model.denoiser)
    with torch.no_grad():
        for parameter in beside.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = ModelConfig.model_validate(dict(model.config) | {"format": 2, "parts": {"canny": beside.config}})
    VideoModel(config, model.autoencoder, model.denoiser, parts={"canny": beside}).save(tmp_path / "trained")
    asked = ["control", place / "clip.mkv", "--model", place / "plain", "--precision", "float32", "--frames", 3]
    assert run(*asked, "--control", f"canny={tmp_path / 'trained'}", "--out", tmp_path / "made") == 0
    record = json.loads(provenance_path(tmp_path / "made").read_text())
    assert record["request"]["control"] == {"canny": str(tmp_path / "trained")}
    assert str(tmp_path / "trained" / "part-canny.safetensors") in record["inputs_sha256"]
    assert run("rerun", tmp_path / "made", "--out", tmp_path / "again") == 0
    assert_same(video.read(tmp_path / "again").frames, video.read(tmp_path / "made").frames)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["clip.mkv", "--model", "plain"], "takes no control maps; put a control network beside it"),
        (["clip.mkv", "--model", "model", "--map", "depht=canny"], "--map depht=canny: model takes control"),
        (["clip.mkv", "--model", "model", "--map", "cany"], "--map control: by: unknown control map 'cany'"),
        (["none.mkv", "--model", "model"], "none.mkv: no such file"),
        (["wide.mkv", "--model", "model", "--ready"], "maps of 16 x 32 (height x width) don't fit a video of 16 x 16"),
        (["clip.mkv", "--model", "model", "--frames", "9"], "has 5 frames at 6 fps, and 9 are asked for"),
        (["clip.mkv", "--model", "model", "--method", "both"], "method: Input should be 'auto', 'controlvideo'"),
        (["clip.mkv", "--model", "model", "--sampler", "heun", "-s", "methods.smoother={}"], "all say when frames"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path, words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.chdir(place)
    assert run("control", *words) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("kinolab: ") == 1
    assert not list(place.glob("*-control*"))


def test_a_video_model_takes_as_many_frames_as_it_makes(place: Path) -> None:
    from kinolab.denoisers import VideoLdmConfig

    torch.manual_seed(0)
    model = with_adapter(tiny_images("unet"))
    denoiser = build_denoiser(VideoLdmConfig(**DENOISERS["unet"].model_dump(exclude={"kind"}), num_frames=4))
    timed = VideoModel(model.config.model_copy(update={"frames": 4}), model.autoencoder, denoiser, parts=model.parts)
    notes: list[str] = []

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    config = request_of({"model": str(place / "model")})
    found = controlled(config, ControlledConfig(clip=place / "clip.mkv"), timed, Told())
    assert (found.frames, found.methods) == (4, {})
    assert notes == [f"{place / 'clip.mkv'}: the first 4 of 5 frames are taken, as this model makes 4 at once"]


def test_maps_of_another_size_are_resized_with_a_word(place: Path) -> None:
    notes: list[str] = []

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    config, model = request_of({"model": str(place / "model"), "size": (32, 32)}), with_adapter(tiny_images("unet"))
    controlled(config, ControlledConfig(clip=place / "clip.mkv", ready=True), model, Told())
    controlled(config, ControlledConfig(clip=place / "clip.mkv"), model, Told())
    said = "maps of 16 x 16 (height x width) are resized to the video's 32 x 32"
    assert notes == [f"{place / 'clip.mkv'}: {said}"], "of a clip maps are made at the video's size"
