"""Several files written as one: a model's parts, a video and its record, and what of them is whole.

    with new_set(folder, "model", manifest="manifest.json") as room:
        ...                                              any files, into `room`

A set is committed by one change of a name, and that is the moment it is there. Whenever it is cut off, the old or the
new set can be read, whole: the files are written and flushed in a hidden folder, with a record of their names, sizes
and hashes; the folder gets the hidden name `.KEY.committed`; then its files take their places one by one. Who reads
asks `located` where a file of the set stands now; who writes next puts in place what a kill left (`finish_set`).

A manifest that stays (`manifest.json`) says afterwards what belongs together: `check` compares names and sizes and the
beginnings of files, which takes no time; `verify` reads all of it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import leftovers, system
from kinolab.runtime.failures import failing
from kinolab.runtime.files import committed, flush, flush_tree, make_folder, remove
from kinolab.runtime.hashes import file_sha256, head_sha256
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import COMMITTED, inside, single
from kinolab.runtime.reading import Limits, read_json
from kinolab.runtime.records import Record
from kinolab.runtime.summed import summed

FORMAT = 1
"""Of a manifest."""
MANIFEST = "manifest.json"
RECORD = ".commit.json"
"""What lies beside the files of a set that is committed and not yet in place."""
LIMITS = Limits(bytes=16 * 2**20, depth=6, values=500_000)
TENSORS = ".safetensors"
SMALL = 64 * 2**20
"""Bytes of a file without tensors that is read whole whenever it is checked."""
EDITED = (".yaml", ".yml", ".txt", ".md")
"""Files that people edit: a change is said and is no damage."""


@dataclass(frozen=True)
class Entry:
    """One file of a set: its bytes, the SHA-256 of all of it and of its beginning (`head_sha256`), "" where unknown."""

    bytes: int
    sha256: str = ""
    head: str = ""


@dataclass(frozen=True)
class Manifest:
    """The files of a set by name, with `/` between the parts of a name; removed: those of the set before it."""

    files: Mapping[str, Entry]
    removed: tuple[str, ...] = ()

    def text(self) -> str:
        """As it is written, with its own sum."""
        files = {name: {k: v for k, v in asdict(e).items() if v != ""} for name, e in sorted(self.files.items())}
        return summed({"format": FORMAT, "files": files, "removed": sorted(self.removed)}, indent=1) + "\n"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file; edited: it is one that people edit, and was changed."""

    path: Path
    what: str
    edited: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@contextmanager
def new_set(folder: Path, key: str, *, manifest: str | None = None, replaces: Collection[str] = ()) -> Iterator[Path]:
    """An empty folder to write files into, which stand in `folder` together when the block ends, or none of them.

    Args:
        folder: where the files will stand, beside whatever is there; made where it is missing.
        key: what tells this set from others in the folder, such as the name of its main file.
        manifest: the name of a manifest that stays there with the set.
        replaces: names of files of an earlier set that go, where the new one has none of these names; those in the
            manifest that stands there go too.

    Raises:
        OSError: where it can't be written; the old set is then as it was.
        InputError: for a name that no file can have, and a set without files.
    """
    make_folder(folder)
    leftovers.clean_once(folder)
    hidden = _hidden(folder, key)
    room, calls = folder / leftovers.temporary_name(), system.calls()
    try:
        with failing(folder, room):
            calls.mkdir(room)
            calls.library(room)
            yield room
            calls.written(room)
            finish_set(folder, key)
            _seal(room, folder, manifest, replaces)
            calls.rename(room, hidden)
            flush(folder)
    except BaseException:
        with suppress(OSError):
            remove(room)
        raise
    finish_set(folder, key)


def finish_set(folder: Path, key: str) -> bool:
    """Put the files of a committed set into their places, where a kill came in between; whether there was one.

    Raises:
        OSError: where that fails; the set can be read all the same.
    """
    hidden = _hidden(folder, key)
    record = _committed_record(hidden)
    if record is None:
        if hidden.is_dir() and not hidden.is_symlink():  # its record went last: all files are in place
            remove(hidden)
        return False
    with failing(folder, hidden):
        _move(hidden, folder, record)
    return True


