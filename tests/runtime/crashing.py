"""A disk for tests: it stops, fails or forgets at any call by which Kinolab changes it (`runtime.system`).

    for after in crashes(prepare, act, tmp_path):     # every moment at which a kill or a power cut can come
        check(after.root)                             # the old or the new state, whole
    for after in failures(prepare, act, tmp_path):    # an error of the disk at every call
        ...

`prepare(root)` makes the state before, `act(root)` is what is cut off. A kill leaves what was written, as the system
keeps it; a power cut leaves what was flushed, and there are three disks for that: `flushed` forgets every name and byte
that was not; `names` keeps the names of files whose content it forgets, as file systems do that write names first;
`torn` keeps the names and a half of each file's unflushed end.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kinolab.runtime import system

Step = Callable[[Path], object]
When = Literal["before", "after", "within"]
Disk = Literal["kill", "flushed", "names", "torn"]
DISKS: tuple[Disk, ...] = ("kill", "flushed", "names", "torn")
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)
CHANGES = ("open", "write", "truncate", "chmod", "flush", "rename", "link", "mkdir", "library")
"""The calls that can fail for want of space, a quota, or a sound disk."""


class Killed(BaseException):
    """The process ends here; nothing that it would still do is done."""


@dataclass(frozen=True)
class After:
    """A folder as it is after a crash or an error, and which one that was.

    error: what `act` raised; None for a crash, or where it went on all the same.
    """

    root: Path
    point: int
    call: str
    how: str
    error: OSError | None = None

    def __str__(self) -> str:
        return f"{self.how} at call {self.point} ({self.call})"


@dataclass
class Watched(system.Calls):
    """Counts the calls and has `stop` decide at each of them; what is flushed goes to `disk` and to no real one."""

    stop: Callable[[int, str, Path, Callable[[], Any]], Any]
    disk: Remembering | None = None
    calls: list[str] = field(default_factory=list)

    def _step(self, name: str, path: Path, do: Callable[[], Any]) -> Any:
        self.calls.append(f"{name} {path.name}")
        return self.stop(len(self.calls), name, path, do)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        if not flags & os.O_CREAT:  # changes nothing
            return super().open(path, flags, mode)
        descriptor: int = self._step("open", path, lambda: super(Watched, self).open(path, flags, mode))
        if self.disk is not None:
            self.disk.meet(path)
        return descriptor

    def write(self, descriptor: int, data: memoryview, path: Path) -> int:
        written: int = self._step("write", path, lambda: os.write(descriptor, data))
        return written

    def truncate(self, descriptor: int, size: int, path: Path) -> None:
        self._step("truncate", path, lambda: os.ftruncate(descriptor, size))

    def chmod(self, path: Path, mode: int) -> None:
        self._step("chmod", path, lambda: os.chmod(path, mode))

    def flush(self, descriptor: int, path: Path) -> None:
        self._step("flush", path, lambda: None if self.disk is None else self.disk.flush(descriptor))

    def close(self, descriptor: int, path: Path) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target, lambda: os.replace(source, target))

    def link(self, source: Path, target: Path) -> None:
        self._step("link", target, lambda: os.link(source, target))

    def unlink(self, path: Path) -> None:
        self._step("unlink", path, lambda: os.unlink(path))

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        self._step("mkdir", path, lambda: os.mkdir(path, mode))
        if self.disk is not None:
            self.disk.meet(path)

    def rmdir(self, path: Path) -> None:
        self._step("rmdir", path, lambda: os.rmdir(path))

    def library(self, path: Path) -> None:
        self._step("library", path, lambda: None)

    def written(self, path: Path) -> None:
        self._step("written", path, lambda: None)


class Remembering:
    """What of a folder is on the disk for good: the content of each file and the names in each folder at their last
    flush. Files are told apart by their inode, which stays pinned, so that no number comes back for another file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()
        self._pinned: dict[int, int] = {}
        for at, _, files in os.walk(root):
            self._remember(Path(at))
            for name in files:
                self._remember(Path(at) / name)

    def meet(self, path: Path) -> None:
        """Pin a new file or folder."""
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            self.folders.add(status.st_ino)
        if status.st_ino not in self._pinned and not stat.S_ISLNK(status.st_mode):
            self._pinned[status.st_ino] = os.open(path, os.O_RDONLY)

    def flush(self, descriptor: int) -> None:
        """What an open file or folder holds now is on the disk."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            for at, _, _ in os.walk(self.root):
                if os.lstat(at).st_ino == status.st_ino:
                    self._remember(Path(at))
                    return
        self.content[status.st_ino] = os.pread(descriptor, status.st_size, 0)

    def after(self, disk: Disk, target: Path) -> Path:
        """A copy of the folder as it is found after a power cut."""
        if disk == "flushed":
            self._build(os.lstat(self.root).st_ino, target)
            return target
        target.mkdir()
        for at, folders, files in os.walk(self.root):
            here = target / Path(at).relative_to(self.root)
            for name in folders:
                (here / name).mkdir()
            for name in files:
                path = Path(at) / name
                kept = self.content.get(os.lstat(path).st_ino, b"")
                now = path.read_bytes()
                if disk == "torn" and now.startswith(kept):
                    kept += now[len(kept) : (len(kept) + len(now)) // 2]
                (here / name).write_bytes(kept)
        return target

    def close(self) -> None:
        for descriptor in self._pinned.values():
            os.close(descriptor)

    def _remember(self, path: Path) -> None:
        self.meet(path)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            self.content[status.st_ino] = path.read_bytes()
            return
        entries = {entry.name: Path(entry.path) for entry in os.scandir(path)}
        for entry in entries.values():
            self.meet(entry)
        self.names[status.st_ino] = {name: os.lstat(entry).st_ino for name, entry in entries.items()}

    def _build(self, folder: int, target: Path) -> None:
        target.mkdir()
        for name, inode in self.names.get(folder, {}).items():
            if inode in self.folders:
                self._build(inode, target / name)
            else:
                (target / name).write_bytes(self.content.get(inode, b""))


class Unflushed(system.Calls):
    """The calls as they are, without waiting for a disk; for what a test does before and after a crash."""

    def flush(self, descriptor: int, path: Path) -> None:
        pass


def again(act: Step, root: Path) -> None:
    """Run an act once more, quickly, as the next command would."""
    with system.replaced(Unflushed()):
        act(root)


def count_calls(prepare: Step, act: Step, room: Path) -> list[str]:
    """The calls that `act` makes, in order."""
    root = _fresh(room / "counted", prepare)
    layer = Watched(lambda number, name, path, do: do())
    with system.replaced(layer):
        act(root)
    return layer.calls


def crashes(
    prepare: Step,
    act: Step,
    room: Path,
    disks: Iterable[Disk] = DISKS,
    points: Callable[[int], bool] = lambda point: True,
) -> Iterator[After]:
    """The folder after a crash before, after, and (for a write) within every call of `act`, for each kind of disk.

    points: which calls, by number from 1; for an act with thousands of them.
    """
    calls = count_calls(prepare, act, room)
    for point in filter(points, range(1, len(calls) + 1)):
        whens: list[When] = ["before", "after"]
        if calls[point - 1].startswith("write"):
            whens.append("within")
        for when in whens:
            root = _fresh(room / f"{point}-{when}", prepare)
            remembering = Remembering(root)
            try:
                _killed(act, root, point, when, remembering)
                # All of them before the first is looked at, as who looks may write.
                left = {
                    disk: root if disk == "kill" else remembering.after(disk, room / f"{point}-{when}-{disk}")
                    for disk in disks
                }
            finally:
                remembering.close()
            for disk, found in left.items():
                yield After(found, point, calls[point - 1], f"{disk} {when}")


def failures(
    prepare: Step,
    act: Step,
    room: Path,
    numbers: Iterable[int] = ERRORS,
    points: Callable[[int], bool] = lambda point: True,
) -> Iterator[After]:
    """The folder after an error of the disk at every call of `act` that can have one; `act` raised it, or went on."""
    calls = count_calls(prepare, act, room)
    for point in filter(points, range(1, len(calls) + 1)):
        if not calls[point - 1].startswith(CHANGES):
            continue
        for number in numbers:
            root = _fresh(room / f"{point}-{number}", prepare)

            def stop(at: int, name: str, path: Path, do: Callable[[], Any], point: int = point, n: int = number) -> Any:
                if at == point:
                    raise OSError(n, os.strerror(n))
                return do()

            raised: OSError | None = None
            with system.replaced(Watched(stop)):
                try:
                    act(root)
                except OSError as error:
                    raised = error
            yield After(root, point, calls[point - 1], errno.errorcode[number], raised)


def _killed(act: Step, root: Path, point: int, when: When, disk: Remembering) -> None:
    """Run `act` up to a point; what its cleaning up would do after that is not done, as after a kill."""
    dead = False

    def stop(at: int, name: str, path: Path, do: Callable[[], Any]) -> Any:
        nonlocal dead
        if dead:
            raise Killed
        if at == point and when != "after":
            dead = True
            if when == "within":
                _half(do)
            raise Killed
        done = do()
        if at == point:
            dead = True
            raise Killed
        return done

    with system.replaced(Watched(stop, disk)):
        try:
            act(root)
        except Killed:
            return
    raise AssertionError(f"the act ended before its call {point}; it makes other calls each time")


def _half(do: Callable[[], Any]) -> None:
    """Write the first half of what a write would have written."""
    closed = dict(zip(do.__code__.co_freevars, (c.cell_contents for c in do.__closure__ or ()), strict=True))
    os.write(closed["descriptor"], closed["data"][: len(closed["data"]) // 2])


def _fresh(root: Path, prepare: Step) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    again(prepare, root)
    return root
