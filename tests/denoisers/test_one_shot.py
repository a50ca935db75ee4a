"""What an image model becomes for one-shot tuning, and what of it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kinolab import denoisers
from kinolab.config import Config
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, build
from kinolab.denoisers.inflate import start_from_image
from kinolab.denoisers.one_shot import tuned_config, tuned_layers, tuned_names
from kinolab.denoisers.trained import LowRank, trainable_parameters
from kinolab.errors import InputError
from tests.closeness import assert_close
from tests.tiny_unets import SMALL

TRANSFORMER: dict[str, Any] = {"hidden_size": 16, "depth": 2, "num_heads": 2, "input_size": 4, "num_classes": 5}
IMAGES: dict[str, Any] = {
    "unet": denoisers.UnetConfig(**SMALL),
    "dit": denoisers.DiTConfig(**TRANSFORMER),
    "mmdit": denoisers.MmditConfig(
        **TRANSFORMER, num_frames=1, attention="2d", temporal_position="none", text_dim=8, dual_attention_layers=(0,)
    ),
}
BECOMES = {"unet": "tuneavideo", "dit": "latte", "mmdit": "mmdit"}
ONE = 1e-5


def randomized(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tuned(name: str) -> Any:
    config, _ = tuned_config(IMAGES[name], 4, {})
    return config


@torch.no_grad()
@pytest.mark.parametrize("name", IMAGES)
def test_before_tuning_it_is_the_image_model_whose_frames_read_others(name: str) -> None:
    image = randomized(build(IMAGES[name]))
    config, method = tuned_config(IMAGES[name], 4, {})
    assert config.kind == BECOMES[name] and config.num_frames == 4 and method == "image"  # type: ignore[attr-defined]
    model = build(config).eval()
    start_from_image(model, image)
    z, t = torch.randn(2, 4, 4, 4, 4), torch.tensor([300.0, 800.0])
    text = None if name == "dit" else torch.randn(2, 3, 8)
    told = Conditions(label=torch.tensor([1, 2]), text=text)
    expected = image(z, t, told, ForwardOptions(reach=Reach("first_previous")))
    assert_close(model(z, t, told), expected, ONE)


def test_of_the_u_net_it_is_what_the_public_code_trains() -> None:
    """Its rule: modules whose names end in attn1.to_q, attn2.to_q or attn_temp; here attn_temp stands in a slot."""
    model = build(tuned("unet"))
    count = trainable_parameters(model, "named", names=tuned_names(tuned("unet"), "queries"))
    found = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    ends = ("attn1.to_q", "attn2.to_q", "attn_temp")
    modules = [name for name, _ in model.named_modules() if name.endswith(ends)]
    assert found == {n for n, _ in model.named_parameters() if any(n.startswith(f"{m}.") for m in modules)}
    assert found and count.trained == sum(p.numel() for n, p in model.named_parameters() if n in found)
    assert any(".norm_temp." in name for name in count.kept)


@pytest.mark.parametrize("name", IMAGES)
def test_names_are_short_and_mean_queries_and_time_alone(name: str) -> None:
    config = tuned(name)
    model = build(config)
    names = tuned_names(config, "queries")
    assert len(names) <= 24
    count = trainable_parameters(model, "named", names=names)
    time = sum(p.numel() for n, p in model.named_parameters() if model.models_time(n) and ".norm_temp." not in n)
    assert count.temporal == time
    queries = 0
    for layer, child in model.named_modules():
        if not isinstance(child, nn.Linear) or model.models_time(f"{layer}.weight") or "context_block" in layer:
            continue
        size = sum(p.numel() for p in child.parameters())
        queries += size if layer.endswith(".to_q") else size // 3 if layer.endswith(".qkv") else 0
    assert queries and count.trained == time + queries


@pytest.mark.parametrize("what", ["queries", "temporal", "all"])
@pytest.mark.parametrize("name", IMAGES)
def test_low_rank_changes_are_of_the_same_layers(name: str, what: Any) -> None:
    config = tuned(name)
    model = build(config)
    count = trainable_parameters(model, "adapter", LowRank(2, None, tuned_layers(config, what)))
    of_time = {layer for layer in count.layers if model.models_time(f"{layer}.weight")}
    assert of_time and (set(count.layers) == of_time) == (what == "temporal")
    others = [layer.rpartition(".")[2] for layer in count.layers if layer not in of_time]
    if what == "queries":
        assert set(others) <= {"to_q", "qkv"} and not any("context_block" in layer for layer in count.layers)
    if what == "all":
        assert {"0", "proj"} & set(others), "what leads out of attention too"


def test_a_model_with_layers_over_time_is_tuned_as_it_is() -> None:
    video = denoisers.VideoLdmConfig(**SMALL, num_frames=4)
    config, method = tuned_config(video, 9, {"gradient_checkpointing": True})
    assert method == "weights" and config == video.model_copy(update={"gradient_checkpointing": True})
    over_all = denoisers.MmditConfig(**TRANSFORMER, num_frames=4, attention="3d")
    assert tuned_config(over_all, 9, {}) == (over_all, "weights")
    for asked in (tuned_names, tuned_layers):
        with pytest.raises(InputError, match="this mmdit has no layers over time; tune queries or all"):
            asked(over_all, "temporal")


def test_fields_that_a_tuned_model_has_not_are_named() -> None:
    with pytest.raises(InputError, match="unknown key 'motion_heads'"):
        tuned_config(IMAGES["unet"], 4, {"motion_heads": 2})
    config, _ = tuned_config(IMAGES["unet"], 4, {"norm_scope": "clip", "temporal_bias": "random", "reach": "all"})
    assert isinstance(config, Config) and config.model_dump()["reach"] == "all"
