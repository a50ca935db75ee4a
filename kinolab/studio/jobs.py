"""Jobs: each is a folder of the queue and, while it runs, a process. What a job is doing is read from there, each time.

    queue/queue.json          the order of those that wait, and whether the queue is paused
    queue/20261128-.../       a job
        request.json          what was asked: command, values by option, device
        .lock                 held by the process that does it, as long as it lives
        started.json          the process that took it
        events.jsonl          what `--events` says
        output.txt            what the command printed
        stop.json             that it was asked to stop
        ended.json            how it ended

A job runs while its lock is held, and never because a file says so. One that has begun and whose lock nobody holds has
ended: as `ended.json` says, or, without one, by being killed.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from kinolab.errors import InputError
from kinolab.runtime import files, locks, processes
from kinolab.runtime.interrupts import POISONED
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.paths import single, visible
from kinolab.runtime.records import Record, read_record, write_record
from kinolab.studio import commands
from kinolab.studio.faults import tried
from kinolab.studio.project import Project

State = Literal["waiting", "running", "stopping", "stopped", "failed", "done"]
ENDED = ("stopped", "failed", "done")
OUTCOMES: dict[int, State] = {0: "done", POISONED: "done", 130: "stopped"}
"""A command's exit status -> how the job ended; any other has failed."""
TRAININGS = {"train": "run", "distill": "out", "fit": "out"}
"""Commands that train, and can go on with what they began -> the option that names the folder of the run."""
ID = re.compile(r"\d{8}-\d{6}-[a-z-]+-[0-9a-f]{6}")
MEND = "remove it: the jobs stay, and those that wait are then done in the order in which they were added"
TITLE = 200
"""Characters of a job's title."""


@dataclass(frozen=True)
class Job:
    """What was asked: a command, its values, and the device that it takes."""

    id: str
    command: str
    values: Mapping[str, Any]
    device: str
    title: str
    made: float

    def words(self, project: Project) -> list[str]:
        """The words behind `kinolab`, made anew from the values, under the rules of now.

        Raises:
            InputError: where they break a rule.
        """
        return commands.words(project, self.command, self.values)


def add(project: Project, command: str, values: Mapping[str, Any], title: str = "") -> Job:
    """A new job at the end of the queue.

    Raises:
        InputError: for a command or values that are not run.
        OSError: where it can't be written.
    """
    commands.words(project, command, values)
    settings(project)  # damaged, it would leave a job without a place
    device = values.get("device") or _device_setting(values) or "auto"
    kind = command.replace(" ", "-")
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{kind}-{secrets.token_hex(3)}"
    job = Job(name, command, dict(values), str(device), title[:TITLE] or command, round(time.time(), 3))
    folder = project.queue / name
    with files.new_folder(folder) as room:
        write_record(room / "request.json", {k: v for k, v in vars(job).items() if k != "id"})
    with _changed(project) as queue:
        queue["order"] = [*queue["order"], name]
    return job


def read(project: Project, name: str) -> Job:
    """A job of the queue.

    Raises:
        InputError: for one that is not there, or whose request is damaged.
    """
    record = _record(folder_of(project, name) / "request.json")
    if record is None:
        raise InputError(f"{shown(name)}: no such job")
    return Job(
        name, record.text("command"), record.record("values").values, record.text("device", "auto"),
        record.text("title", ""), record.number("made", 0.0),
    )  # fmt: skip


def folder_of(project: Project, name: str) -> Path:
    """The folder of a job.

    Raises:
        InputError: for what is no job's name.
    """
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise InputError(f"{shown(name)}: no job's name")
    return single(project.queue, name)


def all_jobs(project: Project) -> list[Job]:
    """All jobs whose request can be read, those that wait last and in their order, others by when they were made.

    Raises:
        InputError: where the order is damaged.
    """
    return listed(project, settings(project)["order"])[0]


def listed(project: Project, order: Sequence[str]) -> tuple[list[Job], dict[str, str]]:
    """The jobs, those that `order` names last; and of each whose request can't be read what is wrong, by its name."""
    found, problems = list[Job](), dict[str, str]()
    for folder in visible(project.queue, "*"):
        if ID.fullmatch(folder.name):
            job, problem = tried(project, partial(read, project, folder.name))
            if job is not None:
                found.append(job)
            elif folder.is_dir():  # not one that was removed meanwhile
                problems[folder.name] = problem
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda job: (job.id in places, places.get(job.id, 0), job.id)), problems


def state(project: Project, name: str) -> State:
    """What a job is doing, from its folder."""
    folder = folder_of(project, name)
    running = locks.is_held(folder / ".lock")
    try:
        ended = _record(folder / "ended.json")  # after the lock was asked for: a job writes it before it lets go
        status = None if ended is None else ended.integer("status", 1)
    except InputError:  # damaged: of this job alone
        return "failed"
    if running and status is None:
        return "stopping" if (folder / "stop.json").exists() else "running"
    if status is not None:
        return OUTCOMES.get(status, "failed")
    if (folder / "started.json").exists():
        return "stopped" if asked_to_stop(project, name) > 1 else "failed"
    return "stopped" if (folder / "stop.json").exists() else "waiting"


