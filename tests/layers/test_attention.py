"""Attention against its definition, written out with a softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinolab.layers.attention import Attention, CrossAttention, spatial_attention, temporal_attention
from kinolab.layers.embeddings import rotary_table
from tests.closeness import assert_close

D, N = 12, 3


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(L, D), (M, D), (M, D) -> (L, D), head by head."""
    heads = []
    for a, b, c in zip(q.chunk(N, -1), k.chunk(N, -1), v.chunk(N, -1), strict=True):
        heads.append((a @ b.T / (D / N) ** 0.5).softmax(-1) @ c)
    return torch.cat(heads, -1)


def test_self_attention_is_its_definition() -> None:
    torch.manual_seed(0)
    attention, x = Attention(D, N), torch.randn(2, 5, D)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    expected = torch.stack([attention.proj(by_hand(q[i], k[i], v[i])) for i in range(2)])
    assert_close(attention(x), expected)


def test_cross_attention_reads_unmasked_tokens_only() -> None:
    torch.manual_seed(0)
    attention, x, context = CrossAttention(D, N), torch.randn(2, 5, D), torch.randn(2, 7, D)
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    result = attention(x, context, mask)
    for i, length in enumerate((4, 7)):
        k, v = attention.kv_linear(context[i, :length]).chunk(2, dim=-1)
        expected = attention.proj(by_hand(attention.q_linear(x[i]), k, v))
        assert_close(result[i], expected)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_space_and_time_are_attention_over_one_axis(qk_norm: bool) -> None:
    torch.manual_seed(0)
    attention, x = Attention(D, N, qk_norm), torch.randn(2, 4, 5, D)
    space, time = spatial_attention(attention, x), temporal_attention(attention, x, None)
    assert_close(space[1, 2], attention(x[1, 2][None])[0])
    assert_close(time[1, :, 3], attention(x[1, :, 3][None])[0])


def test_qk_norm_makes_the_scale_of_queries_and_keys_irrelevant() -> None:
    torch.manual_seed(0)
    attention, x = Attention(D, N, qk_norm=True), torch.randn(1, 5, D)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[: 2 * D] *= 100
        attention.qkv.bias[: 2 * D] *= 100
    assert_close(attention(x), before, within=1e-4)  # a norm's epsilon doesn't scale


def test_rotary_attention_depends_on_distances_only() -> None:
    torch.manual_seed(0)
    attention, x = Attention(D, N), torch.randn(1, 5, D)
    at_zero = attention(x, rotary_table(torch.arange(5), D // N))
    at_hundred = attention(x, rotary_table(100 + torch.arange(5), D // N))
    assert_close(at_zero, at_hundred)
    stretched = attention(x, rotary_table(2 * torch.arange(5), D // N))
    assert (at_zero - stretched).abs().max() > 1e-3
