"""Clips of any length made larger, or given frames between their own: what is made, and that nothing is seen of how."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.refine import main as measured
from benchmarks.refine import seams
from kinolab import VideoModel, video
from kinolab.conditioning.low_resolution import LowResolutionConfig
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.events import Silent
from kinolab.contracts.method import Denoised, Method
from kinolab.denoisers import LatteConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import SAMPLERS, SamplerConfig
from kinolab.errors import InputError, Stopped
from kinolab.generation.flow import Flow, Refinement
from kinolab.generation.generate import generate, rerun
from kinolab.generation.refine import RefineConfig, settled_refinement
from kinolab.generation.request import request_of
from kinolab.generation.sweep import Windows
from kinolab.methods import Guidance, GuidanceConfig, NoiseConfig, NoisePolicy
from kinolab.models import Request
from kinolab.models.assemble import cascade
from tests.closeness import NETWORK, assert_close, assert_same, assert_within
from tests.outside.commands import run
from tests.tiny_model import tiny_convolutions, tiny_model, tiny_pixels


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


def flow_of(
    model: VideoModel,
    clip: Path,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    level: float = 0.0,
    sampler: SamplerConfig | None = None,
    guidance: float = 1.0,
    label: int | None = 1,
    methods: list[Method] | Any = (),
    **fields: Any,
) -> Flow:
    """A clip on its way, with label 1 and seed 5."""
    config = RefineConfig.model_validate({"task": "upscale", "video": clip, **fields})
    settled = settled_refinement(config, model, {"size": size, "fps": None, "frames": frames})
    how = Refinement(
        model, settled["refine"], settled["size"], sampler or SamplerConfig(name="euler", steps=2),
        GuidanceConfig(scale=guidance), methods, frames,
    )  # fmt: skip
    how.check()
    return Flow(how, Request(label=label, seed=5, conditions={"noise_level": level}), Silent())


def read(path: Path) -> np.ndarray:
    return video.read(path).frames


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_cascade_refines_by_its_stage_that_can(room: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 9)
    assert "between.mkv" in run(
        "interpolate", clip, "--model", room / "whole", "--insert", 3, "--label", 1, "--guidance", 1,
        "--out", tmp_path / "between.mkv", "--precision", "float32",
    )  # fmt: skip
    made = video.read(tmp_path / "between.mkv")
    assert made.frames.shape == (33, 8, 8, 3) and made.fps == pytest.approx(16.0)
    record = json.loads((tmp_path / "between.json").read_text())["request"]["refine"]
    assert (record["window"], record["overlap"]) == (9, 5)  # every window begins with a frame of the clip
    [alone] = generate(asked(room, clip, "interpolate", "tsr"), tmp_path / "alone.mkv")
    assert (read(alone) == made.frames).all()
    [large] = generate(asked(room, clip, model="whole"), tmp_path / "large.mkv")
    [small] = generate(asked(room, clip), tmp_path / "same.mkv")
    assert (read(large) == read(small)).all() and rerun(large, tmp_path / "again.mkv")[1] == []


@pytest.mark.parametrize("hold", ["repeat", "blank"])
@pytest.mark.parametrize(("frames", "limit"), [(5, None), (6, 14)])
def test_what_is_told_as_a_stream_is_what_the_condition_tells(
    tmp_path: Path, hold: str, frames: int, limit: int | None
) -> None:
    """Of single frames' latents: bit for bit, but for the noise, which is drawn by the frame."""
    model = tiny_pixels(frames=9, low={"factor": 2, "frames_factor": 4, "hold": hold})
    clip = write_clip(tmp_path / "clip.mkv", frames)
    low = video.to_tensor(read(clip))
    flow = flow_of(model, clip, frames=limit)
    told = torch.cat(list(flow.told()), 2)
    count = limit or 17
    asked = Request(label=1, frames=count, size=(16, 16), conditions={"low_resolution": low, "noise_level": 0.0})
    assert told.shape[2] == flow.count == count
    assert_same(told, model.conditions([asked])["low_resolution"].value)
    noisy = torch.cat(list(flow_of(model, clip, frames=limit, level=0.5).told()), 2)
    assert not torch.equal(noisy, told)
    if hold == "repeat":  # what is held is held with its noise, or its mean would be without
        assert_same(noisy[:, :, 1], noisy[:, :, 0])


