"""Jobs and the queue, and the commands that they are made of."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import processes
from kinolab.runtime.interrupts import POISONED
from kinolab.runtime.lines import shown
from kinolab.runtime.reading import TORN, json_lines, lines_behind, parse_json
from kinolab.studio import commands, jobs, runner
from kinolab.studio.api.asked import Asked, NotThereError, Studio
from kinolab.studio.faults import left_out, tried
from kinolab.studio.project import Project
from kinolab.studio.work import SIGNALS

LAST_LINES = 30


def command(studio: Studio, asked: Asked) -> Any:
    """POST /api/command {command, values} -> {words, copied}: the command that values make, to be shown and copied."""
    words = commands.words(studio.project, asked.body.text("command"), asked.values())
    return {"words": words, "copied": commands.copied(studio.project, words)}


def options(studio: Studio, asked: Asked) -> Any:
    """GET /api/commands/{name} -> {command, about, options}: a command as a form."""
    name = asked.path["name"].replace("-", " ") if asked.path["name"] not in commands.RUNNABLE else asked.path["name"]
    return {"command": name, "about": commands.about(name), "options": [asdict(o) for o in commands.options(name)]}


def listed(studio: Studio, asked: Asked) -> Any:
    """GET /api/jobs -> {jobs, paused}: every job with its state and progress, those that wait last, in their order.

    One whose request can't be read has failed, is `damaged`, and says so in its message; problem: of the queue itself.
    """
    return snapshot(studio.project)


def snapshot(project: Project) -> dict[str, Any]:
    """The queue as the page shows it; where its order is damaged nothing begins, and `problem` says what to do."""
    queue, problem = tried(project, partial(jobs.settings, project))
    found, damaged = jobs.listed(project, queue["order"] if queue else ())
    told = [*(unread(project, name, line) for name, line in damaged.items()), *(facts(project, job) for job in found)]
    return {"jobs": told, "paused": queue["paused"] if queue else True, **({"problem": problem} if problem else {})}


def unread(project: Project, name: str, problem: str) -> dict[str, Any]:
    """What the page shows of a job whose request can't be read: that it can't be begun, and why."""
    state = jobs.state(project, name)
    return {
        "id": name, "command": "", "title": name, "device": "", "made": 0, "run": None, "out": None, "ended": None,
        "state": "failed" if state == "waiting" else state, "damaged": True,
        "message": f"{problem}; it can't be run: remove it, and ask again",
    }  # fmt: skip


def add(studio: Studio, asked: Asked) -> Any:
    """POST /api/jobs {command, values, title} -> the job: it begins when its device is free."""
    job = jobs.add(studio.project, asked.body.text("command"), asked.values(), asked.body.text("title", ""))
    start_queue(studio.project)
    return facts(studio.project, job)


def one(studio: Studio, asked: Asked) -> Any:
    """GET /api/jobs/{id} -> the job: with its command and the last lines that it printed."""
    job = _job(studio, asked)
    folder = jobs.folder_of(studio.project, job.id)
    words, problem = tried(studio.project, partial(job.words, studio.project))
    copied = f"# {problem}" if words is None else commands.copied(studio.project, words)
    return facts(studio.project, job) | {
        "copied": copied, "values": dict(job.values), "lines": processes.tail(folder / "output.txt", LAST_LINES),
    }  # fmt: skip


def events(studio: Studio, asked: Asked) -> Any:
    """GET /api/jobs/{id}/events?after=N -> {events, next, problem}: what it told, from line N + 1 on."""
    folder = jobs.folder_of(studio.project, asked.path["id"])
    found, last, problem = read_lines(studio.project, folder / "events.jsonl", asked.number("after", 0))
    return {"events": found, "next": last, "problem": problem}


def stop(studio: Studio, asked: Asked) -> Any:
    """POST /api/jobs/{id}/stop -> {state}: keep what is done and stop; the second time, stop at once."""
    return {"state": jobs.stop(studio.project, _job(studio, asked).id)}


def again(studio: Studio, asked: Asked) -> Any:
    """POST /api/jobs/{id}/again -> a new job: it does the same, or goes on with the training."""
    job = jobs.again(studio.project, _job(studio, asked).id)
    start_queue(studio.project)
    return facts(studio.project, job)


def ask(studio: Studio, asked: Asked) -> Any:
    """POST /api/jobs/{id}/ask {what: save | sample}: have a training save a checkpoint, or sample, after its step."""
    what = asked.body.choice("what", tuple(SIGNALS))
    jobs.signal(studio.project, _job(studio, asked).id, getattr(signal, SIGNALS[what]))
    return {"asked": what}


def move(studio: Studio, asked: Asked) -> Any:
    """POST /api/jobs/{id}/move {place}: give a job that waits another place, from 0."""
    jobs.move(studio.project, _job(studio, asked).id, asked.body.integer("place", at_least=0, at_most=10**6))
    return snapshot(studio.project)


def remove(studio: Studio, asked: Asked) -> Any:
    """DELETE /api/jobs/{id}: remove a job that has ended or waits; what it made stays."""
    name = asked.path["id"]
    if not jobs.folder_of(studio.project, name).is_dir():
        raise NotThereError(f"{shown(name)}: no such job")
    jobs.remove(studio.project, name)  # also one whose request can't be read
    return {}


def queue(studio: Studio, asked: Asked) -> Any:
    """POST /api/queue {paused}: begin no further job, or go on."""
    jobs.pause(studio.project, asked.body.flag("paused"))
    start_queue(studio.project)
    return snapshot(studio.project)


def start_queue(project: Project) -> None:
    """Have a runner at work where something waits that may begin."""
    queue, _ = tried(project, partial(jobs.settings, project))  # damaged, nothing begins: the snapshot says so
    if queue and not queue["paused"] and jobs.waiting(project):
        runner.ensure(project)


def read_lines(project: Project, path: Path, after: int) -> tuple[list[Any], int, str]:
    """The values of JSON lines behind line `after`, the number of the last line, which may be an earlier one, and what
    is wrong with those of all lines that were left out; one that is being written is none of them."""
    found, wrong, last = [], list[str](), 0
    with suppress(FileNotFoundError):
        for last, value in json_lines(path, damaged="skip", constants=True, say=wrong.append):
            if last > after:
                found.append(value)
    return found, last, left_out(project, [line for line in wrong if not line.endswith(TORN)])


def facts(project: Project, job: jobs.Job) -> dict[str, Any]:
    """What the page shows of a job in a list: what it is, its state, and how far it is."""
    folder = jobs.folder_of(project, job.id)
    state = jobs.state(project, job.id)
    told = told_by(folder / "events.jsonl") if state != "waiting" else {}
    ended = jobs.ended(project, job.id)
    told_last = state == "failed" or ended.get("status") == POISONED
    lines = processes.tail(folder / "output.txt", 1) if told_last else []
    return {
        "id": job.id, "command": job.command, "title": job.title, "device": job.device, "made": job.made,
        "state": state, "run": job.values.get(jobs.TRAININGS.get(job.command, "run")), "out": job.values.get("out"),
        "message": ended.get("message") or "".join(lines), "ended": ended.get("time"), "now": round(time.time(), 3),
        **told,
    }  # fmt: skip


_TOLD: dict[str, tuple[int, dict[str, Any]]] = {}
"""Of each file of events: the bytes that were read, and what they told; a job's file only grows."""


