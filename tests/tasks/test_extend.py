"""Plans of windows: they cover what they promise, and each has something given where the plan says so."""

from __future__ import annotations

import pytest
import torch

from kinolab.errors import InputError
from kinolab.tasks.extend import Canvas, backward, hierarchical, looped, sliding


@pytest.mark.parametrize(
    ("total", "window", "overlap"), [(17, 17, 5), (18, 17, 5), (60, 17, 5), (33, 9, 8), (10, 4, 1)]
)
def test_sliding_covers_and_overlaps(total: int, window: int, overlap: int) -> None:
    known: set[int] = set()
    for k, frames in enumerate(sliding(total, window, overlap)):
        assert len(frames) == window and frames == list(range(frames[0], frames[0] + window))
        assert k == 0 or len(known & set(frames)) >= overlap
        known |= set(frames)
    assert known == set(range(total))


def test_backward_is_sliding_in_a_mirror() -> None:
    windows = backward(20, 8, 3)
    assert windows[0] == list(range(12, 20)) and windows[-1][0] == 0
    assert {f for w in windows for f in w} == set(range(20))


def test_hierarchical_has_keyframes_first_and_no_gap_larger_than_the_stride() -> None:
    total, window, stride = 65, 9, 4
    windows = hierarchical(total, window, stride, 3)
    far = [w for w in windows if w[1] - w[0] == stride]
    assert {f for w in far for f in w} == set(range(0, total, stride)) and windows[: len(far)] == far
    known = {f for w in far for f in w}
    for frames in windows[len(far) :]:
        assert frames[-1] in known or frames[-2] in known or frames[-3] in known or frames[-4] in known
        known |= set(frames)
    assert known == set(range(total))
    with pytest.raises(InputError, match="1 \\+ stride\\*k frames"):
        hierarchical(66, 9, 4, 3)
    with pytest.raises(InputError, match="smaller stride"):
        hierarchical(21, 9, 4, 3)


@pytest.mark.parametrize(("total", "window", "overlap"), [(24, 9, 3), (10, 9, 4), (60, 17, 5), (18, 17, 5)])
def test_a_loop_joins_the_end_to_the_beginning(total: int, window: int, overlap: int) -> None:
    windows = looped(total, window, overlap)
    *before, join = windows
    known = {f for w in before for f in w}
    assert known | set(join) == set(range(total)) and len(set(join)) == window
    assert all(f in known for f in join[:overlap]) and all(f in known for f in join[-overlap:])
    assert 0 in join and total - 1 in join and any(f not in known for f in join)
    with pytest.raises(InputError, match="loop"):
        looped(9, 9, 3)


def test_bad_overlaps_are_refused() -> None:
    for overlap in (0, 9):
        with pytest.raises(InputError, match="overlap of 1 to 8"):
            sliding(20, 9, overlap)
    with pytest.raises(InputError, match="at least the model's 9"):
        sliding(8, 9, 3)


def test_a_canvas_takes_over_only_what_it_lacks() -> None:
    video, mask = torch.zeros(1, 3, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)
    mask[:, :, :2] = 0
    canvas = Canvas(video, mask)
    assert canvas.missing([1, 2]) and not canvas.missing([0, 1])
    canvas.put([1, 2], torch.full((1, 3, 2, 1, 1), 5.0))
    assert canvas.video[0, 0, :, 0, 0].tolist() == [0, 0, 5, 0] and canvas.mask[0, 0, :, 0, 0].tolist() == [0, 0, 0, 1]
    assert mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1], "the request's own mask is left alone"
