"""The log of a run: JSON lines always, TensorBoard events on top, and a progress bar with the time left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kinolab.runtime.text import split_lines


class RunLog:
    """Appends one JSON object a line to `log.jsonl`; every line has the step and the seconds since the run began.

    When a run is resumed at step k, the lines of steps after k (written by the part that was lost) are cut off first,
    so that the log holds each step once.
    """

    def __init__(self, folder: Path, resumed_step: int, tensorboard: bool) -> None:
        self.path = folder / "log.jsonl"
        self.seconds_before = self._trim(resumed_step)
        self.started = time.perf_counter()
        self._file = self.path.open("a", encoding="utf-8")
        self._writer = _summary_writer(folder / "tensorboard", resumed_step) if tensorboard else None

    def _trim(self, step: int) -> float:
        if not self.path.exists():
            return 0.0
        lines = [line for line in split_lines(self.path.read_text(encoding="utf-8")) if line.endswith("}")]
        rows = [(line, json.loads(line)) for line in lines]
        kept = [(line, row) for line, row in rows if row["step"] <= step]
        beside = self.path.with_suffix(".tmp")
        beside.write_text("".join(line + "\n" for line, _ in kept), encoding="utf-8")
        beside.replace(self.path)
        return max((row.get("seconds", 0.0) for _, row in kept), default=0.0)

    @property
    def seconds(self) -> float:
        """Seconds of work in this run so far, over all resumptions."""
        return self.seconds_before + time.perf_counter() - self.started

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One line: kind is `train`, `heldout`, `samples` or `event`."""
        row = {"step": step, "kind": kind, "seconds": round(self.seconds, 2), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _summary_writer(folder: Path, resumed_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed_step or None)
