"""The log of a run: JSON lines always, TensorBoard events on top, and a progress bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinolab.runtime.files import write_bytes
from kinolab.runtime.logs import Appender
from kinolab.runtime.reading import json_lines, read_bytes
from kinolab.runtime.summed import summed

LONGEST = 2**32
"""Bytes of a log."""


class RunLog:
    """Appends one JSON object a line to `log.jsonl`; every line has the step and the seconds since the run began.

    When a run is resumed at step k, the lines of steps after k (written by the part that was lost) are cut off first,
    so that the log holds each step once. Lines carry sums (`runtime.summed`); those that are damaged are left out, too,
    and `say` is told of each.
    """

    def __init__(
        self, folder: Path, resumed_step: int, tensorboard: bool, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path = folder / "log.jsonl"
        self.seconds_before = self._trim(resumed_step, say)
        self.started = time.perf_counter()
        self._file = Appender(self.path, durable=False)
        self._writer = _summary_writer(folder / "tensorboard", resumed_step) if tensorboard else None

    def _trim(self, step: int, say: Callable[[str], None]) -> float:
        """Leave out the lines after a step, and those that can't be read; the seconds of the last one that stays."""
        if not self.path.exists():
            return 0.0
        rows = json_lines(self.path, damaged="skip", constants=True, say=say)
        kept = {number: row for number, row in rows if _is_row(row) and row["step"] <= step}
        lines = read_bytes(self.path, LONGEST).split(b"\n")  # as they stand: an older version's have no sums
        write_bytes(self.path, b"".join(lines[number - 1] + b"\n" for number in kept))
        return max((float(row["seconds"]) for row in kept.values()), default=0.0)

    @property
    def seconds(self) -> float:
        """Seconds of work in this run so far, over all resumptions."""
        return self.seconds_before + time.perf_counter() - self.started

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One line: kind is `train`, `heldout`, `samples` or `event`."""
        row = {"step": step, "kind": kind, "seconds": round(self.seconds, 2), **values}
        self._file.write(summed(row))
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Have all lines on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _is_row(row: Any) -> bool:
    """Whether a value is a line of a log."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return isinstance(row.setdefault("seconds", 0.0), int | float)


def _summary_writer(folder: Path, resumed_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed_step or None)
