"""Training states on disk: written by any number of processes, read by any other, with nothing in them that runs.

    checkpoint/
      rank-00000.safetensors ...   the pieces of tensors that each process wrote, with their sums (`runtime.weights`)
      metadata.json                every tensor's type, size and pieces; every plain value; the paths in the state
      manifest.json                all files, their sizes and hashes; written last (`seal`)

Torch's planners decide who writes what and cut tensors anew when they are read (torch.distributed.checkpoint); here is
the storage that they write to and read from, in the place of torch's own, whose metadata and values are pickles that
torch runs. Folders in that format are read too, safely (`runtime.old_checkpoints`), but for checksums, which they lack.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed.checkpoint as dcp

from kinolab.errors import DamagedError, InputError
from kinolab.runtime import sets
from kinolab.runtime.files import write_text
from kinolab.runtime.old_checkpoints import FILE as OLD_FILE
from kinolab.runtime.paths import visible
from kinolab.runtime.shard_storage import METADATA, Planner, Reader, Writer
from kinolab.runtime.weights import TensorFile

T = TypeVar("T")
Away = Callable[[Path, str], sets.Entry]


def save(state: dict[str, Any], folder: Path, alone: bool, away: Away | None = None) -> dict[str, sets.Entry]:
    """Write this process's part of a state into a folder; with others, every process calls it. Not sealed yet.

    Args:
        state: tensors (also DTensors) and plain values in nested dictionaries and lists.
        folder: is there already.
        alone: there are no other processes.
        away: takes what this process wrote to where it is found (`shard_storage.Writer`).

    Returns:
        What was taken away by all processes, for `seal`; in the first one.

    Raises:
        OSError: where it can't be written, in whichever process.
        InputError: for a value that is none of text, number, truth and nothing, or lists and dictionaries of them.
    """
    with _one_error(folder, InputError):
        writer = Writer(folder, away)
        dcp.save(state, storage_writer=writer, planner=dcp.DefaultSavePlanner(), no_dist=alone)
    return writer.elsewhere


def save_beside(state: dict[str, Any], folder: Path, group: Any, away: Away | None = None) -> Writing:
    """Copy this process's part of a state, and write the copy into a folder while this returns (`async_save`).

    Args:
        state, folder, away: as for `save`.
        group: the processes that write, in a group that nobody else uses, of a backend for processors; None = this one
            alone.

    Raises:
        OSError: where there is no room for the copy.
    """
    # From the thread that writes, and so for good: it is known that one process writes alone.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
    given: Any = {} if group is None else {"process_group": group}
    writer = Writer(folder, away)
    with _one_error(folder, InputError):
        future = dcp.async_save(
            state, storage_writer=writer, planner=dcp.DefaultSavePlanner(), no_dist=group is None, **given
        )
    return Writing(folder, cast("Future[Any]", future), writer)


@dataclass(frozen=True)
class Writing:
    """A state that is being written beside what goes on."""

    folder: Path
    future: Future[Any]
    writer: Writer

    @property
    def done(self) -> bool:
        """Whether all processes have written theirs; or one of them could not, which `end` tells."""
        return self.future.done()

    def end(self) -> None:
        """Wait until all is written. Not sealed yet.

        Raises:
            OSError, InputError: as `save` does.
        """
        with _one_error(self.folder, InputError):
            self.future.result()


def seal(folder: Path, elsewhere: Mapping[str, sets.Entry] | None = None) -> None:
    """Write the manifest of all that is in a checkpoint's folder; before, it isn't one. One process calls it.

    elsewhere: files of it that other machines took away.

    Raises:
        OSError: where it can't be written.
    """
    found = sets.make_manifest(folder, hashes=False)
    write_text(folder / sets.MANIFEST, sets.Manifest({**found.files, **(elsewhere or {})}).text())


def load(state: dict[str, Any], folder: Path, alone: bool) -> None:
    """Fill a state in place from a checkpoint, every tensor checked; with others, every process calls it.

    Raises:
        DamagedError: where the checkpoint is damaged or not whole; the state is then partly filled.
        InputError: where it is whole and another state's: names or sizes differ.
        OSError: where it can't be read.
    """
    reader = Reader(folder, lambda: problems(folder))
    with _one_error(folder, DamagedError):
        dcp.load(state, storage_reader=reader, planner=Planner(), no_dist=alone)


def problems(folder: Path) -> list[sets.Problem]:
    """What can be seen of damage in no time: missing files, other sizes, other headers; nothing in older folders."""
    if (folder / OLD_FILE).exists() and not (folder / METADATA).exists():
        return []
    try:
        manifest = sets.read_manifest(folder)
    except InputError as error:
        return [sets.Problem(folder / sets.MANIFEST, f"damaged ({error})")]
    if manifest is None:
        return [sets.Problem(folder, "no checkpoint, or one that was never finished (no manifest.json)")]
    return sets.check(folder, manifest)


def verify(folder: Path) -> list[sets.Problem]:
    """All damage: every tensor is read and compared with its sum, every other file with its hash.

    Raises:
        OSError: where something can't be read.
    """
    found = problems(folder)
    if found:
        return found
    for path in visible(folder, "*.safetensors"):
        try:
            file = TensorFile(path)
            for name in file.names:
                file.tensor(name, nan="allow")
        except InputError as error:
            found.append(sets.Problem(path, str(error).removeprefix(f"{path}: ")))
    try:
        Reader(folder).read_metadata()
    except DamagedError as error:
        found.append(sets.Problem(folder, str(error)))
    return found


def newest_whole(found: Sequence[Path], load: Callable[[Path], T], say: Callable[[str], None]) -> T | None:
    """Load the newest checkpoint that is whole: what `load` gave, or None where there is none in `found`.

    Args:
        found: checkpoints, oldest first.
        load: loads one, all of it anew; raises DamagedError or OSError where it is damaged.
        say: is told which one is damaged, and from which the run goes on.

    Raises:
        DamagedError: where there are checkpoints and none is whole; names the newest and what is wrong with it.
    """
    first: InputError | OSError | None = None
    for checkpoint in reversed(found):
        try:
            loaded = load(checkpoint)
        except (DamagedError, OSError) as error:
            say(f"{checkpoint.name} is damaged: {error}")
            first = first or error
            continue
        if first is not None:
            say(f"going on from {checkpoint.name}, the newest checkpoint that is whole")
        return loaded
    if first is not None:
        raise DamagedError(f"{found[-1].parent}: none of {len(found)} checkpoints is whole; the newest: {first}")
    return None


@contextmanager
def _one_error(folder: Path, damaged: type[InputError]) -> Iterator[None]:
    """Of the errors that torch gathers from all processes, the one that says what is wrong."""
    root = logging.getLogger()
    root.addFilter(_unsaid)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except dcp.CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        cause = next((c for c in causes if isinstance(c, OSError | InputError)), causes[0] if causes else error)
        if isinstance(cause, DamagedError | OSError):
            raise cause from None
        if isinstance(cause, InputError):
            raise damaged(str(cause)) from None
        unread = re.search(r"global metadata read failed: (.*); rank local metadata read failed", str(cause), re.DOTALL)
        if isinstance(cause, AssertionError) and unread is not None:  # what torch makes of our error
            raise DamagedError(unread[1]) from None
        if isinstance(cause, RuntimeError | ValueError):  # of the planner: names or sizes of another state
            raise InputError(f"{folder}: holds another state: {cause}") from None
        raise cause from None
    finally:
        root.removeFilter(_unsaid)


def _unsaid(record: logging.LogRecord) -> bool:
    """Torch logs, with a traceback each, where it finds no metadata; what is wrong is said by the error."""
    return record.module != "state_dict_loader"
