"""A folder or file of a store to write to, for what only knows paths of this machine: a run, a video, a report.

What lies there is fetched first; what is written is put there meanwhile, once a minute, and at the end, also where the
work was cut off. Files come before the manifest that names them and go after it, so a set in the store is whole or not
there, at any moment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from kinolab.errors import InputError
from kinolab.runtime.paths import WORKING
from kinolab.runtime.remote import Mirror, address
from kinolab.runtime.sets import MANIFEST

EVERY = 60.0
"""Seconds after which what is new is put into the store: as much work is lost with this machine."""


@contextmanager
def put_back(path: Path) -> Iterator[Path]:
    """A path of this machine in place of an address: of a folder, or of a file and what is written beside it under its
    name (`v.mp4`, `v.json`, `v-0.mp4`), where it has an ending.

    Raises:
        InputError: where the store can't be written, another writes there, or torchrun's processes would.
    """
    where = address(path)
    if where.startswith("http"):
        raise InputError(f"{where}: can be read and not written; name a folder, or s3://... or gs://...")
    from kinolab.runtime.ranks import by_torchrun

    if by_torchrun():
        raise InputError(f"{where}: torchrun's processes write into a folder that they share; name one of a disk")
    single = PurePosixPath(where).suffix != ""
    above, _, name = where.rpartition("/")
    stem = PurePosixPath(name).stem

    def wanted(other: str) -> bool:
        return not single or other.startswith(stem)

    mirror = Mirror(above if single else where)
    with mirror.writing():
        mirror.fetch(wanted, new=True)
        over = threading.Event()

        def meanwhile() -> None:
            while not over.wait(EVERY):
                with suppress(InputError, OSError):  # what is at work this moment, or a store that may come back
                    _publish(mirror, drop=False)  # what is not here may be in the middle of being replaced

        thread = threading.Thread(target=meanwhile, daemon=True)
        thread.start()
        try:
            yield mirror.path / name if single else mirror.path
        finally:
            over.set()
            thread.join()
            _publish(mirror, drop=not single)


def _publish(mirror: Mirror, drop: bool) -> None:
    """Put what is new; with `drop`, what is not here any more goes, as it does not of files beside others."""
    manifests = [name for name in mirror.here() if PurePosixPath(name).name == MANIFEST]
    mirror.publish(manifests, drop=drop)
    if (mirror.path / WORKING).is_file():
        mirror.put(WORKING)
