"""The demo leaves a page, a picture, and videos that can be made again."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinolab import video
from kinolab.autoencoders import build
from kinolab.cli.demo import called
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.vdt import VdtConfig
from kinolab.errors import InputError
from kinolab.generation.generate import rerun
from kinolab.generation.provenance import read_provenance
from kinolab.models import VideoModel
from kinolab.reports.demo import FIRST_CLIP, GIVEN, GREEN, PROMPTS, run_demo
from kinolab.reports.sheet import FRAME, Strip, write_sheet
from kinolab.tasks import TasksConfig
from kinolab.toyworld.clips import CLASSES, WorldConfig, make_clip, parse_caption
from tests.evaluation.conftest import TinyConfig
from tests.listening import Listening


def test_the_prompts_show_every_scenario_and_one_to_three_objects() -> None:
    requests = [parse_caption(prompt) for prompt in PROMPTS]
    assert {r.scenario for r in requests} == set(CLASSES)
    assert {len(r.objects) for r in requests} == {1, 2, 3}


@pytest.mark.slow
def test_the_demo_of_a_random_model(tiny_model: Path, tmp_path: Path) -> None:
    heard = Listening()
    out = tmp_path / "demo"
    result = run_demo(out, str(tiny_model), prompts=PROMPTS[:1], seed=7, clips=1, events=heard)
    assert len(heard.notes) == 2 and heard.notes[0].startswith("1/1") and PROMPTS[0] in heard.notes[0]
    assert heard.told == [(1, 2), (2, 2)]
    first = result.videos[0]
    assert read_provenance(first.path)["prompt"] == PROMPTS[0] and first.seed == 7
    assert video.read(first.path).frames.shape == (17, 64, 64, 3)
    assert video.probe(out / "view" / first.path.name).height == 256
    assert not all(first.checks.values()), "noise shows no red ball"
    words = shlex.split(first.command)
    assert words[:3] == ["kinolab", "generate", PROMPTS[0]] and words[-1] == str(first.path)
    _, differences = rerun(first.path, tmp_path / "again.mp4")
    assert not differences
    rebuilt = result.reconstructions[0]
    truth = make_clip(WorldConfig(), FIRST_CLIP)
    np.testing.assert_array_equal(video.read(rebuilt.source).frames, truth.frames)
    assert rebuilt.caption == truth.caption and video.probe(rebuilt.path).width == 3 * 256
    text = result.page.read_text()
    assert PROMPTS[0] in text and f"{rebuilt.report.psnr.value:.2f} dB" in text and "0 of 1" in text
    assert {p.name for p in out.iterdir()} == {"index.html", "demo.png", "videos", "view", "clips"}


@pytest.mark.slow
def test_a_model_that_was_trained_to_predict_predicts_too(tiny_config: TinyConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    takes = VdtConfig(
        hidden_size=32, depth=2, num_heads=2, input_size=8, num_frames=5, pooled_dim=384, num_classes=6,
        given="channels", mask_channels=4,
    )  # fmt: skip
    config = tiny_config().model_copy(update={"denoiser": takes, "tasks": TasksConfig(predict=1)})
    VideoModel(config, build(config.autoencoder), build_denoiser(takes)).save(tmp_path / "model")
    out, heard = tmp_path / "demo", Listening()
    result = run_demo(out, str(tmp_path / "model"), prompts=(), seed=7, steps=2, clips=1, events=heard)
    (ahead,) = result.predictions
    truth, made = video.read(ahead.source).frames, video.read(ahead.path).frames
    assert truth.shape == made.shape == (17, 64, 64, 3) and ahead.caption in heard.notes[0]
    (state,) = ahead.matched.distance.shape[1:]
    assert state == 17 - GIVEN and not ahead.matched.kept.all(), "noise goes on as nothing does"
    side = video.read(ahead.view).frames
    assert side.shape[2] == 2 * side.shape[1]
    edge = np.abs(side[:, 0, side.shape[2] // 4].astype(int) - GREEN).sum(-1)
    assert (edge[:GIVEN] < 60).all() and (edge[GIVEN:] > 60).all(), "given frames have green edges"
    assert heard.told == [(1, 2), (2, 2)] and "predicted from 8 frames" in result.page.read_text()
    assert shlex.split(ahead.command)[:3] == ["kinolab", "predict", str(ahead.source)]
    _, differences = rerun(ahead.path, tmp_path / "again.mkv")
    assert not differences


@pytest.mark.parametrize(
    ("called_as", "again"),
    [("ROOM/kinolab", "ROOM/kinolab"), (".venv/bin/kinolab", ".venv/bin/kinolab"), ("/on/path/kinolab", "kinolab"),
     ("kinolab/__main__.py", "kinolab")],
)  # fmt: skip
def test_its_last_line_says_how_to_call_the_studio(
    called_as: str, again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/on/path:/bin")
    monkeypatch.setattr("sys.argv", [called_as.replace("ROOM", str(tmp_path)), "demo"])
    assert called() == again.replace("ROOM", str(tmp_path))


def test_a_model_without_prompts_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside the toy world"):
        run_demo(tmp_path, str(tiny_model), prompts=["a dog runs"])


def test_a_contact_sheet_shows_the_frames_in_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((8, 8, 3), 10 * t, np.uint8) for t in range(9)])
    strip = Strip("a caption far too long for the little room " * 3, frames, {"count": True, "shapes": False})
    write_sheet([strip] * 3, tmp_path / "sheet.png", shown=3)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    flat = [int(v) for v in range(0, 90, 10) if (sheet == v).all(-1).sum() >= 3 * FRAME * FRAME]
    assert flat == [0, 40, 80], "the first, the middle and the last frame of each of the three strips"
    columns = [int(np.argmax((sheet == v).all(-1).any(0))) for v in flat]
    assert columns == sorted(columns)
