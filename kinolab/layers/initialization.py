"""How a diffusion transformer of DiT's family begins (DiT, section 3.2; the same for Latte and VDT)."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from kinolab.layers.attention import CrossAttention
from kinolab.layers.modulation import AdaptiveParameters
from kinolab.layers.ports import ConditionPorts

M = TypeVar("M", bound=nn.Module)


def initialize_transformer(model: Any) -> None:
    """Xavier for linear layers and patches, small embeddings; gates, cross-attention and the output start at zero.

    `model` has `x_embedder`, `t_embedder` and `final_layer`, and may have `given_embedder`, `y_embedder` and
    `pooled_embedder`.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for name in ("x_embedder", "given_embedder"):
        if hasattr(model, name):
            patches = getattr(model, name).proj
            nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
            if patches.bias is not None:
                nn.init.zeros_(patches.bias)
    for name in ("t_embedder", "y_embedder", "pooled_embedder"):
        for parameter in getattr(model, name).parameters() if hasattr(model, name) else ():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, AdaptiveParameters):
            module.reset()
        elif isinstance(module, CrossAttention):
            nn.init.zeros_(module.proj.weight)
        elif isinstance(module, ConditionPorts):
            module.reset()
    nn.init.zeros_(model.final_layer.linear.weight)


def zeroed(layer: M) -> M:
    """The layer with all its parameters zero: what it adds begins as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
