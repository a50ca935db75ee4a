"""A folder of clips as a source of windows: any nesting, any formats, with captions and labels beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from kinolab import video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Listener
from kinolab.contracts.examples import (
    ClipRecord,
    ClipSource,
    Example,
    ShapeRules,
    SourceConfig,
    Split,
    Verdict,
    by_shape,
)
from kinolab.data.annotations import Annotations, annotate
from kinolab.data.buckets import BucketConfig, Buckets, Size, snapped
from kinolab.data.clips import heldout_hashes, summarise
from kinolab.data.curate.base import Looked, asked
from kinolab.data.places import place_of
from kinolab.data.scan import ScannedFile, default_index, scan
from kinolab.data.shard_reader import check_disk
from kinolab.data.tables import BadRows
from kinolab.data.verdicts import Window, judge, with_facts
from kinolab.data.windows import Reading, Resize, read_windows
from kinolab.errors import InputError


class FolderConfig(SourceConfig):
    """A folder of clips."""

    kind: Literal["folder"] = "folder"
    path: Path
    """The folder (any nesting), or a single video file; of a store too, as s3://bucket/clips."""
    frames: int = Field(17, ge=1)
    """Frames of a window; the autoencoder's rule may lower it."""
    size: Size = 64
    """Side of a square, or [height, width], in pixels."""
    buckets: tuple[BucketConfig, ...] = ()
    """Shapes that windows may have, in place of frames and size: a clip is cut to the longest one that it fills, of the
    nearest aspect. One frame is for still images (`images`, `short`)."""
    lengths: Literal["longest", "all"] = "longest"
    """With buckets: `all` also gives the beginning of every window as a window of each shorter length, one frame (an
    image) included."""
    fps: float | None = Field(None, gt=0, le=1000)
    """Frame rate that windows are re-timed to; none = frames as stored."""
    interval: int = Field(1, ge=1)
    """Every n-th frame of that rate is taken: a window of T frames spans n * T of them."""
    stride: int | None = Field(None, ge=1)
    """Frames from one window's beginning to the next one's, counted after `interval`; none = `frames`, so that windows
    don't overlap."""
    resize: Resize = "crop"
    """How a picture of another aspect becomes `size`: crop its sides, pad it with black, or stretch it."""
    captions: str = "auto"
    """auto (a table in the folder, else a .txt beside the clip), txt, folder (name), none, or the path of a table.
    Several captions of a clip are alternatives, of which every training step draws one."""
    labels: str = "auto"
    """auto (a table's label column, else folder names if there are several), folder, none, or the path of a table."""
    bad_rows: BadRows = "error"
    """What becomes of rows of a table (and .txt files) that can't be used: an error that names the first, or they are
    left out and named."""
    deinterlace: bool = False
    """Make whole pictures of frames that are marked as interlaced; otherwise moving edges are combed."""
    short: Literal["drop", "image"] = "drop"
    """What becomes of a clip with fewer frames than a window: nothing, or its first frame as a still image."""
    scene_cuts: Literal["ignore", "split"] = "ignore"
    """split = no window crosses a cut between scenes (found with PySceneDetect)."""
    images: Literal["auto", "use", "drop"] = "auto"
    """Still images as clips of one frame; auto = only where windows have one frame too."""
    image_fps: float = Field(video.IMAGE_FPS, gt=0, le=1000)
    """Frame rate of folders of numbered images, which carry none."""
    copies: Literal["drop", "keep"] = "drop"
    """What becomes of files with the content of an earlier one: nothing, or clips like any others."""
    in_memory: bool = False
    """Keep every window once it is decoded, for small folders: 8-bit, 3 * frames * height * width bytes each."""
    disk_gb: float | None = Field(None, gt=0)
    """Of a folder in a store: fetch clips when they are read, and keep no more than so many GB of them on this disk;
    what was used longest ago makes room. None = all of them are fetched, and stay."""
    split: Split = "train"
    """Which side to yield: train, heldout, or all; windows of one file are always on one side."""
    heldout_fraction: float = Field(0.05, ge=0, lt=1)
    """The share of files that is held out, chosen by their content."""
    index: Path | Literal["auto", "none"] = "auto"
    """Keeps what a long scan found, so that the next one reads changed files only; auto = in ~/.cache/kinolab."""

    @model_validator(mode="after")
    def _check(self) -> FolderConfig:
        check_disk(self.path, self.disk_gb)
        if self.buckets and (self.frames, self.size) != (17, 64):
            raise ValueError("buckets take the place of frames and size: leave those out")
        if self.lengths == "all" and not self.buckets:
            raise ValueError("lengths=all is for buckets")
        return self

    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the largest windows."""
        shapes = self.buckets or (BucketConfig(frames=self.frames, size=self.size),)
        return Buckets(tuple(bucket.shape for bucket in shapes)).largest


class FolderSource(ClipSource):
    """A folder of clips as a source: `source[i]` is an `Example` of pixels.

    The folder is scanned once, when the source is made: files that can't be read get a verdict and are left out.

    Args:
        config: what to cut, and how.
        spec: the autoencoder's shape rules; frame counts are snapped to them (`notes` says so).
        events: counts the files that are scanned.
        allow_empty: make a source without windows too, for its verdicts.
        annotated: whether captions and labels are needed. Where they aren't, what is wrong with them is a note, and an
            error only for those who ask (`require_annotations`).
        signals: ask those signals too that read clips; the others are always asked.
        engine: whose workers scan the files; none = this process. `poison` names those that ended them all.

    Raises:
        InputError: where the folder is missing, holds no clip, none is usable (with the verdicts' causes), the split
            is empty, or the size breaks the autoencoder's rule.
    """

    Config = FolderConfig

    @classmethod
    def from_config(cls, config: FolderConfig, rules: ShapeRules | None, *, annotated: bool) -> FolderSource:
        """The folder of a config; broken captions are a note where they aren't needed."""
        return cls(config, rules, annotated=annotated)

    def __init__(
        self,
        config: FolderConfig,
        spec: ShapeRules | None = None,
        events: Listener = None,
        *,
        allow_empty: bool = False,
        annotated: bool = True,
        signals: bool = False,
        engine: Engine | None = None,
    ) -> None:
        self.config, self._reading = config, signals
        self._kept: dict[int, np.ndarray] = {}
        shapes = config.buckets or (BucketConfig(frames=config.frames, size=config.size),)
        self.buckets, self._notes = snapped(shapes, spec)
        self.frames, *size = self.buckets.largest
        self.size = (size[0], size[1])
        self._place = place_of(config.path, config.disk_gb, events)
        root, names, others = self._place.root, self._place.names, self._place.others
        if not names:
            raise InputError(f"{config.path}: no clips; expected {', '.join(sorted(video.VIDEO_SUFFIXES))} or images")
        if others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
            self._notes.append(f"other files passed over: {kinds}")
        index = None if config.index == "none" else config.index
        files = scan(
            root,
            names,
            scenes=config.scene_cuts == "split",
            index=default_index(root) if index == "auto" else index,
            image_fps=config.image_fps,
            events=events,
            engine=engine,
            store=self._place.store,
        )
        self.poison = tuple(f"{file.name} ({file.damage})" for file in files if file.poison)
        self._unread: InputError | None = None
        self._annotations = self._annotate(names, annotated, self._place.whole)
        self._notes += self._annotations.notes
        self.classes = self._annotations.classes
        self._decide(files)
        if not allow_empty:
            self._require_some()

    def _annotate(self, names: Sequence[str], needed: bool, whole: bool) -> Annotations:
        """The captions and labels of the files; none, and a note, where they can't be read and needn't be."""
        config = self.config
        try:
            return annotate(self._place.base, names, config.captions, config.labels, config.bad_rows, whole=whole)
        except InputError as error:
            if needed:
                raise
            self._unread = error
            return Annotations({}, {}, (), (f"captions and labels are not read, and not needed here: {error}",), {})

    def signals(self, file: ScannedFile, size: tuple[int, int]) -> tuple[dict[str, float | None], list[str]]:
        """What is found out about a file that is cut to `size` (height, width): numbers by name, and what is said."""
        c = self.config
        remarks = [video.MADE_WHOLE if note == video.COMBED and c.deinterlace else note for note in file.notes]
        # What reads no clip needs none here.
        with self._place.using(file.name) if self._reading else nullcontext(self._place.base / file.name) as path:
            clip = Looked(path, file.times, file.size, size, c.resize, c.fps, file.cuts, remarks, file.image)
            found = list(asked(clip, reading=self._reading))
        return {name: value for name, value, _ in found}, [note for _, _, notes in found for note in notes]

    def require_annotations(self) -> None:
        """Ask for captions and labels after all. Raises InputError where they could not be read."""
        if self._unread is not None:
            raise self._unread

    def _decide(self, files: Sequence[ScannedFile]) -> None:
        """Cut every file into windows, write the verdicts, and keep this side's windows."""
        judged: list[tuple[Verdict, ScannedFile, list[Window]]] = []
        first_with: dict[str, str] = {}
        copies: dict[str, str] = {}
        for file in files:
            original = first_with.setdefault(file.source_hash, file.name) if file.source_hash else file.name
            if original != file.name and self.config.copies == "drop":
                copies[file.name] = original
                judged.append((Verdict(file.name, 0, dropped=(f"same content as {original}",)), file, []))
            else:
                verdict, windows = judge(file, self)
                judged.append((verdict, file, windows))
        self._annotations = self._annotations.shared(copies)
        heldout = heldout_hashes((f.source_hash for _, f, windows in judged if windows), self.config.heldout_fraction)
        self._verdicts: list[Verdict] = []
        self._windows: list[Window] = []
        for verdict, file, windows in judged:
            split: Split = "heldout" if file.source_hash in heldout else "train"
            self._verdicts.append(with_facts(verdict, file, split, self._annotations))
            if self.config.split in (split, "all"):
                self._windows += windows

    def _require_some(self) -> None:
        totals = summarise(self._verdicts)
        if not totals.windows:
            causes = "; ".join(f"{v.source}: {', '.join(v.dropped)}" for v in self._verdicts[:3])
            more = f"; and {totals.files - 3} more" if totals.files > 3 else ""
            raise InputError(f"{self.config.path}: none of {totals.files} clips is usable: {causes}{more}")
        if not self._windows:
            raise InputError(
                f"{self.config.path}: no clip on the {self.config.split} side ({totals.used} usable, heldout_fraction "
                f"{self.config.heldout_fraction}); holding out needs two different clips and a fraction above 0"
            )

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Example:
        """Window `index`, decoded: video (3, T, H, W).

        Raises:
            InputError: naming the file, where it changed or was damaged since the scan.
        """
        if (kept := self._kept.get(index)) is not None:
            return self._example(index, kept)
        window = self._windows[index]
        with self._using(window) as path:
            [frames] = self._read(path, [window])
        if self.config.in_memory:
            self._kept[index] = frames
        return self._example(index, frames)

    def _using(self, window: Window) -> AbstractContextManager[Path]:
        """The file of a window inside a block; a store's is fetched, where it is not here."""
        return self._place.using(window.file.name, window.file.source_hash)

    def _read(self, path: Path, windows: Sequence[Window]) -> Iterator[np.ndarray]:
        """The frames of windows of one file and one size."""
        file, index = windows[0].file, [window.index for window in windows]
        times, c = np.asarray(file.times), self.config
        return read_windows(
            path, times, index, Reading(windows[0].size, c.resize, c.image_fps, c.deinterlace, file.seek)
        )

    def walk(self, indices: Sequence[int]) -> Iterator[tuple[int, Example]]:
        """The windows of `indices` in that order; a file's neighbouring windows are decoded in one pass.

        Windows that can't be read any more are left out.
        """
        position = 0
        while position < len(indices):
            end, first = position + 1, self._windows[indices[position]]
            while end < len(indices) and indices[end] > indices[end - 1]:
                following = self._windows[indices[end]]
                if following.file is not first.file or following.shape != first.shape:
                    break
                end += 1
            run = indices[position:end]
            with self._using(first) as path:
                decoded = self._read(path, [self._windows[i] for i in run])
                try:
                    for index, frames in zip(run, decoded, strict=True):
                        yield index, self._example(index, frames)
                except (InputError, OSError):
                    pass  # the caller sees which windows are missing
            position = end

    def _example(self, index: int, frames: np.ndarray) -> Example:
        r = self.record(index)
        return Example(video.to_tensor(frames), r.fps, r.caption, r.label, r.source, r.time_range, r.alternatives)

    def record(self, index: int) -> ClipRecord:
        """What is known of window `index`, without decoding."""
        window = self._windows[index]
        file, stored = window.file, window.index
        return ClipRecord(
            source=file.name,
            source_hash=file.source_hash,
            time_range=(file.times[stored[0]], file.times[stored[-1]] + 1.0 / window.fps),
            frames=len(stored),
            fps=window.fps,
            caption=self._annotations.captions.get(file.name),
            label=self._annotations.labels.get(file.name),
            size=window.size if self.config.buckets else None,
            alternatives=self._annotations.alternatives.get(file.name, ()),
        )

    def shape(self, index: int) -> tuple[int, int, int]:
        """Frames, height and width of window `index`."""
        return self._windows[index].shape

    def groups(self) -> list[list[int]]:
        """The indices by shape: windows, then still images where they are used."""
        return by_shape([window.shape for window in self._windows])

    def transform(self) -> dict[str, object]:
        """What is done to the pixels."""
        size = "buckets" if self.config.buckets else list(self.size)
        whole = {"deinterlace": True} if self.config.deinterlace else {}  # else as caches from before have it
        return {"kind": "folder", "size": size, "resize": self.config.resize, **whole}

    def verdicts(self) -> list[Verdict]:
        """One verdict per file of the folder, both sides."""
        return list(self._verdicts)

    def notes(self) -> list[str]:
        """What was changed in the request, and what was noticed about the folder as a whole."""
        return list(self._notes)
