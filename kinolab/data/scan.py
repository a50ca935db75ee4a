"""Looks at every file of a folder once: content hash, the time of every frame, scene cuts, and what is wrong with it.

Frames are decoded (tiny) while scanning, so a file that is damaged in the middle is known before anything is spent.
What a scan that took long found is kept, so that the next one reads changed files only.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from kinolab import video
from kinolab.contracts.engine import Engine, Task
from kinolab.contracts.events import Events, Listener, events_of, proceed
from kinolab.data.tables import TABLE_NAMES
from kinolab.errors import InputError
from kinolab.layers.scene_cuts import detector_cuts
from kinolab.runtime.files import write_text
from kinolab.runtime.hashes import Sha256, file_sha256, json_sha256
from kinolab.runtime.near import Near
from kinolab.runtime.reading import json_lines
from kinolab.runtime.remote import Mirror
from kinolab.runtime.summed import summed

STILL_SUFFIXES = video.IMAGE_SUFFIXES - {".webp"}
"""Endings of files that are images unless they are animated; a .webp is taken for a clip until it shows one frame."""
Seen = Callable[[], None] | None
# A scan shorter than this is not worth a file in the user's cache folder.
WORTH_KEEPING = 2.0
OFTEN = 60.0
"""Seconds after which a scan at work keeps what it has found."""
TOGETHER = 8
"""Files that an engine's worker is given at once."""
READER = 2
"""Counts up where clips are read otherwise than before, so that kept scans are made anew."""


@dataclass(frozen=True)
class ScannedFile:
    """What one file holds. `name` is relative to the folder; size is (height, width) as displayed.

    `times` are the seconds of all frames that decode, `damage` says in one line what ended the decoding early, or
    why there is no frame at all; `cuts` are the numbers of the first frames of new scenes. `notes` are about the
    pictures; without `seek`, frames bear no times that a seek could go by.
    """

    name: str
    source_hash: str
    image: bool
    size: tuple[int, int]
    times: tuple[float, ...]
    damage: str | None = None
    cuts: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    seek: bool = True
    poison: bool = False
    """Whether reading it ended every worker that tried."""


@dataclass(frozen=True)
class _Signature:
    """Tells whether a file is the one that was scanned, without reading it."""

    name: str
    bytes: int
    modified: int
    image_fps: float
    reader: int


def find_clips(root: Path) -> tuple[list[str], dict[str, int]]:
    """Clips below a folder, relative to it and sorted, and how many other files there are by suffix.

    A clip is a video file, a still image, or a folder that holds nothing but numbered images (two or more) of one
    series, which is one clip. Hidden files and folders, and those that file managers leave behind, are passed over.
    `root` may be a single video file.
    """
    if root.is_file():
        return [root.name], {}
    return _sorted_out(_walked(root), lambda name: video.is_animated(root / name))


def find_listed(names: Iterable[str], animated: Callable[[str], bool]) -> tuple[list[str], dict[str, int]]:
    """The same among files that are known by name, as those of a store; animated: whether an image is a clip."""
    below: dict[PurePosixPath, list[str]] = {}
    above: set[PurePosixPath] = set()
    for path in map(PurePosixPath, names):
        below.setdefault(path.parent, []).append(path.name)
        above.update(path.parents[1:])
    found = ((here, here in above, files) for here, files in sorted(below.items()))
    return _sorted_out(found, animated)


def _walked(root: Path) -> Iterator[tuple[PurePosixPath, bool, list[str]]]:
    """Every folder below one, whether it has others in it, and its files."""
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not video.is_passed_over(f))
        yield PurePosixPath(Path(folder).relative_to(root).as_posix()), bool(folders), files


def _sorted_out(
    found: Iterable[tuple[PurePosixPath, bool, list[str]]], animated: Callable[[str], bool]
) -> tuple[list[str], dict[str, int]]:
    """Clips among the files of folders, and how many others there are by suffix."""
    clips: list[str] = []
    others: dict[str, int] = {}
    for here, parent, files in found:
        visible = [f for f in files if not video.is_passed_over(f)]
        if not parent and is_frame_folder(visible) and not animated((here / _first_image(visible)).as_posix()):
            clips.append(here.as_posix())
            continue
        for file in visible:
            suffix = Path(file).suffix.lower()
            if suffix in video.VIDEO_SUFFIXES or suffix in STILL_SUFFIXES:
                clips.append((here / file).as_posix())
            elif suffix not in (".txt", ".csv", ".tsv", ".jsonl") and file.lower() not in TABLE_NAMES:
                others[suffix or file] = others.get(suffix or file, 0) + 1
    return sorted(clips), others


def is_frame_folder(files: Sequence[str]) -> bool:
    """Whether file names are one series of numbered images, as every command takes it for a clip (`video.series`)."""
    if any(Path(f).suffix.lower() in video.VIDEO_SUFFIXES - video.IMAGE_SUFFIXES for f in files):
        return False
    return video.series(f for f in files if video.is_image(f)) is not None


