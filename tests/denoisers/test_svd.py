"""Stable Video Diffusion's U-Net: both public layouts both ways, images by themselves, and what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kinolab.checkpoints import inspect, load, save
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Svd, SvdConfig, Unet, UnetConfig
from kinolab.denoisers.svd import IMAGE, IMAGE_TOKENS
from kinolab.errors import InputError
from tests import golden_kinds
from tests.closeness import STORED, assert_close, assert_same
from tests.random_weights import randomized
from tests.tiny_unets import SMALL

TINY: dict[str, Any] = {
    **{k: v for k, v in SMALL.items() if k not in ("num_heads", "num_classes")}, "head_size": 4, "number_features": 6,
}  # fmt: skip
PUBLIC: dict[str, Any] = {**TINY, "block_out_channels": (32, 64), "head_size": 8, "norm_groups": 32}


def tiny(**fields: Any) -> Svd:
    made: Svd = randomized(Svd(SvdConfig.model_validate({**TINY, **fields})))
    return made


def inputs(frames: int = 3, size: tuple[int, int] = (4, 6)) -> tuple[Tensor, Tensor, Conditions]:
    z = torch.randn(2, 4, frames, *size)
    told = {
        IMAGE: Value("field", torch.randn(2, 4, frames, *size)),
        IMAGE_TOKENS: Value("tokens", torch.randn(2, 1, 8)),
        "fps": Value("vector", torch.tensor([7.0, 25.0])),
        "motion_bucket": Value("vector", torch.tensor([127.0, 20.0])),
        "noise_augmentation": Value("vector", torch.tensor([0.02, 0.0])),
    }
    return z, torch.tensor([0.5, -1.0]), Conditions.of(told)


def reference(**fields: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    settings: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "layers_per_block": 1, "num_attention_heads": (4, 8), "cross_attention_dim": 8, "sample_size": 4,
        "addition_time_embed_dim": 6, "projection_class_embeddings_input_dim": 18, "num_frames": 3,
    }  # fmt: skip
    return randomized(diffusers.UNetSpatioTemporalConditionModel(**{**settings, **fields}))


def of_theirs(model: Any, z: Tensor, t: Tensor, told: Conditions) -> Tensor:
    beside, tokens = told[IMAGE].value, told[IMAGE_TOKENS].value
    names = ("fps", "motion_bucket", "noise_augmentation")
    ids = torch.stack([told[name].value - int(name == "fps") for name in names], 1)
    sample = torch.cat([z, beside], 1).transpose(1, 2)
    made: Tensor = model(sample, t, tokens, ids).sample.transpose(1, 2)
    return made


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=["even", "odd"])
@torch.no_grad()
@pytest.mark.slow
def test_diffusers_class_both_ways(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, (z, t, told) = reference(), inputs(size=size)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert type(ours) is Svd and ours.config.num_frames == 3 and ours.config.heads(1) == (8, 8)
    expected = of_theirs(theirs, z, t, told)
    assert_close(ours(z, t, told), expected, within=STORED)
    save(ours, tmp_path / "ours", "svd_diffusers")
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert_close(of_theirs(again.eval(), z, t, told), expected, within=STORED)
    assert inspect(tmp_path / "ours").format == "svd_diffusers" and load(tmp_path / "ours").config == ours.config


@pytest.mark.slow
@torch.no_grad()
def test_the_first_codes_layout_both_ways(tmp_path: Path) -> None:
    path = Path(golden_kinds.__file__).parents[1] / "golden" / "svd_unet_sgm.safetensors"
    start = "weights.model.diffusion_model."
    ours = load(path, prefix=start, head_size=8)
    save(ours, tmp_path / "x.safetensors", "svd_sgm")
    theirs = {k.removeprefix(start): v.float() for k, v in load_file(path).items() if k.startswith(start)}
    assert_same(load_file(tmp_path / "x.safetensors"), theirs)
    assert load(tmp_path / "x.safetensors").config == ours.config


@pytest.mark.slow
@torch.no_grad()
def test_one_layout_becomes_the_other(tmp_path: Path) -> None:
    ours, (z, t, told) = tiny(**PUBLIC, eps="original"), inputs()
    save(ours, tmp_path / "folder", "svd_diffusers")
    save(load(tmp_path / "folder"), tmp_path / "x.safetensors", "svd_sgm")
    assert_same(load(tmp_path / "x.safetensors").state_dict(), ours.state_dict())
    theirs = reference().from_pretrained(tmp_path / "folder")
    assert_close(of_theirs(theirs.eval(), z, t, told), ours(z, t, told), within=STORED)


@torch.no_grad()
def test_it_begins_as_the_image_model_and_is_it_for_images() -> None:
    """Fresh layers over time change nothing; trained ones change nothing of frames that are images by themselves."""
    fields = {k: v for k, v in TINY.items() if k != "number_features"}
    image: Unet = randomized(Unet(UnetConfig.model_validate({**fields, "linear_projection": True, "null": "prompt"})))
    ours = Svd(SvdConfig.model_validate({**TINY, "concatenated": {}, "context": "text", "numbers": ()})).eval()
    fresh = ours.state_dict()
    ours.load_state_dict({**fresh, **image.state_dict()})
    z, t, text = torch.randn(2, 4, 3, 4, 6), torch.tensor([0.5, -1.0]), torch.randn(2, 5, 8)
    expected = image(z, t, Conditions(text=text))
    assert_close(ours(z, t, Conditions(text=text)), expected, within=STORED)
    randomized(ours)
    ours.load_state_dict({**ours.state_dict(), **image.state_dict()})
    assert float((ours(z, t, Conditions(text=text)) - expected).abs().max()) > 0.01
    flags = ForwardOptions(image_only=torch.ones(2, 3, dtype=torch.bool))
    assert_close(ours(z, t, Conditions(text=text), flags), expected, within=STORED)


@torch.no_grad()
def test_what_is_null_is_zeros() -> None:
    """As in the public pipeline, whose unconditional half has zeros for the latents and the token of the image."""
    ours, (z, t, told) = tiny(), inputs()
    rows = torch.tensor([True, False])
    null = ours(z, t, told.with_null(rows, (IMAGE, IMAGE_TOKENS)))
    zeros = {**told, **{n: Value(told[n].kind, told[n].value * ~rows.view(-1, *[1] * (told[n].value.ndim - 1)))
                        for n in (IMAGE, IMAGE_TOKENS)}}  # fmt: skip
    assert_close(null, ours(z, t, Conditions.of(zeros)))
    assert float((null - ours(z, t, told))[0].abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fps", "motion_bucket", "noise_augmentation", IMAGE, IMAGE_TOKENS])
@torch.no_grad()
def test_everything_that_is_told_counts(name: str) -> None:
    ours, (z, t, told) = tiny(), inputs()
    other = Conditions.of({**told, name: Value(told[name].kind, told[name].value + 1)})
    changed = (ours(z, t, other) - ours(z, t, told)).abs().flatten(1).amax(1)
    assert (changed > 1e-4).all()


@torch.no_grad()
def test_frames_are_told_apart_and_see_each_other() -> None:
    ours, (z, t, told) = tiny(), inputs()
    moved = z.clone()
    moved[:, :, 2] += 1
    assert float((ours(moved, t, told) - ours(z, t, told))[:, :, 0].abs().max()) > 1e-4
    still = z[:, :, :1].expand_as(z)
    beside = told[IMAGE].value[:, :, :1].expand_as(z)
    made = ours(still, t, Conditions.of({**told, IMAGE: Value("field", beside)}))
    assert float((made[:, :, 0] - made[:, :, 1]).abs().max()) > 1e-4  # their numbers


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"norm_groups": 16}, "has no norm_groups=16"),
        ({"numbers": ("fps",)}, "is told fps, motion_bucket, noise_augmentation"),
        ({"null": "learned"}, "has no learned null condition"),
        ({"learned_variance": True}, "has no learned_variance=True"),
    ],
)
def test_what_diffusers_can_not_hold(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        save(tiny(**{**PUBLIC, **fields}), tmp_path / "folder", "svd_diffusers")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"fps_condition": True}, "svd is told the frame rate by numbers"),
        ({"given": "channels"}, "the first frame by concatenated"),
        ({"numbers": ("fps", "fps")}, "expected each once"),
        ({"vectors": {"motion_bucket": 0}}, "are told by numbers"),
    ],
)
def test_fields_that_do_not_go_together(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SvdConfig.model_validate({**TINY, **fields})
