"""Appended lines are whole, whatever tears them; what was acknowledged stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kinolab.runtime.logs import Appender, append_line
from kinolab.runtime.reading import json_lines
from tests.runtime.crashing import Step, again, crashes, failures

LINES = ['{"step": 1}', '{"step": 2, "loss": 0.25, "text": "ü"}']


def nothing(root: Path) -> None:
    pass


def two_lines(root: Path) -> None:
    (root / "log.jsonl").write_text("".join(line + "\n" for line in LINES), encoding="utf-8")


def torn(root: Path) -> None:
    (root / "log.jsonl").write_text(LINES[0] + "\n" + LINES[1] + "\n" + '{"step": 3, "lo', encoding="utf-8")


def append(root: Path) -> None:
    with Appender(root / "log.jsonl") as log:
        log.write('{"step": 4}')
        log.write('{"step": 5}')


def append_late(root: Path) -> None:
    """Flushed once, as a training's log is before a checkpoint."""
    with Appender(root / "log.jsonl", durable=False) as log:
        log.write('{"step": 4}')
        log.write('{"step": 5}')
        log.flush()


def steps(root: Path) -> list[int]:
    path = root / "log.jsonl"
    return [row["step"] for _, row in json_lines(path)] if path.exists() else []


@pytest.mark.parametrize("before", [nothing, two_lines, torn])
def test_a_log_holds_whole_lines_after_every_crash(before: object, tmp_path: Path) -> None:
    had = [] if before is nothing else [1, 2]
    seen = set()
    for after in crashes(before, append, tmp_path):  # type: ignore[arg-type]
        found = steps(after.root)
        assert found in (had, [*had, 4], [*had, 4, 5]), f"{after}: {found}"
        seen.add(len(found))
        again(append, after.root)
        assert steps(after.root) == [*found, 4, 5], after
    assert seen == {len(had), len(had) + 1, len(had) + 2}


@pytest.mark.parametrize("act", [append, append_late])
def test_an_error_of_the_disk_tears_no_line(act: Step, tmp_path: Path) -> None:
    for after in failures(torn, act, tmp_path):
        assert after.error is not None and after.error.filename == str(after.root / "log.jsonl"), after
        found = steps(after.root)
        assert found in ([1, 2], [1, 2, 4], [1, 2, 4, 5][: 4 if act is append_late else 0]), f"{after}: {found}"
        again(act, after.root)
        assert steps(after.root) == [*found, 4, 5], after


def test_a_full_disk_takes_half_a_line_and_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinolab.runtime import system

    class Short(system.Calls):
        left = 12

        def write(self, descriptor: int, data: memoryview, path: Path) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = super().write(descriptor, data[: self.left], path)
            self.left -= count
            return count

    two_lines(tmp_path)
    full = pytest.raises(OSError, match="No space")
    with system.replaced(Short()), Appender(tmp_path / "log.jsonl") as log, full:
        log.write('{"step": 4, "much": "more"}')
    assert steps(tmp_path) == [1, 2]
    assert (tmp_path / "log.jsonl").read_bytes().endswith(b"}\n")


def test_only_the_torn_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.txt"
    append_line(path, "one")
    append_line(path, "two\n")
    assert path.read_text() == "one\ntwo\n"
    for tail in ("x" * 200_000, "\0" * 5000, "y"):
        with path.open("a") as file:
            file.write(tail)
        with Appender(path, durable=False) as log:
            log.write("three")
        assert path.read_text() == "one\ntwo\nthree\n"
        path.write_text("one\ntwo\n")
    path.write_text("no line was ever finished")
    append_line(path, "one")
    assert path.read_text() == "one\n"


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        append_line(tmp_path / "log", "x")
    assert (tmp_path / "victim").read_text() == "mine\n"
