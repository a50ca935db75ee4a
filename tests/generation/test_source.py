"""Edits of a clip: its noise, its way back, files with provenance, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.contracts.events import Silent
from kinolab.contracts.method import Run
from kinolab.errors import InputError, Stopped
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import provenance_path, read_provenance
from kinolab.generation.request import GenerateConfig, request_of
from kinolab.generation.returned import returned
from kinolab.generation.source import begun_with, inversion_of
from kinolab.methods import FrameReach, FrameReachConfig, GuidanceConfig, InversionConfig
from kinolab.models import Request, VideoModel
from tests.closeness import assert_close, difference
from tests.tiny_images import DENOISERS, tiny_images
from tests.tiny_model import save_tiny_model, tiny_cascade, tiny_model

KINDS = list(DENOISERS)
pytestmark = [
    pytest.mark.slow,  # many short ones, which take long together
    pytest.mark.filterwarnings("ignore:trained on . latent frames:UserWarning"),  # image models on clips
]


@pytest.fixture(scope="module")
def models() -> dict[str, VideoModel]:
    return {kind: tiny_images(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 6 frames of 24 x 20 pixels, one of 40, and image and video models."""
    root = tmp_path_factory.mktemp("place")
    ramp = np.linspace(0, 200, 24, dtype=np.uint8)[None, :, None] * np.ones((20, 1, 3), np.uint8)
    frames = np.stack([np.roll(ramp, 3 * k, 1) for k in range(40)])
    video.write(root / "clip.mkv", frames[:6], fps=8, lossless=True)
    video.write(root / "long.mkv", frames, fps=8, lossless=True)
    for kind in KINDS:
        tiny_images(kind).save(root / kind)
    save_tiny_model(root / "told")
    save_tiny_model(root / "labels", text=False)
    return root


def asked(place: Path, model: str, *overrides: str, **values: Any) -> GenerateConfig:
    source = {"video": place / "clip.mkv"} | values.pop("source", {})
    return request_of({"model": str(place / model), "precision": "float32", "source": source, **values}, overrides)


