"""What a metric makes of a known distortion: whether it sees it, is blind to it, or misled; and the page of all."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.scores import ScoreReport, Settings
from kinolab.metrics import assumed_of
from kinolab.metrics.base import Interval, MetricValue
from kinolab.metrics.distortions import DISTORTIONS

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["sees", "blind", "misled", "unsteady"]
Order = Literal["worse", "better", "same", "mixed"]

ROUNDING = 1e-6
"""Differences smaller than this, relative to the values, are none."""
MARKS: dict[Verdict, str] = {"sees": "✓", "blind": "·", "misled": "✗", "unsteady": "~"}
WORDS: dict[Verdict, str] = {"sees": "seen by", "misled": "misled", "blind": "blind to it", "unsteady": "unsteady"}
HOW_TO_READ = (
    "Each distortion is applied at strengths {strengths}. Blur: a Gaussian of a sigma up to 4% of the frame's side; "
    "noise: Gaussian, of a standard deviation up to a quarter of the range from black to white; shuffle: so many of "
    "the frames change places; freeze: so many of the frames, at the end, repeat the one before them. **✓ sees**: from "
    "the strength that is named on, the score is worse than without the distortion by more than its noise (the 95% "
    "interval of the difference leaves out 0), and worse with every step. **✗ misled**: the same, but better; never "
    "report such a score without one that sees. **· blind**: no difference beyond noise at any strength; the score "
    "says nothing about this fault. **~ unsteady**: a difference beyond noise, but not in one direction. Of twenty "
    "differences that are none, about one is taken for one. The verdicts hold for these clips, this number of them and "
    "these networks: a score that is already at the end of its scale, or has few clips, sees less."
)


@dataclass(frozen=True)
class Response:
    """How one metric answers to one distortion.

    values: at strength 0 and at every strength. differences: of every strength to strength 0, the intervals alone.
    """

    metric: str
    distortion: str
    strengths: tuple[float, ...]
    values: tuple[MetricValue, ...]
    differences: tuple[Interval | None, ...]

    @property
    def numbers(self) -> list[float]:
        """The values without their intervals."""
        return [v.value for v in self.values]

    @property
    def order(self) -> Order:
        """Which way the plain values go, noise or not; "mixed" where not one way."""
        bad = badness(assumed_of(self.metric), self.numbers)
        up, down = rises(bad), rises([-b for b in bad])
        return "same" if up and down else "worse" if up else "better" if down else "mixed"

    @property
    def monotone(self) -> bool:
        """Whether no step makes the plain value better."""
        return self.order in ("worse", "same")

    @property
    def verdict(self) -> Verdict:
        """sees, blind, misled or unsteady (`judge`)."""
        return judge(assumed_of(self.metric), self.numbers, self.differences)

    @property
    def seen_from(self) -> float | None:
        """The smallest strength from which on every difference to strength 0 is beyond noise, where it sees or is
        misled."""
        found = None
        if self.verdict == "unsteady":
            return None
        for strength, clear in zip(self.strengths[::-1], beyond(self.numbers, self.differences)[::-1], strict=True):
            if not clear:
                break
            found = strength
        return found

    @property
    def word(self) -> str:
        """The verdict, and from which strength on."""
        return self.verdict if self.seen_from is None else f"{self.verdict} {self.seen_from:g}"


def badness(good: str, values: Sequence[float]) -> list[float]:
    """The values with such a sign that larger is worse. good: "higher", "lower", or "one".

    Near one is good on both sides: the side is that of the last value, at the strongest distortion.
    """
    if good == "one":
        side = 1.0 if values[-1] >= 1 else -1.0
        return [side * (v - 1.0) for v in values]
    return [-v if good == "higher" else v for v in values]


def rises(values: Sequence[float]) -> bool:
    """Whether no value is below the one before it, but for rounding."""
    slack = ROUNDING * max(map(abs, values))
    return all(b >= a - slack for a, b in pairwise(values))


def beyond(values: Sequence[float], differences: Sequence[Interval | None]) -> list[bool]:
    """Of every strength, whether its difference to strength 0 is larger than its noise: its interval leaves out 0.

    values: with that at strength 0 first, so one more than differences. Without an interval nothing is beyond noise.
    """
    found = []
    for value, interval in zip(values[1:], differences, strict=True):
        real = abs(value - values[0]) > ROUNDING * max(abs(value), abs(values[0]))
        found.append(real and interval is not None and not interval.low <= 0.0 <= interval.high)
    return found


def judge(good: str, values: Sequence[float], differences: Sequence[Interval | None]) -> Verdict:
    """What a metric makes of a distortion, by its values at growing strength and the noise of their differences.

    A strength without a difference beyond noise counts as strength 0. sees: the strongest differs, and the score gets
    worse with every step among those that do; misled: the same, but better; blind: none differs; unsteady: the rest.
    """
    clear, bad = beyond(values, differences), badness(good, values)
    if not any(clear):
        return "blind"
    kept = [bad[0], *(b for b, c in zip(bad[1:], clear, strict=True) if c)]
    in_a_row = clear == sorted(clear)
    if in_a_row and rises(kept):
        return "sees"
    return "misled" if in_a_row and rises([-b for b in kept]) else "unsteady"


@dataclass(frozen=True)
class SensitivityReport:
    """What every metric makes of every distortion.

    protocols, data: by kind (reconstruction, generation), as they were measured: counts included.
    """

    strengths: tuple[float, ...]
    protocols: Mapping[str, Protocol]
    data: Mapping[str, Mapping[str, Any]]
    responses: tuple[Response, ...]
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(r.metric for r in self.responses))

    def response(self, metric: str, distortion: str) -> Response:
        """How a metric answers to a distortion."""
        return next(r for r in self.responses if (r.metric, r.distortion) == (metric, distortion))

    def table(self) -> Table:
        """One row per metric: the verdict on every distortion, and from which strength on."""
        rows = [[m, *(self.response(m, kind).word for kind in DISTORTIONS)] for m in self.metrics]
        return _table("which metric sees what, and from which strength on", ["metric", *DISTORTIONS], rows)

    def lines(self) -> list[str]:
        """Every distortion in a sentence, and the notes."""
        found = []
        for kind in DISTORTIONS:
            by = {v: [r.metric for r in self.responses if (r.distortion, r.verdict) == (kind, v)] for v in WORDS}
            found.append(f"{kind}: " + "; ".join(f"{WORDS[v]}: {', '.join(m)}" for v, m in by.items() if m))
        return found + [f"note: {n}" for n in self.notes]

    def scores(self) -> ScoreReport:
        """Every metric without a distortion; beside them those under each distortion, by its name and strength."""
        hashes = {kind: p.hash() for kind, p in self.protocols.items()}
        protocol = Settings("sensitivity", {"strengths": list(self.strengths), **hashes})
        plain, groups = dict[str, MetricValue](), dict[str, dict[str, MetricValue]]()
        for r in self.responses:
            plain[r.metric] = r.values[0]
            for strength, value in zip(r.strengths, r.values[1:], strict=True):
                groups.setdefault(f"{r.distortion} {strength:g}", {})[r.metric] = value
        data = {kind: dict(d) for kind, d in self.data.items()}
        return ScoreReport(
            {"name": "metrics", "kind": "metrics"}, {"name": next(iter(self.data.values()), {}).get("name"), **data},
            protocol, protocol.hash(), plain, (), {}, self.notes, groups,
            {
                "strengths": list(self.strengths),
                "protocols": {k: p.model_dump(mode="json") | {"hash": hashes[k]} for k, p in self.protocols.items()},
                "responses": [_record(r) for r in self.responses],
            },
        )  # fmt: skip

    def to_json(self) -> str:
        """Everything, as JSON; not a number becomes null."""
        return self.scores().to_json()

    def markdown(self, command: str) -> str:
        """A page: what was measured by which command, how to read it, the verdicts, the values."""
        lines = ["# Which metric sees what", "", "Written by", "", "```", command, "```", ""]
        for kind, protocol in self.protocols.items():
            data, halves = self.data[kind], "" if kind == "reconstruction" else ", half of them real, half distorted"
            lines += _wrapped(
                f"- {kind}: protocol `{protocol.name}` with `samples: {protocol.samples}`, hash `{protocol.hash()}`; "
                f"{data['clips']} clips of `{data['name']}`{halves}, {data['frames']} frames of {data['size']} pixels"
            )
        lines += ["", *_wrapped(HOW_TO_READ.format(strengths=", ".join(f"{s:g}" for s in self.strengths))), ""]
        lines += _rows(["metric", "good is", *DISTORTIONS], [self._marked(m) for m in self.metrics])
        lines += ["", *(w for line in self.lines() for w in _wrapped(f"- {line}")), "", "## Values", ""]
        lines += ["Order: which way the plain values go with the strength, noise or not.", ""]
        return "\n".join([*lines, *_rows(self._headings(), self._values())]) + "\n"

    def _marked(self, metric: str) -> list[str]:
        found = [self.response(metric, kind) for kind in DISTORTIONS]
        since = ["" if r.seen_from is None else f" from {r.seen_from:g}" for r in found]
        cells = [f"{MARKS[r.verdict]} {r.verdict}{s}" for r, s in zip(found, since, strict=True)]
        return [metric, assumed_of(metric), *cells]

    def _headings(self) -> list[str]:
        return ["metric", "distortion", "0", *(f"{s:g}" for s in self.strengths), "order", "verdict"]

    def _values(self) -> list[list[str]]:
        return [[r.metric, r.distortion, *(f"{v:.4g}" for v in r.numbers), r.order, r.verdict] for r in self.responses]


def _record(response: Response) -> dict[str, Any]:
    values = [{"value": v.value, "count": v.count, "interval": _plain(v.interval)} for v in response.values]
    return {
        "metric": response.metric, "good": assumed_of(response.metric), "distortion": response.distortion,
        "values": values,
        "differences": [_plain(d) for d in response.differences], "order": response.order,
        "monotone": response.monotone, "seen_from": response.seen_from, "verdict": response.verdict,
    }  # fmt: skip


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else dataclasses.asdict(interval)


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _wrapped(text: str) -> list[str]:
    """Lines of at most 120 characters, those of a list's item indented."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]
