"""Clips as pictures in one file, and a source of windows of them: what a machine without a video decoder trains on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from kinolab import video
from kinolab.contracts.examples import ClipRecord, ClipSource, Example, Split
from kinolab.data.clips import heldout_hashes
from kinolab.errors import InputError

SUFFIX = ".webp"


@dataclass(frozen=True)
class FramesOf:
    """A clip: frames (T, H, W, 3) uint8, its rate, its file's name."""

    name: str
    fps: float
    frames: np.ndarray


def write_frames(clips: Sequence[FramesOf], path: Path, quality: int = 90) -> int:
    """Write clips with every frame as a WebP picture; returns the file's bytes."""
    arrays: dict[str, np.ndarray] = {}
    for k, clip in enumerate(clips):
        pictures = [_packed(frame, quality) for frame in clip.frames]
        arrays[f"sizes{k}"] = np.array([len(p) for p in pictures], np.int64)
        arrays[f"data{k}"] = np.frombuffer(b"".join(pictures), np.uint8)
    about = json.dumps([{"name": clip.name, "fps": clip.fps} for clip in clips])
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{path.name}")
    with beside.open("wb") as file:
        np.savez(file, about=np.frombuffer(about.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    beside.replace(path)
    return path.stat().st_size


def _packed(frame: np.ndarray, quality: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(frame).save(held, format="WEBP", quality=quality, method=4)
    return held.getvalue()


def read_frames(path: Path) -> list[FramesOf]:
    """The clips of a file that `write_frames` made.

    Raises:
        InputError: where there is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no frames of clips were carried; prepare with --clips FOLDER")
    clips = []
    with np.load(path) as held:
        about = json.loads(held["about"].tobytes())
        for k, entry in enumerate(about):
            data, ends = held[f"data{k}"].tobytes(), np.cumsum(held[f"sizes{k}"]).tolist()
            pictures = [data[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
            frames = np.stack([np.asarray(Image.open(io.BytesIO(p)).convert("RGB")) for p in pictures])
            clips.append(FramesOf(entry["name"], entry["fps"], frames))
    return clips


class FramesSource(ClipSource):
    """Windows of clips in memory, as a source of `kinolab.data`; every window begins `stride` frames after another.

    Frames are taken as they are, or made smaller to `size` (a square) by averaging.
    """

    def __init__(
        self, clips: Sequence[FramesOf], frames: int, size: int, *, split: Split, stride: int = 4, fraction: float = 0.1
    ) -> None:
        self.frames, self.size = frames, (size, size)
        self._clips = [FramesOf(c.name, c.fps, _resized(c.frames, size)) for c in clips if len(c.frames) >= frames]
        self._hashes = [hashlib.sha256(c.frames.tobytes()).hexdigest() for c in self._clips]
        held = heldout_hashes(self._hashes, fraction)
        self._windows = [
            (k, start)
            for k, clip in enumerate(self._clips)
            if split == "all" or (self._hashes[k] in held) == (split == "heldout")
            for start in range(0, len(clip.frames) - frames + 1, stride)
        ]
        if not self._windows:
            raise InputError(f"no window of {frames} frames on the {split} side of {len(clips)} clips")

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Example:
        """Window `index`: video (3, T, S, S)."""
        clip, start = self._windows[index]
        r = self.record(index)
        frames = self._clips[clip].frames[start : start + self.frames]
        return Example(video.to_tensor(frames), r.fps, None, None, r.source, r.time_range)

    def record(self, index: int) -> ClipRecord:
        """What is known of window `index`."""
        k, start = self._windows[index]
        clip = self._clips[k]
        times = (start / clip.fps, (start + self.frames) / clip.fps)
        return ClipRecord(clip.name, self._hashes[k], times, self.frames, clip.fps, None, None)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Frames, height and width: all windows have the same."""
        return self.frames, *self.size

    def transform(self) -> dict[str, object]:
        """What is done to the pixels."""
        return {"kind": "frames", "size": list(self.size)}


def _resized(frames: np.ndarray, size: int) -> np.ndarray:
    if frames.shape[1:3] == (size, size):
        return frames
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    smaller = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return smaller.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
