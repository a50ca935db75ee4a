"""The offline forms of VBench's temporal dimensions, on videos that are still, smooth, jerky, or lose their subject."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.extractors.base import Extractor, ExtractorSpec
from kinolab.metrics.quality import (
    BackgroundConsistency,
    DynamicDegree,
    MotionSmoothness,
    SubjectConsistency,
    TemporalFlickering,
    consistency,
    interpolate,
    is_dynamic,
    is_static,
    moving,
    moving_crops,
    moving_pixels,
    static_part,
    top_flow,
)
from tests.closeness import assert_close
from tests.metrics.moving_clips import as_frames, panning, texture, travelling_box

pytest.importorskip("cv2")


class Colours(Extractor):
    """A frame's colours: the histogram of its three channels in four steps each."""

    spec = ExtractorSpec("colours", "none", "frame", width=12, size=(32, 32))

    def features(self, video: Tensor) -> Tensor:
        steps = ((video + 1) * 2).long().clamp(0, 3).transpose(1, 2).flatten(3)  # (B, T, 3, H W)
        return torch.stack([(steps == k).float().mean(-1) for k in range(4)], -1).flatten(2).flatten(0, 1)


class Clips(Colours):
    spec = ExtractorSpec("clips", "none", "clip", width=12)


def test_consistency_is_the_mean_of_both_similarities_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])
    half = 0.5**0.5
    first, previous = (half + 0 + 0) / 3, (half + half + 0) / 3  # the last is -1 and 0: negative ones count as 0
    assert consistency(features) == pytest.approx((first + previous) / 2)
    assert consistency(features[:1].expand(5, 2)) == pytest.approx(1.0)
    with pytest.raises(InputError, match="not finite"):
        consistency(features * torch.nan)


def test_a_still_video_is_fully_consistent_and_judged_whole() -> None:
    video = texture(32)[None, :, None].repeat(2, 1, 4, 1, 1)
    for metric in (SubjectConsistency(Colours()), BackgroundConsistency(Colours())):
        metric.update(video)
        assert metric.compute().value == pytest.approx(1.0) and metric.compute().count == 2
    assert metric.whole == 0  # all of it is background


def test_a_subject_that_changes_is_seen_and_the_background_is_not_blamed() -> None:
    steady = travelling_box(6, 3)
    changed = steady.clone()
    for t in range(3, 6):  # the box turns to another colour while it goes on
        changed[:, :, t, 36:60, 4 + 3 * t : 28 + 3 * t] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    scores = {}
    for name, video in (("steady", steady), ("changed", changed)):
        subject, whole, background = (
            SubjectConsistency(Colours()), SubjectConsistency(Colours(), "whole"), BackgroundConsistency(Colours()),
        )  # fmt: skip
        for metric in (subject, whole, background):
            metric.update(video)
        scores[name] = [m.compute().value for m in (subject, whole, background)]
        assert subject.whole == background.whole == 0
    drop = [s - c for s, c in zip(scores["steady"], scores["changed"], strict=True)]
    assert drop[0] > 3 * drop[1] > 0 and abs(drop[2]) < 0.01


def test_a_background_that_changes_is_seen() -> None:
    steady = travelling_box(6, 3)
    changed = steady.clone()
    changed[:, :, 3:, :24] = 0.9
    values = []
    for video in (steady, changed):
        metric = BackgroundConsistency(Colours())
        metric.update(video)
        values.append(metric.compute().value)
    assert values[1] < values[0] - 0.02


def test_the_moving_region_is_the_box_and_the_crop_follows_it() -> None:
    clip = travelling_box(5, 4)[0]
    moves = moving_pixels(as_frames(clip[None]))
    box = np.zeros((96, 96), bool)
    box[36:60, 4:28] = True
    assert (moves[0] & box).sum() / (moves[0] | box).sum() > 0.6
    crops = moving_crops(clip, moves)
    assert crops is not None and crops.shape[1] == 5 and crops.shape[2] == crops.shape[3] < 60
    spread = crops[:, 1:3].diff(dim=1).abs().mean()  # in the crop the box stands still
    assert spread < 0.5 * clip[:, 1:3, 36:60, 4:36].diff(dim=1).abs().mean()


def test_the_cameras_motion_is_not_the_subjects() -> None:
    assert not moving(np.full((2, 32, 32, 2), 3.0, np.float32)).any()
    flows = np.full((2, 32, 32, 2), 3.0, np.float32)
    flows[:, 4:12, 4:12] = (-1, 3)
    moves = moving(flows)
    assert moves[:, 4:12, 4:12].all() and moves.sum() == 2 * 64


def test_a_crop_stays_where_the_motion_was_and_inside_the_frame() -> None:
    clip = torch.rand(3, 4, 32, 40)
    moves = np.zeros((4, 32, 40), bool)
    moves[1, :8, 32:] = True
    crops = moving_crops(clip, moves)
    assert crops is not None and crops.shape == (3, 4, 10, 10)
    assert all(torch.equal(crops[:, t], clip[:, t, :10, 30:]) for t in range(4))
    assert moving_crops(clip, np.zeros_like(moves)) is None


def test_the_static_part_hides_all_that_ever_moves() -> None:
    clip = torch.full((3, 3, 32, 32), 0.25)
    moves = np.zeros((3, 32, 32), bool)
    for t in range(3):
        clip[:, t, 8:16, 4 + 4 * t : 12 + 4 * t] = 1.0
        moves[t, 8:16, 4 + 4 * t : 12 + 4 * t] = True
    part = static_part(clip, moves)
    assert part is not None and part.eq(0.25).all()
    assert static_part(clip, np.ones_like(moves)) is None


