"""What a signal about a clip is told, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kinolab.tables import SIGNALS


@dataclass(frozen=True)
class Looked:
    """A clip as a scan found it, and how it is to be used.

    times: seconds of all frames that decode; stored, used: (height, width) as displayed, and as it is cut to; resize:
    crop, pad or stretch; fps: the rate that it is re-timed to, None = as stored; cuts: numbers of the first frames of
    new scenes, None = not looked for; remarks: what its reader noticed; image: whether it is a still image.
    """

    path: Path
    times: Sequence[float]
    stored: tuple[int, int]
    used: tuple[int, int]
    resize: str = "crop"
    fps: float | None = None
    cuts: Sequence[int] | None = None
    remarks: Sequence[str] = ()
    image: bool = False


class Signal(ABC):
    """One number about a clip, and what is worth saying of it."""

    unit: ClassVar[str] = ""
    reads: ClassVar[bool] = False
    """Whether it reads the clip; such a signal is asked by `kinolab data check` alone."""

    @abstractmethod
    def value(self, clip: Looked) -> float | None:
        """The number; None where there is none for this clip."""

    def notes(self, clip: Looked) -> list[str]:
        """What a person should know; nothing for an ordinary clip."""
        return []


def asked(clip: Looked, *, reading: bool) -> Iterator[tuple[str, float | None, list[str]]]:
    """Name, number and notes of each signal of the table, those that read the clip only where `reading` is set."""
    for name in SIGNALS:
        signal = SIGNALS.get(name)()
        if reading or not signal.reads:
            yield name, signal.value(clip), signal.notes(clip)
