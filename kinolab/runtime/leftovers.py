"""Temporary files: names that nobody can guess and that say who writes them, so that what the dead left can be removed.

    .kinolab-HOST-BOOT-SPACE-PID-START-RANDOM.ending

HOST is the machine's name (hashed), BOOT the kernel's number of this start of it, SPACE the space that process numbers
count in (each container has its own), PID and START the process and the moment it began. A leftover is removed only
where its writer is surely dead: a process of this very boot and space that is gone, or of an earlier boot of this
machine with nothing written since. What another machine or container writes into a shared folder is never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import stat
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kinolab.runtime import system
from kinolab.runtime.paths import OWN

UNKNOWN = "0"
QUIET = 24 * 3600.0
"""Seconds without a change before what another boot left counts as dead."""
NAME = re.compile(re.escape(OWN) + r"([0-9a-f]+)-([0-9a-f]+)-([0-9]+)-([0-9]+)-([0-9]+)-[0-9a-f]{16}(\.[^/]*)?")
LONGEST_ENDING = 20


@dataclass(frozen=True)
class Writer:
    """A process that writes: machine, boot, space of process numbers, number, and the clock tick it began at."""

    host: str
    boot: str
    space: str
    process: int
    start: str


def temporary_name(ending: str = "") -> str:
    """A name for a file or folder that this process is about to write, with the ending that a library looks at."""
    w = this_process()
    kept = ending if len(ending) <= LONGEST_ENDING else ""
    return f"{OWN}{w.host}-{w.boot}-{w.space}-{w.process}-{w.start}-{secrets.token_hex(8)}{kept}"


def this_process() -> Writer:
    """Who writes here; after a fork it is the child."""
    return _writer(os.getpid())


def writer_of(name: str) -> Writer | None:
    """Who wrote a temporary file of this name; None where the name is no such."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    host, boot, space, process, start = found.groups()[:5]
    return Writer(host, boot, space, int(process), start)


def surely_dead(path: Path) -> bool:
    """Whether a temporary file's writer is gone for sure; False for every other file, and in every doubt."""
    writer = writer_of(path.name)
    if writer is None:
        return False
    here = this_process()
    if writer.host != here.host:
        return False
    if UNKNOWN not in (writer.boot, here.boot) and writer.boot == here.boot:
        return writer.space == here.space and not _lives(writer)
    return not _touched_since(path, time.time() - QUIET) and (
        (writer.boot != here.boot and not _touched_since(path, _booted()))
        or (writer.boot == here.boot == UNKNOWN and not _lives(writer))
    )


def clean(folder: Path) -> list[Path]:
    """Remove what the surely dead left in a folder (not below it); the paths removed. What resists is left."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(OWN)]
    except OSError:
        return []
    removed = []
    for path in (folder / name for name in sorted(names)):
        if surely_dead(path):
            try:
                remove(path)
            except OSError:
                continue
            removed.append(path)
    return removed


_cleaned: set[Path] = set()


def clean_once(folder: Path) -> None:
    """Clean a folder the first time that this process writes into it."""
    if folder not in _cleaned:
        _cleaned.add(folder)
        clean(folder)


def remove(path: Path) -> None:
    """Remove a file, a link (never what it leads to) or a whole folder; nothing where there is none.

    Raises:
        OSError: where something can't be removed.
    """
    calls = system.calls()
    try:
        folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not folder:
        calls.unlink(path)
        return
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        remove(path / name)
    calls.rmdir(path)


@cache
def _writer(process: int) -> Writer:
    host = hashlib.sha256(socket.gethostname().encode(errors="backslashreplace")).hexdigest()[:8]
    boot = _read("/proc/sys/kernel/random/boot_id").replace("-", "")[:12] or UNKNOWN
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")) or UNKNOWN
    except OSError:
        space = UNKNOWN
    return Writer(host, boot, space, process, start_of(process) or UNKNOWN)


def _lives(writer: Writer) -> bool:
    """Whether a process of this machine lives; True where the system can't tell."""
    if os.name == "nt":  # signal 0 would end it there
        return True
    try:
        os.kill(writer.process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    start = start_of(writer.process)
    return start is None or UNKNOWN in (start, writer.start) or start == writer.start


def start_of(process: int) -> str | None:
    """The clock tick at which a process began; None where the system doesn't say."""
    after_name = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return after_name[19] if len(after_name) > 19 else None


def _booted() -> float:
    """When this machine was started, in seconds since 1970; the beginning of time where it doesn't say."""
    found = re.search(r"^btime (\d+)$", _read("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _touched_since(path: Path, moment: float) -> bool:
    """Whether a file, or anything in a folder, changed after `moment`; True where it can't be told."""
    try:
        if os.lstat(path).st_mtime > moment:
            return True
        if not path.is_dir() or path.is_symlink():
            return False
        return any(os.lstat(Path(at) / n).st_mtime > moment for at, dirs, files in os.walk(path) for n in dirs + files)
    except OSError:
        return True


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read(65536)
    except OSError:
        return ""
