"""A reporter says early what work will take, goes on saying how far it is, and is silent over what is short."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable

import pytest

from kinolab.runtime.progress import Cost, Reporter, duration, size


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def reporter(cheaper: Callable[[float], str] | None = None, memory: int | None = None) -> tuple[Reporter, Clock]:
    clock = Clock()
    made = Reporter("encoding", "windows", cheaper=cheaper, memory=lambda: memory, stream=io.StringIO(), clock=clock)
    return made, clock


def lines(report: Reporter) -> list[str]:
    assert isinstance(report.stream, io.StringIO)
    return report.stream.getvalue().splitlines()


def test_what_it_takes_is_said_after_the_first_piece_with_the_cheaper_way() -> None:
    report, clock = reporter(lambda seconds: f"--size 32 would take about {duration(seconds / 4)}", 2_100_000_000)
    report.progress(0, 60)
    clock.now = 12.0
    report.progress(1, 60)
    assert lines(report) == [
        "encoding: about 12 min, 2.1 GB of memory for 60 windows; --size 32 would take about 3 min"
    ]


def test_a_short_first_piece_sets_up_and_tells_nothing_of_the_others() -> None:
    """The first step of a sampling run took 2.9 s and the others 0.08 s: "about 6 min" for what took 12 s."""
    report, clock = reporter()
    report.progress(0, 125)
    clock.now = 2.9
    report.progress(1, 125)
    clock.now = 5.5
    report.beat()
    assert lines(report) == ["encoding: 1 of 125 windows"], "how far it is, and no guess of what is left"
    clock.now = 5.6
    report.progress(2, 125)
    assert lines(report)[1:] == ["encoding: about 6 min for 125 windows"]
    report, clock = reporter()
    for done in range(126):
        report.progress(done, 125)
        clock.now += 0.08 if done else 2.9
    assert lines(report)[0] == "encoding: about 13 s for 125 windows"
    assert lines(report)[1].endswith("of 125 windows, about 5 s left")


def test_a_line_comes_every_few_seconds_and_rarer_in_long_work() -> None:
    report, clock = reporter()
    report.progress(0, 1000)
    for second in range(1, 61):
        clock.now = float(second)
        report.progress(second, 1000)
    found = lines(report)
    assert found[0] == "encoding: about 17 min for 1000 windows"
    assert found[1:3] == [
        "encoding: 7 of 1000 windows, about 17 min left",
        "encoding: 12 of 1000 windows, about 16 min left",
    ]
    assert len(found) == 12
    for second in range(61, 1001):
        clock.now = float(second)
        report.progress(second, 1000)
    assert 60 < len(lines(report)) - len(found) < 120


def test_a_line_comes_while_the_first_piece_takes_long() -> None:
    report, clock = reporter()
    report.expect(Cost(100.0, disk=3_000_000), by="a small piece")
    for second in range(1, 12):
        clock.now = float(second)
        report.beat()
    assert lines(report) == [
        "encoding: about 2 min, 3 MB of disk (told by a small piece)",
        "encoding: at work for 5 s, about 2 min left",
        "encoding: at work for 10 s, about 2 min left",
    ]


def test_an_estimate_is_repeated_only_where_it_was_wrong() -> None:
    for first, said in ((100.0, 1), (20.0, 2)):
        report, clock = reporter()
        report.expect(Cost(first))
        report.progress(0, 50)
        for done in (1, 2):
            clock.now = 1.2 * done
            report.progress(done, 50)
        assert len(lines(report)) == said, lines(report)


def test_what_is_left_shrinks_while_a_piece_is_at_work() -> None:
    report, clock = reporter()
    report.progress(0, 4)
    clock.now = 30.0
    report.progress(1, 4)
    for second in (36, 42):
        clock.now = float(second)
        report.beat()
    assert lines(report)[-2:] == [f"encoding: 1 of 4 windows, about {s} s left" for s in (84, 78)]


def test_short_work_passes_without_a_word() -> None:
    report, clock = reporter()
    report.expect(Cost(3.0))
    for k in range(5):
        clock.now = float(k)
        report.progress(k, 4)
    assert not lines(report)


def test_the_next_part_of_the_work_is_counted_from_its_own_start() -> None:
    report, clock = reporter()
    report.progress(0, 2)
    clock.now = 3.0
    report.progress(2, 2)
    report.progress(0, 10)
    clock.now = 6.0
    report.progress(1, 10)
    clock.now = 9.0
    report.progress(2, 10)
    assert lines(report)[-1] == "encoding: about 30 s for 10 windows"


@pytest.mark.slow
def test_the_thread_speaks_while_the_work_is_silent_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("kinolab.runtime.progress.EVERY", 0.0)
    with Reporter("waiting", stream=said) as report:
        monkeypatch.setattr(report._ended, "wait", lambda seconds, wait=report._ended.wait: wait(0.01))
        import time

        for _ in range(300):
            if said.getvalue():
                break
            time.sleep(0.01)
    assert said.getvalue().startswith("waiting: at work for ") and report._thread is not None
    assert not report._thread.is_alive()


def test_the_first_interrupt_asks_and_the_second_ends() -> None:
    before, said = signal.getsignal(signal.SIGINT), io.StringIO()
    with pytest.raises(KeyboardInterrupt), Reporter("writing", keeps="the frames so far", stream=said) as report:
        os.kill(os.getpid(), signal.SIGINT)
        assert report.stopping and "keeping the frames so far" in said.getvalue()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_anything_to_keep_an_interrupt_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Reporter("measuring", stream=io.StringIO()):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_terminal_gets_a_bar_and_the_estimate_above_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said, clock = Terminal(), Clock()
    with Reporter("encoding", "windows", stream=said, clock=clock) as report:
        report.progress(0, 60)
        clock.now = 12.0
        report.progress(1, 60)
        clock.now = 90.0
        report.progress(2, 60)
    assert "encoding: about 12 min for 60 windows" in said.getvalue() and "2 of 60" not in said.getvalue()


def test_durations_and_sizes_read_as_people_say_them() -> None:
    seconds = {3.2: "3 s", 89: "89 s", 95: "2 min", 3600: "60 min", 7800: "2 h 10 min", 36000: "10 h", 300000: "3 days"}
    assert {s: duration(s) for s in seconds} == seconds
    assert (size(640e6), size(2.14e9)) == ("640 MB", "2.1 GB")


def test_what_is_measured_within_the_first_piece_corrects_what_was_expected() -> None:
    report, clock = reporter(memory=9_000_000_000)
    report.expect(Cost(70.0), "a small piece", lambda seconds: f"--size 9 would take about {duration(seconds / 10)}")
    clock.now = 2.0
    report.progress(0, 8)
    for reached in range(1, 20):
        clock.now = 2.0 + 5.0 * reached
        report.within(reached / 4, 8)
    assert lines(report)[:4] == [
        "encoding: about 70 s (told by a small piece); --size 9 would take about 7 s",
        "encoding: about 3 min, 9.0 GB of memory for 8 windows; --size 9 would take about 16 s",
        "encoding: 0.5 of 8 windows, about 2 min left",
        "encoding: 0.8 of 8 windows, about 2 min left",
    ]
    clock.now = 100.0
    report.progress(5, 8)
    clock.now = 105.0
    report.beat()
    assert lines(report)[-2:] == ["encoding: 9.0 GB of memory so far", "encoding: 5 of 8 windows, about 54 s left"]


def test_the_very_start_of_a_piece_tells_nothing() -> None:
    report, clock = reporter()
    report.expect(Cost(420.0))
    report.progress(0, 5)
    clock.now = 9.0
    report.within(0.001, 5)
    assert lines(report) == ["encoding: about 7 min", "encoding: at work for 9 s, about 7 min left"]
    clock.now = 24.0
    report.within(0.1, 5)
    assert lines(report)[2:] == ["encoding: about 20 min for 5 windows"]


def test_a_first_piece_as_long_as_expected_is_not_told_twice() -> None:
    report, clock = reporter()
    report.expect(Cost(100.0))
    report.progress(0, 10)
    for second in range(1, 12):
        clock.now = float(second)
        report.within(second / 11, 10)
    assert lines(report) == [
        "encoding: about 2 min", "encoding: 0.5 of 10 windows, about 2 min left",
        "encoding: 0.9 of 10 windows, about 2 min left",
    ]  # fmt: skip
