"""Text beside many frames weighs as beside those of training: frames of equal noise are the image model's picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinolab import denoisers
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.errors import InputError
from kinolab.layers.attention import Beside, attend_frames
from kinolab.methods import (
    ControlVideo,
    ControlVideoConfig,
    FrameReach,
    FrameReachConfig,
    HierarchicalConfig,
    Method,
    SmootherConfig,
)
from kinolab.methods.text_balance import TextBalance, TextBalanceConfig
from tests.closeness import ALLOWED, NETWORK, assert_close, assert_same, difference
from tests.denoisers.test_reach import CONFIGS, RAGGED, build, told
from tests.methods.test_controlvideo import noise, sample

WORDS: dict[str, Any] = {
    "label": torch.tensor([1]), "text": torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(4)),
}  # fmt: skip


@pytest.mark.parametrize("window", [None, 3])
def test_of_equal_noise_every_frame_is_the_image_models_picture(window: int | None) -> None:
    """ControlVideo on an MMDiT: whole and by key frames, as on a U-Net and a DiT."""
    model, z = build("mmdit"), noise(5)
    config = ControlVideoConfig(
        smoother=SmootherConfig(encode="change"),
        long=HierarchicalConfig(window=window, whole=16 if window is None else 2),
    )
    picture = sample(model, z[:, :, :1], **WORDS).expand_as(z)
    assert_close(sample(model, z, ControlVideo(config), TextBalance(), **WORDS), picture, NETWORK)
    assert difference(sample(model, z, ControlVideo(config), **WORDS), picture) > 1e-3


@pytest.mark.parametrize("reach", ["first_previous", "all", RAGGED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_frames_of_two_prompts_of_other_lengths(reach: Any, dtype: torch.dtype) -> None:
    model, z, t = build("mmdit"), torch.randn(2, 4, 1, 4, 4).expand(-1, -1, 4, -1, -1), torch.tensor([300.0, 800.0])
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        own = model(z, t, told("mmdit"))
        made = model(z, t, told("mmdit"), ForwardOptions(reach=Reach(reach), text_beside=1))
    assert_close(made, own, NETWORK if dtype is torch.float32 else ALLOWED[dtype])


@pytest.mark.parametrize("lists", [((0, 1, 2),) * 3, ((0, 0), (0, 0), (0, 1)), ((0,), (0, 1), (2, 0, 1))])
@pytest.mark.parametrize("texts", [1, 3])
@torch.no_grad()
def test_it_is_the_text_as_often_as_there_are_frames(lists: Any, texts: int) -> None:
    q, k, v = (torch.randn(2, 3, 4, 2, 8, dtype=torch.float64) for _ in range(3))
    text_k, text_v = (torch.randn(2, texts, 5, 2, 8, dtype=torch.float64) for _ in range(2))
    allowed = (torch.arange(5) < torch.tensor([[5], [2]]))[:, None].expand(-1, texts, -1)
    made = attend_frames(q, k, v, lists, Beside(text_k, text_v, allowed, 1))
    for frame, read in enumerate(lists):
        keys, values = (a.repeat(1, 1, len(read), 1, 1) for a in (text_k, text_v))
        often = Beside(keys, values, allowed.repeat(1, 1, len(read)))
        assert_close(made[:, frame], attend_frames(q, k, v, lists, often)[:, frame])


@torch.no_grad()
def test_as_trained_and_by_default_nothing_changes() -> None:
    t = torch.tensor([300.0, 800.0])
    for name in ("mmdit", "mmdit 3d"):
        model, z = build(name), torch.randn(2, 4, 4, 4, 4)
        assert_same(model(z, t, told(name), ForwardOptions(text_beside=1)), model(z, t, told(name)))
    # A frame of this one was trained to read all four, beside one text of the clip.
    assert model.reach == Reach("all")
    few = ForwardOptions(reach=Reach("first"))
    heard = model(z, t, told(name), ForwardOptions(reach=Reach("first"), text_beside=4))
    assert difference(heard, model(z, t, told(name), few)) > 1e-3


@pytest.mark.parametrize("name", ["dit", "unet"])
def test_other_denoisers_are_refused(name: str) -> None:
    methods: list[Method] = [FrameReach(FrameReachConfig(frames="all")), TextBalance(TextBalanceConfig(frames=2))]
    with pytest.raises(InputError, match="has no attention that pictures and text share: leave it out"):
        sample(build(name), noise(3), *methods, label=torch.tensor([1]))


def test_a_model_without_text_has_nothing_to_balance() -> None:
    assert build("mmdit").balances_text
    model: Any = denoisers.build(CONFIGS["mmdit alone"])  # type: ignore[arg-type]
    assert not model.balances_text
