"""The equation of inflation: before any training, one frame in gives the image model's answer.

Where time starts without effect, T frames give T image answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.denoisers import Conditions, DiT, DiTConfig, LatteConfig, Mmdit, MmditConfig, Vdt, VdtConfig
from kinolab.denoisers.image_init import ImageInitConfig
from kinolab.denoisers.inflate import inflated, init_vdt, start_from_image
from kinolab.errors import InputError
from tests.closeness import assert_close
from tests.random_weights import redrawn

pytestmark = pytest.mark.slow  # many short ones, which take long together

IMAGE: dict[str, Any] = {
    "hidden_size": 32, "depth": 3, "num_heads": 2, "in_channels": 4, "input_size": 8, "num_frames": 1, "text_dim": 10,
    "pooled_dim": 7, "attention": "2d", "temporal_position": "none", "null": "prompt", "pooled_norm": False,
}  # fmt: skip
PLACES: dict[str, dict[str, Any]] = {
    "table": {"pos_embed_max_size": 6},
    "learned": {"spatial_position": "learned", "qk_norm": True, "dual_attention_layers": [0, 2]},
    "rotary": {"spatial_position": "rotary"},
}
VIDEO: dict[str, dict[str, Any]] = {
    "2d": {"attention": "2d"},
    "2d sincos": {"attention": "2d", "temporal_position": "sincos"},
    "3d": {"attention": "3d"},
    "3d sincos": {"attention": "3d", "temporal_position": "sincos"},
    "both": {"attention": "2d+3d"},
    "both sincos": {"attention": "2d+3d", "temporal_position": "sincos", "fps_condition": True},
}
TIMES = torch.tensor([10.0, 700.0])


def image_mmdit(places: str = "table") -> Mmdit:
    return redrawn(Mmdit(load_config(MmditConfig, IMAGE | PLACES[places])))


def image_dit(**fields: Any) -> DiT:
    config = {"hidden_size": 32, "depth": 3, "num_heads": 2, "input_size": 8, "num_classes": 5, **fields}
    return redrawn(DiT(load_config(DiTConfig, config)))


def latents(frames: int) -> Tensor:
    return torch.randn(2, 4, frames, 8, 8)


def each_frame(image: Any, z: Tensor, conditions: Conditions) -> Tensor:
    """The image model's answers to the frames of a clip, one after the other."""
    return torch.cat([image(frame, TIMES, conditions) for frame in z.split(1, dim=2)], dim=2)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("video", VIDEO)
@pytest.mark.parametrize("places", PLACES)
def test_mmdit_gives_the_image_models_answer(places: str, video: str, patch: int) -> None:
    image = image_mmdit(places)
    model, _ = inflated(image, "mmdit", {**VIDEO[video], "temporal_patch": patch, "num_frames": 5})
    given = Conditions(text=torch.randn(2, 5, 10), pooled=torch.randn(2, 7))
    with torch.no_grad():
        z = latents(1)
        expected = image(z, TIMES, given)
        assert expected.abs().max() > 0.05
        assert_close(model.eval()(z, TIMES, given), expected)
        if "3d" not in video.split():
            clip = latents(5) if patch == 1 else z.expand(-1, -1, 5, -1, -1)
            answers = each_frame(image, clip, given)
            assert_close(model(clip, TIMES, given), answers)
            null = given.all_null(2)
            assert_close(model(clip, TIMES, null), each_frame(image, clip, null))


@pytest.mark.parametrize("given", ["none", "adaln", "cross_attention", "tokens", "mask", "channels"])
def test_vdt_gives_the_dits_answer_on_one_frame(given: str) -> None:
    image = image_dit(learned_variance=True)
    fields = {"num_frames": 1, "given": given, "text_dim": 6, "pooled_dim": 4}
    vdt, _ = inflated(image, "vdt", fields)
    label = torch.tensor([1, 4])
    with torch.no_grad():
        z = latents(1)
        told = Conditions(label=label, text=torch.randn(2, 3, 6), pooled=torch.randn(2, 4))
        expected = image(z, TIMES, Conditions(label=label))
        assert_close(vdt.eval()(z, TIMES, told), expected)