@pytest.mark.slow
def test_latents_of_several_frames_are_those_of_the_held_clip(tmp_path: Path) -> None:
    model = tiny_model(text=False)
    assert isinstance(model.config.denoiser, LatteConfig)
    denoiser = model.config.denoiser.model_copy(
        update={"fields": {"low_resolution": 4}, "vectors": {"noise_level": 0}, "num_frames": 3}
    )
    settings = {"low_resolution": LowResolutionConfig(factor=2, frames_factor=2)}
    config = model.config.model_copy(update={"denoiser": denoiser, "conditions": settings, "frames": 9})
    made = VideoModel(config, model.autoencoder, build_denoiser(denoiser))
    made.precision = "float32"
    clip = write_clip(tmp_path / "clip.mkv", 7, 16, 16)
    flow = flow_of(made, clip, size=(32, 32))
    told = torch.cat(list(flow.told()), 2)  # 7 frames are held as 13, which are 4 latents
    low = video.to_tensor(read(clip))
    asked = Request(label=1, frames=13, size=(32, 32), conditions={"low_resolution": low, "noise_level": 0.0})
    assert_close(told, made.conditions([asked])["low_resolution"].value, NETWORK)
    frames = list(flow_of(made, write_clip(tmp_path / "odd.mkv", 8, 16, 16), size=(32, 32)).frames())
    assert len(frames) == 15 and frames[0].shape == (3, 1, 32, 32)  # of 17 that the autoencoder's rule wants


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "stochastic", "consistency"])
def test_a_samplers_steps_one_by_one_are_its_run(tmp_path: Path, name: str) -> None:
    """Noise is taken for zero, as it is drawn by the frame."""
    how = SamplerConfig(name=name, steps=4)
    told = pytest.warns(UserWarning, match="few-step") if name == "consistency" else nullcontext()
    with told:
        flow = flow_of(tiny_convolutions(low={"factor": 2}), write_clip(tmp_path / "c.mkv", 2), sampler=how, label=None)
    zeros = torch.zeros(1, 3, 1, 16, 16)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "randn", lambda *_, **__: zeros)

        def estimate(z: Tensor, t: float) -> Denoised:
            return Denoised(torch.tanh(z + 0.001 * t))

        z, path = torch.rand(1, 3, 1, 16, 16), flow.model.diffusion.path
        whole = SAMPLERS.get(name).sample(estimate, z, flow.times, path=path, config=how)
        for number in range(4):
            z = flow.step(number, z, estimate(z, float(flow.times[number])), 0)
    assert_close(z, whole)


@pytest.mark.parametrize("sampler", [{"name": "euler"}, {"name": "ddim"}])
def test_one_window_is_one_run_of_sampling(tmp_path: Path, sampler: dict[str, Any]) -> None:
    model = tiny_pixels(size=16, frames=9, low={"factor": 2})
    clip = write_clip(tmp_path / "clip.mkv", 9)
    how = SamplerConfig.model_validate({"steps": 3, **sampler})
    flow = flow_of(model, clip, sampler=how, guidance=2.0)
    made = torch.cat(list(flow.frames()), 1)
    told = flow_of(model, clip)
    field = Value("field", torch.cat(list(told.told()), 2))
    conditions = told.conditions.told(Conditions.of({"low_resolution": field}))
    noise = torch.cat([told.noise(n) for n in range(9)], 2)
    whole = model.diffusion.sample(
        model.network, noise, conditions, sampler=how, methods=[Guidance(GuidanceConfig(scale=2.0))]
    )
    assert_close(made, whole[0].clamp(-1, 1), NETWORK)


