"""One pass of a decoder over a stream (part of `kinolab.video`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from kinolab.errors import InputError
from kinolab.video.codec import av
from kinolab.video.damage import Watch
from kinolab.video.files import cut_short
from kinolab.video.times import JumpBackError, Times

if TYPE_CHECKING:
    from kinolab.video.opened import Opened

# Decoders that begin at any frame and show garbage until a key frame comes.
_BEGIN_ANYWHERE = frozenset(
    {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "h263", "h263p", "flv", "wmv1", "wmv2"}
    | {"wmv3", "vc1", "rv10", "rv20", "rv30", "rv40", "vp6", "vp6a", "vp6f", "theora"}
)
# Decoders that leave frames out in silence where they can't make sense of a packet, which always holds one.
_LEAVE_OUT = frozenset({"h264", "hevc"})
_KEYLESS = 2000  # packets after which a stream counts as one without key frames

Frames = Generator["av.VideoFrame", None, str | None]
"""Frames, and at the end what was damaged, in words."""


class Pass:
    """The whole frames from where a file stands to its end, or to the first damage, at the times that `times` gives.

    Args:
        origin: ticks of the stream's first frame; None for the pass that finds them.
        lenient: show frames that need others which aren't there, as in a stream without a single key frame.

    `decoded` counts frames, `reached` is the second at which the last one ends, `undecodable` counts the frames in
    front that need others which aren't there, `finished` says that the end was reached and nothing was lost on the way.
    """

    def __init__(self, file: Opened, times: Times, origin: int | None, lenient: bool) -> None:
        self.file, self.times, self.origin, self.lenient = file, times, origin, lenient
        self.decoded, self.reached, self.undecodable, self.finished = 0, 0.0, 0, False
        self.watch = Watch(file)
        # Looked up now: a generator that is still open when Python ends can't import any more.
        self._failure: type[Exception] = av.error.FFmpegError
        self._begun = lenient or file.context.name not in _BEGIN_ANYWHERE
        self._early: list[int | None] = []
        self._fed: list[int] | None = [] if file.context.name in _LEAVE_OUT else None
        self._newest: int | None = None  # the time that the last frame bore
        self._key: int | None = None  # how many of them come before the first key frame

    def frames(self) -> Iterator[av.VideoFrame]:
        """The frames.

        Raises:
            InputError: after the last whole frame, where the end came too early.
        """
        try:
            damage = yield from self._until_damage()
        except self._failure as error:
            damage = _words(error)
        finally:
            self.watch.close()
        cut = cut_short(self.file.path)
        if damage or cut:
            where = f"decoding stopped at {self.reached:.3f} s after {self.decoded} frames"
            raise InputError(f"{self.file.path}: {'truncated' if cut else 'damaged'}: {where} ({cut or damage})")
        self.finished = True

    def _until_damage(self) -> Frames:
        for packet in self.file.packets():
            lost = self.watch.packet(packet)
            if not packet.size and self.decoded and (lost := self.watch.cut(self.origin or 0)):
                yield from self._held_back(None)
                return lost
            if self.decoded and (lost or packet.is_corrupt):
                yield from self._held_back(packet.pts)
                return lost or "damaged data"
            if not self.decoded and not self._may_begin(packet):
                if len(self._early) > _KEYLESS:
                    return None
                continue
            self.times.packet(packet)
            if self._fed is not None and packet.pts is not None and not packet.is_discard:
                self._fed.append(packet.pts)
            try:
                frames = self.file.context.decode(packet)
            except self._failure as error:
                if not self.decoded:  # a stream may begin with a tail of what it was cut from
                    continue
                if self.file.threads == 1:  # with several, the frames that come now follow the broken one
                    yield from self._held_back(packet.pts)
                return _words(error)
            damage = yield from self._whole(frames)
            if damage:
                return damage
        return None

    def _may_begin(self, packet: av.Packet[av.VideoStream]) -> bool:
        """Whether a packet before the first frame is to be decoded."""
        if packet.is_keyframe and self._key is None:
            self._key = len(self._early)
        if packet.size and not packet.is_discard:
            self._early.append(packet.pts)
        self._begun = self._begun or packet.is_keyframe
        return self._begun

    def _whole(self, frames: list[av.VideoFrame]) -> Frames:
        """Decoded frames up to the first that isn't whole."""
        for frame in frames:
            if frame.is_corrupt and not self.lenient:
                if self.decoded:
                    return "damaged data"
                continue
            bore = frame.pts
            if lost := self._left_out(bore):
                return f"{lost} frame{'s' * (lost > 1)} can't be decoded"
            try:
                if not self.times.frame(frame):
                    continue
            except JumpBackError as jump:
                seconds = float((jump.ticks - (self.origin or 0)) * self.file.tick)
                return f"its times jump back to {seconds:.3f} s, as where recordings were joined"
            self._count(frame, bore)
            yield frame
        return None

    def _left_out(self, time: int | None) -> int:
        """How many packets between the last frame and the one that bears a time made none, and left a gap."""
        last, self._newest = self._newest, time
        if self._fed is None or time is None or not self.times.trusted:
            return 0
        lost = [fed for fed in self._fed if last is not None and last < fed < time]
        self._fed = [fed for fed in self._fed if fed > time]
        return len(lost) if last is not None and time - last > 1.5 * self.file.frame_ticks else 0

    def _gap(self, time: int) -> bool:
        """Whether a frame doesn't follow the last one: between them may be one that is lost."""
        return self._newest is not None and time - self._newest > 1.5 * self.file.frame_ticks

    def _count(self, frame: av.VideoFrame, bore: int | None) -> None:
        assert frame.pts is not None
        if self.origin is None:
            self.origin = frame.pts
        if not self.decoded:
            self.undecodable = self._before(bore)
        self.decoded += 1
        ticks = frame.duration or self.file.frame_ticks
        self.reached = float((frame.pts - self.origin + ticks) * self.file.tick)

    def _before(self, first: int | None) -> int:
        """How many packets were to be shown before the first frame, and can't be."""
        if not self.times.trusted:
            return self._key or 0
        return 0 if first is None else sum(time is not None and time < first for time in self._early)

    def _held_back(self, before: int | None) -> Iterator[av.VideoFrame]:
        """The frames that the decoder still holds, up to the first that may be lost, or to the time of a packet."""
        if not self.times.trusted:
            return
        try:
            for frame in self.file.context.decode(None):
                if frame.is_corrupt or frame.pts is None or self._gap(frame.pts):
                    return
                if before is not None and frame.pts >= before:
                    return
                self._newest = frame.pts
                if not self.times.frame(frame):
                    return
                self._count(frame, frame.pts)
                yield frame
        except (self._failure, JumpBackError):
            return


def _words(error: Exception) -> str:
    """What libav says of an error."""
    return str(getattr(error, "strerror", None) or error)
