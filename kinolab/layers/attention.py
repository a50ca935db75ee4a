"""Self- and cross-attention over token sequences, through PyTorch's scaled_dot_product_attention.

Shapes: B batch, L query tokens, M key tokens, N heads, D width, d = D / N; videos: T frames, S tokens per frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.contracts.reach import Lists
from kinolab.layers.embeddings import apply_rotary
from kinolab.layers.sharing import SharedPlaces


class HeadNorm(nn.RMSNorm):
    """RMSNorm of each head's queries or keys (..., d), whose weight follows their type under autocast.

    With a float32 weight and bfloat16 values PyTorch warns and falls back to separate passes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d) in the type of x."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention with one joint projection to queries, keys and values (names as in timm).

    Args:
        dim: width D, a multiple of `num_heads`.
        num_heads: number of heads N.
        qk_norm: normalise queries and keys per head (RMSNorm), which keeps the logits bounded in half precision.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = HeadNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., L, D) -> queries, keys and values, each (..., L, N, d); views of one tensor unless normalised."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); `rotary` = (cos, sin), each (L, d), turns queries and keys by their positions.

        `mask` (B, L) bool, True = a token that others may attend to.
        """
        q, k, v = self.project(x)
        return self.proj(attend(q, k, v, rotary, mask))


def attend(
    q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
) -> Tensor:
    """Attention of each of B sequences over itself: (B, L, N, d) three times, mask (B, L) -> (B, L, N * d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, N, L, d)
    if rotary is not None:
        q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
    allowed = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L): alike for all heads and queries
    return dot_product_attention(q, k, v, allowed).transpose(1, 2).flatten(2)


SHORT = 128
"""Sequences up to this length train faster on a processor with plain matrix products."""


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's scaled_dot_product_attention: (B, N, L, d), (B, N, M, d) twice -> (B, N, L, d).

    `mask` broadcasts against (B, N, L, M): bool, True = a key to attend to, or numbers that are added to the logits.

    On a processor the backward pass of its fused kernel is slow for short sequences: 43 ms against 8 ms with the
    `math` backend for 160 x 4 heads of 16 tokens in bfloat16, and alike for a frame's or a clip's few tokens.
    """
    short = max(q.shape[2], k.shape[2]) <= SHORT
    if short and q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        # The operator itself: `sdpa_kernel` throws a switch of the whole process, which another thread's run would see.
        if torch.is_autocast_enabled("cpu"):
            q, k, v = (a.to(torch.get_autocast_dtype("cpu")) for a in (q, k, v))
        bias = mask
        if mask is not None and mask.dtype == torch.bool:
            bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
        elif mask is not None:
            bias = mask.to(q.dtype)
        return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, bias)[0]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class CrossAttention(nn.Module):
    """Tokens (B, L, D) attend to the tokens (B, M, D) of a condition (PixArt-alpha, section 2.3).

    The output projection starts at zero, so that a block begins as if there were no condition.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.q_norm = HeadNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, D), context (B, M, D), mask (B, M) bool with True = attend -> (B, L, D)."""
        heads = (self.num_heads, self.head_dim)
        q = self.q_norm(self.q_linear(x).unflatten(-1, heads)).transpose(1, 2)
        k, v = self.kv_linear(context).unflatten(-1, (2, *heads)).unbind(-3)  # (B, M, N, d) each
        k, v = self.k_norm(k).transpose(1, 2), v.transpose(1, 2)  # (B, N, M, d) each
        allowed = None if mask is None else mask[:, None, None, :]
        return self.proj(dot_product_attention(q, k, v, allowed).transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class Beside:
    """Keys and values (B, F, L, N, d) that a frame reads beside other frames' tokens: its text. F = 1: all the same.

    `allowed` (B, F, L) bool, True = a key to attend to; none = all. `frames`: how many frames they weigh as beside:
    of R that are read, log(R / frames) is added to their logits; none = nothing is added.
    """

    k: Tensor
    v: Tensor
    allowed: Tensor | None = None
    frames: int | None = None

    def mask(self, keys: int, read: int) -> Tensor | None:
        """What is allowed, or added to the logits, of `keys` tokens of `read` frames and behind them of these.

        (B or 1, F, keys + L), bool or numbers; none = all alike.
        """
        if self.frames is None or self.frames == read:
            return None if self.allowed is None else F.pad(self.allowed, (keys, 0), value=True)
        bias = self.k.new_full((1, *self.k.shape[1:3]), math.log(read / self.frames))  # (1, F, L)
        if self.allowed is not None:
            bias = bias.expand_as(self.allowed).masked_fill(~self.allowed, -math.inf)
        return F.pad(bias, (keys, 0))


COPIED = 2
"""Frames whose keys may be copied for each frame at once; of more, each frame's are put together when it reads them."""


