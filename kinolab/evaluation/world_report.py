"""What came of an evaluation on the toy world: shares of clips that pass, with intervals, and their tables."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kinolab.evaluation.records import finite, plain_table, subject_of
from kinolab.evaluation.scores import ClipScore, ScoreReport, Settings
from kinolab.metrics.base import MetricValue
from kinolab.metrics.statistics import wilson
from kinolab.metrics.summaries import scores_of
from kinolab.toyworld.clips import parse_caption
from kinolab.toyworld.words import CLASSES

if TYPE_CHECKING:
    from rich.table import Table

CHECKS = ("colours", "shapes", "count", "direction", "motion", "identity")
SUBJECTS = ("generated", "reconstructed", "true")


@dataclass(frozen=True)
class Share:
    """How many of the clips that ask for something show it."""

    passed: int
    count: int

    @property
    def value(self) -> float:
        """The share, NaN where no clip asks for it."""
        return self.passed / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Wilson (1927), which holds for shares near 0 and 1 and for few clips."""
        interval = wilson(self.passed, self.count)
        return interval.low, interval.high

    def __str__(self) -> str:
        if not self.count:
            return "-"
        low, high = self.interval
        return f"{100 * self.value:.1f} ({100 * low:.1f}-{100 * high:.1f})"


@dataclass(frozen=True)
class ClipResult:
    """What one video shows. `checks`: None where the request does not ask for it; `physics`: see `WorldCheck`."""

    subject: str
    scenario: str
    caption: str
    clip_seed: int
    noise_seed: int
    checks: dict[str, bool | None]
    physics: float

    @property
    def passed(self) -> bool:
        """Whether everything that was asked for shows."""
        return all(value for value in self.checks.values() if value is not None)

    def score(self) -> ClipScore:
        """The clip's own scores, and all that is known of it."""
        scores = {f"asked_{name}": float(ok) for name, ok in self.checks.items() if ok is not None}
        scores |= {"asked_all": float(self.passed), "roughness": self.physics}
        return ClipScore(f"{self.subject} {self.clip_seed}", scores, None, dataclasses.asdict(self))


