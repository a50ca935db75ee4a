"""The process of a job: `python -m kinolab.studio.work PROJECT JOB` runs its command and says how it ended.

It holds the job's lock while it lives, and runs the command as the terminal would, in the project's folder.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import locks, processes
from kinolab.runtime.lines import one_line
from kinolab.runtime.records import write_record
from kinolab.studio import commands, jobs
from kinolab.studio.project import Project

SIGNALS = {"save": "SIGUSR1", "sample": "SIGUSR2"}
"""What may be asked of a training -> the signal (`kinolab.training.asking`, which takes torch to import)."""
STOPPED = 130
"""The exit status of a command that was stopped."""


def do(project: Project, name: str) -> int:
    """Do a job that waits, in this process: its exit status. Only one process does a job, and none twice."""
    folder = jobs.folder_of(project, name)
    with locks.held(folder / ".lock"):
        if jobs.asked_to_stop(project, name) or (folder / "started.json").exists():
            return 0
        try:
            write_record(folder / "started.json", {**processes.Known.this().values(), "time": round(time.time(), 3)})
            jobs.took(project, name)
            # Asked again: whoever stops a job says so first and looks for its process then.
            if jobs.asked_to_stop(project, name):
                raise KeyboardInterrupt
            job = jobs.read(project, name)
            words = job.words(project)
            if commands.has_events(job.command):
                # Behind the command's name, before its arguments.
                end = words.index("--") if "--" in words else len(words)
                words.insert(end, f"--events={project.shown(folder)}/events.jsonl")
            os.chdir(project.folder)
            status, message = run(words)
            if status == 0 and jobs.asked_to_stop(project, name) and not finished(project, job):
                status, message = STOPPED, "stopped, as asked; what is done is saved"
        except KeyboardInterrupt:
            status, message = STOPPED, "stopped before it began"
        except (InputError, OSError) as error:
            status, message = 2, one_line(error)
            print(f"kinolab: {message}", file=sys.stderr, flush=True)
        write_record(folder / "ended.json", {"status": status, "message": message, "time": round(time.time(), 3)})
    return status


def finished(project: Project, job: jobs.Job) -> bool:
    """Whether a command that ended well did all of it: a training that was asked to stop saves, and ends well, too.

    It did where it wrote the model since it began; one of a run that goes on may lie there from before.
    """
    folder = jobs.run_of(project, job)
    if folder is None or job.values.get("plan"):
        return True
    began = (jobs.folder_of(project, job.id) / "started.json").stat().st_mtime_ns
    model = folder / "model" / "model.yaml"
    return model.exists() and model.stat().st_mtime_ns >= began


def run(words: list[str]) -> tuple[int, str]:
    """Run a command in this process: its exit status, and one line of what went wrong that no command said."""
    from kinolab.cli import main

    try:
        main(words)
    except SystemExit as stop:
        return (stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1), ""
    except KeyboardInterrupt:
        return STOPPED, "stopped before it began"
    except BaseException as error:
        traceback.print_exc()
        return 1, one_line(f"{type(error).__name__}: {error}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0, ""


def main() -> None:
    """Do the job that the words name; with `--stay` also those whose names come in, a line each, until none can come.

    A process that stays keeps its model in memory.
    """
    # Whoever is begun in the background of a script inherits that Ctrl-C is ignored, and a job is stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (getattr(signal, each, None) for each in SIGNALS.values()):
        if number is not None:  # what comes before the training hears it would end the process
            signal.signal(number, signal.SIG_IGN)
    folder, name, *more = sys.argv[1:]
    project, stays = Project.open(Path(folder)), "--stay" in more
    if stays:
        from kinolab.generation import warm

        warm.keep()
    try:
        status = do(project, name)
        for line in sys.stdin if stays else ():
            processes.print_to(jobs.folder_of(project, line.strip()) / "output.txt")
            status = do(project, line.strip())
    except KeyboardInterrupt:
        status = STOPPED
    sys.exit(status)


if __name__ == "__main__":
    main()
