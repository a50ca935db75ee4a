"""The times of decoded frames, set right: in order of display, strictly rising (part of `kinolab.video`).

A decoder gives frames in the order of display. Which times they bear is another matter: AVI, and whatever was copied
from it, numbers the frames as they are decoded; program streams give a time to some frames only; some writers repeat
one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

    from kinolab.video.opened import Opened

JUMP = 1.0
"""Times that go back by more than so many seconds are a second recording, not a slip of a writer."""
_REMEMBERED = 1024


class JumpBackError(Exception):
    """The times of a stream begin anew, at so many ticks."""

    def __init__(self, ticks: int) -> None:
        super().__init__(ticks)
        self.ticks = ticks


@dataclass
class Past:
    """What earlier reads of a file in this process found out about its times.

    Where frames bear the times at which they are decoded, their order of display is known only by decoding. `keys` has
    what a read that begins at a key frame must know: time that its packet bears -> time that it is shown at, and the
    times that were waiting for their frames when it came.
    """

    stored: bool = False
    """Frames are known to bear the times at which they are shown."""
    counted: bool = False
    """Times had to be made up, so that only a read from the beginning gets them right."""
    walked: bool = False
    """All packets were looked at for times that begin anew."""
    keys: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)


_pasts: OrderedDict[tuple[str, int, int], Past] = OrderedDict()
_pasts_lock = threading.Lock()


def past_of(path: Path) -> Past:
    """What is remembered of a file; a file that was written anew is another one."""
    stat = path.stat()
    key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
    with _pasts_lock:
        past = _pasts.pop(key, None) or Past()
        _pasts[key] = past
        while len(_pasts) > _REMEMBERED:
            _pasts.popitem(last=False)
    return past


class Times:
    """Gives the frames of one pass over a stream their times, in ticks of the stream.

    `anchored` says that the pass begins where the stream does, or at a key frame that such a pass knew.

    The times of packets are put into a queue. A packet that bears an earlier time than the one before it proves that
    the container stores times of display; then frames keep their own. Without that proof, and where the decoder
    reorders frames, the times belong to the displayed frames in sorted order: the n-th frame has the n-th time.
    """

    def __init__(
        self, context: av.VideoCodecContext, frame_ticks: Fraction, tick: Fraction, past: Past, anchored: bool
    ) -> None:
        self.context, self.frame_ticks, self.past, self.anchored = context, frame_ticks, past, anchored
        self.jump = max(JUMP / float(tick), 3 * float(frame_ticks))
        self.queue: deque[int] = deque()
        self.waiting_before: dict[int, tuple[int, ...]] = {}
        self.newest: int | None = None
        # A pass from the start finds out by itself, so that every one of them finds the same.
        self.stored = past.stored and not anchored
        self.partial = self.reorders = self.first_key = False
        self.last: int | None = None
        self.expected = Fraction(0)
        self.offset: int | None = None
        self.resuming: tuple[int, int] | None = None

    def resume(self, key: int) -> None:
        """Begin at a key frame that is known from an earlier read, by the time that its packet bears."""
        shown, waiting = self.past.keys[key]
        self.queue.extend(waiting)
        self.resuming, self.anchored, self.first_key = (key, shown), True, True

    @property
    def trusted(self) -> bool:
        """Whether frames bear the times at which they are shown, by all that was seen so far."""
        return self.stored or self.past.stored or not self.reorders

    def packet(self, packet: av.Packet[av.VideoStream]) -> None:
        """Note the time of a packet before it is decoded."""
        if not packet.size or packet.is_discard:  # empties the decoder at the end; is decoded, but not shown
            self.first_key = self.first_key or packet.is_discard
            return
        if packet.pts is None and self.newest is None:
            packet.pts = packet.dts  # a container that knows no times of display at all
        self.reorders = self.reorders or self.context.has_b_frames
        time = packet.pts
        if time is None:
            self.partial = True
        if time is None or self.stored:
            return
        if self.newest is not None and time < self.newest:
            self.stored = self.past.stored = True
            self.queue.clear()
            self.waiting_before.clear()
            return
        self.newest = time
        if not self.first_key and packet.is_keyframe:
            self.first_key = True
            self.queue.clear()  # what comes before the first key frame is never shown
        if packet.is_keyframe and self.reorders and self.anchored:
            self.waiting_before[time] = tuple(self.queue)
        self.queue.append(time)

    def frame(self, frame: av.VideoFrame) -> bool:
        """Set a frame's time; false for one that has none, because it comes before the frame that was sought.

        Raises:
            JumpBackError: where times begin anew.
        """
        own = frame.pts
        if self.resuming is not None:
            key, shown = self.resuming
            if own != key:
                return False
            self.resuming = None
            while self.queue and self.queue[0] <= shown:
                self.queue.popleft()
            own = shown
        else:
            own = self._own(own)
        length = Fraction(frame.duration) if frame.duration else self.frame_ticks
        frame.pts = self._rising(own, length)
        return True

    def _own(self, time: int | None) -> int | None:
        """The time that a frame bears, or the one in the queue that belongs to it."""
        if self.stored or self.partial or not self.queue:
            return time
        if time is None or self.reorders:
            shown = self.queue.popleft()
            if time in self.waiting_before:
                self.past.keys[time] = shown, self.waiting_before.pop(time)
            return shown
        while self.queue and self.queue[0] <= time:  # packets that gave no frame
            self.queue.popleft()
        return time

    def _rising(self, own: int | None, length: Fraction) -> int:
        """A time after the last one; frames without one follow at the length of a frame."""
        if own is None:
            time = round(self.expected)
            self.past.counted = True
        else:
            if self.offset is None:  # frames before the first time are counted back from it
                self.offset = 0 if self.last is None else round(self.expected) - own
            time = own + self.offset
        if self.last is not None and time <= self.last:
            if self.last - time > self.jump:
                raise JumpBackError(time)
            time = self.last + max(1, int(length / 2))
            self.past.counted = True
        self.expected = (self.expected if own is None else Fraction(time)) + length
        self.last = time
        return time


def times_jump_back(file: Opened) -> bool:
    """Whether the times of a file begin anew somewhere, by all its packets."""
    newest = None
    for packet in file.packets():
        if packet.dts is not None:
            if newest is not None and (newest - packet.dts) * file.tick > JUMP:
                return True
            newest = packet.dts
    return False


def is_regular(times: Sequence[float]) -> bool:
    """Whether all gaps between frames agree, to the rounding of containers that count milliseconds."""
    steps = sorted(b - a for a, b in pairwise(times))
    return len(steps) < 2 or steps[-1] - steps[0] < 0.0021 + 0.02 * steps[len(steps) // 2]


def missing_frames(times: Sequence[float]) -> list[tuple[float, int]]:
    """Where frames are missing in a clip of an otherwise constant rate: (seconds, how many), else nothing.

    Gaps are whole multiples of the usual distance, and at most one frame in twenty stands before one.
    """
    if len(times) < 3:
        return []
    steps = [b - a for a, b in pairwise(times)]
    usual = sorted(steps)[len(steps) // 2]
    slack = 0.0011 + 0.02 * usual  # containers round to milliseconds
    found = []
    for time, step in zip(times, steps, strict=False):
        count = round(step / usual)
        if abs(step - count * usual) > slack * max(1, count) or count < 1:
            return []
        if count > 1:
            found.append((time, count - 1))
    return found if len(found) <= max(1, len(times) // 20) else []