@pytest.mark.parametrize("reach", [None, "first_previous", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.wide
def test_an_image_model_leads_a_clip_back_to_itself(models: dict[str, VideoModel], kind: str, reach: Any) -> None:
    """Two classes at a time, inverted by the frames that are read on the way back too."""
    model, clip = models[kind], torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    requests = [Request(label=label, frames=3, size=(16, 16)) for label in ("a", "d")]
    methods = [] if reach is None else [FrameReach(FrameReachConfig(frames=reach))]
    errors = []
    for refine in (0, 30):
        method = inversion_of(InversionConfig(refine=refine), model, clip, requests)
        made = model.sample_latents(requests, guidance=GuidanceConfig(), methods=[*methods, method])
        errors.append(difference(made, clip))
    assert errors[1] < min(1e-3, errors[0] / 10), errors


def test_other_frames_read_on_the_way_there_are_other_noise(models: dict[str, VideoModel]) -> None:
    """The reach of a run is that of its inversion too."""
    model, clip = models["unet"], torch.rand(1, 3, 3, 16, 16) * 2 - 1
    request = Request(label="a", frames=3, size=(16, 16))
    method = inversion_of(InversionConfig(), model, clip, [request])
    made = []
    for methods in ([], [FrameReach(FrameReachConfig(frames="first"))]):
        times = model.diffusion.times(model.config.sampler)
        run = Run(model.network, None, (1, 3, 3, 16, 16), 4, model.diffusion.path, [method, *methods], times=times)
        made.append(method.started(torch.zeros(run.shape), run))
    assert_close(made[1][:, :, 0], made[0][:, :, 0], within=1e-4)
    assert difference(made[1][:, :, 1:], made[0][:, :, 1:]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_recorded_and_made_again(place: Path, tmp_path: Path, kind: str) -> None:
    config = asked(place, kind, label="b", reach="first_previous", source={"label": "a", "refine": 1})
    [path] = generate(config, tmp_path / "x.mkv")
    info, record = video.probe(path), read_provenance(path)
    assert (info.frames, info.width, info.height, info.fps) == (6, 16, 16, 8), "the clip's own frames and rate"
    assert record["request"]["source"] | {"video": ""} == {
        "video": "", "start": 0.0, "resize": "crop", "prompt": None, "label": "a", "way": "invert", "strength": 1.0,
        "refine": 1,
    }  # fmt: skip
    assert record["inputs_sha256"] and record["request"]["frames"] == 6
    again, changed = rerun(path, tmp_path / "again.mkv")
    assert changed == [] and (video.read(again).frames == video.read(path).frames).all()


def test_a_changed_clip_is_noticed(place: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    clip.write_bytes((place / "clip.mkv").read_bytes())
    [path] = generate(asked(place, "unet", label="b", source={"video": clip}), tmp_path / "x.mkv")
    video.write(clip, np.zeros((6, 20, 24, 3), np.uint8), fps=8, lossless=True)
    with pytest.raises(InputError, match="has changed since"):
        rerun(path, tmp_path / "again.mkv")


@pytest.mark.wide
def test_less_strength_keeps_more_of_the_clip(place: Path, tmp_path: Path) -> None:
    original = video.read(place / "clip.mkv", size=(16, 16)).frames.astype(float)
    for way in ("invert", "noise"):
        far = []
        for strength in (0.2, 0.6, 1.0):
            config = asked(
                place, "unet", label="b", guidance=4.0, sampler={"steps": 10}, source={"way": way, "strength": strength}
            )
            [path] = generate(config, tmp_path / f"{way}-{strength}.mkv")
            far.append(np.abs(video.read(path).frames - original).mean())
        assert far == sorted(far) and far[0] < far[-1] / 2, (way, far)


def test_several_edits_of_one_clip_differ_by_their_words_alone(place: Path, tmp_path: Path) -> None:
    config = asked(place, "told", prompts=["a red ball", "a blue box"], source={"prompt": "a red ball"}, frames=5)
    files = generate(config, tmp_path / "x.mkv")
    first, second = (video.read(path).frames for path in files)
    assert first.shape == (5, 32, 32, 3) and (first != second).any()
    again, _ = generate(config.model_copy(update={"prompts": ("a red ball", "a red ball")}), tmp_path / "y.mkv")
    same = [video.read(tmp_path / name).frames for name in ("y-0.mkv", "y-1.mkv")]
    assert again.name == "y-0.mkv" and (same[0] == same[1]).all(), "an inverted clip has no noise of its own seed"


class Told(Silent):
    """Remembers progress and notes; stops after so many pieces."""

    def __init__(self, most: int = 10**9) -> None:
        self.seen: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self.most = most

    @property
    def stopping(self) -> bool:
        return len(self.seen) >= self.most

    def progress(self, done: int, total: int) -> None:
        self.seen.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_there_and_back_are_told_and_either_can_be_stopped(place: Path, tmp_path: Path) -> None:
    told = Told()
    generate(asked(place, "dit", label="b"), tmp_path / "x.mkv", events=told)
    assert told.seen == [(k, 8) for k in range(1, 9)], "4 steps of inversion and 4 of sampling"
    assert told.notes == ["clip.mkv: 24 x 20 pixels, cropped to 16 x 16"]
    for most in (2, 6):
        with pytest.raises(Stopped):
            generate(asked(place, "dit", label="b"), tmp_path / "no.mkv", events=Told(most))
    assert not (tmp_path / "no.mkv").exists()


def test_a_sampler_that_cant_be_turned_back_gives_way_to_one_that_can(place: Path) -> None:
    own = asked(place, "unet", label="b", sampler={"steps": 7}).sampler
    assert own is not None and own.name == "euler", "the model's own"
    other = tiny_images("unet")
    other.config = other.config.model_copy(
        update={"sampler": other.config.sampler.model_copy(update={"name": "dpmpp_2m"})}
    )
    other.save(place / "other")
    settled = asked(place, "other", label="b", sampler={"steps": 7}).sampler
    assert settled is not None and (settled.name, settled.steps) == ("ddim", 7)
    noised = asked(place, "other", label="b", source={"way": "noise", "strength": 0.5}).sampler
    assert noised is not None and noised.name == "dpmpp_2m", "noise is added whatever samples it"


def test_what_comes_back_is_measured_and_better_by_steps_and_iterations(place: Path) -> None:
    config = asked(place, "dit", label="b", source={"label": "a"})
    few, many = returned(config, [4, 16])
    [refined] = returned(asked(place, "dit", label="b", source={"label": "a", "refine": 8}), [4])
    assert (few.steps, many.steps) == (4, 16)
    assert few.error > 2 * many.error and few.error > 10 * refined.error
    assert few.psnr < many.psnr - 6 and few.psnr < refined.psnr


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        ("unet", {"source": {"video": "long.mkv"}}, r"long\.mkv: has more than 32 frames .* --frames 32"),
        ("labels", {"label": 1}, r"clip\.mkv: has more than 5 frames at 8 fps from 0 s on, and this model makes 5"),
        ("unet", {"frames": 7}, r"clip\.mkv: has 6 frames at 8 fps, and 7 are asked for"),
        ("unet", {"prompts": ["a red ball"]}, "this model takes no prompt|takes no text|prompt"),
        ("unet", {"source": {"prompt": "a ball"}, "label": 1}, "prompt"),
        ("unet", {"sampler": {"name": "ddpm"}}, "ddpm draws noise in its steps"),
        ("unet", {"sampler": {"name": "ddim", "eta": 1.0}}, "ddim draws noise in its steps"),
        ("unet", {"source": {"way": "noise", "refine": 2}}, "refine is for way invert"),
        ("unet", {"source": {"strength": 0}}, "strength"),
        ("unet", {"methods": {"noise": {"kind": "same"}}}, "takes the place of that of NoisePolicy"),
        ("labels", {"label": 1, "size": (30, 30), "frames": 5}, "size|multiple|30"),
        ("labels", {"given": {"task": "extend", "video": "clip.mkv"}}, "source and given"),
        ("unet", {"source": {"start": 9.0}}, "clip.mkv"),
    ],
)
def test_what_cant_be_is_one_line_and_writes_nothing(
    place: Path, tmp_path: Path, model: str, values: dict[str, Any], message: str
) -> None:
    values = dict(values)
    source = dict(values.pop("source", {}))
    if "video" in source:
        source["video"] = place / source["video"]
    if "given" in values:
        values["given"] = values["given"] | {"video": place / "clip.mkv"}
    with pytest.raises(InputError, match=message) as stop:
        generate(asked(place, model, source=source, **values), tmp_path / "x.mkv")
    assert "\n" not in str(stop.value) and list(tmp_path.iterdir()) == [], stop.value


def test_a_cascade_is_refused(place: Path, tmp_path: Path) -> None:
    tiny_cascade(tiny_model(text=False)).save(tmp_path / "cascade")
    with pytest.raises(InputError, match="edit with a model of one stage"):
        generate(asked(tmp_path, "cascade", label=1, source={"video": place / "clip.mkv"}), tmp_path / "x.mkv")


def test_a_clip_that_is_a_little_too_short_is_cut_to_what_the_autoencoder_takes(place: Path, tmp_path: Path) -> None:
    """4 frames at 1 + 4k: one is edited, and the note says so."""
    video.write(tmp_path / "short.mkv", video.read(place / "clip.mkv").frames[:4], fps=8, lossless=True)
    told = Told()
    config = asked(place, "labels", label=1, source={"video": tmp_path / "short.mkv"})
    [path] = generate(config, tmp_path / "x.mkv", events=told)
    assert video.probe(path).frames == 1
    assert any("the first 1 frames at 8 fps are edited" in note for note in told.notes)
    assert json.loads(provenance_path(path).read_text())["request"]["frames"] == 1


def test_the_method_is_of_the_requests_clip(place: Path, models: dict[str, VideoModel]) -> None:
    config = asked(place, "unet", label="b")
    assert config.source is not None
    method = begun_with(config.source, models["unet"], [Request(label="b", frames=6, size=(16, 16), fps=8.0)])
    clip = video.read(place / "clip.mkv", size=(16, 16)).frames
    assert_close(method.clean[0], video.to_tensor(clip))
