"""A cascade in one request: frames, rates and sizes by stage, going on after an interruption, stages from elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab import VideoModel, video
from kinolab.contracts.events import Silent
from kinolab.errors import InputError, Stopped
from kinolab.generation.generate import generate, rerun
from kinolab.generation.kept import KeptStages, stage_hashes, stage_shapes
from kinolab.generation.request import request_of
from kinolab.models import Request
from kinolab.models.assemble import cascade
from kinolab.models.cascade import given_part, stage_requests, untrained
from kinolab.runtime.weights import read_weights
from tests.closeness import assert_same
from tests.outside.commands import run
from tests.processes import kinolab
from tests.tiny_model import tiny_pixels


class Heard(Silent):
    """What was said, and a wish to stop after some steps."""

    def __init__(self, until: int = 10**9) -> None:
        self.until, self.steps, self.notes, self.files = until, list[tuple[int, int]](), list[str](), list[Path]()

    @property
    def stopping(self) -> bool:
        return len(self.steps) >= self.until

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, and the cascade of them: 3 frames of 8 px, 9 frames, 9 frames of 16 px."""
    room = tmp_path_factory.mktemp("cascade")
    tiny_pixels().save(room / "base")
    tiny_pixels(frames=9, fps=8, low={"factor": 1, "frames_factor": 4}).save(room / "tsr")
    tiny_pixels(size=16, frames=9, fps=8, low={"factor": 2}).save(room / "sr")
    whole = cascade(VideoModel.load(room / "base"), {"tsr": room / "tsr", "sr": room / "sr"})
    whole.save(room / "whole")
    return room


def asked(room: Path, **values: Any) -> dict[str, Any]:
    return {"model": str(room / "whole"), "label": 1, "precision": "float32", "guidance": 1.0, **values}


def test_each_stage_makes_its_share_of_the_frames(room: Path) -> None:
    model = VideoModel.load(room / "whole", precision="float32")
    told, heard = list[tuple[int, ...]](), Heard()
    for stage in model.cascade:
        stage.denoiser.register_forward_pre_hook(lambda _, args: told.append(tuple(args[0].shape)))
    made = model.generate(label=1, seed=3, guidance=1.0, events=heard, stages={"sr": {"sampler": {"steps": 1}}})
    assert made.shape == (1, 3, 9, 16, 16)
    assert told == [(1, 3, 3, 8, 8)] * 2 + [(1, 3, 9, 8, 8)] * 2 + [(1, 3, 9, 16, 16)]
    assert heard.notes == [
        "stage base (1 of 3): 3 frames of 8x8 at 2 fps, 2 steps",
        "stage tsr (2 of 3): 9 frames of 8x8 at 8 fps, 2 steps",
        "stage sr (3 of 3): 9 frames of 16x16 at 8 fps, 1 steps",
    ]
    assert heard.steps == [(n, 5) for n in range(1, 6)]
    (first,) = stage_requests(model.cascade, 0, [Request(fps=24.0, frames=9)])
    assert first.fps == 6.0 and first.frames == 3
    assert [stage_requests(model.cascade, number, [Request(frames=5)])[0].frames for number in range(2)] == [2, 5]


def test_a_video_that_no_stage_was_trained_on_is_said(room: Path) -> None:
    model = VideoModel.load(room / "whole", precision="float32")
    one = {"sr": {"sampler": {"steps": 1}}}
    base = "stage base was trained on 3 frames of 8x8, and makes "
    with pytest.warns(UserWarning) as heard:
        model.generate(label=1, guidance=1.0, stages=one, size=(8, 8))
    (said,) = [str(w.message) for w in heard if "was trained on" in str(w.message)]
    assert said == base + (
        "3 of 4x4; stage tsr was trained on 9 frames of 8x8, and makes 9 of 4x4; stage sr was trained on 9 frames of "
        "16x16, and makes 9 of 8x8: a video may do worse there; leave size out"
    )
    assert "; leave frames out" in (untrained(model.cascade, 5, (16, 16)) or "")
    assert (untrained(model.cascade, 5, (16, 16)) or "").startswith(base + "2 of 8x8; ")
    assert untrained(model.cascade, 9, (16, 16)) is untrained(model.cascade, None, None) is None


