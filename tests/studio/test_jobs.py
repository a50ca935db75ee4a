"""Jobs: states that are read from their folders, killed and stopped ones, the order, and who runs them."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kinolab.errors import InputError
from kinolab.runtime import locks, processes
from kinolab.runtime.records import write_record
from kinolab.runtime.yaml_files import to_yaml
from kinolab.studio import jobs, runner, work
from kinolab.studio.api.work import facts, snapshot
from kinolab.studio.project import Project
from tests.processes import Child
from tests.studio.browsing import Served
from tests.training.tiny import autoencoder_recipe


@pytest.fixture
def project(tmp_path: Path) -> Project:
    found = Project.open(tmp_path / "p")
    (found.folder / "tiny.yaml").write_text(to_yaml(autoencoder_recipe(steps=100_000, save_every=100_000)))
    return found


def training(project: Project, **values: Any) -> jobs.Job:
    return jobs.add(project, "train", {"recipe": "tiny.yaml", "run": "runs/a", **values}, "tiny")


def do(folder: str, name: str) -> None:
    """What a job's process does."""
    os.setsid()
    raise SystemExit(work.do(Project.open(Path(folder)), name))


def until(what: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def told(project: Project, job: jobs.Job) -> str:
    path = project.queue / job.id / "events.jsonl"
    return path.read_text() if path.exists() else ""


@pytest.mark.wide
def test_a_job_waits_runs_and_is_done_and_its_command_is_the_one_of_the_terminal(project: Project) -> None:
    job = training(project, setting=["training.steps=2"])
    assert jobs.state(project, job.id) == "waiting" and [j.id for j in jobs.waiting(project)] == [job.id]
    child = Child(do, str(project.folder), job.id)
    status, printed = child.wait()
    assert status == 0, printed
    assert jobs.state(project, job.id) == "done" and not jobs.waiting(project)
    assert (project.runs / "a" / "model" / "model.yaml").is_file()
    assert '"kind": "end"' in told(project, job) and '"outcome": "done"' in told(project, job)
    with pytest.raises(InputError, match="has ended"):
        jobs.stop(project, job.id)


@pytest.mark.wide
def test_stopped_it_saves_and_goes_on_where_it_was(project: Project) -> None:
    job = training(project)
    child = Child(do, str(project.folder), job.id)
    until(lambda: '"kind": "progress"' in told(project, job))
    assert jobs.state(project, job.id) == "running"
    began = time.perf_counter()
    assert jobs.stop(project, job.id) in ("stopping", "stopped", "done")
    assert time.perf_counter() - began < 5
    child.wait()
    # A training that was asked to stop ends well, and is resumable.
    assert jobs.state(project, job.id) == "stopped"
    assert list((project.runs / "a" / "checkpoints").iterdir())
    on = jobs.again(project, job.id)
    assert on.values == {"run": "runs/a", "resume": True}


@pytest.mark.wide
def test_a_server_that_is_interrupted_ends_at_once_and_says_nothing_though_a_page_listens(tmp_path: Path) -> None:
    studio = Served(tmp_path / "p")
    try:
        place, _, key = studio.url.removeprefix("http://").partition("/?token=")
        with closing(http.client.HTTPConnection(place, timeout=30)) as page:
            page.request("GET", "/api/stream", headers={"cookie": f"kinolab_studio_{studio.port}={key}"})
            with page.getresponse() as stream:
                assert stream.readline().startswith(b"event:")
                began = time.perf_counter()
                studio.process.send_signal(signal.SIGINT)
                said, _ = studio.process.communicate(timeout=30)
        assert (studio.process.returncode, said) == (0, "") and time.perf_counter() - began < 10
    finally:
        studio.close()


@pytest.mark.wide
def test_stopped_twice_it_is_gone_at_once(project: Project) -> None:
    job = training(project)
    child = Child(do, str(project.folder), job.id)
    until(lambda: '"kind": "progress"' in told(project, job))
    known = jobs.process(project, job.id)
    assert known is not None
    os.kill(known.process, signal.SIGSTOP)  # so that the first stop is not heard
    jobs.stop(project, job.id)
    assert jobs.state(project, job.id) == "stopping"
    jobs.stop(project, job.id)
    until(lambda: jobs.state(project, job.id) == "stopped", 5)
    child.wait()


@pytest.mark.wide
def test_killed_it_has_failed_and_nothing_says_that_it_runs(project: Project) -> None:
    job = training(project)
    child = Child(do, str(project.folder), job.id)
    until(lambda: '"kind": "progress"' in told(project, job))
    child.kill()
    assert jobs.state(project, job.id) == "failed"
    assert jobs.process(project, job.id) is None
    assert not locks.is_held(project.runs / "a" / ".lock")


def test_a_command_that_fails_says_its_line(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    job = jobs.add(project, "predict", {"clip": "clips/none.mp4", "out": "samples/a.mp4"})
    here = Path.cwd()
    try:
        assert work.do(project, job.id) == 2
    finally:
        os.chdir(here)
    assert jobs.state(project, job.id) == "failed" and "none.mp4: no such file" in capfd.readouterr().err


def test_a_queue_that_somebody_else_wrote_runs_nothing_outside_the_project(project: Project) -> None:
    job = training(project)
    values = {"command": "train", "values": {"recipe": "tiny.yaml", "run": "/tmp/elsewhere"}, "device": "cpu"}
    write_record(project.queue / job.id / "request.json", values)
    assert work.do(project, job.id) == 2
    assert "leads out" in jobs.ended(project, job.id)["message"] and jobs.state(project, job.id) == "failed"


def test_no_job_is_done_twice(project: Project) -> None:
    job = jobs.add(project, "predict", {"clip": "clips/none.mp4"})
    here = Path.cwd()
    try:
        work.do(project, job.id)
        before = (project.queue / job.id / "ended.json").read_bytes()
        assert work.do(project, job.id) == 0
    finally:
        os.chdir(here)
    assert (project.queue / job.id / "ended.json").read_bytes() == before


def test_a_stop_that_comes_while_it_begins_is_not_lost(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.add(project, "predict", {"clip": "clips/none.mp4"})

    def write(path: Path, values: dict[str, Any]) -> None:
        if path.name == "started.json":
            assert jobs.stop(project, job.id) == "stopping"
        write_record(path, values)

    monkeypatch.setattr(work, "write_record", write)
    monkeypatch.setattr(work, "run", lambda words: pytest.fail("it was run"))
    assert work.do(project, job.id) == work.STOPPED
    assert jobs.state(project, job.id) == "stopped" and not jobs.waiting(project)


@pytest.mark.parametrize(
    ("command", "values", "on"),
    [
        ("train", {"recipe": "tiny.yaml", "run": "runs/a"}, {"run": "runs/a"}),
        ("distill", {"model": "world", "out": "runs/a", "device": "cpu"}, {"out": "runs/a", "device": "cpu"}),
    ],
)  # fmt: skip
def test_a_training_that_goes_on_and_is_stopped_is_not_done_by_the_model_from_before(
    project: Project, monkeypatch: pytest.MonkeyPatch, command: str, values: dict[str, Any], on: dict[str, Any]
) -> None:
    model = project.runs / "a" / "model" / "model.yaml"
    model.parent.mkdir(parents=True)
    model.write_text("x")
    (project.runs / "a" / "recipe.yaml").write_text("x")
    os.utime(model, (1, 1))
    stopped, done = (jobs.add(project, command, values) for _ in range(2))

    def run(words: list[str]) -> tuple[int, str]:
        """A training that hears the stop, saves and ends well; the second wrote its model by then."""
        running = next(job for job in (done, stopped) if (project.queue / job.id / "started.json").exists())
        (project.queue / running.id / "stop.json").write_text('{"times": 1}')
        if running is done:
            model.write_text("y")
        return 0, ""

    monkeypatch.setattr(work, "run", run)
    monkeypatch.chdir(project.folder)
    for job in (stopped, done):
        work.do(project, job.id)
    assert [jobs.state(project, job.id) for job in (stopped, done)] == ["stopped", "done"]
    assert jobs.again(project, stopped.id).values == {**on, "resume": True}


@pytest.mark.parametrize("text", ["{", "[1]", '{"status": "x", "times": "y"}'])
def test_a_damaged_file_is_of_its_job_alone(project: Project, text: str) -> None:
    one, two, three = (training(project, run=f"runs/{k}") for k in "abc")
    (project.queue / one.id / "ended.json").write_text(text)
    (project.queue / two.id / "stop.json").write_text(text)
    found = {each["id"]: each["state"] for each in snapshot(project)["jobs"]}
    assert found == {one.id: "failed", two.id: "stopped", three.id: "waiting"}
    assert jobs.asked_to_stop(project, two.id) == 1
    (project.queue / three.id / "started.json").write_text(text)
    assert jobs.process(project, three.id) is None and jobs.state(project, three.id) == "failed"


def test_a_job_that_left_something_out_is_done_and_names_it(project: Project) -> None:
    job = training(project)
    folder = project.queue / job.id
    (folder / "started.json").write_text("{}")
    (folder / "ended.json").write_text('{"status": 3, "message": "", "time": 1}')
    (folder / "output.txt").write_text("kept: 3 clips\nleft out: a.mp4: no frames\n")
    shown = facts(project, job)
    assert (shown["state"], shown["message"]) == ("done", "left out: a.mp4: no frames")


@pytest.mark.parametrize("text", ["{", "[1]", '{"order": 3}', "\ud800"])
@pytest.mark.slow
def test_a_damaged_queue_is_one_line_that_says_what_to_do(
    project: Project, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (training(project, run=f"runs/{k}") for k in "ab")
    path = project.queue / "queue.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    says = r"queue\.json: .*; remove it: the jobs stay"
    before = sorted(project.queue.iterdir())
    told = snapshot(project)  # it says so, and shows the jobs
    assert re.search(says, told["problem"]) and told["paused"]
    assert {job["id"] for job in told["jobs"]} == {first.id, second.id}
    for asked in (
        lambda: training(project, run="runs/c"),
        lambda: jobs.pause(project, True),
    ):
        with pytest.raises(InputError, match=says):
            asked()
    assert [p for p in sorted(project.queue.iterdir()) if p.name != ".order.lock"] == [
        p for p in before if p.name != ".order.lock"
    ], "and no job is left without a place"
    monkeypatch.setattr("sys.argv", ["runner", str(project.folder)])
    monkeypatch.setattr(runner, "POLL", 0.0)
    runner.main()
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "remove it" in said[0]
    path.unlink()
    assert [job.id for job in jobs.waiting(project)] == sorted([first.id, second.id])


def test_the_order_can_be_changed_and_one_that_waits_is_taken_out(project: Project) -> None:
    a, b, c = (training(project, run=f"runs/{name}") for name in "abc")
    jobs.move(project, c.id, 0)
    assert [job.id for job in jobs.waiting(project)] == [c.id, a.id, b.id]
    assert jobs.stop(project, a.id) == "stopped"
    assert [job.id for job in jobs.waiting(project)] == [c.id, b.id]
    with pytest.raises(InputError, match="does not wait"):
        jobs.move(project, a.id, 0)
    assert work.do(project, a.id) == 0 and jobs.state(project, a.id) == "stopped"
    jobs.remove(project, b.id)
    assert [job.id for job in jobs.all_jobs(project)] == [a.id, c.id]


@pytest.mark.parametrize("name", ["../x", "", "a", "20260101-000000-train-zzzzzz", ".", "queue.json"])
def test_what_is_no_jobs_name_is_refused(project: Project, name: str) -> None:
    with pytest.raises(InputError, match="no job's name"):
        jobs.read(project, name)


class _Begun:
    """A process that a test ends."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.stdin = io.BytesIO()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, seconds: float | None = None) -> int:
        assert self.stdin.closed, "it was not told to leave"
        self.returncode = 0
        return 0


def test_a_process_that_samples_stays_for_the_next_and_makes_room_for_a_training(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "first_device", lambda: "cpu")
    begun: list[tuple[str, bool, Any]] = []

    def start(project: Project, job: jobs.Job, stays: bool) -> Any:
        begun.append((job.id, stays, _Begun()))
        return begun[-1][2]

    def end(name: str) -> None:
        write_record(project.queue / name / "ended.json", {"status": 0})
        jobs.took(project, name)

    one, two = (jobs.add(project, "generate", {"out": f"samples/{k}.mp4"}) for k in "ab")
    at_work = runner.Runner(project, start)
    assert at_work.look() and [(name, stays) for name, stays, _ in begun] == [(one.id, True)]
    end(one.id)
    assert at_work.look() and len(begun) == 1
    process = begun[0][2]
    assert process.stdin.getvalue() == f"{two.id}\n".encode()
    end(two.id)
    assert at_work.look() and process.returncode is None  # it stays, with nothing to do
    third = training(project)
    assert at_work.look() and process.returncode == 0
    assert [(name, stays) for name, stays, _ in begun[1:]] == [(third.id, False)]


def test_a_job_whose_process_dies_of_the_job_before_is_begun_by_another(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (jobs.add(project, "generate", {"out": f"samples/{k}.mp4"}) for k in "ab")
    begun: list[tuple[str, Any]] = []

    def start(project: Project, job: jobs.Job, stays: bool) -> Any:
        begun.append((job.id, _Begun()))
        return begun[-1][1]

    at_work = runner.Runner(project, start)
    at_work.look()
    write_record(project.queue / one.id / "ended.json", {"status": 0})
    jobs.took(project, one.id)
    at_work.look()
    begun[0][1].returncode = work.STOPPED  # by a stop of the first that came late
    assert at_work.look() and jobs.state(project, two.id) == "waiting"
    assert [name for name, _ in begun] == [one.id, two.id]
    begun[1][1].returncode = 1  # and one that was begun for it says so once
    assert not at_work.look() and jobs.state(project, two.id) == "failed"


def test_a_process_that_stays_leaves_when_it_was_idle_for_long(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.add(project, "generate", {"out": "samples/a.mp4"})
    process = _Begun()
    at_work = runner.Runner(project, lambda *_: process)  # type: ignore[arg-type]
    at_work.look()
    write_record(project.queue / job.id / "ended.json", {"status": 0})
    assert at_work.look()
    monkeypatch.setattr(runner, "IDLE", -1.0)
    assert not at_work.look() and process.returncode == 0


def run_queue(project: Project, monkeypatch: pytest.MonkeyPatch, looks: int) -> list[list[str]]:
    """What a runner has begun after each look, where nothing that it begins ever ends."""
    begun: list[str] = []
    seen: list[list[str]] = []

    def start(project: Project, job: jobs.Job, stays: bool) -> Any:
        begun.append(job.id)
        return _Begun()

    class LeftError(Exception):
        pass

    def rest(seconds: float) -> None:
        seen.append(list(begun))
        if len(seen) >= looks:
            raise LeftError

    monkeypatch.setattr(runner, "first_device", lambda: "cpu")
    with pytest.raises(LeftError):
        runner.Runner(project, start).serve(rest)
    return seen


def test_one_job_at_a_time_on_a_device_and_others_beside_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = training(project, run="runs/a"), training(project, run="runs/b", device="cpu")
    c, d = (training(project, run=f"runs/{k}", device="cuda:1") for k in "cd")
    assert run_queue(project, monkeypatch, 2) == [[a.id, c.id], [a.id, c.id]]
    assert d.id != b.id


def test_a_paused_queue_begins_nothing(project: Project) -> None:
    training(project)
    jobs.pause(project, True)
    runner.Runner(project, lambda *_: pytest.fail("begun")).serve()


def test_a_process_that_dies_before_it_takes_its_job_is_not_begun_for_ever(project: Project) -> None:
    job = training(project)

    def start(project: Project, job: jobs.Job, stays: bool) -> Any:
        process = _Begun()
        process.returncode = 1
        return process

    runner.Runner(project, start).serve(lambda seconds: None)
    assert jobs.state(project, job.id) == "failed" and "before it began" in jobs.ended(project, job.id)["message"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("auto", "auto", True), ("auto", "cpu", True), ("cuda", "cuda:0", True), ("cuda:0", "cuda:1", False),
     ("cpu", "cuda:0", False), ("CPU", "cpu", True)],
)  # fmt: skip
def test_devices_are_told_apart(monkeypatch: pytest.MonkeyPatch, one: str, other: str, same: bool) -> None:
    monkeypatch.setattr(runner, "first_device", lambda: "cpu")
    assert runner.same_device(one, other) is same and runner.same_device(other, one) is same


def test_a_process_is_never_mistaken_for_a_later_one_of_its_number() -> None:
    child = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        start = processes.leftovers.start_of(child.pid)
        assert start is not None
        boot = processes.Known.this().boot
        known = processes.Known(child.pid, start, boot)
        for other in (processes.Known(child.pid, str(int(start) + 1), boot), processes.Known(child.pid, start, "0")):
            assert not other.lives and not other.interrupt() and not other.kill_group()
        assert child.poll() is None and known.lives
        assert known.kill_group() and child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()


def test_asking_for_a_lock_neither_takes_nor_writes_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not locks.is_held(path) and not path.exists()
    with locks.held(path, "held"):
        text = path.read_text()
        assert locks.is_held(path) and locks.is_held(path) and path.read_text() == text
    assert not locks.is_held(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="link"):
        locks.is_held(tmp_path / "link")
