"""The clips of a protocol: which windows of a folder or of the toy world are measured, in batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinolab.contracts.examples import ClipRecord, ShapeRules, Verdict
from kinolab.data import FolderConfig, FolderSource, WorldSourceConfig, build
from kinolab.errors import InputError
from kinolab.evaluation.protocol import Protocol, source_config
from kinolab.generation.provenance import provenance_path
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.reading import read_json


@dataclass(frozen=True)
class Batch:
    """Some clips of one shape: what they are called, and their pixels (B, 3, T, H, W) in [-1, 1]."""

    names: tuple[str, ...]
    video: Tensor
    captions: tuple[str | None, ...] = ()
    labels: tuple[int | None, ...] = ()


class ProtocolClips:
    """The clips that a protocol takes of a folder, or of the toy world.

    Args:
        data: the folder, "world", or the config of a source.
        protocol: which clips, and how they are cut and resized.
        spec: an autoencoder's rule, which the frames are snapped to.

    Raises:
        InputError: where there is no usable clip.
    """

    def __init__(
        self,
        data: str | Path | FolderConfig | WorldSourceConfig,
        protocol: Protocol,
        spec: ShapeRules | None = None,
        *,
        name: str | None = None,
    ) -> None:
        config = source_config(data, protocol)
        self.name, self.protocol = name or (str(config.path) if isinstance(config, FolderConfig) else "world"), protocol
        # Most measures need no captions and labels; those that do ask for them.
        source: Any = build(config, spec, annotated=False)
        self.source, self.indices = source, choose(source, protocol)
        self.frames: int = source.frames
        self.size: tuple[int, int] = source.size

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int) -> Iterator[Batch]:
        """All clips in batches of at most `size`."""
        waiting: list[Any] = []
        for index, example in self._read(self.indices):
            waiting.append((index, example))
            if len(waiting) == size:
                yield self._batch(waiting)
                waiting = []
        if waiting:
            yield self._batch(waiting)

    def some(self, numbers: range) -> Batch:
        """The clips of these numbers, as one batch."""
        return self._batch(list(self._read(self.indices[numbers.start : numbers.stop])))

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Every clip in order. Raises InputError where one can't be read: no shorter set is measured without a word."""
        found = self.source.walk(indices)
        for expected in indices:
            index, example = next(found, (None, None))
            if index != expected:
                raise InputError(
                    f"{self.source.record(expected).source}: can't be read any more; it changed since the folder was "
                    "scanned"
                )
            yield expected, example

    def _batch(self, items: Sequence[tuple[int, Any]]) -> Batch:
        examples = [e for _, e in items]
        names = tuple(f"{e.source} {e.time_range[0]:.2f}s" for e in examples)
        video = torch.stack([e.video for e in examples])
        return Batch(names, video, tuple(e.caption for e in examples), tuple(e.label for e in examples))

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` of the chosen ones, without decoding it."""
        record: ClipRecord = self.source.record(self.indices[index])
        return record

    def require_annotations(self) -> None:
        """Raises InputError where the captions and labels of the clips could not be read."""
        if isinstance(self.source, FolderSource):
            self.source.require_annotations()

    def content_hash(self) -> str:
        """sha256 over what is chosen: the files' contents, the times, and what is done to the pixels."""
        records = [self.source.record(i) for i in self.indices]
        chosen = [[r.source_hash, r.time_range, r.frames, r.fps] for r in records]
        return json_sha256([self.source.transform(), chosen])

    def notes(self) -> list[str]:
        """What a person should know of the clips: what was changed in the request, and which files are left out."""
        verdicts, said = self.source.verdicts(), list(self.source.notes())
        lost = [v for v in verdicts if not v.kept]
        if lost:
            first = f"{lost[0].source}: {', '.join(lost[0].dropped)}"
            said.append(f"{self.name}: {len(lost)} of {len(verdicts)} files are no clips, the first is {first}")
        return said

    def chosen_verdicts(self) -> list[Verdict]:
        """What is known of the file of each chosen clip, in order."""
        by_source = {v.source: v for v in self.source.verdicts()}
        return [by_source[self.source.record(i).source] for i in self.indices]

    def describe(self) -> dict[str, Any]:
        """What a report says of the data."""
        files = len({self.source.record(i).source for i in self.indices})
        height, width = self.size
        return {
            "name": self.name, "clips": len(self), "files": files, "frames": self.frames, "size": f"{height}x{width}",
            "sha256": self.content_hash(),
        }  # fmt: skip


class GeneratedClips(ProtocolClips):
    """The first `frames` frames of every video of a folder, at the protocol's size: what a model generated.

    Videos that are equal count as often as they are there: a model that repeats itself shows it.

    Raises:
        InputError: where the folder is empty or its videos are shorter than the protocol's clips.
    """

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        taken = protocol.model_copy(update={"windows": "first", "interval": 1, "fps": None, "split": "all"})
        super().__init__(FolderConfig(path=folder, copies="keep"), taken, name=str(folder))
        self.folder = folder

    def chosen_verdicts(self) -> list[Verdict]:
        """As for other clips; frames in a folder have no rate of their own."""
        still = {v.source for v in super().chosen_verdicts() if (self.folder / v.source).is_dir()}
        return [replace(v, fps=None) if v.source in still else v for v in super().chosen_verdicts()]

    def _batch(self, items: Sequence[tuple[int, Any]]) -> Batch:
        """Named by the file alone, with the prompt that the `.json` beside it records."""
        batch, files = super()._batch(items), [e.source for _, e in items]
        captions = tuple(c or prompt_beside(self.folder / f) for c, f in zip(batch.captions, files, strict=True))
        return Batch(tuple(files), batch.video, captions, batch.labels)


def prompt_beside(path: Path) -> str | None:
    """The prompt in the `.json` beside a generated video; None where there is none."""
    try:
        record = read_json(provenance_path(path), constants=True)
    except (OSError, InputError):
        return None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    return prompt if isinstance(prompt, str) else None


def choose(source: Any, protocol: Protocol) -> list[int]:
    """The numbers of the windows that a protocol takes of a source, at most `samples` of them.

    all: every window; first: the first one of each file; random: the files in random order, one window of each at a
    random place, then another of each, until there are enough or none is left. No window is taken twice: repeated
    clips would pass for more samples than there are. Where there are too many, a seeded choice of them, in order.
    """
    rng = np.random.default_rng([protocol.seed, 1])
    longest = source.groups()[0]
    if protocol.windows == "all" or not isinstance(source.config, FolderConfig):
        chosen = list(longest)
    else:
        files: dict[str, list[int]] = {}
        for index in longest:
            files.setdefault(source.record(index).source, []).append(index)
        if protocol.windows == "first":
            chosen = [windows[0] for windows in files.values()]
        else:
            shuffled = [rng.permutation(windows) for windows in files.values()]
            order = [shuffled[k] for k in rng.permutation(len(shuffled))]
            turns = (int(w[turn]) for turn in range(max(map(len, order))) for w in order if turn < len(w))
            return list(itertools.islice(turns, protocol.samples))
    if len(chosen) > protocol.samples:
        chosen = sorted(int(i) for i in rng.choice(chosen, protocol.samples, replace=False))
    return chosen
