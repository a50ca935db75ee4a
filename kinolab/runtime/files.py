"""Writing files and folders so that they are there whole or not at all, also after a kill, a full disk or a power cut.

    write_text(path, text)             write_bytes(path, data)
    write_private(path, text)          a secret
    with opened(path) as file:         a handle, for all that is written piece by piece
    with handed(path) as temporary:    a path, for libraries that open it themselves (PyAV, Pillow)
    with new_folder(path) as room:     a folder, of whatever is put into it
    copy(source, path)                 another file's content
    place(source, path)                a finished file under another name

All of them write under a temporary name in the target's own folder (`runtime.leftovers`), flush the content, give it
its name, and flush the folder; then, and only then, do they return. After an error the target is as it was and the
temporary file is gone. Permissions follow the umask, whatever a library chooses. `runtime.sets` writes several files as
one, `runtime.logs` appends lines.

Every error of a disk is an OSError with the path and the system's number, whatever the library raised.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from kinolab.runtime import leftovers, system
from kinolab.runtime.failures import failing
from kinolab.runtime.handles import Handle
from kinolab.runtime.leftovers import remove as remove
from kinolab.runtime.paths import COMMITTED, named
from kinolab.runtime.reading import open_plain

BUFFER = 2**20


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; its folder is made.

    Raises:
        OSError: where it can't be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes; the folder is made.

    Raises:
        OSError: where they can't be written.
    """
    with opened(path) as file:
        file.write(data)


def write_private(path: Path, text: str) -> None:
    """Write a text that nobody else on this machine is to read, whatever the umask says.

    Raises:
        OSError: where it can't be written.
    """
    aside, calls = _temporary(path), system.calls()
    try:
        with failing(path, aside):
            descriptor = calls.open(aside, system.CREATE, 0o600)
            try:
                calls.write(descriptor, memoryview(text.encode("utf-8")), path)
                calls.flush(descriptor, path)
            finally:
                calls.close(descriptor, path)
            calls.rename(aside, path)
            flush(path.parent)
    except BaseException:
        with suppress(OSError):
            remove(aside)
        raise


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A new file to write (and read back, and seek in) that takes the place of `path` when the block ends.

    Raises:
        OSError: where it can't be written, whatever a library inside made of it.
    """
    aside = _temporary(path)
    raw = Handle(aside, path)
    file = io.BufferedRandom(raw, BUFFER)
    try:
        with failing(path, aside, raw):
            yield cast(BinaryIO, file)
            file.flush()
            system.calls().flush(raw.fileno(), path)
            raw.close()
            system.calls().rename(aside, path)
            flush(path.parent)
    except BaseException:
        raw.discard()
        with suppress(OSError):
            remove(aside)
        raise


@contextmanager
def handed(path: Path) -> Iterator[Path]:
    """A path, with the ending of `path`, that a library writes a file to; it takes the place of `path` at the end.

    The file is there already, empty; the library may also put another in its place.

    Raises:
        OSError: where it can't be written, whatever the library made of it.
    """
    aside, calls = _temporary(path), system.calls()
    try:
        with failing(path, aside):
            calls.close(calls.open(aside, system.CREATE), aside)
            mode = stat.S_IMODE(os.lstat(aside).st_mode)
            calls.library(aside)
            yield aside
            calls.written(aside)
            _settle(aside, mode)
            calls.rename(aside, path)
            flush(path.parent)
    except BaseException:
        with suppress(OSError):
            remove(aside)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder; with all that is put into it, it takes the place of `path` when the block ends.

    Where `path` is there already, the new folder is committed under a hidden name beside it, which `standing` finds,
    before the old one goes; so whenever this is cut off, the old or the new one can be read, and is whole.

    Raises:
        OSError: where it can't be written; then `path` is as it was.
    """
    check_target(path, folder=True)
    make_folder(path.parent)
    leftovers.clean_once(path.parent)
    room, calls = path.parent / leftovers.temporary_name(), system.calls()
    try:
        with failing(path, room):
            calls.mkdir(room)
            calls.library(room)
            yield room
            calls.written(room)
            flush_tree(room)
            commit_folder(room, path)
    except BaseException:
        with suppress(OSError):
            remove(room)
        raise


def copy(source: Path, path: Path) -> None:
    """Write what a file holds to another; links to it are followed, its permissions and times are not taken over.

    Raises:
        InputError: where the source is no plain file.
        OSError: where it can't be read, or the other not be written.
    """
    with open_plain(source) as file, opened(path) as out:
        while data := file.read(BUFFER):
            out.write(data)


