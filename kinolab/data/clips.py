"""What a data source yields, what it says about each file, and how files are split into train and held-out.

A source is a map-style dataset: `len(source)`, `source[i]`. A clip source yields `ClipExample`s (pixels), a latent
cache yields `LatentExample`s. Every source says per file what it kept, what it dropped and why (`verdicts()`), and
what it changed in the request as a whole (`notes()`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from kinolab.runtime.hashes import Sha256

Split = Literal["train", "heldout", "all"]


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
class ClipExample:
    """One window of pixels: video (3, T, H, W) float32 in [-1, 1]; `alternatives` are further captions of it."""

    video: Tensor
    fps: float
    caption: str | None
    label: int | None
    source: str
    time_range: tuple[float, float]
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatentExample:
    """One cached window: latents (C, T, h, w) float32, normalised; logvar of the same shape where it was kept.

    Where D masks were drawn: the latents of what they leave given (D, C, T, h, w), and the masks (D, R, T, h, w).
    """

    latents: Tensor
    fps: float
    caption: str | None
    label: int | None
    source: str
    time_range: tuple[float, float]
    logvar: Tensor | None = None
    given: Tensor | None = None
    mask: Tensor | None = None
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What became of one file: windows kept, windows (or the whole file) dropped and why, and what to know.

    `frames` counts stored frames, `size` is (height, width) as stored, `fps` the stored rate; None where unknown.
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


class ClipSource(Protocol):
    """A source of pixel windows; `frames` and `size` (height, width) are those of every window but still images, or of
    the largest ones where windows differ (`ClipRecord.size`)."""

    classes: tuple[str, ...]
    frames: int
    size: tuple[int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ClipExample:
        """The window `index`, decoded."""
        ...

    def record(self, index: int) -> ClipRecord:
        """What is known of window `index`, without decoding."""
        ...

    def walk(self, indices: Sequence[int]) -> Iterator[tuple[int, ClipExample]]:
        """The windows of `indices` in that order; neighbours are read in one pass, unreadable ones left out."""
        ...

    def transform(self) -> Mapping[str, object]:
        """What is done to the pixels between file and example, as plain values: a part of a cached item's address."""
        ...

    def groups(self) -> list[list[int]]:
        """The indices by shape, longest first: only windows of one group can share a batch."""
        ...

    def verdicts(self) -> list[Verdict]:
        """One verdict per file."""
        ...

    def notes(self) -> list[str]:
        """What was changed in the request as a whole, such as a snapped frame count."""
        ...


@dataclass(frozen=True)
class CheckSummary:
    """The totals of a list of verdicts."""

    files: int
    used: int
    windows: int
    train: int
    heldout: int
    reasons: Mapping[str, int] = field(default_factory=dict)


def summarise(verdicts: Iterable[Verdict]) -> CheckSummary:
    """Totals: files, files used, windows, windows per split, and how many files each reason dropped entirely."""
    files = used = train = heldout = 0
    reasons: dict[str, int] = {}
    for verdict in verdicts:
        files += 1
        used += verdict.kept > 0
        train += verdict.kept if verdict.split != "heldout" else 0
        heldout += verdict.kept if verdict.split == "heldout" else 0
        if not verdict.kept:
            for reason in verdict.dropped[:1]:
                reasons[reason] = reasons.get(reason, 0) + 1
    return CheckSummary(files, used, train + heldout, train, heldout, reasons)


def heldout_hashes(hashes: Iterable[str], fraction: float) -> frozenset[str]:
    """The source hashes that are held out: those whose value, uniform in [0, 1), lies below `fraction`.

    A file's side depends on its content alone, so adding files moves no other one. Two exceptions keep small folders
    usable: where no file (or every file) of at least two falls below, the one nearest to the line changes sides.
    """
    distinct = sorted(set(hashes), key=_uniform)
    if fraction <= 0 or len(distinct) < 2:
        return frozenset()
    below = sum(_uniform(h) < fraction for h in distinct)
    return frozenset(distinct[: min(max(below, 1), len(distinct) - 1)])


def _uniform(source_hash: str) -> float:
    """A number in [0, 1) from a hash, independent of other uses of the hash."""
    return int.from_bytes(Sha256().text(f"split:{source_hash}").digest()[:8], "big") / 2**64


def by_shape(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices grouped by equal shape (frames, height, width), the longest first, of those the largest."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    return [groups[shape] for shape in sorted(groups, key=lambda s: (s[0], math.prod(s), s), reverse=True)]
