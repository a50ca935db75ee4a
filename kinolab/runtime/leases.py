"""Who writes a folder of a store: said by an object that one alone can create, renewed as long as its writer lives.

A writer that is gone is known by its process, where it was one of this machine. Of another machine's it is known that
it has not renewed its object for ten minutes; one that wakes up later notices before it puts anything, and ends.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.filesystems import ExistsError, entry_of, told
from kinolab.runtime.leftovers import start_of, this_process
from kinolab.runtime.lines import one_line

LOCK = ".kinolab.lock.json"
"""The object that says who writes a folder."""
CLOCK = ".kinolab.clock"
"""An object that is made, and removed, to read the store's clock."""
RENEWED = 60.0
"""Seconds after which it is renewed."""
SILENT = 600.0
"""Seconds without that after which its writer counts as gone; before it is taken over, by the store's own clock."""
QUIET = 180.0
"""Seconds without that after which it is worth while to wait for the others to pass."""
TRIES = 100
"""Times that it is created where it is said to be there, and is not."""
SETTLED = 2.0
"""Seconds after which of several that took the object of one who is gone the last one finds itself in it."""


@dataclass(frozen=True)
class Writer:
    """Who has a folder: what its object says, and when that was renewed last, in seconds since 1970."""

    note: Mapping[str, Any]
    heard: float

    def __str__(self) -> str:
        note = self.note
        return one_line(f"process {note.get('process')} on {note.get('host')} since {note.get('since')}", 160)

    @property
    def here(self) -> bool:
        """Whether it is of this start of this machine, so that its process can be asked for."""
        return self.note.get("host") == socket.gethostname() and self.note.get("boot") == this_process().boot

    @property
    def gone(self) -> bool:
        """Whether it is known not to write any more: a process of this machine that is no more, or this very one, which
        holds this machine's own lock by now (what it left is of a store that had stopped answering); of another machine
        one that renews its object and has not for long."""
        process = self.note.get("process")
        if self.here:
            mine = process == this_process().process
            return isinstance(process, int) and (mine or start_of(process) != self.note.get("start"))
        return bool(self.note.get("renewed")) and time.time() - self.heard > SILENT

    @property
    def lives(self) -> bool:
        """Whether it writes still, as far as can be told: another machine's is heard of, or promised no sign."""
        process = self.note.get("process")
        if self.here:
            return isinstance(process, int) and start_of(process) == self.note.get("start")
        return not self.gone


def writer_of(store: Any, root: str, url: str) -> Writer | None:
    """Who has a folder; None where nobody has.

    Raises:
        InputError: where the store doesn't answer.
    """
    name = f"{root}/{LOCK}"
    with told(url):
        try:
            data, info = store.cat_file(name), store.info(name)
        except FileNotFoundError:
            return None
    found: Any = None
    with suppress(ValueError):
        found = json.loads(data)
    return Writer(found if isinstance(found, dict) else {}, entry_of(info).moment / 1e9)


