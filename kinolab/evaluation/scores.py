"""The outcome of an evaluation: values with intervals, every clip's own scores, and the protocol that made them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.records import finite, plain_table, settings_hash
from kinolab.metrics import better_of, digits_of
from kinolab.metrics.base import MetricValue
from kinolab.runtime.summed import summed

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Settings:
    """The protocol of an evaluation that no YAML file names: its settings, among them what made the subject."""

    kind: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called: as its file says, or else by its kind."""
        return str(self.settings.get("protocol") or self.kind)

    def model_dump(self, *, mode: str = "json") -> dict[str, Any]:
        """The settings."""
        return dict(self.settings)

    def hash(self) -> str:
        """sha256 of what must be equal for two scores to be comparable: not of the model, nor of the machine."""
        return settings_hash(self.settings)


@dataclass(frozen=True)
class ClipScore:
    """One clip: what it is called, its scores by metric, the video that shows it, where one was written, and what else
    is known of it."""

    name: str
    scores: Mapping[str, float]
    video: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def record(self, folder: Path | None) -> dict[str, Any]:
        """As in JSON; the video's path relative to `folder`, where one is given."""
        shown = self.video if folder is None or self.video is None else os.path.relpath(self.video, folder)
        return {"name": self.name, "scores": dict(self.scores), "video": shown, **self.details}


@dataclass(frozen=True)
class ScoreReport:
    """Scores of one subject under one protocol.

    subject: what was measured, with the hash of its weights or files; facts: what is no score, such as parameters,
    compression and speed; notes: what a person should know about the values. groups: the same scores of others, which
    they are held against (the true clips, a baseline, each setting), or of a part of the clips. details: what else the
    JSON of this kind has at its top.
    """

    subject: Mapping[str, Any]
    data: Mapping[str, Any]
    protocol: Protocol | Settings
    protocol_hash: str
    metrics: Mapping[str, MetricValue]
    clips: tuple[ClipScore, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: Mapping[str, Mapping[str, MetricValue]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, folder: Path | None = None) -> str:
        """Everything, as JSON; not a number becomes null. Videos are named relative to `folder`, where one is given."""
        record = {
            "kind": self.protocol.kind,
            "subject": dict(self.subject),
            "data": dict(self.data),
            "protocol": self.protocol.model_dump(mode="json"),
            "protocol_hash": self.protocol_hash,
            "metrics": {k: dataclasses.asdict(v) for k, v in self.metrics.items()},
            "groups": {n: {k: dataclasses.asdict(v) for k, v in g.items()} for n, g in self.groups.items()},
            "facts": dict(self.facts),
            "clips": [clip.record(folder) for clip in self.clips],
            "notes": list(self.notes),
        }
        return summed(finite(record | dict(self.details)), indent=1) + "\n"

    def table(self) -> Table:
        """One row per score."""
        title = f"{self.subject['name']} on {self.data['name']}: {self.protocol.name} [{self.protocol_hash[:12]}]"
        table = plain_table(title)
        for heading in ("score", "value", "interval (95%)", "samples", "good is"):
            table.add_column(heading, justify="left" if heading in ("score", "good is") else "right")
        for name, value in self.metrics.items():
            table.add_row(name, shown(name, value.value), interval_text(name, value), str(value.count),
                          better_of(name) or "-")  # fmt: skip
        return table

    def lines(self) -> list[str]:
        """The facts and the notes, a line each."""
        return [*(f"{k.replace('_', ' ')}: {_plain(v)}" for k, v in self.facts.items()),
                *(f"note: {n}" for n in self.notes)]  # fmt: skip


def shown(name: str, value: float) -> str:
    """A score with its decimals."""
    return f"{value:.{digits_of(name)}f}" if math.isfinite(value) else "-"


def interval_text(name: str, value: MetricValue) -> str:
    """`low to high`, or a dash where there is none."""
    if value.interval is None:
        return "-"
    return f"{shown(name, value.interval.low)} to {shown(name, value.interval.high)}"


def clip_scores(names: Sequence[str], per_clip: Mapping[str, Sequence[float]], videos: Mapping[int, str]) -> Any:
    """One `ClipScore` for each name; a metric that left clips out gives no per-clip score."""
    whole = {k: v for k, v in per_clip.items() if len(v) == len(names)}
    return tuple(
        ClipScore(name, {k: float(v[i]) for k, v in whole.items()}, videos.get(i)) for i, name in enumerate(names)
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return (
            " to ".join(map(_plain, value)) if all(isinstance(v, float) for v in value) else " x ".join(map(str, value))
        )
    return str(value)
