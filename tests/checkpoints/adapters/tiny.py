"""Denoisers of a few thousand weights in every public layout, and random adapters of their layers in every form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinolab import denoisers
from kinolab.checkpoints.adapters import LowRank, layout_of
from kinolab.denoisers import Conditions, Denoiser
from tests.tiny_unets import UNETS

SMALL: dict[str, Any] = {"hidden_size": 16, "depth": 2, "num_heads": 2, "input_size": 4, "in_channels": 4}
CONFIGS: dict[str, Any] = {
    "dit": denoisers.DiTConfig(**SMALL, num_classes=3),
    "latte": denoisers.LatteConfig(**SMALL, num_frames=3, num_classes=3),
    "vdt": denoisers.VdtConfig(**SMALL, num_frames=3, num_classes=3),
    "latte_diffusers": denoisers.LatteConfig(**SMALL, num_frames=3, adaln="single", text_dim=8),
    "sd3": denoisers.MmditConfig(
        **SMALL, num_frames=1, attention="2d", temporal_position="none", text_dim=8, pooled_dim=6
    ),
    "sd3_diffusers": denoisers.MmditConfig(
        **SMALL, num_frames=1, attention="2d", temporal_position="none", text_dim=8, pooled_dim=6
    ),
    "unet_diffusers": UNETS["unet"],
    "unet_ldm": UNETS["unet"],
}
"""Layout -> a model that has it."""


def build(layout: str, seed: int = 0) -> Denoiser:
    """The model of a layout with random weights of which none is zero."""
    torch.manual_seed(seed)
    model = denoisers.build(CONFIGS[layout]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model: Denoiser) -> Tensor:
    """Its prediction of fixed latents."""
    source = torch.Generator().manual_seed(1)
    spec, frames = model.spec, getattr(model.config, "num_frames", 1)
    z = torch.randn(2, 4, frames, 4, 4, generator=source)
    told: dict[str, Any] = {}
    if spec.text_dim:
        told["text"] = torch.randn(2, 5, spec.text_dim, generator=source)
    if spec.pooled_dim:
        told["pooled"] = torch.randn(2, spec.pooled_dim, generator=source)
    if spec.num_classes:
        told["label"] = torch.tensor([0, 2])
    with torch.no_grad():
        return model(z, torch.tensor([3.0, 900.0]), Conditions(**told))


def random_layers(model: Denoiser, layout: str, rank: int = 3, alpha: float | None = 2.0) -> dict[str, LowRank]:
    """A change of every layer that the layout names, by its names."""
    source, found = torch.Generator().manual_seed(2), {}
    for name, place in layout_of(model, layout).places.items():
        out, *rest = model.get_parameter(f"{place.layer}.weight").shape
        down = 0.3 * torch.randn(rank, *rest, generator=source)
        found[name] = LowRank(down, 0.3 * torch.randn(out // place.count, rank, generator=source), alpha)
    return found


def changed_by_hand(model: Denoiser, layout: str, layers: dict[str, LowRank], weight: float = 1.0) -> dict[str, Tensor]:
    """The model's public weights by the plain equation: W + weight * alpha / r * B A, and those without a change."""
    from kinolab.checkpoints.base import public_tensors
    from kinolab.checkpoints.formats import find_format

    state = dict(public_tensors(find_format(layout), model))
    for name, layer in layers.items():
        key = f"{name}.weight"
        scale = 1.0 if layer.alpha is None else layer.alpha / len(layer.down)
        state[key] = state[key] + weight * scale * (layer.up @ layer.down.flatten(1)).reshape(state[key].shape)
    return state