def finish_set_of(path: Path) -> None:
    """Put the committed set that holds a file into its place, where a kill came in between; for who reads a file and
    doesn't know by which key it was written.

    Raises:
        OSError: where that fails.
    """
    for hidden in path.parent.glob(f".*{COMMITTED}"):
        try:
            record = _committed_record(hidden)
        except InputError:  # of a damaged set, which its own readers will name
            continue
        if record is not None and path.name in record.files:
            finish_set(path.parent, hidden.name.removeprefix(".").removesuffix(COMMITTED))


def _move(hidden: Path, folder: Path, record: Manifest) -> None:
    """Move the files of a committed set to their places, remove what the one before it leaves, then its record."""
    touched = {folder}
    for name in record.files:
        target = folder / name
        make_folder(target.parent)
        with suppress(FileNotFoundError):  # in place already
            system.calls().rename(hidden / name, target)
        touched.add(target.parent)
    for name in record.removed:
        remove(folder / name)
        touched.add((folder / name).parent)
    for place in sorted(touched):
        if place.is_dir():
            flush(place)
    with suppress(FileNotFoundError):
        system.calls().unlink(hidden / RECORD)
    with suppress(FileNotFoundError):
        remove(hidden)
    flush(folder)


def located(folder: Path, key: str, name: str) -> Path:
    """Where a file of a set stands now: in its place, or with its committed set, which a kill kept from its place.

    There need be no file: what the committed set leaves out is looked for where it is not.
    """
    hidden = _hidden(folder, key)
    record = _committed_record(hidden)
    if record is not None and ((name in record.files and (hidden / name).exists()) or name in record.removed):
        return hidden / name
    return folder / name


def read_manifest(folder: Path, key: str = "", name: str = MANIFEST) -> Manifest | None:
    """The manifest of a folder (of the set `key` in it); None where there is none, as in folders of older versions.

    Raises:
        InputError: where it is damaged, or written by a later version.
        OSError: where it can't be read.
    """
    path = located(folder, key, name) if key else folder / name
    try:
        return parse_manifest(read_json(path, LIMITS), path)
    except FileNotFoundError:
        return None


def parse_manifest(value: object, path: Path) -> Manifest:
    """A manifest from its JSON value; every name in it is one that stays inside its folder.

    Raises:
        InputError: where it is damaged, or of a later version.
    """
    record = Record(value, str(path), "the folder is damaged; write it again")
    if record.integer("format") != FORMAT:
        raise InputError(f"{path}: a manifest of format {record.integer('format')}; this Kinolab reads {FORMAT}")
    _only(record, ("format", "files", "removed"))
    files = {}
    listed = record.record("files")
    for name in listed:
        inside(path.parent, name)
        entry = listed.record(name)
        _only(entry, ("bytes", "sha256", "head"))
        files[name] = Entry(entry.integer("bytes", at_least=0), entry.text("sha256", ""), entry.text("head", ""))
    removed = tuple(record.texts("removed", []))
    for name in removed:
        inside(path.parent, name)
    return Manifest(files, removed)


def _only(record: Record, known: Collection[str]) -> None:
    """A name that is not known is a damaged one, whose entry would be missed without a word."""
    strange = next((key for key in record if key not in known), None)
    if strange is not None:
        raise InputError(f"{record.name}: {shown(strange)} is no entry of a manifest; the folder is damaged")


def make_manifest(room: Path, hashes: bool = True) -> Manifest:
    """The manifest of all files in a folder and below it, hidden ones left out.

    hashes: with the SHA-256 of every file; without, of those alone that hold no tensors (which have sums of their own).

    Raises:
        OSError: where a file can't be read.
    """
    files = {}
    for path in _files_below(room):
        whole = file_sha256(path) if hashes or path.suffix != TENSORS else ""
        files[path.relative_to(room).as_posix()] = Entry(path.stat().st_size, whole, head_sha256(path))
    return Manifest(files)