@dataclass(frozen=True)
class WorldReport:
    """The results of an evaluation, and all that must be equal for two of them to be comparable.

    Of a folder of videos, made who knows how, there is no reconstruction and no time.
    """

    protocol: dict[str, Any]
    results: tuple[ClipResult, ...]
    psnr: MetricValue | None
    ssim: MetricValue | None
    seconds_per_clip: float | None
    notes: tuple[str, ...] = field(default=())

    def shares(self, subject: str = "generated", scenario: str | None = None) -> dict[str, Share]:
        """The share passed of every check, and of "all" that a request asks; one scenario or all of them."""
        return _shares(self._rows(subject, scenario))

    def physics(self, subject: str = "generated", scenario: str | None = None) -> float:
        """Median over the clips of their distance from motion with constant acceleration, in 64ths of the frame."""
        known = [r.physics for r in self._rows(subject, scenario) if math.isfinite(r.physics)]
        return statistics.median(known) if known else math.nan

    def _rows(self, subject: str, scenario: str | None) -> list[ClipResult]:
        return [r for r in self.results if r.subject == subject and scenario in (None, r.scenario)]

    @property
    def scenarios(self) -> list[str]:
        """The scenarios that occur."""
        return [name for name in CLASSES if any(r.scenario == name for r in self.results)]

    def scores(self) -> ScoreReport:
        """The generated clips' scores; beside them those of the other subjects, and of each scenario."""
        p, beside = self.protocol, {} if self.psnr is None else {"psnr": self.psnr, "ssim": self.ssim}
        groups = {subject: self._scores(subject) for subject in SUBJECTS[1:] if self._rows(subject, None)}
        if beside:
            groups["reconstructed"] |= {k: v for k, v in beside.items() if v is not None}
        groups |= {f"generated, {name}": self._scores("generated", name, rough=False) for name in self.scenarios}
        subject = subject_of(p, "folder" if self.psnr is None else "model")
        protocol = Settings("world", p)
        return ScoreReport(
            subject, {"name": "toy world", "clips": p["count"]}, protocol, protocol.hash(), self._scores("generated"),
            tuple(r.score() for r in self.results), {}, self.notes, groups,
            {
                "checks": {s: self._summary(s, None) for s in SUBJECTS},
                "scenarios": {name: {s: self._summary(s, name) for s in SUBJECTS} for name in self.scenarios},
                "reconstruction": {
                    name: None if value is None else dataclasses.asdict(value)
                    for name, value in (("psnr", self.psnr), ("ssim", self.ssim))
                },
                "seconds_per_clip": self.seconds_per_clip,
            },
        )  # fmt: skip

    def _scores(self, subject: str, scenario: str | None = None, *, rough: bool = True) -> dict[str, MetricValue]:
        rows = self._rows(subject, scenario)
        values: dict[str, Any] = {f"asked_{name}": [r.checks[name] for r in rows] for name in CHECKS}
        values |= {"asked_all": [r.passed for r in rows]} | ({"roughness": [r.physics for r in rows]} if rough else {})
        return scores_of(values)

    def to_json(self) -> str:
        """Protocol, scores with their intervals, shares of every check, and every clip's own result."""
        return self.scores().to_json()

    def _summary(self, subject: str, scenario: str | None) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        for name, share in self.shares(subject, scenario).items():
            low, high = share.interval
            summary[name] = {"passed": share.passed, "count": share.count, "share": finite(share.value)}
            summary[name] |= {"low": low, "high": high}
        return summary | {"physics": finite(self.physics(subject, scenario))}

    def table(self) -> Table:
        """One row per check: the generated clips, the autoencoder's, and the true ones."""
        asked_with, first = self.protocol["asked_with"], self.protocol["first"]
        start = f" from number {first} on" if first else ""
        what = "videos" if self.psnr is None else f"held-out requests{start}"
        table = plain_table(f"{self.protocol['count']} {what} by {asked_with}: % of clips that pass (95% interval)")
        for heading in ("check", "asked", *SUBJECTS):
            table.add_column(heading, justify="left" if heading == "check" else "right")
        columns = [self.shares(subject) for subject in SUBJECTS]
        for name in (*CHECKS, "all"):
            if asked := columns[0][name].count:
                table.add_row(name, str(asked), *(str(c[name]) for c in columns), style="bold" if name == "all" else "")
        table.add_row("physics", "", *(_number(self.physics(s)) for s in SUBJECTS))
        if self.psnr is not None and self.ssim is not None:
            table.add_row("PSNR (dB)", "", "", f"{self.psnr.value:.2f}", "")
            table.add_row("SSIM", "", "", f"{self.ssim.value:.4f}", "")
        return table

    def scenario_table(self) -> Table:
        """The generated clips' shares, one row per scenario."""
        names = [name for name, share in self.shares().items() if share.count]
        rows = {scenario: self._rows("generated", scenario) for scenario in self.scenarios}
        return _shares_table("scenario", names, rows)

    def objects_table(self) -> Table:
        """The generated clips' shares, one row per number of objects that the captions name."""
        names = [name for name, share in self.shares().items() if share.count]
        rows: dict[str, list[ClipResult]] = {}
        for result in sorted(self._rows("generated", None), key=lambda r: len(parse_caption(r.caption).objects)):
            rows.setdefault(str(len(parse_caption(result.caption).objects)), []).append(result)
        return _shares_table("objects", names, rows)


def _shares(rows: Sequence[ClipResult]) -> dict[str, Share]:
    """The share passed of every check, and of "all" that a request asks."""
    shares = {}
    for name in CHECKS:
        asked = [r.checks[name] for r in rows if r.checks[name] is not None]
        shares[name] = Share(sum(map(bool, asked)), len(asked))
    return shares | {"all": Share(sum(r.passed for r in rows), len(rows))}


def _shares_table(by: str, names: Sequence[str], rows: Mapping[str, Sequence[ClipResult]]) -> Table:
    table = plain_table(f"generated, by {by}: % of clips that pass")
    for heading in (by, "clips", *names):
        table.add_column(heading, justify="left" if heading == by else "right")
    for key, results in rows.items():
        shares = _shares(results)
        values = [f"{100 * shares[n].value:.0f}" if shares[n].count else "-" for n in names]
        table.add_row(key, str(shares["all"].count), *values)
    return table


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def summary_lines(report: WorldReport) -> Sequence[str]:
    """What the tables don't say: how it was sampled, how long it took, and the notes."""
    p = report.protocol
    physics = "physics: median distance from constant acceleration over five frames, in 64ths of the frame's side"
    notes = [f"note: {note}" for note in report.notes]
    if report.psnr is None:
        return [physics, *notes]
    how = f"{p['sampler']['name']}, {p['sampler']['steps']} steps, guidance {p['guidance']['scale']:g}"
    size = f"{p['frames']} frames of {p['size'][1]}x{p['size'][0]}"
    return [
        f"{size}; {how}; {p['precision']}, {p['threads']} threads; {report.seconds_per_clip:.2f} s per clip",
        f"PSNR and SSIM: mean over {report.psnr.count} frames of the true clips, from the posterior's mean",
        physics,
        *notes,
    ]
