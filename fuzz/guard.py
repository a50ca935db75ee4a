"""What is watched while an input is read: files outside its folder, whatever runs, and the memory it takes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUNS = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen", "socket.connect",
    "socket.bind", "webbrowser.open", "ctypes.dlopen", "pickle.find_class", "pty.spawn", "os.kill", "code.__new__",
    "urllib.Request", "ftplib.connect", "http.client.connect", "os.putenv", "os.fork",
)  # fmt: skip
BAIT = ("antigravity", "webbrowser", "this", "turtle", "idlelib")
"""Modules that only a hostile file asks for."""
WRITES = tuple(
    f"os.{name}" for name in ["rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate", "chmod", "chown"]
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MEMORY = 2 * 2**30
"""Bytes that an input may take."""


class ForbiddenError(BaseException):
    """What a file made happen; no `except Exception` hides it."""


class _Watch:
    def __init__(self) -> None:
        self.folder, self.room, self.outside = "", "", True
        self.found: list[str] = []
        self.active = False

    def forbid(self, what: str) -> None:
        self.found.append(what)
        raise ForbiddenError(what)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            self.opened(*arguments)
        elif event in RUNS:
            self.forbid(f"ran {event}{tuple(str(a)[:60] for a in arguments)}")
        elif event == "import" and str(arguments[0]).split(".")[0] in BAIT:
            self.forbid(f"imported {arguments[0]}")
        elif event in WRITES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                if isinstance(path, str | bytes | os.PathLike):
                    self.written(path, event)

    def opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if isinstance(flags, int) and flags & WRITING:
            self.written(path, "open")
        elif not self.outside:
            # By its name: a link that lies there is its owner's, and reading through it is what links are for.
            where = os.path.normpath(os.path.abspath(os.fsdecode(path)))
            if where.startswith(self.room) and not where.startswith(self.folder):
                self.forbid(f"read {where[len(self.room) :]}, outside its folder")

    def written(self, path: Any, event: str) -> None:
        name = os.fsdecode(path)
        where = os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))
        if event == "open":
            where = os.path.realpath(name)
        if not where.startswith(self.folder) and not where.startswith(("/dev/null", "/proc/")):
            self.forbid(f"{event} of {where[:120]}, outside its folder")


_watch = _Watch()


def install() -> None:
    """Watch from now on, in this process, which can't be undone."""
    sys.addaudithook(_watch.hook)


@contextmanager
def watching(folder: Path, outside: bool) -> Iterator[list[str]]:
    """Watch while a folder is read; the list gets what was forbidden. outside: others may be read."""
    _watch.folder, _watch.room = os.path.realpath(folder), os.path.realpath(folder.parent) + os.sep
    _watch.found, _watch.outside, _watch.active = [], outside, True
    try:
        yield _watch.found
    finally:
        _watch.active = False


def limit_memory() -> None:
    """No more address space than now and 3 GiB: what is asked for beyond that fails; `peak` measures what was used."""
    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 3 * 2**30, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def reset_peak() -> int:
    """Bytes in use now, from which `peak` counts."""
    with open("/proc/self/clear_refs", "wb") as file:
        file.write(b"5")
    return peak()


def peak() -> int:
    """The most bytes in use since `reset_peak`."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM"):
                return int(line.split()[1]) * 1024
    return 0
