"""A clip through an autoencoder: original, reconstruction and error side by side, and what it costs.

Everything is a chain of generators from the file that is read to the file that is written, so that memory depends on
the size of a frame and not on the length of the clip.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec
from kinolab.autoencoders.dpvae import DpVae
from kinolab.contracts.events import Events, Listener, events_of
from kinolab.errors import InputError
from kinolab.generation.expected import Work, cheaper, expected_cost, size_note
from kinolab.generation.key_frames import group_notes, key_frame_rule, known_cuts
from kinolab.generation.provenance import partial_path, provenance_path
from kinolab.generation.reconstruct_report import Mode, ReconstructConfig, ReconstructReport
from kinolab.layers import strips
from kinolab.layers.key_frames import Group
from kinolab.layers.strip_store import Store
from kinolab.metrics.reconstruction import WINDOW, Psnr, Ssim
from kinolab.runtime import devices
from kinolab.runtime.files import commit_folder, place, remove, scratch, write_text
from kinolab.runtime.memory import peak_memory
from kinolab.runtime.paths import named, real
from kinolab.runtime.precision import autocast, describe
from kinolab.runtime.progress import size
from kinolab.runtime.sets import new_set

CHUNK_PIXELS = 2**20
"""A chunk of the stream has about this many pixels (16 frames at 256 x 256), and at least one latent's frames."""

Timed = TypeVar("Timed", Tensor, Group)


@torch.no_grad()
def reconstruct(
    clip: Path,
    out: Path,
    autoencoder: Autoencoder,
    config: ReconstructConfig,
    events: Listener = None,
    *,
    trained: tuple[int, int] | None = None,
) -> ReconstructReport:
    """Write `out` (original | reconstruction | error) and a `.json` beside it.

    Args:
        events: hears early what the whole will take, and may end it: the frames so far are then written as
            NAME-partial, and the report names that file.
        trained: height and width of the autoencoder's training clips, where they are known.

    Raises:
        InputError: for a clip that can't be read or is smaller than a latent, a tile that breaks the autoencoder's
            rule, a stream where the autoencoder has none, or `out` being the clip itself.
    """
    for path in (out, partial_path(out)):
        if real(path) == real(clip):
            raise InputError(f"{path}: is the clip itself; choose another --out")
    info = video.probe(clip)
    mode, tile, notes = choose_mode(autoencoder, config)
    run = _Run(autoencoder, config, mode, tile, [*clip_notes(info, config), *notes])
    run.cuts = known_cuts(clip, run.rule, config.fps, config.frames)
    fps = config.fps or info.fps
    expected = round((info.duration or 0.0) * fps)
    if config.frames is not None:
        expected = min(config.frames, expected or config.frames)
    told = events_of(events)
    video.check_ending(out)
    run.begin(told, info, expected, trained)
    frames = video.iter_frames(clip, fps=config.fps, size=config.size, deinterlace=config.deinterlace)
    images = (frame.image for frame in video.until_damage(frames, run.notes))

    def pictures(path: Path) -> None:
        with autocast(config.precision, run.device), strips.watched(partial(run.hear, told, expected)):
            video.write(path, run.pictures(images, expected, told), fps, quality=95)

    if not out.suffix:
        out = _folder_of_images(out, pictures, run)
        report = run.report(clip, out, fps)
        write_text(provenance_path(out), report.to_json(config))
        return report
    with new_set(out.parent, out.name) as room:
        pictures(room / out.name)
        if run.ended:  # what there was before stays
            part = partial_path(out)
            place(room / out.name, room / part.name)
            out = part
        report = run.report(clip, out, fps)
        write_text(room / provenance_path(out).name, report.to_json(config))
    return report


def _folder_of_images(out: Path, pictures: Callable[[Path], None], run: _Run) -> Path:
    """Write a folder of images whole; of one that was ended NAME-partial, and what there was before stays."""
    for folder in (named(out), partial_path(out)):
        video.check_folder(folder)
    with scratch(out.parent) as room:
        made = room / named(out).name
        pictures(made)
        out = partial_path(out) if run.ended else out
        remove(provenance_path(out))  # of other frames from here on
        commit_folder(made, named(out))
    return out


