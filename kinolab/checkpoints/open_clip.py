"""OpenCLIP's layers by transformers' names: what its text encoder and its image encoder share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
"""OpenCLIP's names inside a layer -> those of transformers."""
LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")


def tensors_under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names hold a prefix, by what follows it: in older files a wrapping stands before it."""
    return {name.partition(prefix)[2]: value for name, value in tensors.items() if prefix in name}


def depth(tensors: Mapping[str, Tensor]) -> int:
    """Layers that there are."""
    return max((1 + int(found[1]) for found in map(LAYER.fullmatch, tensors) if found is not None), default=0)


def renamed(tensors: Mapping[str, Tensor], outer: Mapping[str, str], layers: int) -> Iterator[tuple[str, Tensor]]:
    """OpenCLIP's tensors by transformers' names: the first `layers` layers, and those that `outer` names outside of
    them; all others are left out."""
    for name, value in tensors.items():
        found = LAYER.fullmatch(name)
        if found is None:
            if name in outer:
                yield outer[name], value
            continue
        layer, inside = int(found[1]), found[2]
        if layer >= layers:
            continue
        start = f"encoder.layers.{layer}"
        if inside.startswith("attn.in_proj_"):
            kind = inside.removeprefix("attn.in_proj_")
            for part, rows in zip("qkv", value.chunk(3), strict=True):  # (3 D, ...) -> three of (D, ...)
                yield f"{start}.self_attn.{part}_proj.{kind}", rows
            continue
        module, _, kind = inside.rpartition(".")
        yield f"{start}.{INNER[module]}.{kind}", value
