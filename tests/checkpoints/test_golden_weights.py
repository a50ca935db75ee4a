"""Public weights read through the importer give the reference classes' outputs (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kinolab.autoencoders import OdVae
from kinolab.checkpoints import load
from kinolab.denoisers import Conditions, DiT, Latte, Vdt
from tests.closeness import STORED, assert_close

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["latte_class", "latte_uncond"])
@torch.no_grad()
def test_latte(name: str) -> None:
    stored = load_file(GOLDEN / f"{name}.safetensors")
    model = load(GOLDEN / f"{name}.safetensors", prefix="weights.", num_heads=3)
    assert isinstance(model, Latte) and not model.training
    label = stored["y"] if name == "latte_class" else None
    out = model(stored["x"].transpose(1, 2), stored["t"], Conditions(label=label))
    assert_close(out.transpose(1, 2), stored["out"], within=STORED)


@torch.no_grad()
def test_dit_on_a_clip_of_one_frame() -> None:
    stored = load_file(GOLDEN / "dit.safetensors")
    model = load(GOLDEN / "dit.safetensors", prefix="weights.", num_heads=3)
    assert isinstance(model, DiT)
    out = model(stored["x"].unsqueeze(2), stored["t"], Conditions(label=stored["y"]))
    assert_close(out.squeeze(2), stored["out"], within=STORED)


@torch.no_grad()
def test_vdt_whose_only_class_needs_no_label() -> None:
    stored = load_file(GOLDEN / "vdt.safetensors")
    model = load(GOLDEN / "vdt.safetensors", prefix="weights.", num_heads=3)
    assert isinstance(model, Vdt) and (model.config.num_classes, model.config.num_frames) == (1, 6)
    z = stored["x"].transpose(1, 2)
    for conditions in (Conditions(), Conditions(label=torch.zeros(2, dtype=torch.long))):
        assert_close(model(z, stored["t"], conditions).transpose(1, 2), stored["out"], within=STORED)
    assert (model(z, stored["t"], Conditions().all_null(2)).transpose(1, 2) - stored["out"]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "variant"), [("odvae_v11", "all3d"), ("odvae_v12", "encoder_outer2d")])
@torch.no_grad()
@pytest.mark.slow
def test_causal_vae(name: str, variant: str) -> None:
    stored = load_file(GOLDEN / f"{name}.safetensors")
    model = load(GOLDEN / f"{name}.safetensors", prefix="weights.")
    assert isinstance(model, OdVae) and model.config.variant == variant
    posterior = model.encode(stored["video"])
    assert_close(posterior.mean, stored["latent_mean"], within=STORED)
    assert_close(posterior.logvar, stored["latent_logvar"], within=STORED)
    assert_close(model.decode(stored["latent_mean"]), stored["reconstruction"], within=STORED)
    image = model.encode(stored["video"][:, :, :1]).mean
    assert_close(image, stored["image_latent_mean"], within=STORED)
