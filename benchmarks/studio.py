"""How quick the studio is: `python -m benchmarks.studio` starts it, loads its page, and stops a job twice.

The job is a process that holds its lock and hears no first stop, so that the studio is measured and no training.
"""

from __future__ import annotations

import http.client
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kinolab.studio import jobs
from kinolab.studio.project import Project

DEAF = """
import signal, sys, time
from pathlib import Path
from kinolab.runtime import locks, processes
from kinolab.runtime.records import write_record
folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.SIG_IGN)
with locks.held(folder / ".lock"):
    write_record(folder / "started.json", {**processes.Known.this().values(), "time": 0.0})
    time.sleep(60)
"""
TIMES = 5


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "p"
        began = time.perf_counter()
        studio = subprocess.Popen(
            [sys.executable, "-m", "kinolab", "studio", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert studio.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", studio.stdout.readline())
            assert found is not None
            page = Page(int(found[1]), found[2])
            size = page.load()
            print(f"start to page: {time.perf_counter() - began:.2f} s; first load: {size / 1000:.1f} kB compressed")
            first, second = stopped(page, Project.open(folder))
            print(f"stop: answered in {1000 * first:.0f} ms; the second one: gone in {1000 * second:.0f} ms")
        finally:
            studio.send_signal(signal.SIGINT)
            studio.wait(20)


class Page:
    """What a browser does at first, without one."""

    def __init__(self, port: int, token: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.headers = {"cookie": f"kinolab_studio_{port}={token}", "x-kinolab": "1"}

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> bytes:
        """The bytes of an answer."""
        self.connection.request(method, path, body, {**self.headers, **headers})
        answer = self.connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return data

    def load(self) -> int:
        """Bytes of the page and of all that it names, as they are sent."""
        names = re.findall(r'"(/[^"]+\.(?:js|css|svg))"', self.ask("GET", "/").decode())
        return sum(len(self.ask("GET", name, **{"accept-encoding": "gzip"})) for name in ("/", *names))


def stopped(page: Page, project: Project) -> tuple[float, float]:
    """Median seconds until a stop is answered, and from the second stop until nobody holds the job's lock."""
    first: list[float] = []
    second: list[float] = []
    jobs.pause(project, True)
    for k in range(TIMES):
        job = jobs.add(project, "train", {"recipe": "toy-vdt", "run": f"runs/{k}"})
        process = subprocess.Popen(
            [sys.executable, "-c", DEAF, str(jobs.folder_of(project, job.id))], start_new_session=True
        )
        while jobs.state(project, job.id) != "running":
            time.sleep(0.02)
        for times in (first, second):
            began = time.perf_counter()
            page.ask("POST", f"/api/jobs/{job.id}/stop", "{}", **{"content-type": "application/json"})
            while times is second and jobs.state(project, job.id) != "stopped":
                time.sleep(0.001)
            times.append(time.perf_counter() - began)
        process.wait()
    return statistics.median(first), statistics.median(second)


if __name__ == "__main__":
    main()
