"""Example and source: what training, encoding and evaluation get of the clips that they work on.

A source is a map-style dataset, `len(source)` and `source[i]`, of windows of clips: pixels, or latents that were
encoded before. It says of every window what can be known without reading it, and of every file what became of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from kinolab.contracts.table import KindConfig

Split = Literal["train", "heldout", "all"]


@dataclass(frozen=True)
class Example:
    """One window: its pixels (3, T, H, W) float32 in [-1, 1], or its latents (C, T, h, w) float32, normalised.

    `caption`, `label` and `fps` are what may be told of it, `alternatives` further captions of the same clip, `source`
    the file that it is of and `time_range` the seconds of its first frame and of the end of its last one. Of latents
    `logvar` is the posterior's log variance, of their shape; where D masks were drawn, `given` are the latents of what
    they leave given (D, C, T, h, w) and `mask` the masks (D, R, T, h, w). `facts` is anything else that a condition
    may be made of, by name.
    """

    clip: Tensor
    fps: float
    caption: str | None
    label: int | None
    source: str
    time_range: tuple[float, float]
    alternatives: tuple[str, ...] = ()
    encoded: bool = False
    logvar: Tensor | None = None
    given: Tensor | None = None
    mask: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def video(self) -> Tensor:
        """The pixels (3, T, H, W)."""
        assert not self.encoded, f"{self.source}: holds latents and no pixels"
        return self.clip

    @property
    def latents(self) -> Tensor:
        """The latents (C, T, h, w)."""
        assert self.encoded, f"{self.source}: holds pixels and no latents"
        return self.clip


@dataclass(frozen=True)
class ClipRecord:
    """All that is known of one window without decoding it.

    `source` is the file relative to the source's folder, `source_hash` the sha256 of its content (of config and seed
    for generated clips), `time_range` the seconds of its first frame and of the end of its last one. Where `annotated`
    is false, the caption and label are known only once the clip is made. `size` is (height, width) in pixels where the
    source's windows differ in it. `alternatives` are further captions of the same clip.
    """

    source: str
    source_hash: str
    time_range: tuple[float, float]
    frames: int
    fps: float
    caption: str | None
    label: int | None
    annotated: bool = True
    size: tuple[int, int] | None = None
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What became of one file: windows kept, windows (or the whole file) dropped and why, and what to know.

    `frames` counts stored frames, `size` is (height, width) as stored, `fps` the stored rate; None where unknown.
    `signals` are the numbers of the table of signals, by name.
    """

    source: str
    kept: int
    split: Split = "train"
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    frames: int | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    caption: str | None = None
    label: int | None = None
    alternatives: tuple[str, ...] = ()
    signals: Mapping[str, float | None] = field(default_factory=dict)


class SourceConfig(KindConfig):
    """The config of a source. Its field `split` (a `Split`) says which side of the clips is asked for."""

    def clip_shape(self) -> tuple[int, int, int] | None:
        """Frames, height and width of the clips that are asked for; None where only the clips themselves know."""
        return None


class ShapeRules(Protocol):
    """What a source needs to know of an autoencoder: its rule for frame counts and sizes (`AutoencoderSpec`)."""

    @property
    def frame_rule(self) -> str:
        """The valid frame counts in words, as 1 + 4*k."""
        ...

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent along each side."""
        ...

    def snap_frames(self, frames: int) -> int:
        """The largest valid frame count not above `frames`."""
        ...

    def check(self, frames: int, height: int, width: int) -> None:
        """Raises InputError where the shape breaks a rule."""
        ...


class Source(ABC):
    """Windows of clips. What a subclass leaves alone is right for windows of one shape that are made when asked for.

    A source that is read from a config names the config's class in `Config`, and is made by `from_config`.
    """

    Config: ClassVar[type[SourceConfig]]
    config: Any
    """The source's own config."""
    encoded: bool = False
    """Whether its examples hold latents; else pixels."""
    classes: tuple[str, ...] = ()
    """Names of the labels, in order."""
    draws: Mapping[str, Any] | None = None
    """Of latents that were encoded with draws of masks: the tasks, and the number of each window's draws."""
    cache: Path | None = None
    """The folder where what is computed of its captions may be kept."""

    @classmethod
    def from_config(cls, config: Any, rules: ShapeRules | None, *, annotated: bool) -> Source:
        """The source of its config.

        Args:
            config: of the class `Config`.
            rules: the autoencoder's, which frame counts are snapped to; None = none are asked for.
            annotated: whether captions and labels are needed; where they aren't, broken ones are a note.

        Raises:
            InputError: where the source holds nothing usable.
        """
        return cls(config, rules)  # type: ignore[call-arg]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Window `index`, read."""

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def shape(self, index: int) -> tuple[int, int, int]:
        """Frames, height and width of window `index`, in latents where it is encoded."""
        frames, height, width = self[index].clip.shape[1:]
        return frames, height, width

    def record(self, index: int) -> ClipRecord:
        """What is known of window `index` without reading it."""
        frames, height, width = self.shape(index)
        name = f"{type(self).__name__}/{index}"
        return ClipRecord(name, name, (0.0, 0.0), frames, 0.0, None, None, annotated=False, size=(height, width))

    def groups(self) -> list[list[int]]:
        """The indices by shape, longest first: only windows of one group can share a batch."""
        return [list(range(len(self)))]

    def walk(self, indices: Sequence[int]) -> Iterator[tuple[int, Example]]:
        """The windows of `indices` in that order; neighbours are read in one pass, unreadable ones left out."""
        return ((index, self[index]) for index in indices)

    def ahead(self, indices: Sequence[int]) -> None:
        """Said of windows that are asked for next; a source that fetches them from elsewhere does so, all at once."""
        return

    def verdicts(self) -> list[Verdict]:
        """One verdict per file."""
        return []

    def notes(self) -> list[str]:
        """What was changed in the request as a whole, such as a snapped frame count."""
        return []


class ClipSource(Source):
    """A source of pixels; `frames` and `size` (height, width) are those of every window but still images, or of the
    largest ones where windows differ (`ClipRecord.size`)."""

    frames: int
    size: tuple[int, int]

    @abstractmethod
    def transform(self) -> Mapping[str, object]:
        """What is done to the pixels between file and example, as plain values: a part of a cached item's address."""


def by_shape(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices grouped by equal shape (frames, height, width), the longest first, of those the largest."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    return [groups[shape] for shape in sorted(groups, key=lambda s: (s[0], math.prod(s), s), reverse=True)]
