"""A few named clips as a source, one window of each, with what is told of them by the person who names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kinolab.contracts.examples import ClipRecord, ClipSource, Example, ShapeRules, Verdict
from kinolab.data.folder import FolderConfig, FolderSource
from kinolab.errors import InputError


@dataclass(frozen=True)
class Named:
    """A clip and what is told of it; none = nothing."""

    path: Path
    caption: str | None = None
    label: int | None = None


class SeveralClips(ClipSource):
    """The first window of each of some clips: `source[i]` is an `Example` of pixels.

    Args:
        clips: video files or folders of numbered images, no two of the same content.
        window: frames, size, interval and resize of the windows; its path, stride and split are not used.
        spec: the autoencoder's shape rules; frame counts are snapped to them (`notes` says so).

    Raises:
        InputError: for a clip that is missing, can't be read or is too short, and for two that are the same.
    """

    def __init__(self, clips: Sequence[Named], window: FolderConfig, spec: ShapeRules | None = None) -> None:
        self.clips = list(clips)
        alone = {"split": "all", "heldout_fraction": 0.0, "captions": "none", "labels": "none", "index": "none"}
        self._sources: list[FolderSource] = []
        for clip in self.clips:
            # A stride beyond any clip leaves the first window alone.
            config = window.model_copy(update={**alone, "path": clip.path, "stride": 2**31})
            self._sources.append(FolderSource(config, spec, annotated=False))
        first = self._sources[0]
        self.frames, self.size = first.frames, first.size
        hashes: dict[str, Path] = {}
        for clip, source in zip(self.clips, self._sources, strict=True):
            if len(source) > 1:
                raise InputError(f"{clip.path}: a folder of {len(source)} clips; name the clips that are meant")
            other = hashes.setdefault(source.record(0).source_hash, clip.path)
            if other is not clip.path:
                raise InputError(f"{clip.path}: the same clip as {other}; name each once")

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> Example:
        """Window `index`, decoded: video (3, T, H, W)."""
        clip, example = self.clips[index], self._sources[index][0]
        return replace(example, caption=clip.caption, label=clip.label, source=clip.path.name)

    def record(self, index: int) -> ClipRecord:
        """What is known of window `index`, without decoding."""
        clip, record = self.clips[index], self._sources[index].record(0)
        return replace(record, caption=clip.caption, label=clip.label, source=clip.path.name)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Frames, height and width, the same of all windows."""
        return self._sources[index].shape(0)

    def transform(self) -> Mapping[str, object]:
        """What is done to the pixels."""
        return self._sources[0].transform()

    def verdicts(self) -> list[Verdict]:
        """One verdict per clip."""
        return [verdict for source in self._sources for verdict in source.verdicts()]

    def notes(self) -> list[str]:
        """What was changed in the request, each once."""
        return list(dict.fromkeys(note for source in self._sources for note in source.notes()))
