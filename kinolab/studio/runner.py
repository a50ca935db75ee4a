"""What goes on when page and server are gone: `python -m kinolab.studio.runner PROJECT` begins the jobs that wait.

One runs per project, held by a lock; whoever adds a job begins one (`ensure`), and it ends when nothing waits and
nothing that it keeps warm is of use. One job runs per device at a time. Killed, it leaves the jobs that run alone: each
is a process of its own, and the next runner finds them by their locks.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import locks, processes
from kinolab.runtime.records import write_record
from kinolab.studio import jobs
from kinolab.studio.project import Project

POLL = 0.25
"""Seconds between two looks at the queue."""
TRIES = 8
"""Looks at the lock before a runner believes that another one holds it: whoever asks about it holds it for a moment."""


def ensure(project: Project) -> None:
    """Begin a runner where none is at work and something waits."""
    if not locks.is_held(project.queue / ".runner.lock"):
        processes.begin(
            "kinolab.studio.runner", [str(project.folder)], output=project.queue / "runner.txt", folder=project.folder
        )


def main() -> None:
    """Run the queue of the project that the words name."""
    project = Project.open(Path(sys.argv[1]))
    for _ in range(TRIES):
        try:
            with locks.held(project.queue / ".runner.lock", "another runner is at work"):
                serve(project)
            if jobs.settings(project)["paused"] or not jobs.waiting(project):
                return  # else one came while this runner was about to leave
        except InputError:
            time.sleep(POLL / 2)


def serve(project: Project, rest: Callable[[float], None] = time.sleep) -> None:
    """Begin what waits until nothing is left to begin."""
    begun: dict[str, subprocess.Popen[bytes]] = {}
    while True:
        for name in [name for name, process in begun.items() if process.poll() is not None]:
            ended(project, name, begun.pop(name).returncode)
        queue = jobs.all_jobs(project)
        states = {job.id: jobs.state(project, job.id) for job in queue}
        busy = [job.device for job in queue if states[job.id] in ("running", "stopping") or job.id in begun]
        left = [job for job in queue if states[job.id] == "waiting" and job.id not in begun]
        if not left and not begun:
            return
        if jobs.settings(project)["paused"] and not begun:
            return
        for job in left:
            if any(same_device(job.device, other) for other in busy) or jobs.settings(project)["paused"]:
                continue
            busy.append(job.device)
            begun[job.id] = start(project, job)
        rest(POLL)


def start(project: Project, job: jobs.Job) -> subprocess.Popen[bytes]:
    """Begin the process of a job."""
    return processes.begin(
        "kinolab.studio.work", [str(project.folder), job.id], output=project.queue / job.id / "output.txt",
        folder=project.folder,
    )  # fmt: skip


def ended(project: Project, name: str, status: int) -> None:
    """Say of a process that ended before it took its job that the job has failed, so that it isn't begun for ever."""
    with suppress(InputError, OSError):
        if jobs.state(project, name) == "waiting":
            message = f"its process ended with status {status} before it began"
            write_record(
                jobs.folder_of(project, name) / "ended.json",
                {"status": status or 1, "message": message, "time": round(time.time(), 3)},
            )
            jobs.took(project, name)


def same_device(one: str, other: str) -> bool:
    """Whether two words mean one device: `auto` and its name do."""
    words = {word.strip().lower() for word in (one, other)}
    words = {f"{word}:0" if word in ("cuda", "xpu") else word for word in words}
    if len(words) > 1 and "auto" in words:
        words = {first_device() if word == "auto" else word for word in words}
    return len(words) == 1


@cache
def first_device() -> str:
    """The device that `auto` means here; asked of a process of its own, as asking takes torch."""
    code = "from kinolab.runtime.devices import choose, indexed; print(indexed(choose('auto')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "cpu"


if __name__ == "__main__":
    main()