@pytest.mark.parametrize("kind", ["independent", "same", "mixed", "progressive"])
def test_noise_is_a_function_of_the_frame_and_of_unit_variance(tmp_path: Path, kind: str) -> None:
    model = tiny_pixels(size=64, frames=9, low={"factor": 2})
    clip = write_clip(tmp_path / "clip.mkv", 3, 32, 32)
    flow = flow_of(model, clip, size=(64, 64), methods=[NoisePolicy(NoiseConfig.model_validate({"kind": kind}))])
    first = torch.cat([flow.noise(n) for n in range(6)], 2)
    again = flow_of(model, clip, size=(64, 64), methods=flow.how.methods)
    assert_same(torch.cat([again.noise(n) for n in range(4)], 2), first[:, :, :4])
    rows = first[0].movedim(1, 0).flatten(1)
    found = rows @ rows.T / rows.shape[1]
    shared = {"independent": 0.0, "same": 1.0, "mixed": 0.5, "progressive": 0.5**0.5}[kind]
    assert_within(found.diagonal(), torch.ones(6), 0.06, "of unit variance, by 12,288 draws")
    beside = found.diagonal(offset=1)
    assert_within(beside, torch.full((5,), shared), 0.06, "correlation of neighbours, by 12,288 draws")


@pytest.mark.slow
def test_there_is_no_seam_between_windows_and_tiles(tmp_path: Path) -> None:
    """A clip in which nothing changes, without noise: all that changes is made by where windows and tiles lie."""
    model = tiny_convolutions(low={"factor": 2})
    video.write(tmp_path / "still.mkv", np.full((14, 20, 8, 3), 90, np.uint8), fps=4, lossless=True)
    found = {}
    for overlap, shared in ((0, 0), (2, 8)):
        flow = flow_of(model, tmp_path / "still.mkv", overlap=overlap, sampler=SamplerConfig(steps=2), label=None)
        flow.tiles = (Windows(16, shared), Windows(16, shared))
        flow.noise = lambda number: torch.zeros(1, 3, 1, 40, 16)  # type: ignore[method-assign]
        made = torch.cat(list(flow.frames()), 1)
        found[overlap] = seams(made, flow.windows, (flow.tiles[0], Windows(16)))
    assert set(found[0]) == {"time", "rows"}
    assert min(found[0].values()) > 1.25, "without an overlap it is seen where windows and tiles end"
    assert max(found[2].values()) < 1.1


