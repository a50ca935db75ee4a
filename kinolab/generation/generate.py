"""From a request to video files with their provenance: the only path that the command line uses.

Beside every video stands a `.json` that holds everything needed to make it again, and `rerun` does so: bit for bit on
the same machine with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinolab import __version__, video
from kinolab.config import load_config
from kinolab.contracts.events import Events, Listener, Turn, events_of
from kinolab.errors import InputError
from kinolab.generation.flow import Refinement
from kinolab.generation.kept import KeptStages
from kinolab.generation.provenance import (
    Stream,
    check_writable,
    frames_hash,
    input_hashes,
    model_hash,
    partial_path,
    read_provenance,
    write_with_provenance,
)
from kinolab.generation.refine import refine_notes
from kinolab.generation.request import (
    GenerateConfig,
    adapted,
    beside,
    fit_guidance,
    input_files,
    load_asked,
    make_requests,
    prepare_given,
    request_of,
    settle,
    staged,
)
from kinolab.generation.source import source_notes
from kinolab.generation.stream import check_stream, stream_videos, write_stream
from kinolab.generation.windows import make_clips
from kinolab.models import Request, VideoModel
from kinolab.runtime.devices import announce, choose
from kinolab.tasks.request import Prepared

LOSSLESS = frozenset({".mkv", ".webp", ".png", ""})
"""Endings that `keep: exact` is written to without loss."""


def generate(
    config: GenerateConfig | Mapping[str, Any],
    out: Path,
    *,
    model: VideoModel | None = None,
    events: Listener = None,
    targets: Sequence[Path] | None = None,
) -> list[Path]:
    """Generate the videos of a request; several get numbered names. Returns the files written.

    A mapping is a request whose defaults are still to be filled in (see `request_of`). Of a cascade what its finished
    stages made is kept beside the video until that is written, so that the same request goes on from there
    (`kinolab.generation.kept`).

    `model` is `config.model` as it is already loaded, with the request's precision and device, to save loading it
    again; it may have the request's adapters on it, and its control networks beside it.

    `targets` are the names of the videos, in place of numbered ones.

    Raises:
        InputError: for a request that the model can't fulfil, or a model with other adapters on it; nothing is written
            then.
    """
    if isinstance(config, Mapping):
        config = request_of(config, events=events)
    read = input_files(config)
    for path in read:
        if not path.exists():  # before a model is loaded for it
            raise InputError(f"{path}: no such file")
    video.check_ending(out)
    told = events_of(events)
    model = load_asked(config, told) if model is None else adapted(beside(staged(model, config), config), config, told)
    settled = settle(config, model)
    requests = make_requests(settled)
    fit_guidance(model, requests, settled)
    if settled.compile:
        model.compile()
    inputs, targets = input_hashes(read), numbered(out, len(requests)) if targets is None else list(targets)
    known = settled.given is None and settled.refine is None
    frames = requests[0].frames or model.output.config.frames if known else None
    check_writable([*targets, *(partial_path(path) for path in targets if settled.refine is not None)], read, frames)
    if settled.stream:
        return stream_videos(model, settled, requests, targets, inputs, told)
    files, fps = targets, settled.fps or model.output.config.fps
    prepared = None if settled.given is None else prepare_given(settled, model)
    if prepared is not None:
        fps = settled.fps if config.fps is not None and settled.fps is not None else prepared.fps
    for note in notes_of(settled, prepared, fps, out):
        told.note(note)
    keeper = KeptStages(out, settled, model, inputs, told) if model.stages and prepared is None else None
    frames_of = made_frames(model, settled, requests, prepared, told, keeper)
    lossless = kept_exactly(settled) and out.suffix.lower() in LOSSLESS
    for k, (request, path) in enumerate(zip(requests, files, strict=True)):
        write_with_provenance(path, frames_of(k), settled.model_copy(update={"fps": fps}), k, request, inputs, lossless)
        told.wrote(path)
    if keeper is not None:
        keeper.done()
    return files


def kept_exactly(settled: GenerateConfig) -> bool:
    """Whether given pixels are to stay as they are, bit for bit."""
    return settled.given is not None and settled.given.keep == "exact"


def notes_of(settled: GenerateConfig, prepared: Prepared | None, fps: float, out: Path) -> Iterator[str]:
    """What is to be known of a request before its videos are made; out: their name, whose ending says their kind."""
    if prepared is not None:
        yield from prepared.notes
    if settled.source is not None and settled.frames is not None and settled.size is not None:
        yield from source_notes(settled.source, settled.frames, fps, settled.size)
    if kept_exactly(settled) and out.suffix.lower() not in LOSSLESS:
        yield f"{out.suffix} stores pixels with loss; for the given ones bit for bit write .mkv, .webp or a folder"


def made_frames(
    model: VideoModel,
    settled: GenerateConfig,
    requests: Sequence[Request],
    prepared: Prepared | None,
    events: Events,
    keeper: KeptStages | None = None,
) -> Callable[[int], Stream | np.ndarray]:
    """A function from a video's number to its frames (H, W, 3) uint8; those of a refined clip are made as they are
    taken."""
    if settled.refine is None:
        clips = make_clips(model, settled, requests, prepared, events, keeper)
        return lambda k: video.to_uint8(clips(k))
    assert settled.size is not None and settled.sampler is not None and settled.guidance is not None
    how = Refinement(
        model, settled.refine, settled.size, settled.sampler, settled.guidance, settled.wrappers, settled.frames
    )
    how.check()
    for note in refine_notes(settled.refine, model, settled.size):
        events.note(note)
    turns = [events] if len(requests) == 1 else [Turn(events, k, len(requests)) for k in range(len(requests))]
    return lambda k: Stream(video.to_uint8(frame)[0] for frame in how.made(requests[k], turns[k]))


def rerun(
    path: Path,
    out: Path,
    *,
    device: torch.device | str | None = None,
    events: Listener = None,
) -> tuple[Path, list[str]]:
    """Make a video again from the `.json` beside it; returns the new file and what differs from then.

    Args:
        device: where to compute; none = where it was made. On another device the last bits may differ.
        events: a note says which one that is.

    Raises:
        InputError: where there is no usable `.json`, or the model's weights are not those of then, or the device is
            not there.
    """
    record = read_provenance(path)
    config = load_config(GenerateConfig, record["request"])
    then = config.device
    try:
        config = config.model_copy(update={"device": str(choose(then if device is None else device))})
    except InputError as error:
        if device is not None:
            raise
        raise InputError(f"{path}: {error}; it was made there: name another by --device, such as cpu") from None
    if model_hash(config.model) != record["model_sha256"]:
        raise InputError(f"{path}: the weights of {config.model} have changed since; this video can't be made again")
    for folder, digest in record.get("exchanged_sha256", {}).items():
        if model_hash(folder) != digest:
            raise InputError(f"{path}: the weights of {folder} have changed since; this video can't be made again")
    read = input_files(config)
    check_writable([out] if config.refine is None else [out, partial_path(out)], read)
    found = input_hashes(read)
    for file, digest in record.get("inputs_sha256", {}).items():
        if found.get(file) != digest:
            raise InputError(f"{path}: {file}, which was given, has changed since; this video can't be made again")
    torch.set_num_threads(record["threads"])
    told = events_of(events)
    told.note(announce(torch.device(config.device), then if device is None else device))
    model = load_asked(config, told)
    if config.compile:
        model.compile()
    # The whole batch again: a sample's last bits may depend on the batch it was computed in.
    requests, k = make_requests(config), record["index"]
    if config.stream:
        check_stream(config, model)
        write_stream(out, model, config, k, requests[k], record.get("inputs_sha256", {}), told)
        return out, _changed(record, out, then, config.device)
    prepared = None if config.given is None else prepare_given(config, model)
    frames_of = made_frames(model, config, requests, prepared, told)
    lossless = kept_exactly(config) and out.suffix.lower() in LOSSLESS
    fps = config.fps or model.output.config.fps
    write_with_provenance(out, frames_of(k), config, k, requests[k], record.get("inputs_sha256"), lossless, fps)
    return out, _changed(record, out, then, config.device)


def _changed(record: Mapping[str, Any], out: Path, then: str, device: str) -> list[str]:
    """What differs between a record and the video that was made again, on a device."""
    now = {"kinolab": __version__, "torch": torch.__version__, "frames_sha256": frames_hash(out)}
    changed = [f"{key}: {record[key]} then, {value} now" for key, value in now.items() if record[key] != value]
    return [*([] if device == then else [f"device: {then} then, {device} now"]), *changed]


def numbered(out: Path, count: int, which: Sequence[int] | None = None) -> list[Path]:
    """`out` itself for one video; else `out` with -0, -1, ... before its ending. which: of them; none = all."""
    if count == 1:
        return [out]
    width = len(str(count - 1))
    return [out.with_name(f"{out.stem}-{k:0{width}d}{out.suffix}") for k in (range(count) if which is None else which)]
