"""Whether what Kinolab stored is still what it wrote: runs, caches, models, results and videos, every byte read.

What machines write is compared with the sums and hashes that were stored with it. What people edit (recipes,
model.yaml, captions) may differ, which is noted; so is what was written by versions that stored no sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kinolab import video
from kinolab.data.cache import LINES, lost_items, read_header, read_index
from kinolab.data.shard_reader import given_file
from kinolab.errors import InputError
from kinolab.generation.provenance import frames_hash, provenance_path, read_provenance
from kinolab.models import find_model, read_model_config
from kinolab.runtime import sets, sharded
from kinolab.runtime.hashes import file_sha256
from kinolab.runtime.leftovers import surely_dead
from kinolab.runtime.lines import one_line
from kinolab.runtime.paths import OWN, is_passed_over, visible
from kinolab.runtime.reading import TORN, json_lines, read_json, read_text
from kinolab.runtime.records import read_record
from kinolab.runtime.summed import is_summed
from kinolab.runtime.text import split_lines
from kinolab.runtime.weights import TensorFile
from kinolab.runtime.yaml_files import read_yaml
from kinolab.training.state import RECORD, checkpoints

ENCODE = "delete it and run the same kinolab encode again"
RESUME = "delete the checkpoint; train --resume goes on from the newest whole one"
WRITE = "write the model again (kinolab pack, convert or train), or get it again"
LINE = "the other lines are whole, and commands go on without it; or restore the file from a copy"
CACHE = frozenset({"cache.json", "index.jsonl"})


@dataclass(frozen=True)
class Finding:
    """What is to be known of a file or folder: damage, with what to do, or else a note."""

    path: Path
    what: str
    todo: str = ""

    @property
    def damaged(self) -> bool:
        """Whether something is lost; a note has nothing to do."""
        return bool(self.todo)

    def __str__(self) -> str:
        text = one_line(self.what.removeprefix(f"{self.path}: "))
        return f"{self.path}: {text}" + (f"; {self.todo}" if self.todo and self.todo not in text else "")


def verify(path: Path | str) -> Iterator[Finding]:
    """Everything that is to be known of what lies at `path`, found file by file; nothing where all is whole.

    Args:
        path: a run, cache, model, result, video or weights file, the name of a shipped model, or a folder that holds
            any of them.

    Raises:
        InputError: where there is nothing at `path`, or nothing that Kinolab writes.
    """
    path = Path(path)
    if not path.exists():
        path = find_model(path)
    if path.is_dir():
        found = list(_parts(path))
        if not found:
            raise InputError(f"{path}: holds nothing that Kinolab writes; name a run, cache, model, result or video")
        for part, check in found:
            yield from _guarded(part, check)
        return
    known = _check_of(path)
    if known is None:
        raise InputError(f"{path}: nothing that Kinolab writes; name a run, cache, model, result, weights or video")
    yield from _guarded(path, known)


Check = Callable[[Path], Iterator[Finding]]


def _guarded(path: Path, check: Check) -> Iterator[Finding]:
    """What a check finds; one that can't go on has found damage."""
    try:
        yield from check(path)
    except InputError as error:
        yield Finding(path, str(error), "restore it from a copy, or make it again")
    except OSError as error:
        yield Finding(path, f"can't be read ({error.strerror or error})", "see that it is there and readable")


def _parts(folder: Path) -> Iterator[tuple[Path, Check]]:
    """Everything in a folder that can be checked, the folder itself first."""
    names = {p.name for p in folder.iterdir()}
    images = video.visible_files(folder) if provenance_path(folder).is_file() else []
    if images and not (folder / "model.yaml").exists():
        yield folder, _video
        return
    if {"model.yaml", sets.MANIFEST} & names and RECORD not in names:
        yield folder, _model
        return
    if RECORD in names:
        yield folder, _checkpoint
        return
    if names & CACHE:
        yield folder, _cache
        return
    seen = set()
    if (folder / "checkpoints").is_dir():
        for checkpoint in checkpoints(folder / "checkpoints"):
            yield checkpoint, _checkpoint
        seen.add("checkpoints")
    for path in sorted(folder.iterdir()):
        if path.name in seen or path.is_symlink():
            continue
        if path.name.startswith(OWN):
            yield path, _leftover
        elif is_passed_over(path.name):
            continue
        elif path.is_dir():
            yield from _parts(path)
        elif (check := _check_of(path)) is not None and not (path.suffix == ".json" and _video_of(path)):
            yield path, check


def _check_of(path: Path) -> Check | None:
    """How one file is checked."""
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return _weights
    if ending == ".json":
        return _video_record if _video_of(path) else _json
    if ending == ".jsonl":
        return _lines
    if ending in (".yaml", ".yml"):
        return _yaml
    if ending in video.VIDEO_SUFFIXES or video.is_image(path.name):
        return _video if provenance_path(path).is_file() else None
    return None


def _model(folder: Path) -> Iterator[Finding]:
    """A model folder: its manifest, which lists every file with its hash, and the sums in the weights."""
    sets.finish_set(folder, "model")
    manifest = sets.read_manifest(folder)
    if manifest is None:
        yield Finding(folder, "written by an older version: no list of files, so only what they hold is checked")
    else:
        for problem in sets.verify(folder, manifest):
            yield Finding(problem.path, problem.what, "" if problem.edited else WRITE)
    if (folder / "model.yaml").exists():
        try:
            read_model_config(folder)
        except InputError as error:
            yield Finding(folder / "model.yaml", str(error), "correct it, or restore it from a copy")
    named = set() if manifest is None else set(manifest.files)
    for path in visible(folder, "*.safetensors"):
        if path.name not in named:
            yield from _tensors(path, WRITE)
        else:
            yield from (f for f in _tensors(path, WRITE) if f.damaged)


