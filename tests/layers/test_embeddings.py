"""Embeddings: closed forms of the fixed ones, null rows of the learned ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinolab.layers.embeddings import (
    LabelEmbedder,
    PooledEmbedder,
    TextEmbedder,
    TimestepEmbedder,
    apply_rotary,
    frame_positions,
    place_embedding,
    rotary_table,
    sincos_1d,
    sincos_2d,
    spread_positions,
    video_rotary_table,
)
from tests.closeness import FLOAT32, assert_close, assert_within


def test_sincos_is_its_formula() -> None:
    table = sincos_1d(torch.tensor([0.0, 3.0, 7.5]), 8)
    for row, position in enumerate((0.0, 3.0, 7.5)):
        for i in range(4):
            omega = 10000 ** (-i / 4)
            assert_within(table[row, i], math.sin(position * omega), 1e-6, "of a unit circle")
            assert_within(table[row, 4 + i], math.cos(position * omega), 1e-6, "of a unit circle")


def test_sincos_of_a_grid_tells_the_column_first() -> None:
    table = sincos_2d(torch.arange(2), torch.arange(3), 16).view(2, 3, 16)
    assert torch.equal(table[0, :, :8], table[1, :, :8])
    assert torch.equal(table[:, 0, 8:], table[:, 2, 8:])
    assert torch.equal(table[1, 2], torch.cat([sincos_1d(torch.tensor([2]), 8), sincos_1d(torch.tensor([1]), 8)], 1)[0])


def test_interpolation_meets_the_trained_positions() -> None:
    table = sincos_2d(torch.arange(2), torch.arange(2), 8)[None]
    assert place_embedding(table, (2, 2), (2, 2), 3) is table
    with pytest.warns(UserWarning, match="trained on latents of 6 x 6, got 12 x 12: position embeddings are interp"):
        wide = place_embedding(table, (2, 2), (4, 4), 3)
    assert_close(wide.view(4, 4, -1)[::2, ::2], table.view(2, 2, -1))
    assert frame_positions(4, 4).tolist() == [0, 1, 2, 3] and frame_positions(0, 4).tolist() == []
    with pytest.warns(UserWarning, match="trained on 8 latent frames, got 16: frame positions are interpolated"):
        assert frame_positions(8, 4, tubelet=2)[::2].tolist() == [0, 1, 2, 3]


def test_spread_positions_stay_in_the_trained_range() -> None:
    assert spread_positions(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert spread_positions(10, 5).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 50), st.floats(0, 50), st.floats(-20, 20))
def test_rotary_products_depend_on_the_distance(p: float, q: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 16, generator=generator, dtype=torch.float64)

    def product(a: float, b: float) -> float:
        turned = (
            apply_rotary(v, *rotary_table(torch.tensor([at], dtype=torch.float64), 16)) for v, at in ((x, a), (y, b))
        )
        left, right = turned
        return float((left * right).sum())

    assert abs(product(p, q) - product(p + shift, q + shift)) < FLOAT32 * float(x.norm() * y.norm())


def test_rotary_keeps_lengths_and_position_zero() -> None:
    x = torch.randn(4, 16)
    cos, sin = rotary_table(torch.arange(4), 16)
    turned = apply_rotary(x, cos, sin)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])


def test_timestep_features_are_cosines_then_sines() -> None:
    embedder = TimestepEmbedder(4, num_features=6)
    seen = []
    embedder.mlp[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedder(torch.tensor([250.0]))
    omegas = [10000 ** (-i / 3) for i in range(3)]
    expected = [math.cos(250 * w) for w in omegas] + [math.sin(250 * w) for w in omegas]
    assert_close(seen[0][0], torch.tensor(expected))


def test_null_is_the_row_after_the_classes() -> None:
    embedder = LabelEmbedder(3, 4)
    label = torch.tensor([0, 2, 3])
    dropped = embedder(label, torch.tensor([True, False, False]))
    assert torch.equal(dropped, embedder.embedding_table.weight[[3, 2, 3]])


def test_a_dropped_prompt_does_not_matter() -> None:
    torch.manual_seed(0)
    pooled, text = PooledEmbedder(5, 8), TextEmbedder(5, 8)
    torch.nn.init.normal_(pooled.null)
    torch.nn.init.normal_(text.null)
    null = torch.tensor([True, False])
    a, b = torch.randn(2, 2, 5)
    assert torch.equal(pooled(a, null)[0], pooled(b, null)[0])
    assert not torch.equal(pooled(a, null)[1], pooled(b, null)[1])
    (x, x_mask), (y, y_mask) = (text(torch.randn(2, 6, 5), torch.ones(2, 6).bool(), null) for _ in range(2))
    assert torch.equal(x[0, :1], y[0, :1]) and torch.equal(x_mask, y_mask)
    assert x_mask.tolist() == [[True] + [False] * 5, [True] * 6]


def test_a_prompt_without_tokens_counts_as_dropped() -> None:
    embedder = TextEmbedder(5, 8)
    mask = torch.tensor([[False, False], [True, False]])
    text = torch.randn(2, 2, 5)
    tokens, used = embedder(text, mask)
    dropped, _ = embedder(text, None, torch.tensor([True, True]))
    assert used.tolist() == [[True, False], [True, False]]
    assert torch.equal(tokens[0, 0], dropped[0, 0])


def test_pooled_embeddings_may_have_any_scale() -> None:
    embedder, pooled = PooledEmbedder(5, 8), torch.randn(2, 5)
    assert_close(embedder(pooled), embedder(100 * pooled))


def test_rotary_positions_of_a_video_are_those_of_an_image_at_time_zero() -> None:
    """Dot products depend on the distances along each axis, and a token at 0 of every axis stays as it is."""
    image = video_rotary_table(torch.zeros(1), (3, 5), 0, 3, 16)
    video = video_rotary_table(torch.tensor([0.0, 1.0, 2.0]), (3, 5), 2, 3, 16)
    for of_image, of_video in zip(image, video, strict=True):
        assert torch.equal(of_video[:15], of_image)
    q, k = torch.randn(2, 16)
    rows = [apply_rotary(v.expand(45, 16), *video).view(3, 3, 5, 16) for v in (q, k)]
    scores = torch.einsum("tyxd,suvd->tyxsuv", *rows)
    assert_close(scores[0, 1, 1, 1, 2, 3], scores[1, 0, 2, 2, 1, 4])
    assert_close(rows[0][0, 1, 2], q)
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert (rows[0][other] - q).abs().max() > 0.1