def test_what_is_given_is_told_the_first_stage_at_its_own_frames(room: Path) -> None:
    model = VideoModel.load(room / "whole", precision="float32")
    clip, mask = torch.rand(1, 3, 9, 16, 16), torch.ones(1, 1, 9, 16, 16)
    mask[:, :, :5] = 0
    part = given_part(model.cascade, clip, mask)
    assert part.video.shape == (1, 3, 3, 8, 8) and part.pixel_mask.flatten(2).amax(2)[0, 0].max() == 1
    assert part.pixel_mask[0, 0, :, 0, 0].tolist() == [0, 0, 1]  # frames 0, 4 and 8


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.slow
def test_a_cascade_that_was_killed_goes_on_behind_the_last_finished_stage(
    room: Path, tmp_path: Path, stage: int
) -> None:
    request = request_of(asked(room, count=2))
    whole = generate(request, tmp_path / "whole")
    model = VideoModel.load(room / "whole", precision="float32")

    def die(*_: Any) -> None:
        raise Killed

    hook = model.cascade[stage].denoiser.register_forward_pre_hook(die)
    with pytest.raises(Killed):
        generate(request, tmp_path / "cut", model=model)
    hook.remove()
    kept = sorted(path.name for path in (tmp_path / "cut.stages").iterdir())
    assert kept == ["base.safetensors", "tsr.safetensors"][:stage] and not (tmp_path / "cut-0").exists()
    ran = list[int]()
    for number, one in enumerate(model.cascade):
        one.denoiser.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    heard = Heard()
    files = generate(request, tmp_path / "cut", model=model, events=heard)
    assert min(ran) == stage and heard.notes[0].startswith(f"goes on behind stage {('base', 'tsr')[stage - 1]}")
    assert not (tmp_path / "cut.stages").exists()
    for made, unbroken in zip(files, whole, strict=True):
        assert (video.read(made).frames == video.read(unbroken).frames).all()


@pytest.mark.wide
def test_a_process_that_was_killed_left_what_the_same_command_goes_on_from(room: Path, tmp_path: Path) -> None:
    words = ["generate", "--model", str(room / "whole"), "--label", "1", "--guidance", "1", "--precision", "float32"]
    words += ["-s", "stages.sr.sampler.steps=60", "--out"]
    child, kept = kinolab([*words, str(tmp_path / "cut.webp")]), tmp_path / "cut.webp.stages" / "tsr.safetensors"
    for _ in range(6000):
        if kept.exists() or not child.running:
            break
        time.sleep(0.005)
    child.kill()
    assert kept.exists() and not (tmp_path / "cut.webp").exists()
    assert "goes on behind stage tsr" in run(*words, tmp_path / "cut.webp")
    run(*words, tmp_path / "whole.webp")
    assert (video.read(tmp_path / "cut.webp").frames == video.read(tmp_path / "whole.webp").frames).all()
    assert not kept.parent.exists()


def test_what_is_kept_is_of_the_same_request_up_to_its_stage(room: Path) -> None:
    model = VideoModel.load(room / "whole", precision="float32")

    def hashes(**values: Any) -> list[str]:
        request = request_of(asked(room, **values))
        return list(stage_hashes(request, stage_shapes(model.cascade, request), {}).values())

    base, tsr, sr = hashes()
    assert hashes(seed=1)[0] != base and hashes(sampler={"steps": 1})[0] != base
    other = hashes(stages={"tsr": {"sampler": {"steps": 7}}})
    assert other[0] == base and other[1] != tsr and other[2] != sr
    assert hashes(exchange={"sr": str(room / "sr")})[:2] == [base, tsr]
    assert hashes(exchange={"sr": str(room / "sr")})[2] != sr


def test_what_is_kept_has_the_shape_that_the_later_stages_want(room: Path, tmp_path: Path) -> None:
    """An exchanged stage that makes twice the frames instead of four times wants more of the one before it."""
    tiny_pixels(frames=5, fps=4, low={"factor": 1, "frames_factor": 2}).save(tmp_path / "tsr")
    found = list[KeptStages]()
    for other in (room / "tsr", tmp_path / "tsr"):
        request = request_of(asked(room, model=str(room / "base"), exchange={"tsr": str(other)}, frames=9))
        model = cascade(VideoModel.load(room / "base"), {"tsr": other})
        found.append(KeptStages(tmp_path / "clip.webp", request, model, {}, Silent()))
    four, two = found
    assert (four.shapes["base"], two.shapes["base"]) == ((3, 8, 8, 4), (5, 8, 8, 2))
    four.keep("base", torch.zeros(1, 3, 3, 8, 8))
    assert four.kept("base") is not None and two.kept("base") is None
    two.keep("base", torch.zeros(1, 3, 3, 8, 8))
    assert two.kept("base") is None  # whatever its hash says


def test_what_is_damaged_or_of_another_request_is_made_again(room: Path, tmp_path: Path) -> None:
    request, out = asked(room), tmp_path / "clip.webp"
    with pytest.raises(Stopped):
        generate(request, out, events=Heard(until=3))  # in the second stage
    kept = tmp_path / "clip.webp.stages" / "base.safetensors"
    before = kept.stat().st_mtime_ns
    heard = Heard(until=1)
    with pytest.raises(Stopped):
        generate(asked(room, seed=5), out, events=heard)
    assert heard.notes[0].startswith("stage base (1 of 3)") and kept.stat().st_mtime_ns == before
    kept.write_bytes(kept.read_bytes()[:-4])
    heard = Heard()
    generate(request, out, events=heard)
    assert heard.notes[0].startswith("stage base (1 of 3)") and not kept.parent.exists()


