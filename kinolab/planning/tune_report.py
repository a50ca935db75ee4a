"""What came of trying settings: time against drift, as numbers, as a table, and the options that give the fastest."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kinolab.evaluation.records import finite, plain_table, subject_of
from kinolab.evaluation.scores import ScoreReport, Settings
from kinolab.evaluation.world_report import Share
from kinolab.metrics.base import Interval, MetricValue
from kinolab.metrics.summaries import scores_of
from kinolab.models import ModelConfig
from kinolab.planning.settings import Setting

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Outcome:
    """What a setting takes and gives.

    seconds: per clip, sampling and decoding, one value per turn; faster: how many times as fast as the full run, median
    over turns; warming: seconds of one run before (compilation, for one).
    psnr: of the decoded clips against the full run's, dB, mean over frames; worst: the lowest of a clip; latents: the
    largest absolute difference.
    passed: clips of the toy world that show all they were asked for; none = there is nothing to check.
    hits, misses: calls of the denoiser without and with its blocks. psnrs: of each clip.
    """

    setting: Setting
    seconds: tuple[float, ...]
    faster: float
    warming: float
    psnr: float
    worst: float
    latents: float
    passed: Share | None
    hits: int
    misses: int
    frontier: bool = False
    psnrs: tuple[float, ...] = ()

    def scores(self) -> dict[str, MetricValue]:
        """As scores; the interval of times is from the fastest turn to the slowest."""
        turns = Interval(min(self.seconds), max(self.seconds), "range of turns", 1.0)
        found = {"seconds_per_clip": MetricValue(self.median, len(self.seconds), {}, turns)}
        found |= {"faster": MetricValue(self.faster, len(self.seconds))}
        found |= scores_of({"drift_psnr": self.psnrs})
        if self.passed is not None:
            shares = [k < self.passed.passed for k in range(self.passed.count)]
            found |= scores_of({"asked_all": shares})
        return found

    @property
    def median(self) -> float:
        """Median seconds per clip."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class TuneReport:
    """All outcomes, the full run first, and everything that was equal for them."""

    protocol: dict[str, Any]
    outcomes: tuple[Outcome, ...]
    own: ModelConfig
    notes: tuple[str, ...] = ()

    def choose(self, drift: float) -> Outcome:
        """The fastest setting whose PSNR against the full run is at least `drift` dB (at worst the full run itself)."""
        return max((o for o in self.outcomes if o.psnr >= drift), key=lambda o: o.faster, default=self.outcomes[0])

    @property
    def checked(self) -> bool:
        """Whether the toy world's reader judged the clips."""
        return any(o.passed is not None for o in self.outcomes)

    @property
    def _worn(self) -> str:
        """The options that put the adapters on again."""
        worn = [f"{a['path']}:{a['weight']:g}" for a in self.protocol.get("adapters", ())]
        return "".join(f"--lora {shlex.quote(text)} " for text in worn)

    def scores(self) -> ScoreReport:
        """The full run's scores; beside them those of every setting, by its title."""
        p, protocol = self.protocol, Settings("tune", self.protocol)
        subject = subject_of({"model_sha256": None, **p})
        data = {"name": "prompts" if any(p.get("prompts") or ()) else "nothing asked", "clips": p["clips"]}
        full, *others = self.outcomes
        return ScoreReport(
            subject, data, protocol, protocol.hash(), full.scores(), (), {}, self.notes,
            {o.setting.title: o.scores() for o in others}, {"outcomes": self._rows()},
        )  # fmt: skip

    def to_json(self) -> str:
        """Protocol, notes, scores, and every outcome with the options that give it."""
        return self.scores().to_json()

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for outcome in self.outcomes:
            passed = outcome.passed
            row = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome)}
            row |= {"setting": outcome.setting.dump(), "options": outcome.setting.options(self.own)}
            row["median"] = outcome.median
            row["passed"] = None
            if passed is not None:
                low, high = passed.interval
                row["passed"] = {"passed": passed.passed, "count": passed.count, "low": low, "high": high}
            rows.append(finite(row))
        return rows

    def table(self) -> Table:
        """One row per setting, the fastest last; a star marks the frontier."""
        p = self.protocol
        table = plain_table(f"{p['clips']} clips of {p['model']}: time against drift from the full run")
        checked = self.checked
        headings = ["  setting", "s/clip", "faster", "PSNR", "worst", "diff.", *(["passed"] if checked else [])]
        for heading in headings:
            table.add_column(heading, justify="left" if "setting" in heading else "right", no_wrap=True)
        for outcome in sorted(self.outcomes, key=lambda o: o.faster):
            full = outcome is self.outcomes[0]
            drift = ["-"] * 3 if full else [f"{outcome.psnr:.1f}", f"{outcome.worst:.1f}", f"{outcome.latents:.2f}"]
            title = ("* " if outcome.frontier else "  ") + outcome.setting.title + (" (full run)" if full else "")
            row = [title, f"{outcome.median:.3f}", f"{outcome.faster:.1f}x", *drift]
            table.add_row(
                *row, *([_passed(outcome.passed)] if checked else []), style="bold" if outcome.frontier else ""
            )
        return table

    def lines(self, drift: float) -> list[str]:
        """What the table does not say: how it was measured, and the options to use for a drift of `drift` dB."""
        p, best = self.protocol, self.choose(drift)
        options = f"{self._worn}{best.setting.options(self.own)}"
        lines = [
            f"{p['frames']} frames of {p['size'][1]}x{p['size'][0]}, batch {p['batch']}, {p['threads']} "
            f"thread{'s' * (p['threads'] != 1)}, "
            f"{p['device']}; median of {p['repeats']} turns, sampling and decoding",
            "PSNR in dB against the full run's decoded clips: mean over frames, and of the worst clip; diff.: "
            "the largest difference of latents; * = nothing else is both faster and closer"
            + ("; passed: clips that show all they were asked for (95% interval in %)" if self.checked else ""),
            *(f"note: {note}" for note in self.notes),
        ]
        if best is self.outcomes[0]:
            return [
                *lines,
                f"no setting stays within {drift:g} dB of the full run; it is: {options}",
            ]
        return [
            *lines,
            f"within {drift:g} dB, {best.faster:.1f} times as fast as the full run ({best.psnr:.1f} dB):",
            f"  kinolab generate --model {p['model']} {options}",
        ]


def _passed(share: Share | None) -> str:
    if share is None:
        return "-"
    low, high = share.interval
    return f"{share.passed}/{share.count} ({100 * low:.0f}-{100 * high:.0f})"