def _tensors(path: Path, todo: str) -> Iterator[Finding]:
    """A file of weights: every tensor is read and compared with its sum."""
    try:
        file = TensorFile(path, todo)
        for name in file.names:
            file.tensor(name, nan="allow")
    except FileNotFoundError:
        yield Finding(path, "missing", todo)
    except InputError as error:
        yield Finding(path, str(error), todo)
    else:
        if not file.has_sums:
            yield Finding(path, "no sums in it, as older versions and others write; it can be read, which is all")


def _weights(path: Path) -> Iterator[Finding]:
    yield from _tensors(path, "get it again")


def _checkpoint(folder: Path) -> Iterator[Finding]:
    """A checkpoint of a run: manifest, sums of all tensors, hashes of all else."""
    if not (folder / sets.MANIFEST).exists() and (folder / ".metadata").exists():
        yield Finding(folder, "written by an older version, without sums; only its record is checked")
        record = read_record(folder / RECORD)
        record.integer("step", at_least=0)
        return
    for problem in sharded.verify(folder):
        yield Finding(problem.path, problem.what, RESUME)


def _cache(folder: Path) -> Iterator[Finding]:
    """A latent cache: header, index, and every shard with its sums."""
    header, entries = read_header(folder), read_index(folder)
    for entry in entries:
        shards = [entry.shard] + ([given_file(entry.shard)] if header.get("draws") else [])
        for name in shards:
            yield from _tensors(folder / "shards" / name, ENCODE)
    lost = lost_items(header, entries)
    if lost:
        yield Finding(folder / "index.jsonl", f"lacks {lost} windows that were encoded", "run the same encode again")
    yield from _without_sum(folder / "cache.json")
    if (folder / "index.jsonl").exists():
        yield from _without_sums(folder / "index.jsonl")
    known = {name for entry in entries for name in (entry.shard, given_file(entry.shard))}
    for path in visible(folder / "shards", "*.safetensors"):
        if path.name not in known:
            yield Finding(path, "not in the index: of an encoding that was cut off, and not used")
    for path in visible(folder, "text/*/*.safetensors"):
        yield from _tensors(path, ENCODE)
    if not header.get("complete"):
        yield Finding(folder, "the encoding was interrupted; the same kinolab encode goes on")


def _video(path: Path) -> Iterator[Finding]:
    """A video beside which its record stands: its frames have the hash of then."""
    record = read_provenance(path)
    yield from _without_sum(provenance_path(path))
    source = provenance_path(path)
    todo = f"make it again: kinolab rerun {source.name}"
    if path.is_file() and record.get("file_sha256") == file_sha256(path):
        return
    try:
        same = frames_hash(path) == record["frames_sha256"]
    except InputError as error:
        yield Finding(path, str(error), todo)
        return
    if not same:
        yield Finding(path, f"its frames are not those that {source.name} speaks of", todo)
    elif path.is_file() and record.get("file_sha256"):
        yield Finding(path, "re-muxed: the same frames in another file than was written")


def _video_of(path: Path) -> Path | None:
    """The video or folder of images that a `.json` is the record of."""
    beside = [p for p in path.parent.glob(f"{_escaped(path.stem)}*") if p != path and provenance_path(p) == path]
    return next((p for p in sorted(beside) if p.is_dir() or p.suffix.lower() in video.VIDEO_SUFFIXES), None) or next(
        (p for p in sorted(beside) if video.is_image(p.name)), None
    )


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _video_record(path: Path) -> Iterator[Finding]:
    found = _video_of(path)
    assert found is not None
    yield from _video(found)


def _json(path: Path) -> Iterator[Finding]:
    """A result: it can be read; where it is the record of a video that is gone, that is said."""
    value = read_json(path, constants=True)
    yield from _without_sum(path)
    if isinstance(value, dict) and "frames_sha256" in value:
        yield Finding(path, "the record of a video that is not beside it")


def _lines(path: Path) -> Iterator[Finding]:
    """A log or table of JSON lines: every one can be read, and is what its sum says."""
    left_out: list[str] = []
    for _ in json_lines(path, LINES, damaged="skip", constants=True, say=left_out.append):
        pass
    for text in left_out:
        yield Finding(path, text, "" if text.endswith(TORN) else LINE)
    yield from _without_sums(path)


def _without_sum(path: Path) -> Iterator[Finding]:
    """The note about a JSON file of an older version."""
    if not is_summed(read_text(path)):
        yield Finding(path, "no sum in it, as older versions write; it can be read, which is all")


def _without_sums(path: Path) -> Iterator[Finding]:
    """The note about the lines of older versions, in what Kinolab alone writes."""
    if path.name not in ("log.jsonl", "index.jsonl"):
        return
    count = sum(1 for line in split_lines(read_text(path, LINES.bytes)) if line.strip() and not is_summed(line))
    if count:
        yield Finding(path, f"{count} lines without sums, as older versions write; they can be read, which is all")


def _yaml(path: Path) -> Iterator[Finding]:
    """A file that people edit: it can be read."""
    try:
        read_yaml(path)
    except InputError as error:
        yield Finding(path, str(error), "correct it")


def _leftover(path: Path) -> Iterator[Finding]:
    """What a writer left that is no more."""
    if surely_dead(path):
        yield Finding(path, "left by a command that was killed; the next one that writes here clears it away")