def place(source: Path, path: Path) -> None:
    """Give a file, on the same disk, another name; whatever stood there goes. On the disk when this returns.

    Raises:
        OSError: where that fails; then both are as they were.
    """
    check_target(path)
    make_folder(path.parent)
    with failing(path, source):
        flush(source)
        system.calls().rename(source, path)
        flush(path.parent)
        if source.parent != path.parent:
            flush(source.parent)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder below `parent` for what is made piece by piece and put into its place by `place`; gone at the end.

    Raises:
        OSError: where it can't be made.
    """
    make_folder(parent)
    leftovers.clean_once(parent)
    room = parent / leftovers.temporary_name()
    with failing(parent, room):
        system.calls().mkdir(room)
    try:
        yield room
    finally:
        with suppress(OSError):
            remove(room)


def discard(path: Path) -> None:
    """Remove a folder or file under another name, so that a kill in between leaves no part of it under its own.

    Raises:
        OSError: where it can't be removed.
    """
    aside = path.parent / leftovers.temporary_name()
    with failing(path, aside):
        system.calls().rename(path, aside)
        flush(path.parent)
        remove(aside)


def commit_folder(room: Path, path: Path) -> None:
    """Give a finished and flushed folder `room`, which lies beside `path`, the place of `path`.

    Raises:
        OSError: where that fails; `path` is then the old or the new folder.
    """
    calls, hidden = system.calls(), committed(path)
    finish_folder(path)
    if not os.path.lexists(path):
        calls.rename(room, path)
        flush(path.parent)
        return
    calls.rename(room, hidden)
    flush(path.parent)
    finish_folder(path)


def finish_folder(path: Path) -> None:
    """Put a committed folder, which a kill left under its hidden name, into its place."""
    hidden = committed(path)
    if not _is_folder(hidden):
        return
    calls, old = system.calls(), path.parent / leftovers.temporary_name()
    try:
        if os.path.lexists(path):
            calls.rename(path, old)
        calls.rename(hidden, path)
    except FileNotFoundError:
        if _is_folder(hidden):
            raise
        # another process finished it at the same time
    flush(path.parent)
    remove(old)


def standing(path: Path) -> Path:
    """Where the folder `path` stands now: itself, or its committed successor that a kill kept from taking its place."""
    hidden = committed(path)
    return hidden if _is_folder(hidden) else path


def settled(path: Path) -> Path:
    """`standing`, and the folder is put into its place where that can be done, for all who look at it."""
    with suppress(OSError):
        finish_folder(path)
    return standing(path)


def committed(path: Path) -> Path:
    """The hidden name of what is committed and not yet in its place."""
    path = named(path)
    return path.with_name(f".{path.name}{COMMITTED}")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing, and have their names on the disk.

    Raises:
        OSError: where that fails, or something else has the name.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        with failing(path):
            system.calls().mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        return
    flush(path.parent)


def free_space(path: Path) -> int:
    """Bytes that a user may still write to the disk of a folder.

    Raises:
        OSError: where that can't be asked.
    """
    return shutil.disk_usage(path).free


def flush(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk when this returns. Links are not followed.

    Raises:
        OSError: where the disk refuses; but not where a system can't flush folders, which then needs no flushing.
    """
    calls = system.calls()
    try:
        descriptor = calls.open(path, system.EXISTING if not path.is_dir() else os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens no folders; and a folder that may be written in and not read
            return
        raise
    try:
        with failing(path):
            calls.flush(descriptor, path)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        calls.close(descriptor, path)


def flush_tree(room: Path) -> None:
    """Flush a folder's files and folders, innermost first, with the permissions that the umask gives.

    Raises:
        OSError: where the disk refuses; for a link, which has no place in what is written.
    """
    mode = stat.S_IMODE(os.lstat(room).st_mode)
    with os.scandir(room) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_symlink():
            raise OSError(errno.ELOOP, "a link among files that are written", entry.path)
        if entry.is_dir(follow_symlinks=False):
            flush_tree(Path(entry.path))
        else:
            _settle(Path(entry.path), mode & 0o666)
    flush(room)


def _temporary(path: Path) -> Path:
    """A temporary name beside `path`, whose folder is made, cleaned, and can be written."""
    check_target(path)
    make_folder(path.parent)
    leftovers.clean_once(path.parent)
    return path.parent / leftovers.temporary_name(path.suffix)


def check_target(path: Path, folder: bool = False) -> None:
    """Refuse a target that a rename would fail on, or would destroy: a device, or a folder where a file is written.

    Raises:
        OSError: for a folder (or, with `folder`, a file), a device, a socket or a pipe of that name.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode) and not folder:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if folder and not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "neither a file nor a folder; it would be replaced", str(path))


def _settle(path: Path, mode: int) -> None:
    """Flush what a library wrote, and give it the permissions of `mode`."""
    calls = system.calls()
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ELOOP, "not a plain file where one was written", str(path))
    if stat.S_IMODE(status.st_mode) != mode:
        calls.chmod(path, mode)
    flush(path)


def _is_folder(path: Path) -> bool:
    """A folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()
