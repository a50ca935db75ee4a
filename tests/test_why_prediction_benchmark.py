"""Experiments on predictions: attention made by hand is read as what it is, flow carries a moving picture on, every row
is a model that learns what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.why_prediction import alone
from benchmarks.why_prediction.attention import (
    ANOTHER,
    ELSEWHERE,
    OWN,
    PREDICTED,
    SAME,
    TEXT,
    kinds_of,
    over_all,
    recorded,
    shares,
)
from benchmarks.why_prediction.drift import heldout
from benchmarks.why_prediction.real import carried_on
from kinolab.denoisers import build
from kinolab.layers.attention import Attention, CrossAttention, joint_attention, temporal_attention
from kinolab.toyworld.clips import CLASSES, WorldClip, WorldConfig, WorldObject, make_clip
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from tests.closeness import assert_close, assert_within

HELD, GRID, SIDE = (range(1), range(1, 5), range(5, 9)), 4, 32
FRAMES, PLACES = len(HELD), GRID * GRID


def standing(*tokens: int) -> WorldObject:
    """An object whose centre lies in one token of the grid in each of the three latent frames."""
    at = [((token % GRID + 0.5) * SIDE / GRID, (token // GRID + 0.5) * SIDE / GRID) for token in tokens]
    position = np.array([at[n] for n, frames in enumerate(HELD) for _ in frames])
    return WorldObject("red", "ball", 3.0, position, np.zeros_like(position), np.zeros(9), np.ones(9))


def clip(*objects: WorldObject) -> WorldClip:
    made = make_clip(WorldConfig(frames=9, size=SIDE, max_objects=1), 0)
    return WorldClip(made.frames, made.fps, made.caption, made.label, made.request, list(objects))


def test_each_key_is_what_it_is_to_the_object_that_is_asked() -> None:
    moved, still = standing(0, 1, 2), standing(10, 10, 10)
    kinds, asked = kinds_of(clip(moved, still), HELD, GRID, given=5, keys=FRAMES * PLACES + 3)
    query = 2 * PLACES + 2
    # The one that stands still is not asked: what is at its place there is the object itself.
    assert asked.nonzero().flatten().tolist() == [query]
    row = kinds[query]
    assert row[[0, PLACES + 1]].tolist() == [OWN, OWN]
    assert row[[10, PLACES + 10]].tolist() == [ANOTHER, ANOTHER]
    assert row[[2, PLACES + 2]].tolist() == [SAME, SAME]
    assert row[[1, 5, PLACES, PLACES + 15]].eq(ELSEWHERE).all()
    assert row[2 * PLACES : 3 * PLACES].eq(PREDICTED).all() and row[3 * PLACES :].eq(TEXT).all()
    # Two objects in one token of the last frame: nobody knows whose it is.
    assert not kinds_of(clip(moved, standing(9, 9, 2)), HELD, GRID, 5, FRAMES * PLACES)[1].any()


def test_all_of_an_attention_is_found_where_it_was_put() -> None:
    kinds, asked = kinds_of(clip(standing(0, 1, 2)), HELD, GRID, given=5, keys=FRAMES * PLACES)
    weights = torch.zeros(1, 3, FRAMES * PLACES, FRAMES * PLACES)
    weights[:, 0, :, PLACES + 1] = 1.0  # where the object was
    weights[:, 1, :, 2], weights[:, 1, :, 2 * PLACES + 2] = 0.25, 0.75  # the query's own place then, and itself
    weights[:, 2] = 1.0 / weights.shape[-1]
    found, even = shares(weights, kinds[None], asked[None])
    assert found.shape == (1, 3, 6) and even.shape == (1, 6)
    assert found[0, 0].tolist() == [1.0, 0, 0, 0, 0, 0]
    assert found[0, 1].tolist() == [0, 0, 0.25, 0, 0.75, 0]
    assert_close(found[0, 2], even[0])
    assert float(even[0, OWN]) == pytest.approx(2 / (FRAMES * PLACES), rel=1e-6)


def test_what_is_recorded_is_what_the_layer_computes() -> None:
    torch.manual_seed(0)
    layer, x = Attention(16, 2), torch.randn(2, FRAMES, PLACES, 16)
    values = layer.project(x)[2].transpose(2, 3)  # (B, T, N, S, d)
    level = torch.ones(FRAMES * PLACES, 8), torch.zeros(FRAMES * PLACES, 8)
    with recorded() as seen, torch.no_grad():
        joint = joint_attention(layer, x, level)
        apart = temporal_attention(layer, x, None)
        layer(x.flatten(0, 1))
        CrossAttention(16, 2)(x.flatten(1, 2), torch.randn(2, 5, 16))
    over = [over_all(weights, 2, FRAMES, PLACES) for weights in seen]
    assert len(seen) == 4 and over[2] is None and over[3] is None, "within frames, and of a prompt alone"
    of_all = values.transpose(1, 2).flatten(2, 3)  # (B, N, T * S, d)
    for weights, made in zip(over[:2], (joint, apart), strict=True):
        assert weights is not None and weights.shape == (2, 2, FRAMES * PLACES, FRAMES * PLACES)
        heads = (weights @ of_all).transpose(1, 2).flatten(2)
        assert_close(layer.proj(heads).view_as(made), made)


def test_flow_carries_a_moving_picture_on() -> None:
    wide = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(wide, (64, 96), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    shown = (255 * wide).byte().numpy()
    frames = np.stack([shown[:, 16 - 2 * t : 80 - 2 * t] for t in range(6)])  # everything moves 2 px to the right
    made = carried_on(frames[:3], 3)
    inside = (slice(None), slice(8, -8), slice(16, -16))
    true, still = frames[3:][inside].astype(float), frames[2:3][inside].astype(float)
    assert_within(made[inside].astype(float), true, 12, "of 255")
    assert np.abs(still - true[2]).mean() > 5 * np.abs(made[2][inside[1:]] - true[2]).mean()


def test_every_row_of_alone_is_a_recipe_of_its_own() -> None:
    recipes = [load_recipe(alone.RECIPE, row.overrides) for row in alone.ROWS.values()]
    assert all(isinstance(recipe, DenoiserRecipe) for recipe in recipes)
    assert isinstance(recipes[0], DenoiserRecipe)
    base = recipes[0].denoiser
    small = build(base.model_copy(update={"hidden_size": 16, "num_heads": 1, "depth": 1}))
    assert small.spec.given == "channels" and small.spec.channels == 16
    rows = list(alone.ROWS.values())
    assert len({(row, str(recipe.model_dump())) for row, recipe in zip(rows, recipes, strict=True)}) == len(rows)


def test_clips_of_one_object_are_of_the_scenarios_that_one_can_be_in() -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(frames=5))
    alone_ones, all_of_them = (heldout(model, 12, CLASSES, n, 7000) for n in (1, 3))
    assert all(len(clip.state) == 1 for clip in alone_ones)
    assert max(len(clip.state) for clip in all_of_them) > 1
