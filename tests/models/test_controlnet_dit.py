"""Control networks beside a DiT: nothing at first, the model's own first blocks, trained and used like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from kinolab import VideoModel, video
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import DiT, DiTConfig, Unet, UnetConfig
from kinolab.errors import InputError
from kinolab.models import Request
from kinolab.models.controlnet_dit import ControlNetDiTPart, ControlNetDiTPartConfig
from kinolab.models.part import WithParts
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.training.run import train
from tests.closeness import NETWORK, assert_close, assert_same
from tests.models.test_controlnet import random
from tests.tiny_unets import SMALL
from tests.training.tiny import autoencoder_recipe, denoiser_recipe


def dit(**changes: Any) -> DiT:
    fields = {"hidden_size": 16, "num_heads": 2, "depth": 4, "input_size": 8, "num_classes": 3}
    return random(DiT(DiTConfig.model_validate({**fields, **changes})))


def told(frames: int = 2) -> tuple[Tensor, Tensor, Conditions, Tensor]:
    g = torch.Generator().manual_seed(1)
    z, hint = (torch.randn(2, 4, frames, 8, 8, generator=g) for _ in range(2))
    return z, torch.tensor([300.0, 800.0]), Conditions(label=torch.tensor([1, 2])), hint


def hinted(conditions: Conditions, hint: Tensor, null: Tensor | None = None) -> Conditions:
    return conditions.told(Conditions.of({"control": Value("field", hint)}, {} if null is None else {"control": null}))


def part(denoiser: DiT, **fields: Any) -> ControlNetDiTPart:
    return ControlNetDiTPart(ControlNetDiTPartConfig(**fields), denoiser)


@torch.no_grad()
def test_an_untrained_one_leaves_the_model_as_it_is() -> None:
    denoiser, (z, t, conditions, hint) = dit(), told()
    made = part(denoiser)
    model = WithParts(denoiser, {"control": made}).eval()
    plain = denoiser(z, t, conditions)
    assert_same(model(z, t, hinted(conditions, hint)), plain)
    random(made, 3)
    controlled = model(z, t, hinted(conditions, hint))
    assert (controlled - plain).abs().amax() > 1e-3
    null = torch.tensor([False, True])
    assert_same(model(z, t, hinted(conditions, hint, null))[1], plain[1])  # a row without a map gets nothing


@torch.no_grad()
def test_the_copy_computes_what_the_models_first_blocks_do() -> None:
    denoiser, (z, t, conditions, hint) = dit(), told()
    made, seen = part(denoiser, depth=3).net, list[Tensor]()
    for parameter in made.controlnet_blocks.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.eye(16))
    for block in denoiser.blocks[:3]:
        block.register_forward_hook(lambda _, args, out: seen.append(out))
    denoiser(z, t, conditions)
    for ours, theirs in zip(made.read(z, t, conditions, hint), seen, strict=True):
        assert_close(ours, theirs, NETWORK)


@torch.no_grad()
def test_its_frames_keep_to_themselves_unless_they_are_meant_too() -> None:
    denoiser, (z, t, conditions, hint) = dit(), told(3)
    made = random(part(denoiser), 3)
    model = WithParts(denoiser, {"control": made}).eval()
    alone = made.net.read(z, t, conditions, hint)
    one = made.net.read(z[:, :, 1:2], t, conditions, hint[:, :, 1:2])
    assert_close(alone[-1][:, 1:2], one[-1], NETWORK)
    reach = Reach("first")
    apart, beside = (
        model(z, t, hinted(conditions, hint), ForwardOptions(reach=reach, reach_beside=b)) for b in (False, True)
    )
    assert_close(apart[:, :, :1], beside[:, :, :1], NETWORK)  # the first frame reads itself either way
    assert (apart - beside).abs().amax() > 1e-4


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="copy of a DiT's blocks, and this denoiser is of kind unet"):
        ControlNetDiTPart(ControlNetDiTPartConfig(), Unet(UnetConfig(**SMALL)))
    with pytest.raises(InputError, match="depth 5: the model has 4 blocks"):
        part(dit(), depth=5)


@pytest.mark.slow
def test_it_is_trained_beside_an_image_model_and_steers_it(tmp_path: Path) -> None:
    image = denoiser_recipe(tmp_path / "autoencoder", steps=2)
    image["denoiser"] = {
        "kind": "dit", "in_channels": 4, "input_size": 16, "hidden_size": 16, "num_heads": 2, "depth": 2,
    }  # fmt: skip
    image |= {"frames_per_clip": 1, "samples": {"count": 1, "sampler": {"steps": 2}}}
    beside = {"initial": {"path": str(tmp_path / "image")}, "trained": "parts"}
    beside |= {"parts": {"control": {"kind": "controlnet_dit", "port": "trajectory"}}}
    control = image | beside | {"name": "control", "training": image["training"] | {"steps": 4, "learning_rate": 0.03}}
    for name, recipe in {"autoencoder": autoencoder_recipe(steps=2), "image": image, "control": control}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        train(tmp_path / f"{name}.yaml", tmp_path / name)
    before, after = (VideoModel.load(tmp_path / name, precision="float32") for name in ("image", "control"))
    assert_same(dict(after.denoiser.state_dict()), dict(before.denoiser.state_dict()))
    made = after.parts["control"]
    assert isinstance(made, ControlNetDiTPart) and all(p.any() for p in made.net.controlnet_blocks.parameters())
    clip = video.to_tensor(make_clip(WorldConfig(size=32, frames=3), 1).frames)
    asked = [Request(frames=3, size=(32, 32), seed=1, conditions=maps) for maps in ({}, {"trajectory": clip})]
    plain, steered = (after.sample_latents([request]) for request in asked)
    assert not torch.equal(plain, steered)
    assert_same(before.sample_latents([asked[0]]), plain)