@dataclass
class Lease:
    """The right to write a folder.

    store: gives the file system; root, url: the folder there, and as people write it.
    """

    store: Callable[[], Any]
    root: str
    url: str
    note: dict[str, Any] = field(init=False, default_factory=dict)
    _sure: float = field(init=False, default=0.0)
    _lost: bool = field(init=False, default=False)

    @contextmanager
    def held(self, patient: Callable[[str], object] | None = None) -> Iterator[Lease]:
        """Have it, renewed from time to time, until the block ends.

        patient: wait for a writer that was not heard of for long, and tell this of it.

        Raises:
            InputError: where another has it; says who, and what to do where that one is gone.
        """
        self.take(patient)
        over = threading.Event()

        def renew() -> None:
            while not over.wait(RENEWED):
                with suppress(InputError, OSError):  # a store that may come back
                    self.renew()

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()
            with suppress(InputError):
                found = self._writer()
                if found is not None and found.note == self.note:  # and not that of who took this one for gone
                    self._drop()

    def take(self, patient: Callable[[str], object] | None = None) -> None:
        """Create the object, in place of one whose writer is gone; patient: as of `held`.

        Raises:
            InputError: where another has it.
        """
        me = this_process()
        note = {"host": socket.gethostname(), "process": me.process, "start": me.start, "boot": me.boot}
        self.note = note | {
            "since": f"{datetime.now():%Y-%m-%d %H:%M}", "token": secrets.token_hex(8), "renewed": RENEWED
        }  # fmt: skip
        taken, gone, told_of = False, 0, False
        while not self._created():
            found = self._writer()
            if found is None:  # it has just gone
                gone += 1
                if gone == TRIES:
                    raise InputError(f"{self.url}: {LOCK} can't be created there; is it the address of a folder?")
                continue
            if found.note == self.note:  # created, but the answer was lost, and the library asked again
                break
            if not found.gone:
                if patient is not None and self._may_be_gone(found):
                    if not told_of:
                        patient(f"{self.url}: {found} has the folder and was not heard of for minutes; waiting for it")
                    told_of = True
                    time.sleep(RENEWED / 6)
                    continue
                raise InputError(
                    f"{self.url}: another kinolab is writing there ({found}); where that one is gone, delete {LOCK}"
                )
            taken = not found.here
            if taken and self._now() - found.heard <= SILENT:  # this machine's clock is wrong
                raise InputError(f"{self.url}: another kinolab is writing there ({found}); see this machine's clock")
            again = self._writer()
            if again is not None and again.note == found.note:
                self._drop()
        if taken:  # of another machine, where others may take it as well
            time.sleep(SETTLED)
            found = self._writer()
            if found is None or found.note != self.note:
                raise InputError(f"{self.url}: another kinolab is writing there ({found})")
        self._sure = time.time()

    def _may_be_gone(self, found: Writer) -> bool:
        return not found.here and bool(found.note.get("renewed")) and self._now() - found.heard > QUIET

    def renew(self) -> None:
        """Say that its writer lives.

        Raises:
            InputError: where another has taken it since, or the store doesn't answer.
        """
        found = self._writer()
        if found is not None and found.note != self.note:
            self._lost = True
        self._refuse(found)
        if found is None:  # somebody deleted it
            self._lost = not self._created()
            self._refuse(None)
        else:
            with told(self.url):
                self.store().pipe_file(f"{self.root}/{LOCK}", json.dumps(self.note).encode())
        self._sure = time.time()

    def check(self) -> None:
        """Make sure that it is still had; asks the store only where it was not renewed for long.

        Raises:
            InputError: where another has taken it since, or the store doesn't answer.
        """
        self._refuse(None)
        if time.time() - self._sure > SILENT / 2:
            self.renew()

    def _refuse(self, found: Writer | None) -> None:
        if self._lost:
            by = "" if found is None else f" ({found})"
            raise InputError(
                f"{self.url}: another kinolab writes there now{by}, as nothing was heard of this one for "
                f"{SILENT / 60:.0f} minutes; what it did since is not in the store"
            )

    def _created(self) -> bool:
        """Whether the object, which must not exist, could be created."""
        try:
            with told(self.url):
                self.store().pipe_file(f"{self.root}/{LOCK}", json.dumps(self.note).encode(), mode="create")
        except (FileExistsError, ExistsError):
            return False
        return True

    def _now(self) -> float:
        """The store's own time, in seconds since 1970: that of an object which is made for it."""
        name = f"{self.root}/{CLOCK}"
        with told(f"{self.url}/{CLOCK}"):
            self.store().pipe_file(name, self.note["token"].encode())
            moment = entry_of(self.store().info(name)).moment / 1e9
            with suppress(FileNotFoundError):
                self.store().rm_file(name)
        return moment

    def _writer(self) -> Writer | None:
        return writer_of(self.store(), self.root, self.url)

    def _drop(self) -> None:
        with told(f"{self.url}/{LOCK}"), suppress(FileNotFoundError):
            self.store().rm_file(f"{self.root}/{LOCK}")