@pytest.mark.slow
def test_a_stage_is_exchanged_by_the_command_and_the_video_made_again(room: Path, tmp_path: Path) -> None:
    other = tiny_pixels(size=16, frames=9, fps=8, low={"factor": 2})
    with torch.no_grad():
        for parameter in other.denoiser.parameters():
            parameter.mul_(1.5)
    other.save(tmp_path / "other")
    words = ("--label", 1, "--guidance", 1, "--precision", "float32")
    run("generate", "--model", room / "whole", *words, "--out", tmp_path / "own.webp")
    said = run(
        "generate", "--model", room / "whole", "--stage", f"sr={tmp_path / 'other'}", *words,
        "-s", "stages.sr.sampler.steps=3", "--out", tmp_path / "clip.webp", "--events", tmp_path / "events",
    )  # fmt: skip
    assert "clip.webp" in said, said
    assert not (video.read(tmp_path / "own.webp").frames == video.read(tmp_path / "clip.webp").frames).all()
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [one["text"].split(":")[0] for one in told if one["kind"] == "note"] == [
        "stage base (1 of 3)", "stage tsr (2 of 3)", "stage sr (3 of 3)"
    ]  # fmt: skip
    record = json.loads((tmp_path / "clip.json").read_text())
    assert record["request"]["exchange"] == {"sr": str(tmp_path / "other")}
    assert record["request"]["stages"]["sr"]["sampler"]["steps"] == 3
    assert rerun(tmp_path / "clip.webp", tmp_path / "again.webp")[1] == []
    tiny_pixels(size=16, frames=9, fps=8, low={"factor": 2}).save(tmp_path / "other")
    with pytest.raises(InputError, match=r"the weights of .*other have changed since"):
        rerun(tmp_path / "clip.webp", tmp_path / "again.webp")


@pytest.mark.slow
def test_a_cascade_is_put_together_on_the_way(room: Path, tmp_path: Path) -> None:
    """Models of one stage behind a model of one stage are what packing them makes."""
    stages = {"tsr": str(room / "tsr"), "sr": str(room / "sr")}
    values = asked(room, model=str(room / "base"), exchange=stages)
    [made] = generate(values, tmp_path / "loose.webp")
    [packed] = generate(asked(room), tmp_path / "packed.webp")
    assert (video.read(made).frames == video.read(packed).frames).all()
    base = {"base": str(room / "base")}
    [other] = generate(asked(room, exchange=base), tmp_path / "other.webp")
    assert (video.read(other).frames == video.read(packed).frames).all()


@pytest.mark.slow
def test_a_stage_that_does_not_fit_is_refused_in_a_line(room: Path, tmp_path: Path) -> None:
    bad = {
        "small": tiny_pixels(size=4, frames=9, fps=8, low={"factor": 2}),
        "ratio": tiny_pixels(size=32, frames=9, fps=8, low={"factor": 2}),
        "wide": tiny_pixels(size=16, frames=9, fps=8, low={"factor": 2}),
        "frames": tiny_pixels(size=16, frames=5, fps=8, low={"factor": 2}),
    }
    bad["wide"].config = bad["wide"].config.model_copy(update={"size": (16, 32)})
    for name, model in bad.items():
        model.save(tmp_path / name)
    for folder, message in (
        (tmp_path / "small", "makes videos of 4x4, smaller than the 8x8 of the stage before"),
        (tmp_path / "ratio", "was trained to enlarge 16x16 to 32x32, and the stage before makes 8x8"),
        (tmp_path / "wide", "makes videos of 32x16, of another shape than the 8x8"),
        (tmp_path / "frames", "was trained to make 5 frames of 5, and the stage before makes 9"),
        (room / "base", "expected a model of one stage that takes low_resolution"),
        (tmp_path / "none", "no such model"),
    ):
        with pytest.raises(InputError, match=message):
            generate(asked(room, exchange={"sr": str(folder)}), tmp_path / "no.webp")
    with pytest.raises(InputError, match=r"stage st: the model has no stage of that name; expected one of base, tsr"):
        generate(asked(room, exchange={"st": str(room / "sr")}), tmp_path / "no.webp")
    assert not list(tmp_path.glob("no*"))


def test_kept_clips_are_kept_bit_for_bit(room: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        generate(asked(room), tmp_path / "clip.webp", events=Heard(until=3))
    kept = read_weights(tmp_path / "clip.webp.stages" / "base.safetensors").tensors["clips"]
    base: Tensor = VideoModel.load(room / "base", precision="float32").generate(label=1, guidance=1.0)
    assert_same(kept, base)
