"""The `.json` beside every video: all that is needed to make it again, and the hashes that say whether it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinolab import __version__, video
from kinolab.errors import InputError, Stopped
from kinolab.generation.request import MOST_THREADS, GenerateConfig
from kinolab.models import Request, VideoModel, find_autoencoder, find_model, read_model_config
from kinolab.models.distilled import with_adapters
from kinolab.runtime.files import commit_folder, place, remove, scratch, write_text
from kinolab.runtime.hashes import Sha256, file_sha256
from kinolab.runtime.paths import named, visible
from kinolab.runtime.reading import parse_json
from kinolab.runtime.records import Record, read_record
from kinolab.runtime.sets import finish_set, new_set
from kinolab.runtime.summed import summed


class Stream:
    """Frames that are made as they are taken; asked to stop, those so far are the whole of it.

    ended: whether it was stopped; count: frames so far.
    """

    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self.frames, self.count, self.ended = frames, 0, False

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            for frame in self.frames:
                yield frame
                self.count += 1
        except Stopped:
            if not self.count:
                raise
            self.ended = True


def write_with_provenance(
    path: Path,
    frames: Stream | np.ndarray,
    config: GenerateConfig,
    index: int,
    request: Request,
    inputs: Mapping[str, str] | None,
    lossless: bool,
    fps: float | None = None,
) -> None:
    """Write a video and the `.json` beside it, together or not at all; a folder of images before its `.json`.

    What there was under the name stays until all frames are made.

    Raises:
        InputError: for a folder that is there and holds something else.
        Stopped: where a stream was stopped; its frames so far are written as NAME-partial, without a `.json`, as no
            request makes them.
    """
    rate = fps or config.fps
    assert rate is not None
    target = provenance_path(path)
    cut = frames if isinstance(frames, Stream) else None
    if path.suffix:
        part = partial_path(path)
        with new_set(path.parent, path.name) as room:
            made = made_by(config, index, request)
            video.write(room / path.name, frames, fps=rate, lossless=lossless, comment=summed(made))
            if cut is not None and cut.ended:  # what there was under the name stays
                place(room / path.name, room / part.name)
            else:
                write_text(room / target.name, provenance(room / path.name, made, inputs))
        if cut is not None and cut.ended:
            raise Stopped(f"stopped, as asked; the first {cut.count} frames are in {part}")
        return
    path, part = named(path), partial_path(path)
    for folder in (path, *(() if cut is None else (part,))):
        video.check_folder(folder)
    with scratch(path.parent) as room:
        video.write(room / path.name, frames, fps=rate, lossless=lossless)
        if cut is not None and cut.ended:
            commit_folder(room / path.name, part)
            raise Stopped(f"stopped, as asked; the first {cut.count} frames are in {part}")
        record = provenance(room / path.name, made_by(config, index, request), inputs)
        remove(target)  # of other frames from here on
        commit_folder(room / path.name, path)
    write_text(target, record)


def partial_path(path: Path) -> Path:
    """What the frames of a video are called that was stopped: `clip.mp4` -> `clip-partial.mp4`."""
    path = named(path)
    return path.with_stem(f"{path.stem}-partial")


def made_by(config: GenerateConfig, index: int, request: Request) -> dict[str, Any]:
    """What made a video: the whole request, which of its videos this is, the model, and the versions."""
    return {
        "kinolab": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model_sha256": model_hash(config.model),
        **({"exchanged_sha256": {f: model_hash(f) for f in config.exchange.values()}} if config.exchange else {}),
        **_distilled(config),
        "request": config.model_dump(mode="json"),
        "index": index,
        "prompt": request.prompt,
        "seed": request.seed,
    }


def provenance(path: Path, made: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
    """The `.json` beside a video: what made it, and the hashes of its frames, its file, and what it was made of.

    What made it stands in the file itself, too (`embedded`), which therefore has another hash than its frames.
    """
    record = {
        **made,
        "frames_sha256": frames_hash(path),
        **({"file_sha256": file_sha256(path)} if path.is_file() else {}),
        "inputs_sha256": dict(inputs or {}),
    }
    return summed(record, indent=1) + "\n"


def _distilled(config: GenerateConfig) -> dict[str, Any]:
    """What a distilled model, or one that an adapter makes one, was made for; nothing for others."""
    made = with_adapters(read_model_config(find_model(config.model)), config.lora).distilled
    return {} if made is None else {"distilled": made.model_dump(mode="json")}


def embedded(path: Path, name: str = "") -> Mapping[str, Any]:
    """What a made video says of itself: kinolab, torch, threads, model_sha256, request, index, prompt and seed.

    name: what errors call it.

    Raises:
        InputError: for what is no video, or one that says nothing of the kind.
    """
    name, text = name or str(path), video.comment_of(path)
    if not text.startswith('{"kinolab": '):
        raise InputError(f"{name}: holds no settings; expected a video that kinolab made, as it wrote it")
    found = Record(parse_json(text, name), name)
    found.record("request")
    found.integer("index", at_least=0)
    return found.values


def provenance_path(path: Path) -> Path:
    """`clip.mp4` -> `clip.json`, and a folder of images -> its name with `.json`."""
    path = named(path)
    return path.with_suffix(".json") if path.suffix else path.with_name(path.name + ".json")


def read_provenance(path: Path) -> Mapping[str, Any]:
    """The record beside a video (or the `.json` itself).

    Raises:
        InputError: where there is none, or it is not what `kinolab generate` writes; names the field.
    """
    source = path if path.suffix == ".json" else provenance_path(path)
    if path.suffix != ".json":
        with suppress(OSError):
            finish_set(path.parent, path.name)
    try:
        record = read_record(source, "not a record of a generated video")
    except FileNotFoundError:
        raise InputError(f"{path}: no {source.name} beside it, which says how it was made") from None
    missing = [k for k in ("request", "index", "model_sha256", "threads", "frames_sha256") if k not in record]
    if missing:
        raise InputError(f"{source}: not a record of a generated video (no {', '.join(missing)})")
    threads, index = record.integer("threads", at_least=1), record.integer("index", at_least=0)
    if threads > MOST_THREADS:
        raise InputError(f"{source}: threads {threads}: expected at most {MOST_THREADS}")
    asked = record.record("request")
    count, prompts = asked.values.get("count", 1), asked.values.get("prompts") or [None]
    videos = (count if isinstance(count, int) else 1) * (len(prompts) if isinstance(prompts, list | tuple) else 1)
    if index >= videos:
        raise InputError(f"{source}: index {index}: its request has {videos} videos, numbered from 0")
    for name in ("model_sha256", "frames_sha256"):
        record.text(name)
    record.record("inputs_sha256", {})
    record.record("exchanged_sha256", {})
    return record.values


def model_hash(model: str) -> str:
    """sha256 over the files of a model folder (or an autoencoder's in diffusers' layout), wherever it lies."""
    folder, digest = find_autoencoder(model), Sha256()
    config = next(path for name in ("model.yaml", "config.json") if (path := folder / name).exists())
    for path in [*visible(folder, "*.safetensors"), config]:
        digest.text(path.name).data(Sha256().file(path).digest())
    return digest.hex()


def adapters_made_by(model: VideoModel) -> dict[str, Any]:
    """What a record says of the adapters that were put on a model: nothing where there are none."""
    if not model.adapters:
        return {}
    from kinolab.checkpoints.adapters import files_of

    return {"adapters": [
        {"path": str(use.path), "weight": use.weight, "sha256": input_hashes(files_of(use))} for use in model.adapters
    ]}  # fmt: skip


def input_hashes(inputs: Sequence[Path]) -> dict[str, str]:
    """sha256 of each file that a request reads; of a folder, over the names and contents of its files."""
    hashes = {}
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        digest = Sha256()
        files = [file for file in video.visible_files(path) if file.parent == path] if path.is_dir() else [path]
        for file in files:
            digest.text(file.name if path.is_dir() else "").file(file)
        hashes[str(path)] = digest.hex()
    return hashes


def check_writable(targets: Sequence[Path], inputs: Sequence[Path], frames: int | None = None) -> None:
    """Refuse to write over a file that the request reads, and files of endings that can't hold so many frames.

    frames: how many are meant; none = not known yet.
    """
    for out in targets:
        video.check_ending(out, frames)
        if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
            raise InputError(f"{out}: is one of the files that the request reads; choose another --out")


def frames_hash(path: Path) -> str:
    """sha256 of a video's decoded frames, so that a container's own dates don't count."""
    digest = Sha256()
    for frame in video.iter_frames(path):
        digest.data(frame.image.tobytes())
    return digest.hex()