def told_by(path: Any) -> dict[str, Any]:
    """The last stage, progress, note and expectation in a file of events, and the files that it names."""
    key = str(path)
    read, found = _TOLD.get(key, (0, {"files": []}))
    try:
        lines, end = lines_behind(path, read)
    except OSError:
        return {}
    if end == read:
        return found
    found = dict(found)  # another thread may look at the one before
    for line in lines:
        event: Any = None
        with suppress(InputError):
            event = parse_json(line, "an event", constants=True)
        kind = event.get("kind") if isinstance(event, dict) else None
        if kind == "begin":
            found["began"] = event.get("time")
        elif kind == "stage":
            found["stage"], found["unit"] = event.get("title"), event.get("unit")
            for name in ("progress", "first", "expect"):  # are the stage's before
                found.pop(name, None)
            found["since"] = event.get("time")
        elif kind == "progress":
            found["progress"] = {"done": event.get("done"), "total": event.get("total"), "time": event.get("time")}
            found.setdefault("first", found["progress"])
        elif kind == "expect":
            found["expect"] = event.get("seconds")
        elif kind == "note":
            found["note"] = event.get("text")
        elif kind == "file":
            found["files"] = [*found["files"], {"path": event.get("path"), "what": event.get("what")}][-50:]
    _TOLD[key] = end, found
    return found


def _job(studio: Studio, asked: Asked) -> jobs.Job:
    """The job that a path names."""
    try:
        return jobs.read(studio.project, asked.path["id"])
    except InputError as error:
        raise NotThereError(str(error)) from None
