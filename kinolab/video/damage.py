"""What a file has lost, by its bytes and by what its header says (part of `kinolab.video`).

A demuxer that meets garbage looks for the next place that makes sense, or takes it for the end, and says nothing. What
it passed over shows in the positions of packets: they lie side by side in a file that is whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av

    from kinolab.video.opened import Opened

HOLE = 256
"""Bytes between two packets that headers, cues and the like may take; more of them, and time lost, is a hole."""
LONGEST_HOLD = 60.0
"""Seconds that the last frame is shown at most because the header says so."""
# Containers whose packets lie side by side, with at most a header between them.
_SIDE_BY_SIDE = frozenset({"matroska", "flv"})
# Containers that name every packet, so that none can be passed over unseen.
_INDEXED = frozenset({"mov", "avi"})


class Watch:
    """Follows one pass over the packets of a file; over those of all its streams where `contiguous`.

    A stream with a layer of transparency has the bytes of that layer between its packets.
    """

    def __init__(self, file: Opened) -> None:
        self.file = file
        self.contiguous = not file.alpha and bool(file.formats & _SIDE_BY_SIDE)
        self.end: int | None = None  # of the last packet, in bytes
        self.others = 0  # bytes of other streams since then
        self.bytes = 0  # of the video
        self.began: int | None = None
        self.expected: int | None = None
        self.number: int | None = None
        self.numbers: dict[int, int] = {}
        if "avi" in file.formats:
            entries = (entry for entry in getattr(file.stream, "index_entries", ()) if entry.size)
            self.numbers = {entry.pos + 8: number for number, entry in enumerate(entries)}

    def packet(self, packet: av.Packet[Any]) -> str | None:
        """What was lost between the last packet and this one, in words, or None."""
        if not self.file.is_video(packet):
            self.others += packet.size + 32
            return None
        lost = self._hole(packet)
        self.bytes += packet.size
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None:
            self.began = time if self.began is None else self.began
            self.expected = time + (packet.duration or 0)
        if packet.pos is not None:
            self.end, self.others = packet.pos + packet.size, 0
        return lost

    def _hole(self, packet: av.Packet[Any]) -> str | None:
        if packet.pos is None:
            return None
        if self.numbers:  # the index of an AVI names every packet
            number = self.numbers.get(packet.pos)
            before, self.number = self.number, number if number is not None else self.number
            if number is not None and before is not None and number > before + 1:
                return f"{number - before - 1} frames that its index names are not there"
            return None
        time = packet.dts if packet.dts is not None else packet.pts
        if not self.contiguous or self.end is None or self.expected is None or time is None:
            return None
        unread = packet.pos - self.end - self.others
        late = time - self.expected > (packet.duration or 0) / 2
        return f"{unread} bytes are unreadable" if unread > HOLE and late else None

    def unread(self) -> int | None:
        """Bytes behind the last packet; None where positions are not known."""
        return None if self.end is None else max(0, self.file.container.size - self.end - self.others)

    def cut(self, reached: float) -> str | None:
        """What is lost behind the last packet, in words, where the header says that frames go on after `reached` s.

        What a header says is believed where about as many bytes are left over as the missing seconds would take.
        """
        said, unread = promised(self.file), self.unread()
        indexed = bool(self.file.formats & _INDEXED)
        if said is None or unread is None or self.expected is None or self.began is None or indexed:
            return None
        read = float((self.expected - self.began) * self.file.tick)
        missing = said - reached
        if missing > 0.04 and read > 0 and unread > max(HOLE, 0.2 * missing * self.bytes / read):
            return f"the header says {said:.3f} s, and {unread} bytes are unreadable"
        return None


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