def test_vdts_time_starts_as_a_copy_of_space_without_effect() -> None:
    image = image_dit()
    vdt = Vdt(load_config(VdtConfig, image.config.model_dump(exclude={"kind"}) | {"num_frames": 4}))
    init_vdt(vdt, image)
    state, source = vdt.state_dict(), image.state_dict()
    assert torch.equal(state["blocks.1.temporal_attn.qkv.weight"], source["blocks.1.attn.qkv.weight"])
    assert not state["blocks.1.temporal_fc.weight"].any()
    init_vdt(vdt, image, ImageInitConfig(temporal="copy"))
    assert torch.equal(vdt.state_dict()["blocks.1.temporal_fc.weight"], torch.eye(32))
    with torch.no_grad():  # a clip's frames do not mix before training, but for the fixed table of times
        init_vdt(vdt, image)
        z, other = latents(4), latents(4)
        other[:, :, 0] = z[:, :, 0]
        label = Conditions(label=torch.tensor([0, 1]))
        assert_close(vdt(z, TIMES, label)[:, :, 0], vdt(other, TIMES, label)[:, :, 0])


@pytest.mark.parametrize("variant", ["interleaved", "joint_block"])
def test_latte_gives_the_dits_answer_on_every_frame(variant: str) -> None:
    image = image_dit()
    latte, report = inflated(image, "latte", {"variant": variant, "num_frames": 3, "pooled_dim": 4})
    assert isinstance(latte.config, LatteConfig) and latte.config.depth == (6 if variant == "interleaved" else 3)
    label = torch.tensor([1, 4])
    with torch.no_grad():
        z = latents(3)
        told = Conditions(label=label, pooled=torch.randn(2, 4))
        answers = each_frame(image, z, Conditions(label=label))
        assert_close(latte.eval()(z, TIMES, told), answers)
    assert "y_embedder.embedding_table.weight" in report.copied


def test_the_report_names_what_is_copied_and_what_is_new() -> None:
    image = image_mmdit()
    model, report = inflated(image, "mmdit", {"temporal_patch": 2, "fps_condition": True})
    assert set(report.copied) == set(image.state_dict()) and not report.dropped
    assert all(model.models_time(name) for name in report.fresh)
    assert set(report.fresh) | set(report.copied) == set(model.state_dict())


def test_a_model_of_images_that_knows_the_frame_rate_keeps_it() -> None:
    image = redrawn(Mmdit(load_config(MmditConfig, IMAGE | {"fps_condition": True})))
    model, _ = inflated(image, "mmdit", {})
    last = "fps_embedder.mlp.2.weight"
    assert torch.equal(model.state_dict()[last], image.state_dict()[last])


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("latte", {}, "a Mmdit does not become latte"),
        ("mmdit", {"depth": 4}, "depth: the image model has 3, got 4"),
        ("mmdit", {"qk_norm": True, "text_dim": 9}, "text_dim: the image model has 10, got 9; qk_norm"),
        ("mmdit", {"framez": 3}, "unknown key 'framez'"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        inflated(image_mmdit(), kind, fields)


def test_other_sources_are_refused() -> None:
    video, _ = inflated(image_mmdit(), "mmdit", {})
    with pytest.raises(InputError, match=r"of images to inflate, got one with joint_blocks\.0\.x_block\.attn_global"):
        inflated(video, "mmdit", {})
    with pytest.raises(InputError, match="num_classes: the image model has 5, got 3"):
        inflated(image_dit(), "vdt", {"num_classes": 3})
    with pytest.raises(InputError, match="adaln block"):
        inflated(image_dit(), "vdt", {"adaln": "single"})
    with pytest.raises(InputError, match="a Mmdit does not make a Vdt"):
        start_from_image(Vdt(VdtConfig(hidden_size=16, num_heads=2)), video)
    learned = image_mmdit("learned")
    with pytest.raises(InputError, match="learned table is for 8"):
        inflated(learned, "mmdit", {"input_size": 12})
