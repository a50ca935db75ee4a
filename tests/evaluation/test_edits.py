"""The evaluation of edits, by models that make the asked edit, a wrong one, or none."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab.autoencoders import PixelConfig, build
from kinolab.autoencoders.odvae import OdVaeConfig
from kinolab.denoisers import UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.evaluation.edits import IDEAL, edit_world, evaluate_edits, judged, summary_lines, task_of
from kinolab.evaluation.toy_protocols import WAYS, EditsProtocol, EditWay
from kinolab.models import ModelConfig, Request, VideoModel
from kinolab.toyworld.clips import WorldConfig, edited_clip, make_clip
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from tests.cli.every import run
from tests.closeness import assert_same
from tests.engines.inside import Inside
from tests.evaluation.conftest import TinyConfig
from tests.evaluation.test_evaluate_world import Oracle
from tests.listening import Listening

pytestmark = pytest.mark.slow  # clips are drawn and read
WORLD = WorldConfig(max_objects=1)


def tasks(count: int) -> list[Any]:
    source = WorldSource(WorldSourceConfig(world=WORLD, heldout_count=count, split="heldout"))
    return [task_of(source, k) for k in range(count)]


class Editor(Oracle):
    """Knows the held-out clips, and answers each request with what `answer` makes of the clip's own edit."""

    answer = "asked"

    def sample_latents(self, requests: Sequence[Request], *, events: Any = None, methods: Any = (), **_: Any) -> Tensor:
        every = {task.number: task for task in tasks(8)}
        found = []
        for request, clean in zip(requests, methods[-1].clean, strict=True):
            task = every[request.seed]
            assert request.prompt == task.asked.caption
            frames = task.asked.frames if self.answer == "asked" else task.source.frames
            found.append(torch.from_numpy(frames.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1)
            assert clean.shape == found[-1].shape
            if self.answer == "late":
                found[-1] = torch.roll(found[-1], 1, 1)
        return torch.stack(found)


@pytest.fixture
def editor(tiny_config: TinyConfig) -> Editor:
    return Editor(tiny_config())


ONE = {"ways": {"only": EditWay()}, "count": 6}


def test_the_same_motion_by_other_looks() -> None:
    for seed in range(4):
        clip = make_clip(WORLD, seed)
        [(colour, shape)] = clip.request.objects
        assert_same(edited_clip(WORLD, seed, ((colour, shape),)).frames, clip.frames)
        other = edited_clip(WORLD, seed, (("blue" if colour != "blue" else "red", shape),))
        assert (other.frames != clip.frames).any()
        assert_same(other.state[0].position, clip.state[0].position)
        assert other.caption.replace(other.request.objects[0][0], colour) == clip.caption
    with pytest.raises(InputError, match="looks of 1 objects, got 2"):
        edited_clip(WORLD, 0, (("red", "ball"), ("blue", "ball")))


def test_a_clip_and_its_edit_are_the_same_whatever_the_count() -> None:
    few, many = tasks(3), tasks(6)
    assert [task.edit for task in many] == ["colour", "shape", "both"] * 2
    for one, other in zip(few, many, strict=False):
        assert (one.seed, one.asked.caption) == (other.seed, other.asked.caption)
    for task in many:
        [(colour, shape)], [(other, form)] = task.source.request.objects, task.asked.request.objects
        assert (colour != other, shape != form) == (task.edit != "shape", task.edit != "colour")


def test_the_asked_edit_passes_and_no_edit_keeps_the_motion_alone(editor: Editor) -> None:
    report = evaluate_edits(editor, ONE, batch=4)
    assert report.mean("only", "edited") == report.mean(IDEAL[0], "edited") == 1
    assert report.mean("only", "position_error") < 0.3
    assert evaluate_edits(editor, ONE, batch=4, engine=Inside()).results == report.results, "by workers"
    editor.answer = "unedited"
    still = evaluate_edits(editor, ONE, batch=4)
    assert still.mean("only", "edited") == still.mean(IDEAL[2], "edited") == 0
    assert still.mean("only", "position_error") < 0.3 and still.mean("only", "identity") == 1
    assert still.mean("only", "edited_shape", "colour") == 1, "its shape is as asked where the colour is"
    editor.answer = "late"
    late = evaluate_edits(editor, ONE, batch=4)
    assert late.mean("only", "position_error") > still.mean("only", "position_error") + 0.3


def test_what_does_not_show_counts_as_standing_where_it_began() -> None:
    [task] = tasks(1)
    grey = np.full_like(task.source.frames, 200)
    lost = judged("x", task, grey)
    assert (lost.edited, lost.found, lost.identity) == (False, 0.0, False)
    path = task.source.state[0].position
    assert lost.position_error == pytest.approx(float(np.linalg.norm(path - path[:1], axis=-1).mean()), rel=1e-9)


def test_the_report_is_whole_and_json(editor: Editor) -> None:
    told = Listening()
    report = evaluate_edits(editor, {"count": 3, "ways": {"a": EditWay(), "b": EditWay(way="noise")}}, events=told)
    record = json.loads(report.to_json())
    assert set(record["metrics"]) == {"edited", "edited_colour", "edited_shape", "identity", "position_error", "found"}
    assert {"b", "a, colour", "b, both", *IDEAL} <= set(record["groups"])
    assert len(record["clips"]) == 3 * (2 + len(IDEAL)) and record["facts"]["seconds_per_clip"].keys() == {"a", "b"}
    assert report.table().row_count == report.edits_table().row_count == 5
    assert any(line.startswith("edited: the asked object") for line in summary_lines(report))
    other = evaluate_edits(editor, {"count": 3, "ways": {"c": EditWay(strength=0.5)}})
    assert other.scores().protocol_hash == report.scores().protocol_hash, "ways are of the subject"
    fewer = evaluate_edits(editor, {"count": 2, "ways": {"a": EditWay()}})
    assert fewer.scores().protocol_hash != report.scores().protocol_hash


def test_a_model_is_fitted_to_each_clip_where_a_way_says_so(editor: Editor) -> None:
    fitted: list[str] = []

    def fit(clip: Tensor, caption: str) -> VideoModel:
        assert clip.shape == (3, 17, 64, 64)
        fitted.append(caption)
        return editor

    report = evaluate_edits(editor, {"count": 3, "ways": {"fitted": EditWay(fitted=True)}}, fit=fit)
    assert fitted == [task.source.caption for task in tasks(3)] and report.mean("fitted", "edited") == 1
    with pytest.raises(InputError, match="one is by a fitted model"):
        evaluate_edits(editor, {"count": 3, "ways": {"fitted": EditWay(fitted=True)}})


def test_a_random_model_goes_every_way(tiny_config: TinyConfig) -> None:
    config = tiny_config(num_classes=0)
    assert isinstance(config.autoencoder, OdVaeConfig) and config.denoiser is not None
    model = VideoModel(config, build(config.autoencoder), build_denoiser(config.denoiser))
    report = evaluate_edits(model, {"count": 2}, batch=2, sampling={"sampler": {"name": "ddpm", "steps": 2}})
    assert report.ways == [*WAYS, *IDEAL] and report.protocol["sampler"]["name"] == "ddim"
    assert "sampled by ddim: the steps of ddpm are not turned back" in report.notes
    world, notes = edit_world(model, EditsProtocol())
    assert world.frames == 17 and world.max_objects == 1
    model.config = config.model_copy(update={"frames": 1})
    world, notes = edit_world(model, EditsProtocol(frames=9))
    assert world.frames == 9 and "an image model" in notes[0]


def test_what_cant_be_is_refused(tiny_config: TinyConfig, editor: Editor) -> None:
    with pytest.raises(InputError, match="this model takes no prompts"):
        evaluate_edits(Editor(tiny_config(pooled_dim=0)), ONE)
    with pytest.raises(InputError, match="expected a batch of at least 1"):
        evaluate_edits(editor, ONE, batch=0)
    with pytest.raises(InputError, match="way 'swapped': expected one of inverted;"):
        EditsProtocol().only(["swapped"])
    assert list(EditsProtocol().only(["noised, 0.7"]).ways) == ["noised, 0.7"]


def test_an_image_model_is_tuned_on_each_clip_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step on a clip of two frames: the way has results of its own, and leaves nothing behind."""
    unet = UnetConfig(
        in_channels=3, input_size=32, block_out_channels=(4, 8), layers_per_block=1, attention_levels=(1,),
        num_heads=2, norm_groups=4, text_dim=384,
    )  # fmt: skip
    config = ModelConfig(
        autoencoder=PixelConfig(), denoiser=unet, diffusion=DiffusionConfig(schedule="flow", prediction="flow"),
        text_encoder="minilm", frames=1, size=(32, 32), sampler=SamplerConfig(name="euler", steps=2),
    )  # fmt: skip
    VideoModel(config, build(config.autoencoder), build_denoiser(unet)).save(tmp_path / "image")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "aside"))
    (tmp_path / "aside").mkdir()
    out = tmp_path / "x.json"
    line = ["evaluate", "edits", "--model", tmp_path / "image", "--count", 1, "-s", "frames=2", "--way", "inverted"]
    assert run(*line, "--fit", 1, "--out", out) == 0, capsys.readouterr().err
    record = json.loads(out.read_text())
    ways = {clip["way"] for clip in record["clips"]}
    assert ways == {"inverted", "fitted", *IDEAL} and record["facts"]["seconds_per_clip"]["fitted"] > 0
    assert {clip["shown"].split()[0] for clip in record["clips"]} <= {"a", "an"}, "the object, not what happens"
    assert not list((tmp_path / "aside").glob("tmp*")), "the run folders are gone"