@pytest.mark.slow
def test_what_can_not_be_refined_is_said_in_a_line(room: Path, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mkv", 3), tmp_path / "no.mkv"
    for values, message in (
        (asked(room, clip, model="base"), "is no model that makes clips larger"),
        (asked(room, clip, model="tsr"), r"is no model that makes clips larger .*one for kinolab interpolate"),
        (asked(room, clip, "interpolate"), r"frames between those of a clip .*one for kinolab upscale"),
        (asked(room, clip, model="whole", stage="tsr"), "no stage of .* of that name makes clips larger; expected sr"),
        (asked(room, clip, stage="sr"), "is a model of one stage; leave it out"),
        (asked(room, clip) | {"size": (4, 4)}, "is 8x8, larger than the 4x4 that is asked for"),
        (asked(room, clip) | {"sampler": "dpmpp_2m"}, "as a stream, which dpmpp_2m can't: use ddpm, ddim, euler"),
        (asked(room, clip) | {"cache": 0.1}, "window by window: leave cache out"),
        (asked(room, clip) | {"conditions": {"low_resolution": str(clip)}}, "leave .*clip.mkv out"),
        (asked(room, clip) | {"methods": {"langevin": {}}}, "Langevin is of whole clips"),
        (asked(room, clip, overlap=9), "refine.overlap 9: expected less than the window of 9"),
        (asked(room, clip, "interpolate", "tsr", overlap=4), "begin 5 frames apart; expected a multiple of 4"),
        (asked(room, clip, tile=2), "refine.tile 2: expected a multiple of 1 from 4 on"),
        (asked(room, tmp_path / "none.mkv"), "no such file"),
        (asked(room, clip, start=9.0), "no frame|no frames|start"),
        ({"refine": {"task": "upscale", "video": str(clip)}}, "no super-resolution model ships"),
    ):
        with pytest.raises(InputError, match=message):
            generate(request_of(values), out)
    for words, message in (
        (["--insert", 2], "--insert 2: this model makes 3 new frames between each two"),
        (["--every", 2, "--keep", "exact"], "refines whole clips, frame after frame; leave --keep, --every out"),
    ):
        assert message in run("interpolate", clip, "--model", room / "tsr", *words)
    assert "is no model that makes frames between" in run("interpolate", clip, "--model", room / "sr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv"]


@pytest.mark.slow
def test_what_is_asked_of_size_and_frames_is_made(room: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 12, 8, 12)
    [path] = generate(asked(room, clip, side=20, start=0.5) | {"frames": 9, "fps": 30.0}, tmp_path / "a.mkv")
    made = video.read(path)
    assert made.frames.shape == (9, 20, 30, 3) and made.fps == pytest.approx(30.0)
    [path] = generate(asked(room, clip, "interpolate", "tsr") | {"frames": 10}, tmp_path / "b.mkv")
    assert read(path).shape == (10, 8, 12, 3)


class Ending(Silent):
    """Asks to stop when some frames are there."""

    def __init__(self, frames: int) -> None:
        self.frames, self.done = frames, 0

    @property
    def stopping(self) -> bool:
        return self.done >= self.frames

    def progress(self, done: int, total: int) -> None:
        self.done = done


@pytest.mark.slow
def test_what_is_stopped_keeps_the_frames_so_far(room: Path, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mkv", 60), tmp_path / "large.mkv"
    [whole] = generate(asked(room, clip), out)
    before = read(whole)
    with pytest.raises(Stopped, match=r"the first (\d+) frames are in .*large-partial\.mkv"):
        generate(asked(room, clip), out, events=Ending(12))
    made = read(tmp_path / "large-partial.mkv")
    assert 12 <= len(made) < 60 and (made == before[: len(made)]).all()
    assert (read(out) == before).all() and not (tmp_path / "large-partial.json").exists()
    with pytest.raises(Stopped):
        generate(asked(room, clip), tmp_path / "none.mkv", events=Ending(0))
    assert not list(tmp_path.glob("none*"))


@pytest.mark.slow
def test_a_folder_that_is_stopped_leaves_what_was_there(room: Path, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mkv", 30), tmp_path / "large"
    [whole] = generate(asked(room, clip), out)
    before, record = read(whole), (tmp_path / "large.json").read_text()
    with pytest.raises(Stopped, match=r"the first (\d+) frames are in .*large-partial$"):
        generate(asked(room, clip), out, events=Ending(12))
    made = read(tmp_path / "large-partial")
    assert 12 <= len(made) < 30 and (made == before[: len(made)]).all()
    assert (read(out) == before).all() and (tmp_path / "large.json").read_text() == record
    with pytest.raises(Stopped):
        generate(asked(room, clip), out, events=Ending(0))
    assert (tmp_path / "large.json").read_text() == record
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mkv", "large", "large-partial", "large.json"]


def test_the_clip_is_not_written_over_by_what_is_kept_of_it(room: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "large-partial.mkv", 9)
    with pytest.raises(InputError, match=r"large-partial\.mkv: is one of the files that the request reads"):
        generate(asked(room, clip), tmp_path / "large.mkv")


@pytest.mark.wide
@pytest.mark.timeout(900)  # two processes that refine clips, on a busy machine
def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    tiny_convolutions(size=32, low={"factor": 2}).save(tmp_path / "sr")
    clip, said = write_clip(tmp_path / "clip.mkv", 12, 96, 128), list[str]()
    words = ["--steps", "2", "--tile", "0", "--shares", "--lengths", "30", "120"]
    measured([str(tmp_path / "sr"), str(clip), *words], said.append)
    short, long = (int(row.split("|")[2]) for row in said[-2:])
    one = 192 * 256 * 3 * 4 * 90 / 1e6  # megabytes of the 90 made frames that the longer clip has more
    assert long - short < 0.5 * one, said