def attend_frames(q: Tensor, k: Tensor, v: Tensor, lists: Lists, beside: Beside | None = None) -> Tensor:
    """Each frame's queries over the tokens of the frames that it reads: -> (B, T, Q, N * d).

    Where all frames read the same ones, these are one sequence that all queries of the clip read: no key is copied for
    a frame's sake, and of the first frame or of all of them none at all.

    Args:
        q: (B, T, Q, N, d), turned by their positions inside the frame, as are the keys.
        k, v: (B, T, S, N, d).
        lists: for each of T frames those that it reads.
        beside: what each frame reads too.
    """
    T, Q = q.shape[1:3]
    if len(set(lists)) == 1 and (beside is None or beside.k.shape[1] == 1):
        keys, values = (joined_frames(a, lists[0]) for a in (k, v))  # (B, R * S, N, d)
        mask = None
        if beside is not None:
            mask = beside.mask(keys.shape[1], len(lists[0]))
            mask = None if mask is None else mask[:, 0]
            keys, values = torch.cat([keys, beside.k[:, 0]], 1), torch.cat([values, beside.v[:, 0]], 1)
        return attend(q.flatten(1, 2), keys, values, None, mask).unflatten(1, (T, Q))
    if len({len(read) for read in lists}) == 1 and len(lists[0]) <= COPIED:
        keys, values = (_read_each(a, lists) for a in (k, v))  # (B, T, R * S, N, d)
        return _attend_beside(q, keys, values, len(lists[0]), beside)
    each = []
    for frame, read in enumerate(lists):
        own = None
        if beside is not None:
            at = slice(frame, frame + 1) if beside.k.shape[1] > 1 else slice(0, 1)
            allowed = None if beside.allowed is None else beside.allowed[:, at]
            own = replace(beside, k=beside.k[:, at], v=beside.v[:, at], allowed=allowed)
        keys, values = (joined_frames(a, read)[:, None] for a in (k, v))
        each.append(_attend_beside(q[:, frame : frame + 1], keys, values, len(read), own))
    return torch.cat(each, 1)


def joined_frames(tokens: Tensor, frames: tuple[int, ...]) -> Tensor:
    """The tokens of some frames as one sequence, (B, T, S, N, d) -> (B, R * S, N, d): a view of neighbours."""
    first, count = frames[0], len(frames)
    if frames == tuple(range(first, first + count)):
        return tokens[:, first : first + count].flatten(1, 2)
    return torch.cat([tokens[:, frame] for frame in frames], 1)


def _read_each(tokens: Tensor, lists: Lists) -> Tensor:
    """The tokens that each frame reads, (B, T, S, N, d) -> (B, T, R * S, N, d): a view where all read the same."""
    if len(set(lists)) == 1:
        return joined_frames(tokens, lists[0])[:, None].expand(-1, len(lists), -1, -1, -1)
    index = torch.tensor(lists, device=tokens.device).flatten()  # (T * R,)
    return tokens.index_select(1, index).unflatten(1, (len(lists), -1)).flatten(2, 3)


