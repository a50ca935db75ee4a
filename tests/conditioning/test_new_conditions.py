"""Noise level, low resolution, control: each trains a tiny denoiser through its job and is asked for in a request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from kinolab.conditioning import MAPS, of_examples, of_requests
from kinolab.conditioning.low_resolution import shrunk
from kinolab.conditioning.noise_level import noised
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import Request, VideoModel, save_autoencoder
from kinolab.training.recipe import load_recipe
from kinolab.training.run import train
from tests.closeness import assert_close, assert_same
from tests.tiny_model import tiny_model
from tests.training.test_jobs import batch_of, denoiser_job
from tests.training.tiny import denoiser_recipe

LEVEL: dict[str, Any] = {"vectors": {"noise_level": 0}}
LOW: dict[str, Any] = {"vectors": {"noise_level": 0}, "fields": {"low_resolution": 4}}
CONTROL: dict[str, Any] = {"fields": {"control": 4}}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    save_autoencoder(tiny_model(text=False).autoencoder, folder)
    return folder


def recipe(autoencoder: Path, kind: str, ports: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = denoiser_recipe(autoencoder, steps=6)
    sizes = {"hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 8, "patch_size": 4}
    frames = {} if kind == "dit" else {"num_frames": 2}
    made["denoiser"] = {"kind": kind, **sizes, **frames, **ports}
    made["samples"] = {"count": 1, "sampler": {"steps": 2}}
    return made | changes


def trained(folder: Path, autoencoder: Path, kind: str, ports: dict[str, Any], **changes: Any) -> VideoModel:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(autoencoder, kind, ports, **changes)))
    train(folder / "recipe.yaml", folder / "run")
    return VideoModel.load(folder / "run", precision="float32")


def clip(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(3, 5, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def sampled(model: VideoModel, **conditions: Any) -> Tensor:
    return model.sample_latents([Request(seed=1, conditions=conditions)])


@pytest.mark.slow
def test_a_noise_level_is_trained_and_changes_what_is_sampled(autoencoder: Path, tmp_path: Path) -> None:
    model = trained(tmp_path, autoencoder, "mmdit", LEVEL, conditions={"noise_level": {"dropout": 0.5, "level": 0.0}})
    assert model.config.conditions["noise_level"].dropout == 0.5
    clean, noisy = sampled(model), sampled(model, noise_level=0.9)
    assert (clean - noisy).abs().max() > 1e-4
    assert_same(clean, sampled(model, noise_level=0.0))
    for wrong, message in ((2.0, "from 0"), ("much", "a number"), ([0.1, 0.2], "a number")):
        with pytest.raises(InputError, match=message):
            sampled(model, noise_level=wrong)


@pytest.mark.slow
def test_a_model_refines_a_clip_of_low_resolution(autoencoder: Path, tmp_path: Path) -> None:
    model = trained(tmp_path, autoencoder, "vdt", LOW, conditions={"low_resolution": {"factor": 2}})
    one, other = (sampled(model, low_resolution=clip(seed, side=16)) for seed in (0, 1))
    assert (one - other).abs().max() > 1e-4
    told = model.conditions([Request(seed=1, conditions={"low_resolution": clip(), "noise_level": 0.0})])
    expected = model.autoencoder.encode(clip()[None]).mean
    assert_close(told["low_resolution"].value, expected)
    full = model.conditions([Request(seed=1, conditions={"low_resolution": clip(), "noise_level": 1.0})])
    assert_close(full["low_resolution"].value.std(), torch.tensor(1.0), within=0.1)
    mixed = model.conditions([Request(conditions={"low_resolution": clip()}), Request()])
    assert mixed.null_of("low_resolution").tolist() == [False, True]  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_control_map_is_followed(autoencoder: Path, tmp_path: Path) -> None:
    model = trained(tmp_path, autoencoder, "latte", CONTROL, conditions={"control": {"map": "luminance"}})
    one, other = sampled(model, control=clip(0)), sampled(model, control=clip(1))
    assert (one - other).abs().max() > 1e-4
    ready = {"map": MAPS.get("luminance")().make(clip(0))}
    assert_close(sampled(model, control=ready), one)
    guidance = GuidanceConfig(scales=(("control", 4.0),))
    far = model.sample_latents([Request(seed=1, conditions={"control": clip(0)})], guidance=guidance)
    nothing = sampled(model)
    assert (far - nothing).norm() > 2 * (one - nothing).norm(), "guidance moves away from no map"
    with pytest.raises(InputError, match="has 3 frames, and 5 are generated"):
        sampled(model, control=clip()[:, :3])


@pytest.mark.parametrize(("kind", "ports"), [("dit", LOW), ("vdt", CONTROL), ("latte", CONTROL), ("mmdit", LOW)])
def test_null_does_what_no_condition_does(kind: str, ports: dict[str, Any], autoencoder: Path) -> None:
    job = denoiser_job(recipe(autoencoder, kind, ports))
    denoiser = job.denoiser.eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        asked = Request(conditions={name: clip() for name in ports["fields"]})
        told = of_requests([asked] * 2, replace(job.assembly.setting, frames=5, size=(32, 32)))
        z, t = torch.randn(2, 4, 2, 8, 8), torch.tensor([10.0, 500.0])
        nothing = denoiser(z, t, told.replace(**dict.fromkeys(told)))
        changed = denoiser(z, t, told)
        assert (changed - nothing).flatten(1).abs().amax(1).min() > 1e-4
        null = denoiser(z, t, told.with_null(torch.tensor([True, False]), list(told)))
    assert_close(null[:1], nothing[:1])
    assert_close(null[1:], changed[1:])


def test_a_fresh_port_adds_nothing(autoencoder: Path) -> None:
    plain = denoiser_job(recipe(autoencoder, "dit", {})).denoiser
    ported = denoiser_job(recipe(autoencoder, "dit", LOW))
    ported.denoiser.ports.reset()  # type: ignore[operator,union-attr]
    missing = ported.denoiser.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith("ports.") for name in missing)
    told = of_examples(batch_of(ported, 2).examples, ported.assembly.setting, _draws(2))
    z, t = torch.randn(2, 4, 2, 8, 8), torch.tensor([10.0, 500.0])
    assert_same(ported.denoiser(z, t, told), plain(z, t, told.replace(**dict.fromkeys(told))))


def test_training_drops_each_at_its_own_rate_and_tells_what_a_request_would(autoencoder: Path) -> None:
    settings = {"noise_level": {"dropout": 0.0, "most": 0.25}, "low_resolution": {"dropout": 0.5, "factor": 2}}
    job = denoiser_job(recipe(autoencoder, "vdt", LOW, conditions=settings))
    seen: list[Any] = []
    job.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    batch = batch_of(job, 16)
    job.loss("denoiser", batch, 3)
    job.loss("denoiser", batch, 3)
    [told, again] = seen
    rows, levels = told.null_of("low_resolution"), told["noise_level"].value
    assert 2 <= int(rows.sum()) <= 14 and told.null_of("noise_level") is None
    assert torch.equal(rows, again.null_of("low_resolution")) and torch.equal(levels, again["noise_level"].value)
    assert 0 <= float(levels.min()) < float(levels.max()) <= 0.25
    assert_same(told["low_resolution"].value, again["low_resolution"].value)


def test_the_maps_show_what_they_say() -> None:
    half = -torch.ones(3, 1, 8, 8)
    half[..., 4:] = 1
    edges = MAPS.get("edges")().make(half)
    assert edges.shape == half.shape and torch.equal(edges[0, 0, 0], torch.tensor([-1.0, -1, -1, 1, 1, -1, -1, -1]))
    grey = MAPS.get("luminance")().make(clip())
    assert_same(grey[0], grey[2])
    small = shrunk(clip(), 4)
    assert small.shape == (3, 5, 32, 32) and small.std() < clip().std() / 2
    unit = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    assert_close(noised(unit, 0.6, torch.Generator().manual_seed(2)).std(), torch.tensor(1.0), within=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": {"contrl": {}}}, "unknown condition .contrl.; .* noise_level, low_resolution, control"),
        ({"conditions": {"control": {"map": "depth"}}}, "unknown control map 'depth'; expected one of edges, lum"),
        ({"conditions": {"low_resolution": {}}}, "the denoiser takes no low_resolution"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, autoencoder: Path) -> None:
    with pytest.raises(InputError, match=message):
        denoiser_job(recipe(autoencoder, "latte", CONTROL, **changes))
    with pytest.raises(InputError, match="leave out motion_bucket, which is of a whole clip"):
        denoiser_job(recipe(autoencoder, "latte", CONTROL | {"vectors": {"motion_bucket": 0}}, image_frames=1))
    with pytest.raises(InputError, match="text is told by fields of its own"):
        load_recipe(recipe(autoencoder, "latte", {"vectors": {"text": 4}}))
    with pytest.raises(InputError, match="port 'mood', which no condition tells"):
        denoiser_job(recipe(autoencoder, "latte", {"vectors": {"mood": 4}}))


def test_a_model_says_what_it_does_not_take() -> None:
    model = tiny_model(text=False)
    with pytest.raises(InputError, match="this model takes no control; it takes a label"):
        model.conditions([Request(conditions={"control": clip()})])
    with pytest.raises(InputError, match="unknown condition"):
        model.conditions([Request(conditions={"blueprint": 1})])


def _draws(count: int) -> Any:
    return lambda purpose: [torch.Generator().manual_seed(k) for k in range(count)]
