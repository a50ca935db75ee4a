"""Where frames come from: what a source is, and streams that libav decodes (part of `video.py`)."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

from kinolab.errors import InputError
from kinolab.video.codec import av
from kinolab.video.files import cut_short, unreadable
from kinolab.video.picture import Orientation, shown_size

# Names of libav's demuxers: without a list it would also take text files and playlists for video.
_DEMUXERS = "mov,matroska,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,nut,h264,hevc,obu,m4v,yuv4mpegpipe,mxf,rm,dv"
# These seek by an index of frames or by time stamps; in others (gif) a frame needs all those before it.
_SEEKABLE = ("mov", "matroska", "avi", "mpegts", "flv", "asf", "nut", "mxf")


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` finds. Sizes in pixels, times in seconds."""

    path: Path
    width: int
    """As shown: upright and with square pixels."""
    height: int
    """As shown: upright and with square pixels."""
    frames: int | None
    """None where the file does not say (`probe(path, exact=True)` counts)."""
    fps: float
    """Average number of frames per second."""
    duration: float | None
    """Of the video stream; None where the file does not say."""
    container: str
    codec: str
    pixel_format: str
    rotation: int
    """Degrees counter-clockwise (0, 90, 180, 270) that turn the stored frame upright."""
    pixel_aspect: float
    """Width of a stored pixel over its height."""
    stored_width: int
    stored_height: int
    has_audio: bool


@dataclass(frozen=True)
class Shown:
    """A frame on the time line: from `time` on, for `duration` seconds; `load` makes the picture if it is wanted."""

    time: float
    duration: float
    load: Callable[[], av.VideoFrame]


def ready(frame: av.VideoFrame) -> Callable[[], av.VideoFrame]:
    return lambda: frame


