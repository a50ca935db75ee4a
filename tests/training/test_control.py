"""A control network trained beside an image model that stays as it is, asked for, measured and taken to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kinolab import VideoModel, video
from kinolab.evaluation.control import SUBJECTS, ControlReport, assigned, evaluate_control, followed
from kinolab.models import Request
from kinolab.models.controlnet import ControlNetPart
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.toyworld.reader import Spot
from kinolab.training.run import train
from tests.closeness import assert_same
from tests.engines.inside import Sent
from tests.outside.commands import run
from tests.training.tiny import autoencoder_recipe, denoiser_recipe

pytestmark = pytest.mark.slow  # one training that all share


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    for name, recipe in recipes(folder).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        train(folder / f"{name}.yaml", folder / name)
    return folder


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """An image autoencoder of ratio 2, an image U-Net on it, and a control network beside that."""
    image = denoiser_recipe(folder / "autoencoder", steps=2)
    image["denoiser"] = {
        "kind": "unet", "in_channels": 4, "input_size": 16, "block_out_channels": [8, 16], "layers_per_block": 1,
        "attention_levels": [1], "num_heads": 2, "norm_groups": 4,
    }  # fmt: skip
    image |= {"frames_per_clip": 1, "samples": {"count": 1, "sampler": {"steps": 2}}}
    part = {"kind": "controlnet", "port": "trajectory", "hint_widths": [4, 8], "hint_ratio": 2}
    beside = {"initial": {"path": str(folder / "image")}, "trained": "parts", "parts": {"control": part}}
    control = image | beside | {"name": "control", "training": image["training"] | {"steps": 6, "learning_rate": 0.03}}
    return {"autoencoder": autoencoder_recipe(steps=2), "image": image, "control": control}


def test_the_image_model_stays_and_the_map_changes_what_is_made(runs: Path) -> None:
    before, after = (VideoModel.load(runs / name, precision="float32") for name in ("image", "control"))
    assert_same(dict(after.denoiser.state_dict()), dict(before.denoiser.state_dict()))
    part = after.parts["control"]
    assert isinstance(part, ControlNetPart) and all(p.any() for p in part.net.controlnet_mid_block.parameters())
    first = json.loads((runs / "control" / "log.jsonl").read_text().splitlines()[0])
    assert np.isfinite(first["loss"])
    clip = video.to_tensor(make_clip(WorldConfig(size=32, frames=3), 1).frames)
    asked = Request(frames=3, size=(32, 32), seed=1)
    told = Request(frames=3, size=(32, 32), seed=1, conditions={"trajectory": clip})
    assert not torch.equal(after.sample_latents([told]), after.sample_latents([asked]))
    assert_same(after.sample_latents([asked]), before.sample_latents([asked]))


@pytest.mark.wide
def test_commands_ask_weaken_rerun_pack_and_write_it(runs: Path) -> None:
    clip, folder = runs / "clip.webp", runs / "control"
    video.write(clip, make_clip(WorldConfig(size=32, frames=3), 1).frames, fps=8)
    asked = ("generate", "--model", folder, "--frames", 3, "-s", f"conditions.trajectory={clip}", "--out")
    off = ("-s", "methods.control_strength.scale=0")
    run(*asked, runs / "a.webp")
    run(*asked, runs / "b.webp", *off)
    run("generate", "--model", folder, "--frames", 3, "--out", runs / "c.webp")
    a, b, c = (video.read(runs / f"{name}.webp").frames for name in "abc")
    assert np.array_equal(b, c) and not np.array_equal(a, b)
    assert "identical" in run("rerun", runs / "a.webp", "--out", runs / "again.webp")
    assert "no map is given" in run("generate", "--model", folder, "--out", runs / "d.webp", *off)
    named = ("-s", "methods.control_strength.scale={depth: 1}")
    assert "no control network depth; it has trajectory" in run(*asked, runs / "d.webp", *named)
    said = run(
        "pack", runs / "image", "--control", f"trajectory={folder}", "--out", runs / "packed", "--stored", "float32"
    )
    assert "largest relative error" in said
    packed, whole = VideoModel.load(runs / "packed"), VideoModel.load(folder)
    assert_same(dict(packed.parts["trajectory"].state_dict()), dict(whole.parts["control"].state_dict()))
    assert "has no control network that reads depth; those it has read: trajectory" in run(
        "pack", runs / "image", "--control", f"depth={folder}", "--out", runs / "none"
    )
    assert "part-control" in run("inspect", folder)
    assert "expected one of autoencoder, denoiser, motion, control" in run(
        "convert", folder, "--to", "diffusers", "--part", "x", "--out", runs / "none"
    )
    assert "ControlNet" in run("convert", folder, "--to", "diffusers", "--part", "control", "--out", runs / "public")
    assert "a control network; put it beside a model" in run("convert", runs / "public", "--out", runs / "none")
    assert "ControlNet" in run("inspect", runs / "public")


def test_other_ratios_of_the_autoencoder_are_one_line(runs: Path) -> None:
    recipe = recipes(runs)["control"]
    recipe["parts"]["control"] |= {"hint_ratio": 4, "hint_widths": [4, 8, 8]}
    (runs / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    said = run("train", runs / "wrong.yaml", "--run", runs / "wrong")
    assert (
        "4 x 4 pixels per latent is read" in said
        and "stands for 2 x 2 pixels of 1 frames: set its hint_ratio=2" in said
    )


def test_it_is_measured_against_the_simulator(runs: Path) -> None:
    model = VideoModel.load(runs / "control", precision="float32")
    report = evaluate_control(model, {"count": 2, "frames": 2, "map": "trajectory"}, batch=2)
    assert {r.subject for r in report.results} == set(SUBJECTS) and len(report.results) == 6
    one, other = (
        evaluate_control(model, {"count": 2, "frames": 2, "map": "trajectory"}, batch=1, engine=e)
        for e in (None, Sent())
    )
    assert one.to_json() == other.to_json(), "by workers"
    scores = json.loads(report.to_json())
    assert scores["kind"] == "control" and 0 <= scores["metrics"]["followed"]["value"] <= 1
    assert run("evaluate", "control", "--model", runs / "image", "--count", 1).endswith(
        "map trajectory: this model has no control network that reads it; it has none"
    )


def test_the_truth_follows_its_map_and_another_clip_does_not() -> None:
    clips = [make_clip(WorldConfig(frames=4), seed) for seed in range(6)]
    same = [followed("model", k, clip, clip.frames) for k, clip in enumerate(clips)]
    other = [followed("model", k, clip, clips[k - 1].frames) for k, clip in enumerate(clips)]
    blank = [followed("model", k, clip, np.full_like(clip.frames, 90)) for k, clip in enumerate(clips)]
    facts = {"count": 6, "frames": 4, "map": "trajectory"}
    true, wrong, none = (ControlReport(facts, tuple(rows)).of("model") for rows in (same, other, blank))
    assert true["position_error"].value < 0.3 and true["followed"].value == true["colour_kept"].value == 1
    assert wrong["position_error"].value > 4 and wrong["followed"].value < 0.3
    assert none["found"].value == none["followed"].value == 0 and "position_error" not in none


def test_spots_are_shared_out_so_that_the_sum_is_least() -> None:
    near, far = Spot(0, "red", 20.0, 5.0, 5.0, 0.0), Spot(0, "blue", 20.0, 9.0, 5.0, 0.0)
    assert assigned([np.array([8.0, 5.0]), np.array([12.0, 5.0])], [far, near]) == [near, far]
    assert assigned([np.array([9.0, 5.0]), np.array([5.0, 5.0])], [near]) == [None, near]
