"""What a file has lost, by its bytes and by what its header says (part of `kinolab.video`).

A demuxer that meets garbage looks for the next place that makes sense, or takes it for the end, and says nothing. What
it passed over lies between the packets that it gave.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, BinaryIO

from kinolab.runtime.reading import open_plain
from kinolab.video.walk import WALKS

if TYPE_CHECKING:
    import av

    from kinolab.video.opened import Opened

LONGEST_HOLD = 60.0
"""Seconds that the last frame is shown at most because the header says so."""
# Headers between two packets that lie side by side are shorter.
_HEADER = 32
# Formats whose packets know where they begin and end; in the others a packet is spread over several pieces.
_SIDE_BY_SIDE = frozenset({"matroska", "flv"})
# Formats that name every packet, so that none can be passed over unseen.
_INDEXED = frozenset({"mov", "avi"})


class Watch:
    """Follows one pass over the packets of a file's video."""

    def __init__(self, file: Opened) -> None:
        self.file = file
        self.walk = next((WALKS[name] for name in sorted(file.formats) if name in WALKS), None)
        self.side_by_side = bool(file.formats & _SIDE_BY_SIDE)
        self.bytes: BinaryIO | None = None
        self.at: int | None = None  # offset of the last packet
        self.after = 0  # where the next one may begin, at the earliest
        self.size, self.largest = 0, 0  # bytes of all packets, and of the largest
        self.began: int | None = None
        self.ends: int | None = None  # ticks
        self.latest: int | None = None  # ticks at which the frames end that were seen so far
        self.number: int | None = None
        self.numbers: dict[int, int] = {}
        if "avi" in file.formats:
            entries = (entry for entry in getattr(file.stream, "index_entries", ()) if entry.size)
            self.numbers = {entry.pos + 8: number for number, entry in enumerate(entries)}

    def close(self) -> None:
        """Let go of the file."""
        if self.bytes is not None:
            self.bytes.close()

    def packet(self, packet: av.Packet[Any]) -> str | None:
        """What was lost between the last packet and this one, in words, or None."""
        if not packet.size:
            return None
        lost = self._lost_before(packet.pos) if packet.pos is not None else None
        self.size, self.largest = self.size + packet.size, max(self.largest, packet.size)
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None:
            self.began = time if self.began is None else self.began
            self.ends = time + (packet.duration or 0)
        if packet.pts is not None:
            self.latest = max(self.latest or 0, packet.pts + (packet.duration or 0))
        if packet.pos is not None:
            self.at, self.after = packet.pos, packet.pos + (packet.size if self.side_by_side else 0)
        return lost

    def _lost_before(self, position: int) -> str | None:
        if self.numbers:  # the index of an AVI
            number = self.numbers.get(position)
            before, self.number = self.number, number if number is not None else self.number
            if number is not None and before is not None and number > before + 1:
                count = number - before - 1
                return f"{count} frame{'s' * (count > 1)} of its index can't be found"
            return None
        if self.at is None or position - self.after <= _HEADER or self._in_order(position):
            return None
        return f"{position - self.after} bytes are unreadable"

    def _in_order(self, stop: int) -> bool:
        """Whether the bytes from the last packet to an offset are what the container may have there."""
        if self.walk is None or self.at is None:
            return True
        self.bytes = self.bytes or open_plain(self.file.path)
        return self.walk(self.bytes, self.at, stop)

    def cut(self, origin: int) -> str | None:
        """What is lost behind the last packet, in words, where frames should go on; `origin` = ticks of the first one.

        A header that says that they go on is believed where bytes are left over: garbage, or, in formats of which the
        bytes don't tell, about as many as the missing seconds would take.
        """
        if self.at is None or self.ends is None or self.began is None or self.file.formats & _INDEXED:
            return None
        said, unread = promised(self.file), self.file.container.size - self.after
        read = float((self.ends - self.began) * self.file.tick)
        if said is None:
            lost = unread > 3 * self.largest and not self._in_order(self.file.container.size)
            return f"{unread} bytes are unreadable" if lost else None
        # Some headers count from the first frame on, some from time 0.
        missing = said - float(((self.latest or self.ends) - min(origin, 0)) * self.file.tick)
        if missing <= 0.04:
            return None
        if self.side_by_side:
            lost = not self._in_order(self.file.container.size)
        else:
            lost = read > 0 and unread > 0.2 * missing * self.size / read
        return f"the header says {said:.3f} s, and {unread} bytes are unreadable" if lost else None


def promised(file: Opened) -> float | None:
    """Seconds at which the video ends, by the header; None where the header doesn't say, or only for other streams."""
    stream, container = file.stream, file.container
    if stream.duration:
        return float(stream.duration * file.tick)
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match:
        return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
    alone = not container.streams.audio and len(container.streams.video) == 1
    return container.duration / 1e6 if container.duration and alone else None
