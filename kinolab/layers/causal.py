"""Attention of blocks of frames over themselves and the past, alike with kept keys and values and without.

Shapes: B batch, T frames of a call, R frames that a block reads, S tokens per frame, L text tokens, F blocks, N heads,
d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.contracts.causal import BlockReads, Plan, rotary_start
from kinolab.layers.attention import Attention, attend, joined_frames
from kinolab.layers.embeddings import apply_rotary

Turn = Callable[[tuple[int, ...]], tuple[Tensor, Tensor]]
"""Cosines and sines (R * S, d) of the tokens of frames at these times."""


@dataclass(frozen=True)
class CausalTurns:
    """Rotary positions of what blocks read: `make` gives the table of frames at whole times, of which `trained` is the
    number that the model was trained on."""

    make: Turn
    trained: int
    made: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, block: BlockReads, period: int | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines (R * S, 1, d): broadcast over the heads."""
        first = rotary_start(block.number, block.own[1] - block.own[0], self.trained, period)
        times = tuple(first + time for time in block.times)
        if times not in self.made:
            cos, sin = self.make(times)
            self.made[times] = cos[:, None], sin[:, None]
        return self.made[times]


@dataclass(frozen=True)
class TextOfBlocks:
    """The queries, keys and values (B, F, L, N, d) of the text that each block reads, and that reads what it reads.

    `allowed` (B, L) bool, True = a token to attend to; none = all.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    allowed: Tensor | None = None


def causal_attention(
    layer: Attention, q: Tensor, k: Tensor, v: Tensor, plan: Plan, turns: CausalTurns | None, text: TextOfBlocks | None
) -> tuple[Tensor, Tensor | None]:
    """Each block's queries over the frames that it reads: heads (B, T, S, N * d), and of the text (B, F, L, N * d).

    Keys are kept as they are and turned when they are read, because a block that was first and is still read stands
    nearer by then (as in Infinite-Forcing).

    Args:
        layer: by which the keys and values are kept.
        q, k, v: (B, T, S, N, d) of the call's frames, not turned.
        plan: what is read.
        turns: rotary positions; none = nothing is turned.
        text: what each block reads beside frames.
    """
    if plan.kept is not None:
        k, v = plan.kept.joined(layer, k, v)
    heads, told = [], []
    for number, block in enumerate(plan.blocks):
        first, behind = block.own
        own, keys = q[:, first:behind].flatten(1, 2), joined_frames(k, block.read)  # (B, Q, N, d), (B, R * S, N, d)
        values, mask = joined_frames(v, block.read), None
        if turns is not None:
            cos, sin = turns.of(block, plan.rule.period)
            own = apply_rotary(own, cos[-own.shape[1] :], sin[-own.shape[1] :])
            keys = apply_rotary(keys, cos, sin)
        tokens = own.shape[1]
        if text is not None:
            own = torch.cat([own, text.q[:, number]], 1)
            if text.allowed is not None:
                mask = F.pad(text.allowed, (keys.shape[1], 0), value=True)  # (B, R * S + L): frames stand in front
            keys, values = torch.cat([keys, text.k[:, number]], 1), torch.cat([values, text.v[:, number]], 1)
        made = attend(own, keys, values, None, mask)  # (B, Q or Q + L, N * d)
        heads.append(made[:, :tokens].unflatten(1, (behind - first, -1)))
        told.append(made[:, tokens:])
    return torch.cat(heads, 1), torch.stack(told, 1) if text is not None else None


def causal_self_attention(layer: Attention, x: Tensor, plan: Plan, turns: CausalTurns | None) -> Tensor:
    """Attention of tokens of frames (B, T, S, D), each block over those that it reads -> (B, T, S, D)."""
    q, k, v = layer.project(x)
    return layer.proj(causal_attention(layer, q, k, v, plan, turns, None)[0])


def causal_temporal_attention(layer: Attention, x: Tensor, plan: Plan, turns: CausalTurns | None = None) -> Tensor:
    """Attention over the frames at each place, each block over those that it reads: (B, T, S, D) -> (B, T, S, D)."""
    B, T, S, D = x.shape
    return causal_self_attention(layer, tracks(x), plan, turns).view(B, S, T, D).transpose(1, 2)


def tracks(x: Tensor) -> Tensor:
    """(B, T, S, ...) -> (B * S, T, 1, ...): every place is a clip of one token per frame."""
    return x.transpose(1, 2).flatten(0, 1)[:, :, None]