def test_an_extractor_of_clips_is_refused() -> None:
    with pytest.raises(InputError, match="subject_consistency_offline needs an extractor of frames; clips"):
        SubjectConsistency(Clips())


def test_temporal_flickering_is_vbenchs_formula() -> None:
    frames = torch.full((1, 3, 5, 32, 32), 100, dtype=torch.uint8)
    frames[:, :, 1::2] = 110
    metric = TemporalFlickering()
    metric.update(frames)
    metric.update(frames[:, :, :1].expand(-1, -1, 5, -1, -1))
    assert metric.per_clip == pytest.approx([245 / 255, 1.0]) and metric.left_out == 0


def test_videos_that_move_do_not_count_as_flicker() -> None:
    moving_video, still = panning(6, (3, 0)), panning(1, (0, 0)).expand(-1, -1, 6, -1, -1)
    assert is_static(as_frames(still)) and not is_static(as_frames(moving_video))
    metric, everything = TemporalFlickering(), TemporalFlickering(static_only=False)
    metric.update(moving_video)
    with pytest.raises(InputError, match="none of 1 videos holds still"):
        metric.compute()
    metric.update(still)
    everything.update(moving_video)
    assert (metric.compute().value, metric.compute().count, metric.left_out) == (1.0, 1, 1)
    assert everything.compute().value < 1.0
    assert metric.compute().protocol["videos"] != everything.compute().protocol["videos"]


def test_interpolation_of_a_pan_gives_the_frame_between() -> None:
    frames = as_frames(panning(5, (2, 1)))
    rebuilt = interpolate(frames[::2])
    inside = np.s_[:, 8:-8, 8:-8]
    error = np.abs(rebuilt[inside].astype(int) - frames[1::2][inside].astype(int)).mean()
    blend = np.abs((frames[:-2:2][inside].astype(int) + frames[2::2][inside]) / 2 - frames[1::2][inside]).mean()
    assert error < 2 < 3 * error + 4 < blend + 4 and error < 0.3 * blend


def test_smooth_motion_scores_above_jerky_motion_and_still_is_one() -> None:
    smooth = panning(9, (2, 0))
    jerky = smooth[:, :, [0, 0, 2, 2, 4, 4, 6, 6, 8]]
    scores = []
    for video in (smooth[:, :, :1].expand_as(smooth), smooth, jerky):
        metric = MotionSmoothness()
        metric.update(video)
        scores.append(metric.compute().value)
    assert scores[0] == 1.0 and scores[0] >= scores[1] > scores[2] + 0.005


def test_top_flow_is_the_mean_of_the_largest_twentieth() -> None:
    flows = np.zeros((2, 20, 20, 2), np.float32)
    flows[0, 0, :, 0] = 3.0  # 20 of 400 pixels are 5%
    flows[1, 0, :10, 1] = -4.0
    assert_close(top_flow(flows), [3.0, 2.0])


def test_dynamic_degree_is_a_share_with_vbenchs_threshold() -> None:
    """At a shorter side of 48 px the threshold is 6 * 48 / 256 = 1.125 px."""
    fast, slow = panning(8, (2, 0)), panning(8, (1, 0))
    assert is_dynamic(as_frames(fast)) and not is_dynamic(as_frames(slow))
    metric = DynamicDegree()
    metric.update(torch.cat([fast, slow]))
    metric.update(fast)
    value = metric.compute()
    assert (value.value, value.count) == (pytest.approx(2 / 3), 3)
    assert value.interval is not None and value.interval.method == "wilson"
    # of 16 frames per second every second one is taken, so that slow motion becomes twice as fast
    twice = DynamicDegree(fps=16)
    twice.update(slow)
    assert twice.compute().value == 1.0


def test_a_quarter_of_the_pairs_must_move() -> None:
    still = as_frames(panning(1, (0, 0))).repeat(13, axis=0)
    moved = as_frames(panning(5, (2, 0)))
    assert is_dynamic(np.concatenate([moved, moved[-1:].repeat(11, axis=0)]))  # four of 16
    assert not is_dynamic(np.concatenate([moved[:4], moved[3:4].repeat(12, axis=0)]))  # three of 16
    assert not is_dynamic(still[:2])


@pytest.mark.parametrize(
    ("metric", "frames"), [(MotionSmoothness(), 3), (DynamicDegree(), 2), (DynamicDegree(fps=24), 4),
                           (TemporalFlickering(), 2), (SubjectConsistency(Colours()), 2)],
)  # fmt: skip
def test_videos_that_are_too_short_are_refused(
    metric: MotionSmoothness | DynamicDegree | TemporalFlickering | SubjectConsistency, frames: int
) -> None:
    with pytest.raises(InputError, match=f"at least {frames} frames, got {frames - 1}"):
        metric.update(torch.zeros(1, 3, frames - 1, 32, 32))


def test_every_name_says_offline() -> None:
    metrics = (
        SubjectConsistency(Colours()), BackgroundConsistency(Colours()), TemporalFlickering(static_only=False),
        MotionSmoothness(), DynamicDegree(),
    )  # fmt: skip
    for metric in metrics:
        metric.update(panning(4, (1, 0)))
        protocol = metric.compute().protocol
        assert str(protocol["metric"]).endswith("_offline"), protocol
    with pytest.raises(InputError, match="frame rate above 0"):
        DynamicDegree(fps=0)
