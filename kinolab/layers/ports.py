"""How a denoiser of any family reads conditions that its paper doesn't know: vectors and fields of any name.

Both start as nothing, so that a denoiser with a port computes what one without it does until the port is trained; and
a condition that is null, or not told, adds exactly nothing ever after.

Shapes: B batch, C channels, T frames (T' after tubelets), S tokens per frame, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions, Port
from kinolab.errors import InputError
from kinolab.layers.embeddings import TimestepEmbedder
from kinolab.layers.patchify import patchify

OWN = frozenset({"label", "text", "pooled", "given", "fps", "null"})
"""Names that each family reads in its paper's way, by fields of its own."""


class VectorPort(nn.Module):
    """A vector -> what joins the time's embedding (B, D): a two-layer MLP of its numbers, whose end starts at zero.

    A single number (width 0) of the order of 1 is read through the sine-cosine features of a time from 0 to 1000.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.width = width
        if width:
            self.mlp: nn.Module = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))
        else:
            self.mlp = TimestepEmbedder(dim)

    def reset(self) -> None:
        """Set the last linear layer to zero."""
        last = [module for module in self.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, value: Tensor, null: Tensor | None) -> Tensor:
        """value (B,), or (B, width), null (B,) bool -> (B, D)."""
        first = next(self.mlp.parameters())
        added = self.mlp(value.to(first.dtype) if self.width else value.float() * 1000)
        return added if null is None else added * ~null[:, None]


class FieldPort(nn.Module):
    """A field (B, C, T, H, W) -> what is added to the latents' tokens (B, T', S, D), by patches, from zero on.

    That is concatenating it to the latents before they become tokens, with one more channel that says that it is there.
    """

    def __init__(self, channels: int, dim: int, patch: int, temporal_patch: int = 1) -> None:
        super().__init__()
        self.patch, self.temporal_patch = patch, temporal_patch
        self.weight = nn.Parameter(torch.zeros(dim, (channels + 1) * temporal_patch * patch * patch))

    def reset(self) -> None:
        """Set the weights to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, value: Tensor, null: Tensor | None) -> Tensor:
        """value (B, C, T, H, W), null (B,) bool -> (B, T', S, D)."""
        told = torch.cat([value, torch.ones_like(value[:, :1])], dim=1)
        if null is not None:
            told = told * ~null.view(-1, 1, 1, 1, 1)
        patches = patchify(told, self.patch, self.temporal_patch)
        return nn.functional.linear(patches.to(self.weight.dtype), self.weight)


class ConditionPorts(nn.Module):
    """The vectors and fields that a denoiser's config names, with the ports of its spec.

    Args:
        vectors: name -> numbers of a vector; 0 = one number.
        fields: name -> channels of a field on the latents' grid.
        dim: width D of the tokens.
        patch, temporal_patch: what becomes one token.
    """

    def __init__(
        self, vectors: Mapping[str, int], fields: Mapping[str, int], dim: int, patch: int, temporal_patch: int = 1
    ) -> None:
        super().__init__()
        self.vectors = nn.ModuleDict({name: VectorPort(width, dim) for name, width in vectors.items()})
        self.fields = nn.ModuleDict({name: FieldPort(c, dim, patch, temporal_patch) for name, c in fields.items()})
        self.reset()

    def reset(self) -> None:
        """Let every port begin as nothing."""
        for port in (*self.vectors.values(), *self.fields.values()):
            assert isinstance(port, VectorPort | FieldPort)
            port.reset()

    def add_vectors(self, c: Tensor, conditions: Conditions) -> Tensor:
        """The time's embedding c (B, D) and what is told by vectors."""
        for name, port in self.vectors.items():
            value = conditions.tensor(name)
            if value is not None:
                c = c + port(value, conditions.null_of(name)).to(c.dtype)
        return c

    def add_fields(self, x: Tensor, conditions: Conditions) -> Tensor:
        """The tokens x (B, T', S, D) and what is told by fields."""
        for name, port in self.fields.items():
            value = conditions.tensor(name)
            if value is not None:
                x = x + port(value, conditions.null_of(name))
        return x


def named_ports(vectors: Mapping[str, int], fields: Mapping[str, int]) -> tuple[Port, ...]:
    """The ports of a config's `vectors` and `fields`."""
    found = [Port(name, "vector", width) for name, width in vectors.items()]
    return (*found, *(Port(name, "field", channels) for name, channels in fields.items()))


def check_port_names(vectors: Mapping[str, int], fields: Mapping[str, int]) -> None:
    """Raises InputError for a name that is no word, comes twice or has a field of its own, and for a bad width."""
    for kind, group, least in (("vectors", vectors, 0), ("fields", fields, 1)):
        for name, width in group.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise InputError(f"{kind}: {name!r} is no name; expected small letters, digits and underscores")
            if name in OWN or (kind == "fields" and name in vectors):
                why = "is told by fields of its own" if name in OWN else "is a vector too"
                raise InputError(f"{kind}.{name}: {name} {why}; leave it out here")
            if width < least:
                raise InputError(f"{kind}.{name}: expected a width of at least {least}, got {width}")
