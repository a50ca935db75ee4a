from pathlib import Path

import pytest

from kinolab.contracts.working import EVERY, FILE, Working, read_working
from kinolab.errors import Stopped


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_kept_says_how_far_it_is_and_how_fast(tmp_path: Path) -> None:
    clock = Clock()
    with Working(tmp_path, "encoding", "windows", 3, clock) as working:
        working.progress(10, 100)
        kept = read_working(tmp_path)
        assert kept is not None and (kept.done, kept.first, kept.outcome, kept.rate) == (10, 10, None, None)
        assert kept.process.lives and kept.workers == 3
        clock.now += EVERY / 2
        working.progress(20, 100)
        assert read_working(tmp_path) == kept, "not at every piece"
        clock.now += 9 * EVERY / 2
        working.progress(60, 100)
        kept = read_working(tmp_path)
        assert kept is not None and kept.done == 60 and kept.rate == pytest.approx(50 / (5 * EVERY), rel=1e-6)
        working.left_out(("a at 0.00 s",))
    kept = read_working(tmp_path)
    assert kept is not None and (kept.outcome, kept.failed) == ("done", ("a at 0.00 s",))


@pytest.mark.parametrize(
    ("error", "outcome"), [(Stopped, "stopped"), (KeyboardInterrupt, "stopped"), (ValueError, "failed")]
)
def test_how_it_ended_is_kept(tmp_path: Path, error: type[BaseException], outcome: str) -> None:
    with pytest.raises(error), Working(tmp_path, "encoding", "windows") as working:
        working.progress(1, 4)
        working.progress(2, 4)
        raise error
    kept = read_working(tmp_path)
    assert kept is not None and (kept.outcome, kept.done) == (outcome, 2)


def test_nothing_is_written_before_the_work_has_begun(tmp_path: Path) -> None:
    with pytest.raises(ValueError), Working(tmp_path, "encoding", "windows"):
        raise ValueError("the folder is another's")
    assert not list(tmp_path.iterdir()) and read_working(tmp_path) is None


def test_what_is_damaged_counts_as_none(tmp_path: Path) -> None:
    with Working(tmp_path, "encoding", "windows") as working:
        working.progress(1, 4)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"total": 4', '"total": 5'))
    assert read_working(tmp_path) is None
