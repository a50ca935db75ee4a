"""The settled run: the command, the library and a rerun have one set of defaults."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import video
from kinolab.contracts.request import Request
from kinolab.contracts.sampling import cache_values, guidance_values, sampler_values
from kinolab.errors import InputError
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import read_provenance
from kinolab.generation.request import make_requests, request_of, settle
from kinolab.methods import GuidanceConfig
from kinolab.models import VideoModel
from kinolab.tasks import predict_mask
from tests.cli.every import run
from tests.tiny_model import save_tiny_model, tiny_model, tiny_vdt

pytestmark = pytest.mark.slow  # many short ones, which take long together

OWN = {"name": "ddim", "steps": 20, "spacing": "trailing", "eta": 0.5, "variance": "auto"}
GUIDANCE = {"scale": 3.0, "interval": (0.0, 1.0), "rescale": 0.7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, OWN),
        ({"steps": 5}, {**OWN, "steps": 5}),
        ({"name": "ddim", "eta": 0.0}, {**OWN, "eta": 0.0}),
        ("heun", {"name": "heun", "steps": 20, "spacing": "trailing"}),
        ({"name": "ddpm", "steps": 7}, {"name": "ddpm", "steps": 7, "spacing": "trailing"}),
    ],
)
def test_a_sampler_is_the_models_own_but_for_what_is_asked(asked: Any, expected: Mapping[str, Any]) -> None:
    assert sampler_values(OWN, asked) == expected


def test_guidance_is_off_where_there_is_nothing_to_guide_by_unless_asked() -> None:
    assert guidance_values(GUIDANCE, None, told=True) == GUIDANCE
    assert guidance_values(GUIDANCE, None, told=False) == {**GUIDANCE, "scale": 1.0}
    assert guidance_values(GUIDANCE, {"rescale": 0.0}, told=False) == {**GUIDANCE, "scale": 1.0, "rescale": 0.0}
    assert guidance_values(GUIDANCE, 5, told=False)["scale"] == 5
    frames = {**GUIDANCE, "scale": 1.0, "frames": (1.0, 3.0), "of": ("image",)}
    assert guidance_values(frames, None, told=False) == frames, "of an image, which no prompt says anything of"
    assert guidance_values(frames, 4, told=False) == {**frames, "scale": 4, "frames": (), "scales": ()}
    assert guidance_values(frames, {"frames": (2.0, 1.0)}, told=False)["frames"] == (2.0, 1.0)


def test_a_task_told_nothing_else_is_guided_towards_what_is_given_by_the_models_own_scale() -> None:
    settled = guidance_values(GUIDANCE, None, told=False, towards_given=2.0)
    assert settled == {**GUIDANCE, "scale": 1.0, "frames": (), "scales": {"given": 2.0}, "oscillate": None, "of": ()}
    assert GuidanceConfig.model_validate(settled).scales == (("given", 2.0),)
    assert guidance_values(GUIDANCE, None, told=True, towards_given=2.0) == GUIDANCE, "a prompt has its own"
    assert guidance_values(GUIDANCE, 1.0, told=False, towards_given=2.0)["scales"] == (), "asked for none"
    other = {"scales": {"given": 3.0}}
    assert guidance_values(GUIDANCE, other, told=False, towards_given=2.0)["scales"] == {"given": 3.0}
    within = guidance_values(GUIDANCE, {"interval": (0.2, 1.0)}, told=False, towards_given=2.0)
    assert within["interval"] == (0.2, 1.0) and within["scales"] == {"given": 2.0}


def test_a_cache_is_none_unless_asked_and_one_field_says_which() -> None:
    assert cache_values(None) is None and cache_values(0.2) == {"threshold": 0.2}
    assert cache_values({"every": 3}) == {"method": "interval", "every": 3}
    assert cache_values({"guidance_every": 2}) == {"threshold": 0.0, "guidance_every": 2}
    assert cache_values({"method": "residual", "guidance_every": 2}) == {"method": "residual", "guidance_every": 2}


CALLS: dict[str, dict[str, Any]] = {
    "'a red ball' --seed 3": {"prompt": "a red ball", "seed": 3},
    "'a red ball' --label throw --negative 'a box'": {"prompt": "a red ball", "label": "throw", "negative": "a box"},
    "": {},
    "--label 1 --sampler heun": {"label": 1, "sampler": "heun"},
    "--label 1 --steps 2 --guidance 3": {"label": 1, "sampler": {"steps": 2}, "guidance": 3.0},
    "--label 1 -s guidance.rescale=0.5 -s sampler=ddim -s sampler.eta=0.5": {
        "label": 1, "sampler": {"name": "ddim", "eta": 0.5}, "guidance": {"rescale": 0.5},
    },
    "--frames 9 --size 32x48 --guidance-interval 0.2,0.8 --label fall": {
        "frames": 9, "size": (32, 48), "label": "fall", "guidance": {"interval": (0.2, 0.8)},
    },
}  # fmt: skip
"""Options of `kinolab generate` -> the arguments of `VideoModel.generate` that ask for the same."""


@pytest.mark.parametrize("words", CALLS)
def test_a_call_of_the_library_makes_the_commands_frames(words: str, folder: Path, tmp_path: Path) -> None:
    import shlex

    given = [*shlex.split(words), "--model", folder, "--out", tmp_path / "made", "--precision", "float32"]
    with pytest.warns(UserWarning) if "frames" in CALLS[words] else nullcontext():
        assert run("generate", *given) == 0
        called = VideoModel.load(folder, precision="float32").generate(**CALLS[words])
    assert np.array_equal(video.read(tmp_path / "made").frames, video.to_uint8(called[0]))


def test_a_task_in_the_library_has_the_commands_defaults(tmp_path: Path) -> None:
    tiny_vdt().save(tmp_path / "model")
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    video.write(tmp_path / "clip", frames, fps=8)
    words = ["--given", 3, "--model", tmp_path / "model", "--out", tmp_path / "made", "-s", "precision=float32"]
    assert run("predict", tmp_path / "clip", *words) == 0
    model, mask = VideoModel.load(tmp_path / "model", precision="float32"), predict_mask(5, 32, 32, 3)
    made = model.complete(video.to_tensor(frames)[None], mask.expand(1, 1, -1, -1, -1))
    assert np.array_equal(video.read(tmp_path / "made").frames, video.to_uint8(made[0]))


def test_a_mapping_is_a_request_with_the_commands_defaults(folder: Path, tmp_path: Path) -> None:
    values = {"model": str(folder), "prompts": ["a ball"], "sampler": {"steps": 2}, "precision": "float32"}
    [path] = generate(values, tmp_path / "a.mkv")
    recorded = read_provenance(path)["request"]
    assert recorded["sampler"]["name"] == "euler" and recorded["sampler"]["steps"] == 2
    assert recorded["guidance"]["scale"] == 2.0
    assert run("generate", "a ball", "--model", folder, "--steps", 2, "--out", tmp_path / "b.mkv", "--precision",
               "float32") == 0  # fmt: skip
    assert read_provenance(tmp_path / "b.mkv")["request"] == recorded
    assert rerun(path, tmp_path / "c.mkv")[1] == []


def test_what_is_settled_stays_as_it_is(folder: Path) -> None:
    model = VideoModel.load(folder)
    once = settle(request_of({"model": str(folder), "label": "fall", "cache": {"every": 2}}), model)
    assert settle(once, model) == once and request_of(once.model_dump()) == once
    assert make_requests(once) == [Request(None, "fall", 5, (32, 32), 0, None, 8.0)]


def test_every_field_of_the_run_can_be_set(folder: Path) -> None:
    asked = {"model": str(folder)}
    settings = ["sampler.steps=4", "guidance.scale=4", "cache.end=0.5", "fps=12", "count=2", "compile=true", "label=1"]
    config = request_of(asked, settings)
    assert config.sampler is not None and config.guidance is not None and config.cache is not None
    assert (config.sampler.steps, config.guidance.scale, config.cache.end) == (4, 4.0, 0.5)
    assert (config.fps, config.count, config.compile, config.label) == (12.0, 2, True, 1)
    with pytest.raises(InputError, match=r"unknown key 'sampler\.stepz', did you mean 'steps'"):
        request_of(asked, ["sampler.stepz=4"])
    with pytest.raises(InputError, match="unknown key 'seeds', did you mean 'seed'"):
        request_of(asked, ["seeds=4"])


def test_the_library_names_a_wrong_setting() -> None:
    with pytest.raises(InputError, match="sampler: unknown key 'stepz', did you mean 'steps'"):
        tiny_model(text=False).generate(sampler={"stepz": 4})
