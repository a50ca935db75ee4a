"""How quick the studio is: `python -m benchmarks.studio` measures it in Debian's Chromium and prints a table.

    start       from the command to a page whose panel stands, in a browser that is open already
    first load  what is sent for it, compressed
    stop        from the request to its answer; from the second one until the job is gone
    drift       of two and of nine videos on one clock: what their players say, and the frames that were presented
    scroll      500 clips from the first to the last: the longest frame, and how many were late
    alike       500 clips of two seconds looked through for near duplicates, of which fifty are: how long it takes, and
                how late page and server are meanwhile
    install     what the extra `studio` brings on top of the core

The job is a process that holds its lock and hears no first stop, so that the studio is measured and no training.
`--only WORD` measures those whose name holds the word; `--seconds` is how long the videos play.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from kinolab import video
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
ROOT = Path(__file__).parents[1]
TIMES = 5
CLIPS = 500
READY = 120_000
"""Milliseconds that anything may take."""
# Of all videos that play: how far the one furthest from the first is, in seconds of the players' own clocks, at every
# frame that the page draws.
APART = """seconds => new Promise(resolve => {
  const videos = [...document.querySelectorAll(".stage video")], found = [], end = performance.now() + 1000 * seconds;
  const look = () => {
    const times = videos.map((video) => video.currentTime);
    if (videos.every((video) => !video.paused && !video.seeking))
      found.push(Math.max(...times.map((time) => Math.abs(time - times[0]))));
    if (performance.now() < end) requestAnimationFrame(look); else resolve(found);
  };
  look();
})"""
# A steady scroll of some thousand pixels a second, and the time between the frames that the page draws meanwhile.
SCROLL = """() => new Promise(resolve => {
  const last = () => document.documentElement.scrollHeight - innerHeight;
  const gaps = []; let before = performance.now();
  const step = (now) => {
    gaps.push(now - before); before = now;
    if (scrollY >= last() - 2) return resolve(gaps.slice(1));
    scrollBy(0, 40); requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


GAPS = """() => {
  window.gaps = []; let before = performance.now();
  const step = (now) => { gaps.push(now - before); before = now; requestAnimationFrame(step); };
  requestAnimationFrame(step);
}"""
"""The time between the frames that the page draws from now on."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    measures: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "start": start, "stop": stop, "drift": lambda: drift(chosen.seconds), "scroll": scroll, "alike": alike,
        "install": install,
    }  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n| | |\n|---|---|", flush=True)
    for name, measure in measures.items():
        for what, found in measure() if chosen.only in name else ():
            print(f"| {what} | {found} |", flush=True)


class Page:
    """The server of a studio that was begun, and what a browser asks at first, without one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.began = folder, time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kinolab", "studio", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        found = re.search(r"(http://127\.0\.0\.1:(\d+)/)\?token=(\S+)", self.process.stdout.readline())
        assert found is not None
        self.url, self.own = found[0], found[1]
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[2]))
        self.headers = {"cookie": f"kinolab_studio_{found[2]}={found[3]}", "x-kinolab": "1"}

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

    def close(self) -> None:
        """As Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """A studio, closed at the end."""
    page = Page(folder)
    try:
        yield page
    finally:
        page.close()


@contextmanager
def browser() -> Iterator[Any]:
    """A new window of Debian's Chromium, in which scripts of this file may look at the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as made:
        found = made.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        try:
            context = found.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
            context.set_default_timeout(READY)
            yield context.new_page()
        finally:
            found.close()


def start() -> Iterator[tuple[str, str]]:
    """Command to page, and the first load."""
    times, servers, size = [], [], 0
    with browser() as shown, tempfile.TemporaryDirectory() as place:
        for _ in range(TIMES):
            with opened(Path(place) / "p") as page:
                servers.append(time.perf_counter() - page.began)
                shown.goto(page.url)
                shown.get_by_role("heading", name="Clips", exact=True).wait_for()
                times.append(time.perf_counter() - page.began)
                size = page.load()
                shown.goto("about:blank")
    yield "from the command to its address", f"{statistics.median(servers):.2f} s"
    yield "from the command to a page that stands", f"{statistics.median(times):.2f} s (at most {max(times):.2f})"
    yield "first load, compressed", f"{size / 1000:.0f} kB"


def stop() -> Iterator[tuple[str, str]]:
    """Median seconds until a stop is answered, and from the second stop until nobody holds the job's lock."""
    first: list[float] = []
    second: list[float] = []
    with tempfile.TemporaryDirectory() as place, opened(Path(place) / "p") as page:
        project = Project.open(page.folder)
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
    yield "a stop, answered", f"{statistics.median(first):.2f} s (at most {max(first):.2f})"
    yield "after the second stop the job is gone", f"{statistics.median(second):.2f} s (at most {max(second):.2f})"


def drift(seconds: float) -> Iterator[tuple[str, str]]:
    """Videos of five seconds, over several rounds of their loop."""
    with browser() as shown, tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "p"
        names = [f"samples/v{k}.mp4" for k in range(9)]
        for k, name in enumerate(names):
            write(folder / name, frames=120, size=(180, 320), fps=24, seed=k)
        with opened(folder) as page:
            shown.goto(page.url)
            for count in (2, 9):
                # A new document: what is behind # alone would be the same one, its videos joined by others.
                shown.goto("about:blank")
                shown.goto(f"{page.own}#/compare?{urlencode([('v', name) for name in names[:count]])}")
                shown.locator(".stage video").nth(count - 1).wait_for()
                shown.get_by_role("button", name="Play", exact=True).click()
                apart = [1000 * value for value in shown.evaluate(APART, seconds)]
                said = shown.locator("[data-drift]").get_attribute("data-drift")
                words = (
                    f"median {statistics.median(apart):.1f}, p95 {quantile(apart, 0.95):.1f}, most {max(apart):.1f} ms"
                )
                yield f"{count} videos, apart by their own clocks", words
                yield f"{count} videos, apart by the frames that were shown", f"p95 {float(said or 'nan'):.1f} ms"


def scroll() -> Iterator[tuple[str, str]]:
    """500 clips, whose pictures are drawn beforehand as they are from the second time on."""
    with browser() as shown, tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "p"
        write(folder / "clips" / "clip-000.mp4", frames=16, size=(64, 96), fps=8, seed=0)
        content = (folder / "clips" / "clip-000.mp4").read_bytes()
        for k in range(1, CLIPS):
            (folder / "clips" / f"clip-{k:03d}.mp4").write_bytes(content)
        with opened(folder) as page:
            for k in range(CLIPS):
                page.ask("GET", f"/posters/clip-{k:03d}.mp4")
            shown.goto(page.url)
            shown.locator("[data-clip]").nth(5).wait_for()
            gaps = shown.evaluate(SCROLL)
            assert shown.locator(f"[data-clip='clip-{CLIPS - 1:03d}.mp4']").count() == 1
        late, words = sum(gap > 50 for gap in gaps), f"{len(gaps)} frames, p95 {quantile(gaps, 0.95):.0f} ms"
        yield f"{CLIPS} clips scroll", f"{words}, the longest {max(gaps):.0f} ms, {late} above 50 ms"


def alike() -> Iterator[tuple[str, str]]:
    """Each tenth clip is the one before, shrunk and compressed."""
    from PIL import Image

    with browser() as shown, tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "p"
        for k in range(CLIPS):
            path = folder / "clips" / f"clip-{k:03d}.mp4"
            if k % 10 < 9:
                write(path, frames=48, size=(180, 320), fps=24, seed=k)
            else:
                before = video.iter_frames(path.with_name(f"clip-{k - 1:03d}.mp4"), threads=1)
                small = [np.asarray(Image.fromarray(frame.image).resize((256, 144))) for frame in before]
                video.write(path, small, 24, quality=40)
        with opened(folder) as page:
            shown.goto(page.url)
            shown.get_by_role("button", name="Check", exact=True).click()
            shown.get_by_text("Looks for near duplicates").wait_for()
            shown.evaluate(GAPS)
            began, late = time.perf_counter(), list[float]()
            done = shown.get_by_role("button", name="50 look like others")
            while not done.count():
                asked = time.perf_counter()
                page.ask("GET", "/api/jobs")
                late.append(time.perf_counter() - asked)
                shown.wait_for_timeout(200)
            took, gaps = time.perf_counter() - began, shown.evaluate("window.gaps")
        words = f"the server answers after at most {max(late):.2f} s meanwhile, the page draws after {max(gaps):.0f} ms"
        yield f"{CLIPS} clips looked through for near duplicates", f"{took:.0f} s; {words}"


def install() -> Iterator[tuple[str, str]]:
    """What is installed for the extra and for nothing that the core needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    more = sorted(needed(project["optional-dependencies"]["studio"]) - needed(project["dependencies"]))
    files = [Path(str(file.locate())) for name in more for file in importlib.metadata.files(name) or ()]
    size = sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc")
    yield "install, on top of the core", f"{size / 1e6:.1f} MB in {len(more)} packages ({', '.join(more)})"


def needed(requirements: Sequence[str]) -> set[str]:
    """The distributions that requirements name, those that they need included."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [(text, "") for text in requirements]
    while waiting:
        text, extra = waiting.pop()
        one = Requirement(text)
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": extra})):
            found.add(name)
            waiting += [
                (text, each) for text in importlib.metadata.requires(name) or () for each in one.extras or ("",)
            ]
    return found


def write(path: Path, frames: int, size: tuple[int, int], fps: float, seed: int) -> None:
    """A clip of noise that is enlarged, with a square that moves."""
    height, width = size
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
    picture = coarse.repeat(20, 0).repeat(20, 1)[:height, :width]
    clip = np.broadcast_to(picture, (frames, height, width, 3)).copy()
    for k in range(frames):
        clip[k, height // 3 : 2 * height // 3, (3 * k) % (width - 20) : (3 * k) % (width - 20) + 20] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, clip, fps)


def quantile(values: list[float], share: float) -> float:
    """The value below which that share of them lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