def check(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> list[Problem]:
    """Files (all, or those of `names`) that are missing, or are not of this set: by size and beginning, in no time."""
    return [p for name in _chosen(manifest, names) if (p := _compare(folder, name, manifest, whole=False)) is not None]


def verify(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> list[Problem]:
    """Files that are missing or changed, every byte of them read."""
    return [p for name in _chosen(manifest, names) if (p := _compare(folder, name, manifest, whole=True)) is not None]


def require(folder: Path, manifest: Manifest | None, names: Iterable[str], advice: str) -> list[str]:
    """Refuse files that are not of this set; the notes about those that people edited.

    Raises:
        InputError: for the first damaged or foreign file, with what to do: `advice`.
    """
    problems = [] if manifest is None else check(folder, manifest, names)
    for problem in problems:
        if not problem.edited:
            raise InputError(f"{problem}; {advice}")
    return [str(problem) for problem in problems]


def _chosen(manifest: Manifest, names: Iterable[str] | None) -> list[str]:
    return sorted(manifest.files) if names is None else [name for name in names if name in manifest.files]


def _compare(folder: Path, name: str, manifest: Manifest, whole: bool) -> Problem | None:
    """What is wrong with one file."""
    path, entry = inside(folder, name, links=True), manifest.files[name]
    try:
        size = path.stat().st_size
        if not path.is_file():
            return Problem(path, "no plain file")
        same = size == entry.bytes
        if same and entry.head:
            same = head_sha256(path) == entry.head
        if same and entry.sha256 and (whole or (path.suffix != TENSORS and size <= SMALL)):
            same = file_sha256(path) == entry.sha256
    except FileNotFoundError:
        return Problem(path, "missing")
    except OSError as error:
        return Problem(path, f"can't be read ({error.strerror})")
    if same:
        return None
    if path.suffix in EDITED:
        return Problem(path, "was changed since it was written", edited=True)
    if size != entry.bytes:
        return Problem(path, f"has {size:,} bytes, and was written with {entry.bytes:,}")
    return Problem(path, "is damaged, or of another set of files")


def _seal(room: Path, folder: Path, manifest: str | None, replaces: Collection[str]) -> None:
    """Write the record (and the manifest that stays) of what is in a room, and have all of it on the disk."""
    made = make_manifest(room)
    if not made.files:
        raise InputError(f"{folder}: a set without files")
    for name in made.files:
        inside(folder, name, new=True)
    gone = {name for name in replaces if inside(folder, name, new=True)}
    with suppress(InputError):  # a damaged manifest has nothing to say
        before = read_manifest(folder, name=single(folder, manifest or MANIFEST).name)
        if before is not None and manifest is not None:
            gone |= set(before.files)
        elif before is not None and not made.files.keys().isdisjoint(before.files):
            gone.add(MANIFEST)  # it would speak of files that are others now
    if manifest is not None:
        _put(room / manifest, Manifest(made.files).text())
        made = Manifest({**made.files, manifest: Entry((room / manifest).stat().st_size)})
    _put(room / RECORD, Manifest(made.files, tuple(gone - set(made.files))).text())
    flush_tree(room)


def _put(path: Path, text: str) -> None:
    """Write a file where nobody reads yet; flushed with its folder."""
    calls = system.calls()
    descriptor = calls.open(path, system.CREATE)
    try:
        data = memoryview(text.encode("utf-8"))
        while data:
            data = data[calls.write(descriptor, data, path) :]
    finally:
        calls.close(descriptor, path)


def _committed_record(hidden: Path) -> Manifest | None:
    """What a committed set holds; None where there is no such."""
    if hidden.is_symlink():
        return None
    try:
        return parse_manifest(read_json(hidden / RECORD, LIMITS), hidden / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _hidden(folder: Path, key: str) -> Path:
    return committed(single(folder, key))


def _files_below(room: Path) -> Iterator[Path]:
    """All plain files, in order; hidden ones and links are left out."""
    for at, folders, names in os.walk(room):
        folders.sort()
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in sorted(names):
            path = Path(at) / name
            if not name.startswith(".") and not path.is_symlink():
                yield path
