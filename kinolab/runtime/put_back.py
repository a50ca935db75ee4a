"""A folder or file of a store to write to, for what only knows paths of this machine: a run, a video, a report.

What lies there is fetched first; what is written is put there meanwhile, once a minute, and at the end, also where the
work was cut off. Files come before the manifest that names them and go after it, so a set in the store is whole or not
there, at any moment.

Of torchrun's processes the first one writes the folder, as a single process does. Each machine has the run's recipe and
checkpoints on its own disk; what processes of other machines write of a checkpoint they put themselves (`away`), before
the first one puts the manifest that makes it one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kinolab.errors import InputError
from kinolab.runtime import sets
from kinolab.runtime.files import write_text
from kinolab.runtime.filesystems import UnansweredError
from kinolab.runtime.hashes import head_sha256
from kinolab.runtime.leftovers import remove
from kinolab.runtime.locks import held
from kinolab.runtime.paths import WORKING
from kinolab.runtime.reading import read_json
from kinolab.runtime.remote import Mirror, address
from kinolab.runtime.sets import MANIFEST

if TYPE_CHECKING:
    from kinolab.runtime.ranks import Announced

EVERY = 60.0
"""Seconds after which what is new is put into the store: as much work is lost with this machine."""
PAUSES = (1.0, 5.0, 30.0, 60.0)
"""Seconds before another machine's part of a checkpoint, which could not be put, is put again."""
_OPEN: dict[Path, Mirror] = {}
"""The folders of this machine that stand for one of a store now, in this process."""


@contextmanager
def put_back(path: Path, *, several: bool = False, patient: Callable[[str], object] | None = None) -> Iterator[Path]:
    """A path of this machine in place of an address: of a folder, or of a file and what is written beside it under its
    name (`v.mp4`, `v.json`, `v-0.mp4`), where it has an ending.

    patient: wait for a writer of another machine that is perhaps gone, and tell this of it (`runtime.leases`).
    several: it is a folder that torchrun's processes may share, as those of a training do.

    Raises:
        InputError: where the store can't be written, another writes there, or torchrun's processes would.
    """
    where = address(path)
    if where.startswith("http"):
        raise InputError(f"{where}: can be read and not written; name a folder, or s3://... or gs://...")
    from kinolab.runtime.ranks import announced, by_torchrun

    if by_torchrun() and not several:
        raise InputError(f"{where}: torchrun's processes write into a folder that they share; name one of a disk")
    single = PurePosixPath(where).suffix != "" and not several  # a run may be called run-0.5
    if by_torchrun():
        mirror = Mirror(where)
        with _known(mirror), _reading(mirror) if announced().rank else _writing(mirror, patient):
            yield mirror.path
        return
    above, _, name = where.rpartition("/")
    mirror, stem = Mirror(above if single else where), PurePosixPath(name).stem
    with _known(mirror), _writing(mirror, patient, stem if single else None):
        yield mirror.path / name if single else mirror.path


def named(text: str) -> str:
    """A text with the addresses that people know in place of the folders that stand for them in this process."""
    for folder, mirror in _OPEN.items():
        text = text.replace(str(folder), mirror.url)
    return text


def away(folder: Path) -> Callable[[Path, str], sets.Entry] | None:
    """Of a process on another machine than the first one's: puts a file that it wrote aside into `folder`, under a
    name, and says how a manifest calls it; the file is then gone here. None where the first one finds the file itself.
    """
    found = next((base for base in _OPEN if folder.is_relative_to(base)), None)
    if found is None or _announced().machine == 0:
        return None
    mirror, below = _OPEN[found], folder.relative_to(found).as_posix()

    def put(path: Path, name: str) -> sets.Entry:
        entry = sets.Entry(path.stat().st_size, "", head_sha256(path))
        for pause in (*PAUSES, None):  # a store that fails for a moment ends no run
            try:
                mirror.put(f"{below}/{name}", path)
                break
            except UnansweredError:
                if pause is None:
                    raise
                time.sleep(pause)
        remove(path)
        with suppress(OSError):
            path.parent.rmdir()
        return entry

    return put


