"""How many frames a stream shows, for how long, at which rate: counted, not believed (part of `kinolab.video`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinolab.errors import InputError
from kinolab.video.damage import LONGEST_HOLD, Watch, promised
from kinolab.video.opened import Opened
from kinolab.video.sources import mean_rate
from kinolab.video.times import is_regular, missing_frames

if TYPE_CHECKING:
    import av

    from kinolab.video.stream import Stream

SMALL = 64 * 2**20
"""Bytes of a file that is read as a whole to count its frames, without being asked for."""
VARIABLE = "variable rate"


@dataclass(frozen=True)
class Survey:
    """Frames shown, seconds from the first to the end of the last, frames per second, and what is odd about them."""

    frames: int | None
    seconds: float | None
    rate: float
    notes: tuple[str, ...] = ()


def survey(stream: Stream, exact: bool) -> Survey:
    """Count a stream's frames: by decoding where `exact`, by its packets where the file is small, else as stated."""
    small = stream.path.stat().st_size <= SMALL
    # Of packets that bear times of decoding nobody knows whether the first ones are shown.
    if exact or (small and not stream.stored_times):
        return _decoded(stream)
    return _packets(stream) if small else _stated(stream)


def _decoded(stream: Stream) -> Survey:
    from kinolab.video.stream import Stream

    times: list[float] = []
    notes: list[str] = []
    with closing(Stream(stream.path, stream.threads)) as fresh:
        try:
            for shown in fresh.frames(0.0):
                times.append(shown.time)
        except InputError as error:
            notes.append(str(error).removeprefix(f"{stream.path}: "))
        return _counted(times, fresh.end_of(shown), stream, notes)


def _packets(stream: Stream) -> Survey:
    """From the times of packets. Those before the first frame that can be decoded aren't shown."""
    notes: list[str] = []
    with closing(Opened(stream.path, 1)) as file, closing(Watch(file)) as watch:
        stamps: list[tuple[int | None, int]] = []
        for packet in file.packets():
            if lost := watch.packet(packet):
                notes.append(f"damaged: {lost}")
                break
            if packet.size and not packet.is_discard and not _hidden(file, packet):
                stamps.append((packet.pts if packet.pts is not None else packet.dts, packet.duration or 0))
        spans = sorted((time, length) for time, length in stamps if time is not None and time >= (stream.origin or 0))
        if len(spans) < len(stamps) - stream.undecodable or not spans:  # some have no times
            count = len(stamps) - stream.undecodable
            return Survey(count, count / float(stream.rate), float(stream.rate), tuple(notes))
        times = [float((time - spans[0][0]) * file.tick) for time, _ in spans]
        last = float(spans[-1][1] * file.tick) or 1 / float(stream.rate)
        origin = max(0.0, float(spans[0][0] * file.tick))
        reached = times[-1] + last
        if not notes and (cut := watch.cut(stream.origin or 0)):
            notes.append(f"damaged: the frames end at {reached:.3f} s ({cut})")
        said = promised(file)
        end = reached
        if said is not None and not notes:
            if file.holds_last and reached < said - origin < times[-1] + LONGEST_HOLD:
                end = said - origin
            elif said - origin > reached + max(1.0, 0.1 * reached):
                notes.append(f"the header says {said - origin:.3f} s, the frames end at {reached:.3f} s")
    return _counted(times, end, stream, notes)


def _stated(stream: Stream) -> Survey:
    """What the header of a large file says."""
    file = stream.file
    frames = file.stream.frames or None
    if "mov" in file.formats and (entries := getattr(file.stream, "index_entries", ())):
        frames = sum(not entry.is_discard for entry in entries)
    seconds = promised(file)
    if seconds is None and file.container.duration:
        seconds = file.container.duration / 1e6  # av.time_base
    rate = mean_rate(frames, seconds, stream.rate) if frames and seconds else float(stream.rate)
    return Survey(frames, seconds, rate, ("large: as its header says, --exact counts",))


def _counted(times: list[float], end: float, stream: Stream, notes: Iterable[str]) -> Survey:
    rate = mean_rate(len(times), end, stream.rate)
    said = list(notes)
    if missing := missing_frames(times):
        count = sum(number for _, number in missing)
        said.append(f"{count} frame{'s' * (count > 1)} missing, the first after {missing[0][0]:.3f} s")
    elif not is_regular(times):
        said.append(VARIABLE)
    return Survey(len(times), end, rate, tuple(said))


def _hidden(file: Opened, packet: av.Packet[av.VideoStream]) -> bool:
    """Whether a packet is a picture that is only referred to, which in VP8 is a packet of its own (RFC 6386, 9.1)."""
    return file.stream.codec_context.name == "vp8" and not bytes(packet)[0] >> 4 & 1
