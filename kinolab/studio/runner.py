"""What goes on when page and server are gone: `python -m kinolab.studio.runner PROJECT` begins the jobs that wait.

One runs per project, held by a lock; whoever adds a job begins one (`ensure`), and it ends when nothing waits and
nothing that it keeps warm is of use. One job runs per device at a time. Killed, it leaves the jobs that run alone: each
is a process of its own, and the next runner finds them by their locks.

The process of a job that samples stays for the next one, with its model in memory, until it was idle for `IDLE` seconds
or another job needs its device.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import locks, processes
from kinolab.runtime.lines import one_line
from kinolab.runtime.records import write_record
from kinolab.studio import commands, jobs
from kinolab.studio.project import Project

POLL = 0.25
"""Seconds between two looks at the queue."""
TRIES = 8
"""Looks at the lock before a runner believes that another one holds it: whoever asks about it holds it for a moment."""
IDLE = 300.0
"""Seconds that a process which samples stays for the next job."""
LEAVING = 20.0
"""Seconds that it has to end when its device is needed; then it is ended."""


def ensure(project: Project) -> None:
    """Begin a runner where none is at work and something waits."""
    if not locks.is_held(project.queue / ".runner.lock"):
        processes.begin(
            "kinolab.studio.runner", [str(project.folder)], output=project.queue / "runner.txt", folder=project.folder
        )


def main() -> None:
    """Run the queue of the project that the words name."""
    project = Project.open(Path(sys.argv[1]))
    problem = ""
    for _ in range(TRIES):
        try:
            with locks.held(project.queue / ".runner.lock", "another runner is at work"):
                Runner(project).serve()
            if jobs.settings(project)["paused"] or not jobs.waiting(project):
                return  # else one came while this runner was about to leave
        except InputError as error:
            problem = one_line(error)
            time.sleep(POLL / 2)
    print(f"kinolab: {problem}", file=sys.stderr, flush=True)


@dataclass
class Process:
    """A process that this runner began: the job that it does, or none while it stays for the next one.

    handed: whether the job came to it while it stayed.
    """

    process: subprocess.Popen[bytes]
    device: str
    job: str | None
    stays: bool
    since: float = field(default_factory=time.monotonic)
    handed: bool = False

    def give(self, job: str) -> bool:
        """Hand over another job; whether the process was there to take it."""
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{job}\n".encode())
            self.process.stdin.flush()
        except OSError:
            return False
        self.job, self.handed = job, True
        return True

    def leave(self) -> None:
        """Have it end, and give back its device."""
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Runner:
    """Begins what waits.

    Args:
        start: begins the process of a job; `stays` says whether it waits for another one afterwards.
    """

    def __init__(self, project: Project, start: Callable[..., subprocess.Popen[bytes]] | None = None) -> None:
        self.project, self.start = project, start or begin
        self.begun: list[Process] = []

    def serve(self, rest: Callable[[float], None] = time.sleep) -> None:
        """Work until nothing is left to begin, nothing that was begun runs, and nothing is kept warm."""
        while self.look():
            rest(POLL)

    def look(self) -> bool:
        """Begin what can begin now; whether there is reason to look again."""
        queue = jobs.all_jobs(self.project)
        states = {job.id: jobs.state(self.project, job.id) for job in queue}
        self._tidy(states)
        doing = {process.job for process in self.begun}
        busy = [job.device for job in queue if states[job.id] in ("running", "stopping") or job.id in doing]
        left = [job for job in queue if states[job.id] == "waiting" and job.id not in doing]
        paused = jobs.settings(self.project)["paused"]
        for job in left:
            if not paused and not any(same_device(job.device, other) for other in busy):
                busy.append(job.device)
                self._begin(job)
        return bool(self.begun) or bool(left and not paused)

    def _begin(self, job: jobs.Job) -> None:
        """Begin a job: by the process that stays on its device, or by a new one, for which that one makes room."""
        samples = job.command in commands.MAKING
        for process in [p for p in self.begun if p.job is None and same_device(p.device, job.device)]:
            if samples and process.give(job.id):
                return
            process.leave()
            self.begun.remove(process)
        self.begun.append(Process(self.start(self.project, job, samples), job.device, job.id, samples))

    def _tidy(self, states: dict[str, jobs.State]) -> None:
        """See what has ended: processes, jobs of those that stay, and the patience with those that are idle."""
        for process in list(self.begun):
            status = process.process.poll()
            if status is not None:
                self.begun.remove(process)
                if process.job is not None:
                    # One that stayed may have died of the job before, stopped as it ended: this job gets another.
                    if not process.handed:
                        ended(self.project, process.job, status)
                    states[process.job] = jobs.state(self.project, process.job)
            elif process.stays and process.job is not None:
                if states.get(process.job, "done") in jobs.ENDED:
                    process.job, process.since = None, time.monotonic()
            elif process.stays and time.monotonic() - process.since > IDLE:
                process.leave()
                self.begun.remove(process)


def begin(project: Project, job: jobs.Job, stays: bool) -> subprocess.Popen[bytes]:
    """Begin the process of a job."""
    return processes.begin(
        "kinolab.studio.work", [str(project.folder), job.id, *(["--stay"] if stays else [])],
        output=project.queue / job.id / "output.txt", folder=project.folder,
        keep={"stdin": subprocess.PIPE} if stays else None,
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
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "cpu"


if __name__ == "__main__":
    main()
