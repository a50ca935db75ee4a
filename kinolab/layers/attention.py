"""Self- and cross-attention over token sequences, through PyTorch's scaled_dot_product_attention.

Shapes: B batch, L query tokens, M key tokens, N heads, D width, d = D / N; videos: T frames, S tokens per frame.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.embeddings import apply_rotary


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
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., L, D) -> queries, keys and values, each (..., L, N, d); views of one tensor unless normalised."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); `rotary` = (cos, sin), each (L, d), turns queries and keys by their positions."""
        q, k, v = self.project(x)
        return self.proj(attend(q, k, v, rotary))


def attend(q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Attention of each of B sequences over itself: (B, L, N, d) three times -> (B, L, N * d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if rotary is not None:
        q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Tokens (B, L, D) attend to the tokens (B, M, D) of a condition (PixArt-alpha, section 2.3).

    The output projection starts at zero, so that a block begins as if there were no condition.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, D), context (B, M, D), mask (B, M) bool with True = attend -> (B, L, D)."""
        heads = (self.num_heads, self.head_dim)
        q = self.q_norm(self.q_linear(x).unflatten(-1, heads)).transpose(1, 2)
        k, v = self.kv_linear(context).unflatten(-1, (2, *heads)).unbind(-3)
        k, v = self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        allowed = None if mask is None else mask[:, None, None, :]
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2))


def spatial_attention(attention: Attention, x: Tensor) -> Tensor:
    """Attention within each frame: (B, T, S, D) -> (B, T, S, D), without moving data."""
    return attention(x.flatten(0, 1)).view_as(x)


def temporal_attention(attention: Attention, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Attention over the frames at each place: (B, T, S, D) -> (B, T, S, D)."""
    B, T, S, D = x.shape
    # A copy even where B = 1 would allow a view: of strided rows the projection makes slow products and a second copy.
    tracks = x.transpose(1, 2).contiguous().view(B * S, T, D)
    return attention(tracks, rotary).view(B, S, T, D).transpose(1, 2)