def scan(
    root: Path,
    names: Sequence[str],
    *,
    scenes: bool = False,
    index: Path | None = None,
    image_fps: float = video.IMAGE_FPS,
    events: Listener = None,
    engine: Engine | None = None,
    store: Mirror | Near | None = None,
) -> list[ScannedFile]:
    """Scan files of a folder, several at once.

    Args:
        root: the folder (or the one file).
        names: as `find_clips` gives them.
        scenes: find scene cuts too (needs the extra `train`).
        index: file that keeps what was found between runs; None keeps nothing.
        image_fps: the rate of folders of numbered images.
        events: counts files; a stopped call keeps what it found in the index, if there is one.
        engine: whose workers read; none = threads of this process. A file that ends every worker counts as damaged.
        store: the folder of a store that `root` is the mirror of; `Near` where files are fetched one by one.
    """
    known = _read_index(index) if index is not None else {}
    base = root.parent if root.is_file() else root
    near = store if isinstance(store, Near) else None
    signatures = [_signature(base, name, image_fps, near) for name in names]
    began, told = time.monotonic(), events_of(events)
    found: dict[_Signature, ScannedFile] = {}
    for signature in signatures:
        stored = known.get(signature)
        if stored is not None and not (scenes and stored.cuts is None and len(stored.times) > 1):
            found[signature] = stored
    missing = [signature for signature in signatures if signature not in found]
    job, kept = ScanJob(base, scenes, image_fps, store), began
    reading = _by_threads(job, missing, told) if engine is None else _by_workers(job, missing, told, engine)
    try:
        for signature, scanned in reading:
            found[signature] = scanned
            told.progress(len(found), len(names))
            if index is not None and time.monotonic() - kept > OFTEN:  # a kill costs no more than that
                _write_index(index, known | found)
                kept = time.monotonic()
    finally:
        if index is not None and (known or near is not None or time.monotonic() - began > WORTH_KEEPING):
            _write_index(index, known | {s: found[s] for s in signatures if s in found})
    if len(found) < len(names):
        proceed(told)
    elif not missing:
        told.progress(len(names), len(names))
    return [found[signature] for signature in signatures]


@dataclass(frozen=True)
class ScanJob:
    """The scan of files of a folder, as a job of an engine: a task is a few of them, a part the name of one."""

    base: Path
    scenes: bool
    image_fps: float
    store: Mirror | Near | None = None
    """Where the files lie, if in a store; `base` is its mirror on the machine that asks."""

    def worker(self, number: int) -> ScanJob:
        """Itself."""
        return self

    def run(self, task: Task) -> list[ScannedFile]:
        """Scan the files of a task."""
        return [self.one(name) for name in task.parts]

    def probe(self, part: str) -> None:
        """Scan one."""
        self.one(part)

    def one(self, name: str) -> ScannedFile:
        """Scan a file."""
        with nullcontext(self.base / name) if self.store is None else self.store.using(name) as path:
            return scan_file(path, name, scenes=self.scenes, image_fps=self.image_fps)

    def name(self, part: str) -> str:
        """The file's own."""
        return part


def _by_threads(
    job: ScanJob, missing: Sequence[_Signature], events: Events
) -> Iterator[tuple[_Signature, ScannedFile]]:
    """What the files of signatures hold, in their order; no more of it where it is asked to stop."""
    threads, waiting = min(8, os.cpu_count() or 1), deque[tuple[_Signature, Future[ScannedFile]]]()
    with ThreadPoolExecutor(threads) as pool:
        for number, signature in enumerate(missing, 1):
            waiting.append((signature, pool.submit(job.one, signature.name)))
            # Few ahead: what is begun of all at once lies between what is kept, so that no memory is given back.
            while waiting and (len(waiting) > 2 * threads or number == len(missing)):
                first, scanned = waiting.popleft()
                yield first, scanned.result()
                if events.stopping:
                    pool.shutdown(wait=True, cancel_futures=True)
                    return


def _by_workers(
    job: ScanJob, missing: Sequence[_Signature], events: Events, engine: Engine
) -> Iterator[tuple[_Signature, ScannedFile]]:
    """The same by an engine's workers, in any order."""
    by_name = {signature.name: signature for signature in missing}
    groups = [missing[start : start + TOGETHER] for start in range(0, len(missing), TOGETHER)]
    tasks = [Task(json_sha256([asdict(s) for s in group])[:24], tuple(s.name for s in group)) for group in groups]
    for done in engine.run(job, tasks, events):
        for scanned in done.value or ():
            yield by_name[scanned.name], scanned
        for left in done.left:
            why = f"ended every process that read it ({left.why})"
            image = Path(left.part).suffix.lower() in STILL_SUFFIXES
            yield by_name[left.part], ScannedFile(left.part, "", image, (0, 0), (), why, poison=True)


