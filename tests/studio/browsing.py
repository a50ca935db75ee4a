"""A studio as a person has it: the command as a process of its own, and Chromium that looks at its page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import ROOT

WAIT = 60_000
"""Milliseconds that the page may take for what a process has to do first; two cores may be busy."""


class Served:
    """`kinolab studio FOLDER` at work; `url` is its address with the key."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder.parent)}  # where the key is kept
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kinolab", "studio", str(folder), "--port", str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"open (http://\S+)", line)
        assert found, line + self.process.stdout.read()
        self.url = found[1]
        self.port = int(self.url.split(":")[2].split("/")[0])

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._shut()

    def _shut(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()

    def close(self) -> None:
        """As Ctrl-C, and end what its queue still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._shut()
        end_queue(self.folder)


def end_queue(folder: Path) -> None:
    """End the runner and the jobs of a project, as a test leaves no process behind."""
    from kinolab.studio import jobs
    from kinolab.studio.project import Project

    project = Project.open(folder)
    jobs.pause(project, True)
    for job in jobs.all_jobs(project):
        known = jobs.process(project, job.id)
        if known is not None:
            known.kill_group()
    runner = subprocess.run(["pgrep", "-f", f"kinolab.studio.runner {project.folder}"], capture_output=True, text=True)
    for number in runner.stdout.split():
        os.kill(int(number), signal.SIGKILL)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A studio, closed at the end with all that it began."""
    studio = Served(folder)
    try:
        yield studio
    finally:
        studio.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as made:
        browser = made.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page whose requests and complaints are written down."""

    def __init__(self, browser: Any, width: int = 1280, scheme: str = "light", **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda line: self.said.append(line.text) if line.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def clean(self, port: int) -> None:
        """No other host was asked, and nothing was complained about, such as by the policy."""
        own = (f"http://127.0.0.1:{port}/", "blob:", "data:")
        foreign = [url for url in self.asked if not url.startswith(own)]
        assert not foreign, foreign
        assert not self.said, self.said
