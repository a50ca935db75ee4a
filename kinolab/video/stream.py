"""The video stream of a file that libav reads, as a source of frames (part of `kinolab.video`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from kinolab.errors import InputError
from kinolab.video import colour
from kinolab.video.damage import LONGEST_HOLD, promised
from kinolab.video.decoding import Pass
from kinolab.video.deinterlace import deinterlaced
from kinolab.video.opened import Opened
from kinolab.video.picture import Orientation, shown_size
from kinolab.video.sources import Shown, Source, VideoInfo, ready
from kinolab.video.times import Times, past_of, times_jump_back

if TYPE_CHECKING:
    import av

COMBED = "interlaced: moving edges are combed"
MADE_WHOLE = "interlaced, made whole"
_WORTH_A_SEEK = 0.5  # seconds


class Stream(Source):
    """The video stream of a file that libav reads.

    Args:
        threads: decoder threads; 0 = the processor's cores, 8 at most.
        deinterlace: make whole pictures of the frames that are marked as interlaced.
        seek: false reads up to the start of a range, even where a seek would do.
    """

    def __init__(self, path: Path, threads: int, deinterlace: bool = False, seek: bool = True) -> None:
        self.path, self.deinterlace, self.seek = path, deinterlace, seek
        self.threads = threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.past = past_of(path)
        self.file = Opened(path, self.threads)
        self.rate = self.file.rate
        self.lenient = False
        self.origin: int | None = None
        try:
            first = self._begin()
            if first is None:  # no key frame, or none that is whole: show what there is
                self.lenient = True
                self._reopen()
                first = self._begin()
        except InputError:
            self.close()
            raise
        if first is None:
            self.close()
            raise InputError(f"{path}: has a video stream without a single frame that can be decoded")
        self.first = first
        self.origin = self.whole.origin
        self.undecodable = self.whole.undecodable
        self.orientation = Orientation.of(first)
        aspect = self.file.stream.sample_aspect_ratio
        self.pixel_aspect = aspect if aspect and Fraction(1, 10) < aspect < 10 else Fraction(1)
        # Where a frame lasts a whole number of ticks its time stamps are exact; else they are rounded to a tick.
        exact = self.file.frame_ticks.denominator == 1
        self.slack = 1e-6 if exact else min(float(self.file.tick), 0.5 / float(self.rate)) / 2 + 1e-6

    @property
    def stored_times(self) -> bool:
        """Whether the packets are known to bear the times at which their frames are shown."""
        return self.whole.times.trusted

    def close(self) -> None:
        self.file.close()

    def info(self, exact: bool) -> VideoInfo:
        from kinolab.video.survey import survey

        height, width = shown_size(self.first.width, self.first.height, self.pixel_aspect, self.orientation)
        found = survey(self, exact)
        return VideoInfo(
            path=self.path,
            width=width,
            height=height,
            frames=found.frames,
            fps=found.rate,
            duration=found.seconds,
            container=self.file.container.format.name.split(",")[0],
            codec=self.file.stream.codec_context.name,
            pixel_format=self.first.format.name,
            rotation=self.orientation.degrees,
            pixel_aspect=float(self.pixel_aspect),
            stored_width=self.first.width,
            stored_height=self.first.height,
            has_audio=bool(self.file.container.streams.audio),
            notes=(*self.notes(), *found.notes),
        )

    def notes(self) -> list[str]:
        notes = []
        if self.undecodable:
            some = "its first frame" if self.undecodable == 1 else f"its first {self.undecodable} frames"
            notes.append(f"{some} can't be decoded: no key frame comes before")
        if self.first.interlaced_frame:
            notes.append(MADE_WHOLE if self.deinterlace else COMBED)
        if name := colour.unknown_matrix(self.first):
            notes.append(f"colours {name}, which can't be converted to RGB")
        elif name := colour.hdr_name(self.first):
            notes.append(f"{name}, tone-mapped to BT.709")
        return notes

    def frames(self, start: float) -> Iterator[Shown]:
        decoding = self._seek(start) if self._worth_seeking(start) else None
        frames = decoding or chain([self.first], self._following)
        for frame in deinterlaced(frames, self.file.tick) if self.deinterlace else frames:
            assert frame.pts is not None and self.origin is not None
            duration = float(frame.duration * self.file.tick) if frame.duration else 1 / float(self.rate)
            yield Shown(float((frame.pts - self.origin) * self.file.tick), duration, ready(frame))

    def end_of(self, last: Shown) -> float:
        end = last.time + last.duration
        if self.file.holds_last and self.whole.finished and (said := promised(self.file)) is not None:
            said -= max(0.0, float((self.origin or 0) * self.file.tick))
            return said if end < said < last.time + LONGEST_HOLD else end
        return end

    def _reopen(self) -> None:
        self.file.close()
        self.file = Opened(self.path, self.threads)

    def _pass(self, anchored: bool) -> Pass:
        """A pass from where the file stands; `anchored` = from its start, or from a key frame that is known."""
        times = Times(self.file.context, self.file.frame_ticks, self.file.tick, self.past, anchored)
        self.whole = Pass(self.file, times, self.origin, self.lenient)
        return self.whole

    def _begin(self) -> av.VideoFrame | None:
        """The first frame, from the start of the file; the others are `_following`."""
        self._following = self._pass(anchored=True).frames()
        return next(self._following, None)

    def _from_the_start(self) -> None:
        """What a seek becomes where none can be had: the file opened anew, its first frame already taken."""
        self._reopen()
        self._begin()

    def _worth_seeking(self, start: float) -> bool:
        if start <= _WORTH_A_SEEK or not (self.seek and self.file.seekable):
            return False
        if "mpegts" in self.file.formats and not self.past.walked:  # these are joined by their bytes, which misleads
            self.past.walked = True
            self.past.counted |= times_jump_back(self.file)
            self._from_the_start()
        return not self.past.counted

    def _seek(self, start: float) -> Iterator[av.VideoFrame] | None:
        """Frames from the last key frame at or before `start`, or an earlier one; None where that cannot be had."""
        assert self.origin is not None
        target = round((start - self.slack) / float(self.file.tick)) + self.origin
        if self.deinterlace:  # the filter makes the first frame of a run of less than the others
            target -= round(2 * self.file.frame_ticks)
        for seconds in (0, 2, 10, 60):
            goal = target - round(seconds / self.file.tick)
            if goal <= self.origin or not self.file.go_to(goal):
                break
            passing = self._pass(anchored=False)
            decoding = passing.frames()
            # An index may be coarse or wrong, and frames before a key frame may lack their references.
            for frame in decoding:
                if not passing.times.trusted:
                    return self._seek_known(target)
                if frame.pts is None or frame.pts > target:
                    break
                if frame.key_frame:
                    return chain([frame], decoding)
        self._from_the_start()
        return None

    def _seek_known(self, target: int) -> Iterator[av.VideoFrame] | None:
        """Frames from the last key frame at or before `target` whose time of display an earlier read found out."""
        known = [(shown, key) for key, (shown, _) in list(self.past.keys.items()) if shown <= target]
        if known:
            shown, key = max(known)
            if self.file.go_to(key):
                passing = self._pass(anchored=True)
                passing.times.resume(key)
                decoding = passing.frames()
                first = next(decoding, None)
                if first is not None and first.pts == shown:
                    return chain([first], decoding)
        self._from_the_start()
        return None
