import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinolab.contracts.examples import Verdict
from kinolab.data.clips import heldout_hashes, summarise
from kinolab.data.windows import Timeline, cut, is_regular, scene_stretches, timeline

pytestmark = pytest.mark.slow  # many short ones, which take long together


def test_totals_and_reasons() -> None:
    verdicts = [
        Verdict("a", 3),
        Verdict("b", 2, "heldout", dropped=("1 frame that fills no window",)),
        Verdict("c", 0, dropped=("the file is empty (0 bytes)",)),
        Verdict("d", 0, dropped=("the file is empty (0 bytes)", "more")),
    ]
    found = summarise(verdicts)
    assert (found.files, found.used, found.windows, found.train, found.heldout) == (4, 2, 5, 3, 2)
    assert found.reasons == {"the file is empty (0 bytes)": 2}


@pytest.mark.slow
@settings(max_examples=30)
@given(st.sets(st.text(min_size=1), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_the_held_out_share_is_never_empty_nor_everything(hashes: set[str], fraction: float) -> None:
    held = heldout_hashes(hashes, fraction)
    assert 0 < len(held) < len(hashes) and held <= hashes


def test_the_held_out_share_is_about_the_fraction_and_grows_with_it() -> None:
    hashes = [str(i) for i in range(4000)]
    held = [heldout_hashes(hashes, f) for f in (0.05, 0.1, 0.5)]
    assert [len(h) / 4000 for h in held] == pytest.approx([0.05, 0.1, 0.5], abs=0.02)
    assert held[0] < held[1] < held[2] and not heldout_hashes(hashes, 0.0)


@given(
    st.lists(st.floats(0.004, 0.5), min_size=1, max_size=40),
    st.floats(1, 120),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_windows_of_any_clip_are_ordered_stored_frames(gaps: list[float], fps: float, frames: int, stride: int) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    line = timeline(times, fps)
    assert line.index[0] == 0 and np.all(np.diff(line.index) >= 0) and line.index[-1] < len(times)
    windows, left = cut(line, frames, stride)
    assert all(len(w) == frames for w in windows)
    assert len(windows) == max(0, (len(line.index) - frames) // stride + 1)
    assert left == len(line.index) - ((len(windows) - 1) * stride + frames if windows else 0)
    if is_regular(times) and len(times) > 2:
        moments = times[0] + np.arange(len(line.index)) / line.fps
        assert np.all(times[line.index] <= moments + 0.02 * times[-1] + 0.003)


@pytest.mark.parametrize(
    ("frames", "stride", "starts", "left"),
    [(5, 3, [0, 3, 6], 0), (5, 5, [0, 5], 1), (4, 6, [0, 6], 1), (12, 1, [], 11)],
)
def test_windows_begin_every_stride_and_say_what_is_left_at_the_end(
    frames: int, stride: int, starts: list[int], left: int
) -> None:
    windows, over = cut(Timeline(np.arange(100, 111), 8.0), frames, stride)
    assert [w.tolist() for w in windows] == [list(range(100 + s, 100 + s + frames)) for s in starts] and over == left


def test_rounded_time_stamps_do_not_repeat_frames() -> None:
    times = np.round(np.arange(60) / 30, 3)
    assert timeline(times, 15.0).index.tolist() == list(range(0, 60, 2))
    assert timeline(times, 30.0).index.tolist() == list(range(60))


def test_scenes_are_cut_apart() -> None:
    assert scene_stretches((), 10) == [(0, 10)]
    assert scene_stretches((0, 4, 4, 12), 10) == [(0, 4), (4, 10)]
    line = timeline(np.arange(10) / 10, None, 4, 10)
    assert line.index.tolist() == [4, 5, 6, 7, 8, 9] and line.fps == pytest.approx(10)
