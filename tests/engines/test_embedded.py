"""Processes of this machine as workers: the same bytes as one process, whatever becomes of the workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from kinolab.contracts.engine import Each, Engine, Task
from kinolab.contracts.events import Silent
from kinolab.engines import engine_of
from kinolab.errors import InputError
from tests.engines.encoding import encode, source, write_clips
from tests.engines.folders import files_of
from tests.processes import Child

pytestmark = pytest.mark.wide


def engine(workers: int = 2) -> Engine:
    found = engine_of("embedded", workers)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "clips", 5)


@pytest.fixture(scope="module")
def quiet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("quiet") / "c"
    encode(folder, out)
    return files_of(out)


class Killing(Silent):
    """Kills a worker at every shard that is written."""

    def __init__(self) -> None:
        self.killed = 0

    def wrote(self, path: Path, what: str = "file") -> None:
        for child in multiprocessing.active_children()[:1]:
            if child.pid is not None and self.killed < 4:
                os.kill(child.pid, signal.SIGKILL)
                self.killed += 1


def test_a_cache_is_the_same_by_workers_and_by_workers_that_are_killed(
    folder: Path, quiet: dict[str, bytes], tmp_path: Path
) -> None:
    summary = encode(folder, tmp_path / "a", engine(2))
    assert summary.encoded == summary.items == 15 and files_of(tmp_path / "a") == quiet
    events = Killing()
    encode(folder, tmp_path / "b", engine(2), events=events)
    assert events.killed == 4 and files_of(tmp_path / "b") == quiet


def test_what_one_engine_began_another_ends(folder: Path, quiet: dict[str, bytes], tmp_path: Path) -> None:
    child = Child(_killed_at_the_third_shard, folder, tmp_path / "c")
    status, said = child.wait()
    assert status == -signal.SIGKILL, said
    assert 0 < len((tmp_path / "c" / "index.jsonl").read_text().splitlines()) < 8
    encode(folder, tmp_path / "c")
    assert files_of(tmp_path / "c") == quiet


def _may_have_children() -> None:
    """The processes of `tests.processes` are daemons, which multiprocessing lets have no children."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


def _killed_at_the_third_shard(folder: Path, out: Path) -> None:
    _may_have_children()

    class Third(Silent):
        count = 0

        def wrote(self, path: Path, what: str = "file") -> None:
            self.count += 1
            if self.count == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    encode(folder, out, engine(2), events=Third())


def test_a_folder_is_scanned_alike(folder: Path) -> None:
    alone, together = source(folder), source(folder, engine(2))
    assert alone.verdicts() == together.verdicts() and together.poison == ()
    assert [alone.record(i) for i in range(len(alone))] == [together.record(i) for i in range(len(together))]


@dataclass(frozen=True)
class Doing:
    """A job that does what its parts say."""

    room: Path
    seen: list[int] = field(default_factory=list)

    def worker(self, number: int) -> Doing:
        return self

    def name(self, part: Any) -> str:
        return str(part)

    def run(self, task: Task) -> list[Any]:
        for part in task.parts:
            self.probe(part)
        return [os.getpid(), *task.parts]

    def probe(self, part: Any) -> None:
        if part == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if part == "raise":
            raise ZeroDivisionError("of no use")
        if part == "mistake":
            raise InputError("expected something else")
        if part == "full":
            raise OSError(28, "No space left on device", "x/y")
        if part == "wait":
            (self.room / "pid").write_text(str(os.getpid()))
            time.sleep(60)


def done(room: Path, *groups: tuple[Any, ...]) -> dict[str, tuple[list[Any], list[tuple[Any, str]]]]:
    tasks = [Task(f"t{k}", group) for k, group in enumerate(groups)]
    found = list(engine(2).run(Doing(room), tasks, Silent()))
    return {d.task.key: ((d.value or [0])[1:], [(x.part, x.why) for x in d.left]) for d in found}


def test_clips_that_crash_their_process_are_left_out(tmp_path: Path) -> None:
    found = done(tmp_path, ("a", "segfault", "b"), ("c", "raise"), ("d",))
    assert found == {
        "t0": (["a", "b"], [("segfault", "killed by SIGSEGV")]),
        "t1": (["c"], [("raise", "ZeroDivisionError: of no use")]),
        "t2": (["d"], []),
    }


def test_workers_begin_where_the_server_that_forks_them_was_killed(tmp_path: Path) -> None:
    assert done(tmp_path, ("a",)) == {"t0": (["a"], [])}
    kept: Any = vars(forkserver)["_forkserver"]
    server = kept._forkserver_pid
    os.kill(server, signal.SIGKILL)
    assert done(tmp_path, ("b",), ("c",)) == {"t0": (["b"], []), "t1": (["c"], [])}
    assert kept._forkserver_pid != server


def test_a_worker_that_hangs_counts_as_one_that_died(tmp_path: Path) -> None:
    found = engine_of("embedded", 2, Each(cpus=1, seconds=1.0))
    assert found is not None
    [done] = list(found.run(Doing(tmp_path), [Task("t", ("wait",))], Silent()))
    assert done.value is None and [(x.part, x.why) for x in done.left] == [("wait", "no answer for 1 s")]


@pytest.mark.parametrize(("part", "error"), [("mistake", InputError), ("full", OSError)])
def test_a_mistake_and_a_full_disk_end_the_job_as_in_one_process(
    tmp_path: Path, part: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        done(tmp_path, ("a",), (part,))
    assert getattr(caught.value, "filename", "x/y") == "x/y" and type(caught.value) is error


def test_workers_end_with_the_process_that_began_them(tmp_path: Path) -> None:
    child = Child(_waits, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    worker = int((tmp_path / "pid").read_text())
    child.kill()
    while os.path.exists(f"/proc/{worker}/stat") and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[:1]:
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline, "it went on alone"


def _waits(room: Path) -> None:
    _may_have_children()
    list(engine(2).run(Doing(room), [Task("a", ("wait",))], Silent()))
