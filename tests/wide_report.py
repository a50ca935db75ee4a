"""Tests of slow kinds, marked `wide`: what they need, whether it is there, and a table of what ran and what didn't.

`@pytest.mark.wide("compiler")` says what a test needs by its name in `TOOLS`; without one it is merely slow. A test
whose tool is missing is skipped and the table says so. Where every tool is there, a test that skips itself has failed:
otherwise a check that never runs would look like one that passes.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests import hosts


@cache
def _registry() -> bool:
    """Whether npm is there and has something to install from: `npm ci` needs it."""
    if shutil.which("npm") is None:
        return False
    words = ["npm", "ping", "--fetch-timeout=10000", "--fetch-retries=1"]
    try:
        return subprocess.run(words, capture_output=True, timeout=40, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


TOOLS: dict[str, tuple[Callable[[], bool], str]] = {
    "compiler": (lambda: _compiler() is not None, "a C++ compiler (g++ or clang++) on the PATH"),
    "x86": (
        lambda: platform.machine().lower() in ("x86_64", "amd64"),
        "an x86 processor, which can act as an older one",
    ),
    "chromium": (
        lambda: shutil.which("chromium") is not None and importlib.util.find_spec("playwright") is not None,
        "Debian's chromium, and playwright (the extra `dev`)",
    ),
    "npm": (_registry, "npm and a registry that answers it, to build the pages anew"),
    "netns": (hosts.possible, "Linux's ip, and the right to make network namespaces (root)"),
    "s3": (
        lambda: all(importlib.util.find_spec(name) is not None for name in ("s3fs", "moto", "flask")),
        "the extra `storage`, and a server to try it on: moto[server]",
    ),
    "gcs": (lambda: importlib.util.find_spec("gcsfs") is not None, "the extra `storage`"),
    "ray": (lambda: importlib.util.find_spec("ray") is not None, "the extra `dist`"),
    "diffusers": (lambda: importlib.util.find_spec("diffusers") is not None, "the extra `interop`"),
}
"""Name -> whether it is on this machine, and what it is."""
FACT = "wide"
"""Under this name a report says what its test needs, also from another process."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [name for name in needs(item) or () if not TOOLS[name][0]()]
    if missing:
        pytest.skip(f"not here: {', '.join(f'{name} ({TOOLS[name][1]})' for name in missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    wanted = needs(item)
    if wanted is None:
        return report
    report.user_properties.append((FACT, ", ".join(wanted) or "time"))
    if report.skipped and not hasattr(report, "wasxfail") and all(TOOLS[name][0]() for name in wanted):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped although everything that it needs is here ({reason})"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = table(terminalreporter.stats)
    if rows:
        terminalreporter.section("wide tests: what ran and what didn't")
        for row in rows:
            terminalreporter.write_line(row)


def needs(item: pytest.Item) -> tuple[str, ...] | None:
    """What a wide test needs; None for any other test. An unknown name is a mistake in the test."""
    marks = list(item.iter_markers("wide"))
    if not marks:
        return None
    names = tuple(dict.fromkeys(name for mark in marks for name in mark.args))
    unknown = [name for name in names if name not in TOOLS]
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: wide({unknown[0]!r}): expected one of {', '.join(TOOLS)}")
    return names


def table(stats: dict[str, list[Any]]) -> list[str]:
    """A line for every file and need: how many ran, failed and were skipped, in how many seconds, and why skipped."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    seconds: Counter[tuple[str, str]] = Counter()
    reasons: dict[tuple[str, str], str] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in stats.get(outcome, []):
            wanted = dict(getattr(report, "user_properties", ())).get(FACT)  # a file that fails to be read has none
            if wanted is None:
                continue
            row = (report.nodeid.split("::")[0], wanted)
            counts.setdefault(row, Counter())["failed" if outcome == "error" else outcome] += 1
            seconds[row] += report.duration
            if outcome == "skipped":
                reasons[row] = str(report.longrepr[2]).removeprefix("Skipped: ")
    if not counts:
        return []
    width = max(len(file) for file, _ in counts)
    lines = [f"{'file':{width}}  {'needs':10} {'passed':>6} {'failed':>6} {'skipped':>7} {'seconds':>8}  why skipped"]
    for row in sorted(counts):
        found = counts[row]
        numbers = f"{found['passed']:6} {found['failed']:6} {found['skipped']:7} {seconds[row]:8.1f}"
        lines.append(f"{row[0]:{width}}  {row[1]:10} {numbers}  {reasons.get(row, '')}".rstrip())
    return lines


def _compiler() -> str | None:
    from kinolab.runtime.compiling import find_compiler

    return find_compiler()