def _attend_beside(q: Tensor, k: Tensor, v: Tensor, read: int, beside: Beside | None) -> Tensor:
    """Attention of each frame over keys of its own, (B, T, Q, N, d) over (B, T, K, N, d) of `read` frames and what is
    beside them."""
    B, T = q.shape[:2]
    mask = None
    if beside is not None:
        more_k, more_v = (a.expand(-1, T, -1, -1, -1) for a in (beside.k, beside.v))
        mask = beside.mask(k.shape[2], read)
        if mask is not None:
            mask = mask.expand(B, T, -1).flatten(0, 1)  # (B * T, K + L)
        k, v = torch.cat([k, more_k], 2), torch.cat([v, more_v], 2)
    q, k, v = (a.flatten(0, 1) for a in (q, k, v))  # (B * T, Q or K + L, N, d): every frame is a sequence
    return attend(q, k, v, None, mask).unflatten(0, (B, T))


def spatial_attention(
    attention: Attention, x: Tensor, lists: Lists | None = None, shared: SharedPlaces | None = None
) -> Tensor:
    """Attention within each frame, or over the frames that each reads: (B, T, S, D) -> (B, T, S, D).

    Within a frame nothing is moved. Where places are `shared`, x holds this process's.
    """
    if lists is None and shared is None:
        return attention(x.flatten(0, 1)).view_as(x)
    return attention.proj(attend_places(*attention.project(x), lists, shared))


def attend_places(
    q: Tensor, k: Tensor, v: Tensor, lists: Lists | None = None, shared: SharedPlaces | None = None
) -> Tensor:
    """The same of queries, keys and values (B, T, S, N, d) -> (B, T, S, N * d); `shared` ones are this process's."""
    if shared is not None:
        q, k, v = shared.to_heads(q, k, v)  # (B, T, all S, N / c, d)
    if lists is not None:
        heads = attend_frames(q, k, v, lists)
    else:
        heads = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).unflatten(0, q.shape[:2])
    return heads if shared is None else shared.to_places(heads)


def temporal_attention(
    attention: Attention, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor | None = None
) -> Tensor:
    """Attention over the frames at each place: (B, T, S, D) -> (B, T, S, D).

    `mask` (B, T, S) bool, True = a token that others may attend to.
    """
    B, T, S, D = x.shape
    # A copy even where B = 1 would allow a view: of strided rows the projection makes slow products and a second copy.
    tracks = x.transpose(1, 2).contiguous().view(B * S, T, D)
    allowed = None if mask is None else mask.transpose(1, 2).reshape(B * S, T)
    return attention(tracks, rotary, allowed).view(B, S, T, D).transpose(1, 2)


def joint_attention(
    attention: Attention,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    visible: Tensor | None = None,
    lists: Lists | None = None,
    shared: SharedPlaces | None = None,
) -> Tensor:
    """Attention over all tokens of a clip, or each frame's over the frames that it reads: (B, T, S, D) -> (B, T, S, D).

    `rotary`: positions (T * S, d) of the tokens; `visible` (B, T, S) bool, True = a token that others may attend to,
    where all are read (`lists` none). Where places are `shared`, x holds this process's, and both of these all.
    """
    mask = None if visible is None else visible.flatten(1)
    if lists is None and shared is None:
        return attention(x.flatten(1, 2), rotary, mask).view_as(x)
    q, k, v = attention.project(x)  # (B, T, S, N, d) each
    if shared is not None:
        q, k, v = shared.to_heads(q, k, v)
    if lists is None:
        heads = attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), rotary, mask).unflatten(1, q.shape[1:3])
    else:
        cos, sin = (table.unflatten(0, q.shape[1:3])[..., None, :] for table in rotary)  # (T, S, 1, d)
        heads = attend_frames(apply_rotary(q, cos, sin), apply_rotary(k, cos, sin), v, lists)
    return attention.proj(heads if shared is None else shared.to_places(heads))