def clip_notes(info: video.VideoInfo, config: ReconstructConfig) -> list[str]:
    """What to know about a clip's frames, and about their times in the copy."""
    notes = [video.MADE_WHOLE if note == video.COMBED and config.deinterlace else note for note in info.notes]
    if config.fps is None and any(note == video.VARIABLE for note in notes):
        notes.append(f"frames are written evenly, {info.fps:.4g} a second, so that the copy lasts as long")
    return [note for note in notes if not note.startswith("damaged")]  # said when they are read


def choose_mode(autoencoder: Autoencoder, config: ReconstructConfig) -> tuple[Mode, int | None, list[str]]:
    """stream, tiled or whole; the frames of a tile (none: as memory allows); and what to say about it."""
    spec = autoencoder.spec
    rule = key_frame_rule(autoencoder, config.key_frames)
    if rule is not None and config.tile is not None:
        raise InputError("this autoencoder codes groups of frames by themselves, which never overlap; leave out --tile")
    if rule is not None and rule.rule != "first":
        if config.mode != "auto":
            raise InputError(f"key frames by rule {rule.rule} make groups of any length; leave out mode {config.mode}")
        return "groups", None, []
    if config.tile is not None:
        if config.mode in ("stream", "whole"):
            raise InputError(f"expected a tile or mode {config.mode}, not both")
        if (config.tile - spec.first_frame) % spec.frame_step:
            near = max(spec.snap_frames(config.tile), spec.frame_step + spec.first_frame)
            raise InputError(f"tile: expected {spec.frame_rule} frames, got {config.tile}; use {near}")
        return "tiled", config.tile, []
    if config.mode == "auto" and not can_stream(autoencoder):
        return "tiled", None, ["this autoencoder has no exact stream; tiled instead"]
    return ("stream" if config.mode == "auto" else config.mode), None, []


def can_stream(autoencoder: Autoencoder) -> bool:
    """Whether the autoencoder has a stream."""
    try:
        next(iter(autoencoder.encode_stream(iter(()))), None)
    except InputError:
        return False
    return True


