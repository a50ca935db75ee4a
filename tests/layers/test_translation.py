"""Moving frames: whole places are copies, parts are blends, edges are mirrors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kinolab.layers.translation import blended_share, translated
from tests.closeness import assert_close, assert_same

X = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("blend", [False, True])
def test_whole_places_are_copies(blend: bool) -> None:
    moved = translated(X, 2.0, -1.0, blend=blend)
    assert_same(moved[..., :4, 2:], X[..., 1:, :5])
    assert_same(translated(X, 0.0, 0.0, blend=blend), X)


@pytest.mark.parametrize(("right", "down"), [(0.3, 0.0), (-2.6, 1.25), (9.4, -7.7)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_it_is_sampling_on_a_grid_that_is_moved_with_reflected_edges(right: float, down: float, mode: str) -> None:
    H, W = X.shape[2:]
    rows, columns = torch.arange(H, dtype=torch.float64) - down, torch.arange(W, dtype=torch.float64) - right
    y, x = (2 * (places + 0.5) / n - 1 for places, n in ((rows, H), (columns, W)))
    grid = torch.stack([x.expand(H, W), y[:, None].expand(H, W)], -1)[None].expand(2, -1, -1, -1)
    expected = F.grid_sample(X, grid, mode=mode, padding_mode="reflection", align_corners=False)
    assert_close(translated(X, right, down, blend=mode == "bilinear"), expected)


def test_edges_are_repeated_where_that_is_asked() -> None:
    moved = translated(X, 2.0, -1.0, blend=False, edges="repeat")
    assert_same(moved[..., :4, 2:], X[..., 1:, :5])
    assert_same(moved[..., :4, :2], X[..., 1:, :1].expand(-1, -1, -1, 2))
    assert_same(moved[..., 4, 2:], X[..., 4, :5])


def test_halves_move_every_place_by_as_much() -> None:
    assert_same(translated(X, 0.5, 0.0, blend=False), translated(X, 1.0, 0.0, blend=False))
    assert_same(translated(X, -0.5, 0.0, blend=False), X)


def test_blending_leaves_the_share_of_white_noise_that_it_says() -> None:
    noise = torch.randn(400, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for right, down in ((0.5, 0.0), (1.25, -0.5), (3.0, 1.0)):
        moved = translated(noise, right, down, blend=True)[..., 4:-4, 4:-4]
        assert float(moved.var()) == pytest.approx(blended_share(right, down), rel=0.03)
    assert blended_share(3.0, -1.0) == 1.0 and blended_share(0.5, 0.5) == 0.25