def leads_elsewhere(folder: Path) -> bool:
    """Whether this is the first process of another machine than the first one's, which has a folder of its own."""
    return away(folder) is not None and _announced().local_rank == 0


def _announced() -> Announced:
    from kinolab.runtime.ranks import announced  # torch, which not every command needs

    return announced()


@contextmanager
def _known(mirror: Mirror) -> Iterator[None]:
    _OPEN[mirror.path] = mirror
    try:
        yield
    finally:
        _OPEN.pop(mirror.path, None)


@contextmanager
def _writing(mirror: Mirror, patient: Callable[[str], object] | None, stem: str | None = None) -> Iterator[None]:
    """Fetch what is there, and put what is new. stem: what the names begin with of the files that are meant."""

    def wanted(other: str) -> bool:
        return stem is None or other.startswith(stem)

    with mirror.writing(patient):
        with held(_fetching(mirror)):
            if _is_ahead(mirror):
                _publish(mirror, over=False)
            mirror.fetch(wanted, new=True)
            write_text(_step(mirror), json.dumps({name: e.moment for name, e in mirror.listed(new=True).items()}))
        over = threading.Event()

        def meanwhile() -> None:
            while not over.wait(EVERY):
                with suppress(InputError, OSError):  # what is at work this moment, or a store that may come back
                    _publish(mirror, over=False)

        thread = threading.Thread(target=meanwhile, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            try:
                _publish(mirror, over=stem is None)
            except InputError as error:
                raise InputError(
                    f"{error}; what was made is in {mirror.path}, and the same command goes on from there and puts it"
                ) from None
            remove(_step(mirror))


@contextmanager
def _reading(mirror: Mirror) -> Iterator[None]:
    """Fetch what another process than the first needs to go on: of those of one machine, one does."""
    with held(_fetching(mirror)):
        mirror.fetch(lambda name: name == "recipe.yaml" or name.startswith("checkpoints/"), new=True)
    yield


def _fetching(mirror: Mirror) -> Path:
    return mirror.path.parent / ".fetching"


def _step(mirror: Mirror) -> Path:
    """What the store had when this machine was in step with it last; stays where the writer was cut off."""
    return mirror.path.parent / ".step.json"


def _is_ahead(mirror: Mirror) -> bool:
    """Whether what lies here is ahead of the store: its writer was cut off, and nobody wrote there since."""
    try:
        known = read_json(_step(mirror))
    except (InputError, OSError):
        return False
    return isinstance(known, dict) and mirror.untouched(known)


def _publish(mirror: Mirror, over: bool) -> None:
    """Put what is new, manifests last. What is not here any more goes: sets of which nothing is left, such as older
    checkpoints; when the work is `over` other files too, which before may be in the middle of being replaced."""
    manifests = [name for name in mirror.here() if PurePosixPath(name).name == MANIFEST]
    steps = [name.split("/") for name in manifests if name.startswith("checkpoints/")]
    oldest, elsewhere = min((parts[1] for parts in steps), default=""), set[str]()
    for name in manifests:
        with suppress(InputError):
            found = sets.read_manifest((mirror.path / name).parent)
            elsewhere |= {f"{PurePosixPath(name).parent}/{file}" for file in (found.files if found else ())}

    def goes(name: str, listed: Collection[str]) -> bool:
        folder = PurePosixPath(name).parent
        # Without a manifest it may be the part that another machine wrote of what is no set yet.
        left = f"{folder}/{MANIFEST}" in listed or (str(folder) < f"checkpoints/{oldest}" and "/step-" in str(folder))
        return (left and not (mirror.path / folder).exists()) or (over and name not in elsewhere)

    there = mirror.publish(manifests, drop=goes)
    write_text(_step(mirror), json.dumps(there))
    if (mirror.path / WORKING).is_file():
        mirror.put(WORKING)