class Source:
    """A time line of frames. `slack` is the rounding of its time stamps, in seconds."""

    slack = 1e-6
    pixel_aspect = Fraction(1)
    orientation = Orientation()
    rate: Fraction

    def info(self, exact: bool) -> VideoInfo:
        raise NotImplementedError

    def frames(self, start: float) -> Iterator[Shown]:
        """Frames in order; the first one begins at or before `start` seconds."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""


class Stream(Source):
    """The video stream of a file that libav reads."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self.threads = threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.decoded, self.reached = 0, 0.0
        self.origin: int | None = None
        self._connect()
        self._decoding = self._decode()
        try:
            first = next(self._decoding, None)
        except InputError:
            self.close()
            raise
        if first is None:
            self.close()
            raise InputError(f"{path}: has a video stream without a single frame that can be decoded")
        self.first = first
        self.orientation = Orientation.of(first)
        aspect = self.stream.sample_aspect_ratio
        self.pixel_aspect = aspect if aspect and Fraction(1, 10) < aspect < 10 else Fraction(1)
        # Where a frame lasts a whole number of ticks its time stamps are exact; else they are rounded to a tick.
        exact = (1 / (self.rate * self.tick)).denominator == 1
        self.slack = 1e-6 if exact else min(float(self.tick), 0.5 / float(self.rate)) / 2 + 1e-6

    def _connect(self) -> None:
        name = f"file:{os.path.abspath(self.path)}"
        try:
            # A name from another encoding in the metadata must not stop a read.
            self.container = av.open(name, options={"format_whitelist": _DEMUXERS}, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            raise InputError(f"{self.path}: {unreadable(self.path)}") from None
        covers = [s for s in self.container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        videos = [s for s in self.container.streams.video if s not in covers and s.codec_context is not None]
        if not videos:
            kinds = sorted({stream.type for stream in self.container.streams})
            self.close()
            if covers:
                raise InputError(f"{self.path}: no video stream, only audio with a cover picture")
            if "video" in kinds:
                raise InputError(f"{self.path}: its video stream is damaged or in a codec that is not known")
            raise InputError(f"{self.path}: no video stream, only {', '.join(kinds) or 'an empty container'}")
        self.stream = videos[0]
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = self.threads
        assert self.stream.time_base is not None
        self.tick = self.stream.time_base
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        if self.container.format.name == "gif" and self.stream.frames and self.stream.duration:
            self.rate = self.stream.frames / (self.stream.duration * self.tick)  # delays of 4, 4, 5 ticks are not 25

    def close(self) -> None:
        self.container.close()

    def info(self, exact: bool) -> VideoInfo:
        height, width = shown_size(self.first.width, self.first.height, self.pixel_aspect, self.orientation)
        frames, duration, rate = self.stream.frames or None, None, float(self.rate)
        if self.stream.duration:
            duration = float(self.stream.duration * self.tick)
        elif self.container.duration:
            duration = self.container.duration / 1e6  # av.time_base
        if exact:
            frames, duration = self._count()
            rate = frames / duration if duration > 0 else rate
        return VideoInfo(
            path=self.path,
            width=width,
            height=height,
            frames=frames,
            fps=rate,
            duration=duration,
            container=self.container.format.name.split(",")[0],
            codec=self.stream.codec_context.name,
            pixel_format=self.first.format.name,
            rotation=self.orientation.degrees,
            pixel_aspect=float(self.pixel_aspect),
            stored_width=self.first.width,
            stored_height=self.first.height,
            has_audio=bool(self.container.streams.audio),
        )

    def _count(self) -> tuple[int, float]:
        """Frames and seconds, from the packets alone."""
        self.close()
        self._connect()
        spans = []
        for packet in self.container.demux(self.stream):
            if packet.size and not packet.is_discard:
                spans.append((packet.pts, packet.duration or 0))
        known = sorted((pts, length) for pts, length in spans if pts is not None)
        if len(known) < len(spans) or not known:
            return len(spans), len(spans) / float(self.rate)
        last, length = known[-1]
        return len(spans), float((last - known[0][0]) * self.tick) + (float(length * self.tick) or 1 / float(self.rate))

    def frames(self, start: float) -> Iterator[Shown]:
        decoding = self._seek(start) if self._worth_seeking(start) else None
        for frame in decoding or chain([self.first], self._decoding):
            time, duration = self._span(frame)
            yield Shown(time, duration, ready(frame))

    def _span(self, frame: av.VideoFrame) -> tuple[float, float]:
        """(time, duration) in seconds; frames without a time are counted at the average rate."""
        duration = float(frame.duration * self.tick) if frame.duration else 1 / float(self.rate)
        if frame.pts is None:
            return (self.decoded - 1) / float(self.rate), duration
        self.origin = frame.pts if self.origin is None else self.origin
        return float((frame.pts - self.origin) * self.tick), duration

    def _worth_seeking(self, start: float) -> bool:
        names = self.container.format.name.split(",")
        return self.origin is not None and start > 0.5 and any(name in _SEEKABLE for name in names)

    def _seek(self, start: float) -> Iterator[av.VideoFrame] | None:
        """Frames from the last key frame at or before `start`, or an earlier one; None where that cannot be had."""
        assert self.origin is not None
        target = round((start - self.slack) / float(self.tick)) + self.origin
        for seconds in (0, 2, 10, 60):
            goal = target - round(seconds / self.tick)
            if goal <= self.origin:
                break
            try:
                self.container.seek(goal, stream=self.stream, backward=True)
            except av.error.FFmpegError:
                break
            self.decoded = 0
            decoding = self._decode()
            # An index may be coarse or wrong, and frames before a key frame may lack their references.
            for frame in decoding:
                if frame.pts is None or frame.pts > target:
                    break
                if frame.key_frame:
                    return chain([frame], decoding)
        self.close()
        self._connect()
        self.decoded = 0
        self._decoding = self._decode()
        next(self._decoding, None)
        return None

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Whole frames from here to the end of the file; then an InputError if the end came too early."""
        damage = None
        order = _DisplayOrder(self.stream)
        try:
            for packet in self.container.demux(self.stream):
                order.packet(packet)
                if packet.is_corrupt and self.decoded:
                    damage = "damaged data"
                    break
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    if self.decoded:  # before the first frame a stream may hold a tail of what it was cut from
                        damage = error.strerror
                        break
                    continue
                for frame in frames:
                    if frame.is_corrupt and self.decoded:
                        damage = damage or "damaged data"
                        break
                    yield self._decoded(order.frame(frame))
                if damage:
                    break
        except av.error.FFmpegError as error:
            damage = error.strerror
        if damage:
            for frame in self._flush():
                yield self._decoded(order.frame(frame))
        cut = cut_short(self.path)
        if damage or cut:
            where = f"decoding stopped at {self.reached:.3f} s after {self.decoded} frames"
            raise InputError(f"{self.path}: {'truncated' if cut else 'damaged'}: {where} ({cut or damage})")

    def _decoded(self, frame: av.VideoFrame) -> av.VideoFrame:
        self.decoded += 1
        self.reached = sum(self._span(frame))
        return frame

    def _flush(self) -> Iterator[av.VideoFrame]:
        """Whole frames that the decoder still holds."""
        try:
            for frame in self.stream.codec_context.decode(None):
                if not frame.is_corrupt:
                    yield frame
        except av.error.FFmpegError:
            return


class _DisplayOrder:
    """Repairs the times of streams whose container stores none for display.

    A decoder gives frames in the order of display. Some writers store only the times of decoding, though the codec
    reorders frames; these times then belong to the displayed frames in sorted order.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self.context = stream.codec_context
        self.pending: list[int] | None = []

    def packet(self, packet: av.Packet) -> None:
        """Note the times of a packet before it is decoded."""
        if self.pending is None or not packet.size or packet.is_discard:
            return
        if packet.pts is None or packet.pts != packet.dts:
            self.pending = None
        else:
            heapq.heappush(self.pending, packet.pts)

    def frame(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, with its time set right."""
        if self.pending:
            first = heapq.heappop(self.pending)
            frame.pts = first if self.context.has_b_frames else frame.pts
        return frame


def rational(fps: float, name: str) -> Fraction:
    """A frame rate as a fraction; 23.976, 29.97, 59.94 and the like are multiples of 1000/1001."""
    if not (math.isfinite(fps) and 0.001 <= fps <= 1000):
        raise InputError(f"{name}: expected frames per second between 0.001 and 1000, got {fps}")
    whole = round(fps * 1.001)
    if abs(fps - round(fps)) > 1e-6 and abs(fps * 1.001 - whole) < 2e-3:
        return Fraction(whole * 1000, 1001)
    return Fraction(fps).limit_denominator(10000)