def stop(project: Project, name: str) -> State:
    """Ask a job to stop: the first time it keeps what is done, the second time it is gone at once.

    One that waits is taken out of the queue. Returns the state that it has then.

    Raises:
        InputError: for one that has ended.
    """
    folder, now = folder_of(project, name), state(project, name)
    if now in ENDED:
        raise InputError(f"{name}: has ended ({now}); nothing is left to stop")
    times = asked_to_stop(project, name) + 1
    write_record(folder / "stop.json", {"times": times, "time": round(time.time(), 3)})
    known = process(project, name)
    if known is not None:
        if times == 1:
            known.interrupt()
        else:
            known.kill_group()
    if now == "waiting":
        _leave(project, name)
    return state(project, name)


def signal(project: Project, name: str, number: int) -> None:
    """Send the process of a running job a signal.

    Raises:
        InputError: for one that does not run.
    """
    known = process(project, name)
    if state(project, name) != "running" or known is None or not known.signal(number):
        raise InputError(f"{name}: does not run, so nothing can be asked of it")


def process(project: Project, name: str) -> processes.Known | None:
    """The process that does a job, as long as it holds the job's lock."""
    folder = folder_of(project, name)
    with suppress(InputError):  # damaged: nobody is known
        record = _record(folder / "started.json")
        if record is not None and locks.is_held(folder / ".lock"):
            return processes.Known.read(record)
    return None


def asked_to_stop(project: Project, name: str) -> int:
    """How often a job was asked to stop; once, where that is damaged."""
    try:
        record = _record(folder_of(project, name) / "stop.json")
        return 0 if record is None else record.integer("times", 1)
    except InputError:
        return 1


def ended(project: Project, name: str) -> dict[str, Any]:
    """How a job ended: `status`, `message` and `time`; nothing of one that hasn't, or was killed."""
    path = folder_of(project, name) / "ended.json"
    try:
        record = _record(path)
    except InputError as error:
        return {"status": 1, "message": one_line(error)}
    return {} if record is None else dict(record.values)


def again(project: Project, name: str) -> Job:
    """A new job that does what one did, or goes on with the training that it began.

    Raises:
        InputError: for a job that has not ended.
    """
    job, now = read(project, name), state(project, name)
    if now not in ENDED:
        raise InputError(f"{name}: has not ended ({now}); stop it first")
    values, folder = dict(job.values), run_of(project, job)
    if folder is not None and (folder / "recipe.yaml").exists():
        # The run folder holds its recipe as it was run; -s would say again what stands there already.
        kept: dict[str, Any] = {key: values[key] for key in ("until", "device") if key in values and now != "done"}
        values = {TRAININGS[job.command]: project.shown(folder), "resume": True, **kept}
    return add(project, job.command, values, job.title)


def run_of(project: Project, job: Job) -> Path | None:
    """The folder of the run that a job begins or goes on with; None of one that trains nothing.

    Raises:
        InputError: where it would lie outside of the project.
    """
    option = TRAININGS.get(job.command)
    if option is None:
        return None
    default = next(each.default for each in commands.options(job.command) if each.name == option)
    run = job.values.get(option) or default
    return project.path(run) if isinstance(run, str) else None


def remove(project: Project, name: str) -> None:
    """Remove the folder of a job that has ended or waits; what it made stays.

    Raises:
        InputError: for one that runs.
    """
    folder, now = folder_of(project, name), state(project, name)
    if now in ("running", "stopping"):
        raise InputError(f"{name}: is {now}; stop it first")
    if not folder.is_dir():
        raise InputError(f"{name}: no such job")
    _leave(project, name)
    files.discard(folder)


def settings(project: Project) -> dict[str, Any]:
    """`order`, the names of jobs that wait, in order, and `paused`.

    Raises:
        InputError: where it is damaged; the line says what to do.
    """
    record = _record(project.queue / "queue.json", MEND)
    if record is None:
        return {"order": [], "paused": False}
    order = [name for name in record.items("order", []) if isinstance(name, str)]
    return {"order": order, "paused": record.flag("paused", False)}


def pause(project: Project, paused: bool) -> None:
    """Begin no further job, or go on; those that run do."""
    with _changed(project) as queue:
        queue["paused"] = paused


def move(project: Project, name: str, place: int) -> None:
    """Give a job that waits a place among those that wait, from 0.

    Raises:
        InputError: for one that does not wait.
    """
    if state(project, name) != "waiting":
        raise InputError(f"{name}: does not wait, so it has no place in the queue")
    with _changed(project) as queue:
        order = [n for n in queue["order"] if n != name]
        order.insert(max(0, min(place, len(order))), name)
        queue["order"] = order


def waiting(project: Project) -> list[Job]:
    """The jobs that wait, in order."""
    return [job for job in all_jobs(project) if state(project, job.id) == "waiting"]


def _leave(project: Project, name: str) -> None:
    """Take a job out of the order."""
    with _changed(project) as queue:
        queue["order"] = [n for n in queue["order"] if n != name]


def took(project: Project, name: str) -> None:
    """A process has taken a job, so that it has no place any more."""
    _leave(project, name)


@contextmanager
def _changed(project: Project) -> Iterator[dict[str, Any]]:
    """The order and the pause, to be changed; two tabs and the runner change them one after the other."""
    with locks.held(project.queue / ".order.lock"):
        queue = settings(project)
        yield queue
        write_record(project.queue / "queue.json", queue)


def _record(path: Path, advice: str = "") -> Record | None:
    """A record that may not be there."""
    try:
        return read_record(path, advice)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _device_setting(values: Mapping[str, Any]) -> str | None:
    """The device that a recipe's override names."""
    texts = values.get("setting") or []
    found = [t.partition("=")[2].strip() for t in texts if isinstance(t, str) and t.startswith("training.device=")]
    return found[-1] if found else None