class _Run:
    """One pass over a clip: the stages of the chain and what they count on the way."""

    def __init__(
        self, autoencoder: Autoencoder, config: ReconstructConfig, mode: Mode, tile: int | None, notes: list[str]
    ) -> None:
        self.autoencoder, self.config, self.mode, self.tile, self.notes = autoencoder, config, mode, tile, list(notes)
        self.device = next(autoencoder.parameters(), torch.empty(0)).device
        self.waiting: deque[np.ndarray] = deque()
        self.psnr, self.ssim = Psnr(), Ssim()
        self.reading, self.encoding, self.decoding = _Stopwatch(), _Stopwatch(), _Stopwatch()
        self.size: tuple[int, int] | None = None
        self.latent_shape: tuple[int, int, int, int] | None = None
        self.done = 0
        self.rule = key_frame_rule(autoencoder, config.key_frames)
        self.cuts: tuple[int, ...] | None = None
        self.groups: list[Group] = []
        self.ended = False
        self.reached = 0.0
        self.encoding_share = 0.3  # of the time, until a piece has told; decoders do more

    def begin(self, events: Events, info: video.VideoInfo, frames: int, trained: tuple[int, int] | None) -> None:
        """Tell what the whole will take, and what to know of its size, before anything is done."""
        spec, side = self.autoencoder.spec, self.config.size
        height, width = info.height, info.width
        if isinstance(side, tuple):
            height, width = side
        elif side is not None:
            height, width = (round(edge * side / min(info.height, info.width)) for edge in (height, width))
        work = Work(frames, (height, width), trained)
        note = size_note(work)
        if note is not None:
            self.notes.append(note)
            events.note(note)
        cost = expected_cost(self.autoencoder, work, self.config.precision) if events.expecting else None
        if cost is not None:
            self.encoding_share = cost.encoding
            events.expect(cost.cost, "a small piece of it", partial(cheaper, spec, work))
        if events.expecting:
            events.progress(0, frames)  # what was done so far is no part of the first frames

    def hear(self, events: Events, expected: int, frames: float, encodes: bool) -> None:
        """So many more frames' worth of the encoder's or the decoder's work on large frames is done."""
        if encodes:
            self.reached += self.encoding_share * frames
        else:
            latents = 1 if self.latent_shape is None else self.latent_shape[1]
            each = self.autoencoder.spec.pixel_frames(latents) / latents  # the first latent has fewer frames
            self.reached += (1 - self.encoding_share) * frames * each
        # Both networks count about as many frames as there are, and none beyond those that are at work.
        events.within(min(self.reached, self.done + len(self.waiting) - 0.01), max(expected, self.done))

    def pictures(self, images: Iterator[np.ndarray], expected: int, events: Events) -> Iterator[np.ndarray]:
        """The frames of the file to write: (H, 3 W, 3) uint8, times `upscale`."""
        for chunk in self.decoding.of(self._rebuilt(self.reading.of(self._chunks(images)))):
            rebuilt = chunk.float().clamp(-1, 1).cpu()
            shown = video.to_uint8(rebuilt[0])
            originals = np.stack([self.waiting.popleft() for _ in range(len(shown))])
            self._measure(video.to_tensor(originals)[None], rebuilt)
            for original, reconstruction in zip(originals, shown, strict=True):
                yield side_by_side(original, reconstruction, self.config.amplify, self.config.upscale)
            if not self.done and Store.in_files:
                events.note(f"frames this large wait in a temporary file, of {size(Store.in_files)} now")
            self.done += len(shown)
            self.reached = float(self.done)
            events.progress(self.done, max(expected, self.done))
            if events.stopping and self.done < expected:
                self.ended = True
                self.notes.append(f"ended after {self.done} of {expected} frames")
                return
        assert not self.waiting, "every frame that went in must come out"

    def report(self, clip: Path, out: Path, fps: float) -> ReconstructReport:
        """What came out, once all frames are written."""
        assert self.latent_shape is not None and self.size is not None
        return ReconstructReport(
            clip=str(clip),
            out=str(out),
            mode=self.mode,
            frames=self.done,
            size=self.size,
            fps=fps,
            psnr=self.psnr.compute(),
            ssim=self.ssim.compute() if min(self.size) >= WINDOW else None,
            latent_shape=self.latent_shape,
            encode_seconds=self.encoding.seconds - self.reading.seconds,
            decode_seconds=self.decoding.seconds - self.encoding.seconds,
            peak_memory=peak_memory(),
            precision=describe(self.config.precision, self.device),
            notes=tuple(self.notes),
            bits_per_latent=self.autoencoder.bits_per_latent,
            groups=tuple(group.start for group in self.groups),
            key_frames=tuple(group.key_frame for group in self.groups),
            ended=self.ended,
        )

    def _chunks(self, images: Iterator[np.ndarray]) -> Iterator[Tensor]:
        """Chunks (1, 3, t, H, W), up to valid frame counts; frames that fill no latent left out (but for groups)."""
        spec, held, given, step = self.autoencoder.spec, list[np.ndarray](), 0, 0
        snap = (lambda frames: frames) if self.mode == "groups" else spec.snap_frames
        limit = None if self.config.frames is None else snap(self.config.frames)
        if limit is not None and limit != self.config.frames:
            self.notes.append(f"{limit} frames instead of {self.config.frames}: {_rule(spec)}")
        for image in images:
            if not step:
                self.size = self._snapped(*image.shape[:2])
                step = self._step(*self.size)
            if limit is not None and given + len(held) >= limit:
                break
            assert self.size is not None
            held.append(_centre(image, *self.size))
            if given + len(held) == snap(given + step + (spec.first_frame and given == 0)):
                yield self._chunk(held)
                given, held = given + len(held), []
        if given + len(held) < spec.least_frames:
            raise InputError(f"expected at least {spec.least_frames} frames, got {len(held)}: {_rule(spec)}")
        kept = max(0, snap(given + len(held)) - given)
        if kept < len(held):
            left = len(held) - kept
            self.notes.append(f"the last {left} frame{'s' * (left > 1)} left out: {_rule(spec)}")
        if kept:
            yield self._chunk(held[:kept])

    def _chunk(self, images: list[np.ndarray]) -> Tensor:
        self.waiting.extend(images)
        return video.to_tensor(np.stack(images))[None].to(self.device)

    def _snapped(self, height: int, width: int) -> tuple[int, int]:
        spec = self.autoencoder.spec
        s = spec.spatial_ratio
        size = height // s * s, width // s * s
        if min(size) < s:
            raise InputError(f"expected frames of at least {s} x {s} pixels, got {width}x{height}; give --size")
        if size != (height, width):
            self.notes.append(f"cut from {width}x{height} to {size[1]}x{size[0]}: sides are multiples of {s}")
        return size

    def _step(self, height: int, width: int) -> int:
        """Frames of every chunk but the first, which has one more where the first frame has a latent of its own."""
        if self.mode == "whole":
            return sys.maxsize
        if self.tile is not None:
            return self.tile - self.autoencoder.spec.first_frame
        r = self.autoencoder.spec.frame_step
        return max(r, min(16, CHUNK_PIXELS // (height * width)) // r * r)

    def _rebuilt(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        if self.mode != "groups":
            return self._decode(self.encoding.of(self._latents(chunks)))
        assert isinstance(self.autoencoder, DpVae)
        return (self.autoencoder.decode_group(group) for group in self.encoding.of(self._groups(chunks)))

    def _groups(self, chunks: Iterator[Tensor]) -> Iterator[Group]:
        assert isinstance(self.autoencoder, DpVae) and self.rule is not None
        for group in self.autoencoder.group_stream(chunks, self.rule, self.cuts):
            self._count(group.latents)
            # Without their latents: memory must not grow with the clip.
            self.groups.append(replace(group, latents=group.latents.new_empty(0)))
            yield group
        self.notes += group_notes(self.groups, self.autoencoder.spec, self.rule)

    def _count(self, latents: Tensor) -> None:
        _, c, t, h, w = latents.shape
        self.latent_shape = c, t + (self.latent_shape[1] if self.latent_shape else 0), h, w

    def _latents(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        means: Iterable[Tensor]
        if self.mode == "stream":
            means = (posterior.mean for posterior in self.autoencoder.encode_stream(chunks))
        else:
            means = encode_groups(self.autoencoder, chunks)
        for mean in means:
            self._count(mean)
            yield mean

    def _decode(self, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        return (
            self.autoencoder.decode_stream(latents)
            if self.mode == "stream"
            else decode_groups(self.autoencoder, latents)
        )

    def _measure(self, original: Tensor, rebuilt: Tensor) -> None:
        continues = self.done > 0  # all chunks are of one clip
        self.psnr.update(original, rebuilt, continues=continues)
        if min(original.shape[3:]) >= WINDOW:
            self.ssim.update(original, rebuilt, continues=continues)


def encode_groups(autoencoder: Autoencoder, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """`encode_tiled` for chunks that arrive: every group begins with the last frame of the one before.

    That frame's latent is dropped. Chunks are (1, 3, t, H, W), the first of 1 + r*k frames, the others of r*k. Where
    the first frame has no latent of its own, all are of r*k frames and none overlap.
    """
    last: Tensor | None = None
    for chunk in chunks:
        if last is None or not autoencoder.spec.first_frame:
            yield autoencoder.encode(chunk).mean
        else:
            yield autoencoder.encode(torch.cat([last, chunk], dim=2)).mean[:, :, 1:]
        last = chunk[:, :, -1:]


def decode_groups(autoencoder: Autoencoder, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """`decode_tiled` for chunks of latents that arrive; the overlapping frame (see `encode_groups`) is dropped."""
    last: Tensor | None = None
    for chunk in chunks:
        if last is None or not autoencoder.spec.first_frame:
            yield autoencoder.decode(chunk)
        else:
            yield autoencoder.decode(torch.cat([last, chunk], dim=2))[:, :, 1:]
        last = chunk[:, :, -1:]


def side_by_side(original: np.ndarray, reconstruction: np.ndarray, amplify: float, upscale: int) -> np.ndarray:
    """original | reconstruction | amplified absolute difference: (H, W, 3) uint8 twice -> (H*u, 3*W*u, 3) uint8."""
    error = np.abs(original.astype(np.float32) - reconstruction.astype(np.float32)) * amplify
    row = np.concatenate([original, reconstruction, error.round().clip(0, 255).astype(np.uint8)], axis=1)
    return enlarged(row, upscale)


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel of (..., H, W, 3) as factor x factor equal ones."""
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


class _Stopwatch:
    """The time spent inside an iterator, that of the iterators it draws from included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, items: Iterator[Timed]) -> Iterator[Timed]:
        while True:
            began = time.perf_counter()
            item = next(items, None)
            made = item.latents if isinstance(item, Group) else item
            if made is not None:
                devices.synchronize(made.device)
            self.seconds += time.perf_counter() - began
            if item is None:
                return
            yield item


def _centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image (H, W, 3)."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _rule(spec: AutoencoderSpec) -> str:
    return f"the autoencoder takes {spec.frame_rule} frames"