def scan_file(
    path: Path, name: str, *, scenes: bool = False, image_fps: float = video.IMAGE_FPS, seen: Seen = None
) -> ScannedFile:
    """Scan one file; never raises for what is wrong with the file, but says so in `damage`.

    seen: called for each frame that was read, and for its scenes once more.
    """
    times: list[float] = []
    notes: list[str] = []
    size = (0, 0)
    damage: str | None = None
    source_hash = ""
    try:
        source_hash = hash_source(path)
        height, width, _ = next(video.iter_frames(path, image_fps=image_fps, threads=1)).image.shape
        size = (height, width)
        small = video.iter_frames(path, size=(16, 16), resize="stretch", image_fps=image_fps, threads=1, notes=notes)
        for frame in small:
            times.append(frame.time)
            if seen is not None:
                seen()
    except (InputError, OSError) as error:
        damage = _one_line(error, path)
    suffix = path.suffix.lower()
    single = len(times) == 1 and suffix in (*video.IMAGE_SUFFIXES, ".gif")
    image = path.is_file() and (single or (suffix in STILL_SUFFIXES and not times))
    cuts = find_cuts(path, times, image_fps, seen) if scenes and len(times) > 1 else None
    seek = not times or video.seeks(path)
    return ScannedFile(name, source_hash, image, size, tuple(times), damage, cuts, tuple(notes), seek)


def hash_source(path: Path) -> str:
    """sha256 of a file's content; of a folder's images, names and contents, whatever else lies beside them."""
    if not path.is_dir():
        return file_sha256(path)
    digest = Sha256()
    for member in _images(path):
        digest.text(f"{member.name}\0{hash_source(member)}\n")
    return digest.hex()


def _first_image(files: Sequence[str]) -> str:
    return min(file for file in files if video.is_image(file))


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if video.is_image(file.name) and file.is_file())


def find_cuts(
    path: Path, times: Sequence[float], image_fps: float = video.IMAGE_FPS, seen: Seen = None
) -> tuple[int, ...]:
    """The numbers of the first frames of new scenes, by PySceneDetect's adaptive detector.

    Raises:
        MissingExtraError: without PySceneDetect.
    """
    fps = (len(times) - 1) / max(times[-1] - times[0], 1e-6)
    return detector_cuts((frame.image for frame in _small_frames(path, image_fps, seen)), fps)


def _small_frames(path: Path, image_fps: float, seen: Seen = None) -> Iterator[video.Frame]:
    for frame in video.iter_frames(path, size=(144, 256), resize="stretch", image_fps=image_fps, threads=1):
        yield frame
        if seen is not None:
            seen()


def default_index(root: Path) -> Path:
    """Where the scan of a folder is kept unless the recipe says otherwise: in the user's cache folder."""
    name = Sha256().text(str(root.resolve())).hex()[:16]
    try:
        cache = Path.home() / ".cache"
    except RuntimeError:  # a user id without a name, as in containers
        cache = Path(tempfile.gettempdir())
    return cache / "kinolab" / "scans" / f"{name}.jsonl"


def _signature(base: Path, name: str, image_fps: float, near: Near | None = None) -> _Signature:
    path = base / name
    if near is not None:
        folder = PurePosixPath(name).suffix.lower() not in video.VIDEO_SUFFIXES | STILL_SUFFIXES
        return _Signature(name, *near.signature(name), image_fps if folder else 0.0, READER)
    image_fps = image_fps if path.is_dir() else 0.0
    try:
        stats = [file.stat() for file in (_images(path) if path.is_dir() else [path])]
    except OSError:
        return _Signature(name, -1, 0, image_fps, READER)
    newest = max((s.st_mtime_ns for s in stats), default=0)
    return _Signature(name, sum(s.st_size for s in stats), newest, image_fps, READER)


def _read_index(index: Path) -> dict[_Signature, ScannedFile]:
    """What an earlier scan found; a damaged or older file counts as none, as it can always be made again."""
    found = {}
    try:
        for _, row in json_lines(index):
            cuts = row["file"]["cuts"]
            scanned = ScannedFile(
                **{
                    **row["file"],
                    "size": tuple(row["file"]["size"]),
                    "times": tuple(row["file"]["times"]),
                    "cuts": None if cuts is None else tuple(cuts),
                    "notes": tuple(row["file"]["notes"]),
                }
            )
            found[_Signature(**row["signature"])] = scanned
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found


def _write_index(index: Path, found: dict[_Signature, ScannedFile]) -> None:
    """Keep a scan; a folder that can't be written only costs the next scan its time."""
    with suppress(OSError):
        write_text(index, "".join(_index_lines(found)))


def _index_lines(found: dict[_Signature, ScannedFile]) -> Iterator[str]:
    newest = {signature.name: signature for signature in found}
    for signature in newest.values():
        if found[signature].damage is None:
            yield summed({"signature": asdict(signature), "file": asdict(found[signature])}) + "\n"


def _one_line(error: Exception, path: Path) -> str:
    """An error's cause without the file's name, which the verdict shows already."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return " ".join(text.removeprefix(f"{path}: ").split())
