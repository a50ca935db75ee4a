"""Temporal metrics and spectra on clips whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.temporal import (
    FLOOR,
    Flicker,
    FrameDifference,
    FrequencyProfile,
    GridArtefacts,
    OwnWarpError,
    SeamError,
    WarpError,
    chunk_borders,
    grid_power,
    power_spectrum,
    seam_ratio,
    warp_error,
)
from tests.closeness import assert_close, assert_small, assert_within
from tests.metrics.moving_clips import panning, texture


def noise(shape: tuple[int, ...], spread: float = 0.2, seed: int = 0) -> Tensor:
    return (spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


def test_flicker_is_the_mean_change_of_the_error() -> None:
    x = noise((2, 3, 5, 8, 8))
    steady, flickering = x * 0.5 + 0.1, x * 0.5
    flickering[0, :, 1::2] += 0.2  # every step changes by 0.2 on [-1, 1], 0.1 on [0, 1]
    metric = Flicker()
    metric.update(x * 0.5, steady)
    assert_small(metric.compute().value, beside=x)
    metric.update(x * 0.5, flickering)
    assert_close(metric.per_clip[2:], [0.1, 0.0])
    assert metric.compute().count == 4 and metric.compute().interval is not None


def test_frame_difference_needs_no_original() -> None:
    video = torch.zeros(1, 3, 4, 8, 8)
    video[:, :, 2] = 0.6
    metric = FrameDifference()
    metric.update(video)
    assert metric.compute().value == pytest.approx(2 / 3 * 0.3)


def test_warp_error_of_a_pan_is_small_and_grows_with_flicker_and_tearing() -> None:
    pytest.importorskip("cv2")
    x = panning(5, (2, 1))
    flickering = x.clone()
    flickering[:, :, 1::2] += 0.2  # (0.1)^2 on [0, 1] in every step
    frozen = x[:, :, :1].expand_as(x)
    scores = []
    for y in (x, flickering.clamp(-1, 1), frozen):
        metric = WarpError()
        metric.update(x, y)
        scores.append(metric.compute().value)
        assert metric.floor.value == pytest.approx(scores[0])
    assert scores[0] < 1e-4 < scores[1] == pytest.approx(0.01, rel=0.2)
    assert scores[2] > 10 * scores[0]


def test_warp_error_by_a_known_flow_is_exact_and_leaves_hidden_pixels_out() -> None:
    clip = (panning(3, (2, 0))[0] + 1) / 2
    forward = torch.zeros(2, 48, 48, 2)
    forward[..., 0] = 2
    seen = torch.ones(2, 48, 48, dtype=torch.bool)
    seen[:, :, -2:] = False
    assert warp_error(clip, forward, seen) == pytest.approx(0, abs=1e-12)
    brighter = clip.clone()
    brighter[:, 1] += 0.3
    assert warp_error(brighter, forward, seen) == pytest.approx(0.09, rel=1e-5)
    brighter[:, 1, :24] -= 0.3
    seen[:, 24:] = False  # only where nothing is wrong
    assert warp_error(brighter, forward, seen) == pytest.approx(0, abs=1e-12)
    seen[0] = False  # a pair without any visible pixel is left out
    assert warp_error(brighter, forward, seen) is not None
    assert warp_error(brighter, forward, torch.zeros_like(seen)) is None


def test_videos_have_a_warp_error_by_their_own_flow() -> None:
    pytest.importorskip("cv2")
    metric = OwnWarpError()
    smooth = panning(4, (2, 0))
    metric.update(smooth)
    metric.update((smooth + noise(tuple(smooth.shape), 0.3)).clamp(-1, 1))
    metric.update(smooth[:, :, :1].expand_as(smooth))
    moved, noisy, still = metric.per_clip
    assert still == 0 and moved < 1e-3 < noisy
    assert metric.compute().protocol["occlusions"] and metric.compute().protocol["flow"]


def test_a_synthetic_seam_has_its_known_ratio() -> None:
    """The residual goes up and down by a = 0.1 on [0, 1], and by three times that at the borders."""
    borders = chunk_borders(9, 3, 3)
    assert borders == [3, 6]
    levels, level = [], 0.0
    for t in range(9):
        level += 0.0 if t == 0 else (0.3 if t in borders else 0.1) * (1 if t % 2 else -1)
        levels.append(level)
    original = torch.zeros(1, 3, 9, 8, 8)
    reconstruction = original + 2 * torch.tensor(levels)[:, None, None]
    metric = SeamError()
    metric.update(original, reconstruction, borders)
    assert metric.compute().value == pytest.approx((0.3 + FLOOR) / (0.1 + FLOOR), rel=1e-5)


def test_the_jump_of_the_error_is_another_thing_than_the_jump_of_the_residual() -> None:
    """Chunks of which one is twice as bad: 0.1, 0.1, 0.1, 0.2, 0.2 in size, with the sign turning every frame."""
    size = torch.tensor([0.1, 0.1, 0.1, 0.2, 0.2])
    residual = (size * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]))[:, None, None].expand(1, 3, 5, 8, 8)
    by_error = seam_ratio(residual, [3], "error").item()
    assert by_error == pytest.approx((0.1 + FLOOR) / FLOOR, rel=1e-4)
    by_difference = seam_ratio(residual, [3]).item()
    assert by_difference == pytest.approx((0.3 + FLOOR) / ((0.2 + 0.2 + 0.4) / 3 + FLOOR), rel=1e-5)


def test_what_happens_in_a_clip_at_a_border_is_no_seam() -> None:
    """An error that jumps at frame 3 by itself, and the same made in chunks: 1; with a seam on top: more."""
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(2, 3, 6, 8, 8)
    whole = 0.02 * torch.randn(x.shape, generator=generator)
    whole[:, :, 3:] += 0.3
    metric = SeamError()
    metric.update(x, whole, [3])
    assert metric.compute().value > 5, "without the whole clip it is taken for a seam"
    metric = SeamError()
    metric.update(x, whole, [3], whole=whole)
    assert metric.compute().value == pytest.approx(1.0)
    assert metric.compute().protocol["relative_to"] == "the reconstruction in one piece"
    chunked = whole.clone()
    chunked[:, :, 3:] += 0.3
    metric.update(x, chunked, [3], whole=whole)
    assert metric.per_clip[-1] > 1.5
    with pytest.raises(InputError, match="for all clips or for none"):
        metric.update(x, whole, [3])


def test_no_seam_is_one() -> None:
    many = noise((1, 3, 257, 16, 16), seed=2)
    assert seam_ratio(many, chunk_borders(257, 9, 8)).item() == pytest.approx(1.0, abs=0.02)
    assert seam_ratio(many, chunk_borders(257, 9, 8), "error").item() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("borders", [[], [0], [5], [1, 2, 3, 4]])
def test_wrong_borders_are_refused(borders: list[int]) -> None:
    x = torch.zeros(1, 3, 5, 8, 8)
    with pytest.raises(InputError, match="expected borders between 1 and 4"):
        SeamError().update(x, x, borders)


def test_white_noise_is_flat_at_its_variance() -> None:
    x = noise((4, 3, 8, 32, 32), 0.2)
    metric = FrequencyProfile()
    metric.update(x, x)
    profile = metric.profile
    known = np.isfinite(profile.original)
    assert known.sum() >= 15  # a ring may hold no frequency of a frame this small
    assert_within(profile.original[known] / 0.01, 1, 0.12, "of what it should be")  # (0.2 / 2)^2 on [0, 1]
    np.testing.assert_array_equal(profile.original, profile.reconstruction)
    assert metric.compute().value == 1.0


def test_parseval_holds() -> None:
    x = noise((2, 3, 4, 16, 24)).double()
    variance = x.var((3, 4), unbiased=False).mean((1, 2))
    assert_close(power_spectrum(x).mean((1, 2)), variance)


def test_a_wave_is_in_the_ring_of_its_frequency() -> None:
    columns = torch.arange(64)
    wave = 0.5 * torch.cos(2 * torch.pi * columns * 10 / 64).expand(1, 3, 2, 64, 64)
    metric = FrequencyProfile()
    metric.update(torch.zeros_like(wave), wave)
    profile = metric.profile
    ring = int(np.nanargmax(profile.reconstruction))
    assert abs(profile.frequency[ring] - 10 / 64) <= 1 / 128
    assert np.nansum(np.delete(profile.reconstruction, ring)) < 1e-9


def test_blur_loses_detail_and_noise_adds_it() -> None:
    x = texture(64, blur=0)[None, :, None].repeat(1, 1, 2, 1, 1)
    blurred = torch.nn.functional.avg_pool3d(x, (1, 3, 3), stride=1, padding=(0, 1, 1))
    scores = []
    for y in (blurred, x, x * 0.5 + noise(tuple(x.shape), 0.5)):
        metric = FrequencyProfile()
        metric.update(x, y)
        scores.append(metric.compute().value)
    assert scores[0] < 0.3 and scores[1] == 1.0 and scores[2] > 0.5


def checkerboard(side: int, period: int) -> Tensor:
    """(side, side) of +1 and -1: zero mean, variance 1."""
    half = torch.arange(side) // (period // 2) % 2 * 2.0 - 1
    return half[:, None] * half


def test_a_checkerboard_of_the_grids_period_has_its_known_power() -> None:
    """All its power is on the grid: 1 + H W v / ((s^2 - 1) n) on white noise of variance n."""
    s, side, v, n = 8, 64, 0.01**2, 0.1**2
    ground = 0.5 + n**0.5 * torch.randn((1, 3, 40, side, side), generator=torch.Generator().manual_seed(0))
    assert grid_power(power_spectrum(ground), s).item() == pytest.approx(1.0, abs=0.05)
    found = grid_power(power_spectrum(ground + v**0.5 * checkerboard(side, s)), s).item()
    assert found == pytest.approx(1 + side * side * v / ((s * s - 1) * n), abs=0.1)


def test_another_period_is_no_artefact_of_this_grid() -> None:
    side = 72
    ground = 0.5 + 0.05 * torch.randn((1, 3, 20, side, side), generator=torch.Generator().manual_seed(0))
    other = grid_power(power_spectrum(ground + 0.02 * checkerboard(side, 36)), 4).item()
    assert other == pytest.approx(1.0, abs=0.1)
    assert grid_power(power_spectrum(ground + 0.02 * checkerboard(side, 4)), 4).item() > 5


def test_grid_artefacts_are_those_the_original_has_not() -> None:
    x = panning(4, (1, 0), side=64) * 0.8
    with_grid = x + 0.02 * checkerboard(64, 8)
    scores = []
    for original, reconstruction in ((x, x), (x, with_grid), (with_grid, with_grid)):
        metric = GridArtefacts(8)
        metric.update(original, reconstruction)
        scores.append(metric.compute().value)
    assert scores[0] == scores[2] == 1.0 and scores[1] > 1.1
    assert metric.compute().protocol["spatial_ratio"] == 8


@pytest.mark.parametrize(("side", "ratio"), [(60, 8), (16, 8), (16, 1)])
def test_a_grid_that_does_not_fit_is_refused(side: int, ratio: int) -> None:
    x = torch.zeros(1, 3, 1, side, side)
    with pytest.raises(InputError, match=f"spatial ratio {ratio} needs frames"):
        GridArtefacts(ratio).update(x, x)


def test_all_scores_of_a_perfect_reconstruction_are_the_best() -> None:
    x = panning(6, (1, 1), side=48, seed=3)
    flicker, seam, detail, grid = Flicker(), SeamError(), FrequencyProfile(), GridArtefacts(8)
    flicker.update(x, x)
    seam.update(x, x, [3])
    detail.update(x, x)
    grid.update(x, x)
    assert [m.compute().value for m in (flicker, seam, detail, grid)] == [0.0, 1.0, 1.0, 1.0]
