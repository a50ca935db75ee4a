"""The tables of a comparison: Markdown and CSV to keep, HTML with the videos to look at.

One table per set of clips, budget and kind of cell; every value with its interval; and beside every value whether its
distance from the best one is larger than the noise. Where clips were the same, clip by clip (`paired_difference`);
else by the intervals, whose half widths add as the roots of their squares.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinolab.comparison.matrix import Cell, cells_of
from kinolab.comparison.plan import ComparePlan
from kinolab.evaluation.scores import shown
from kinolab.metrics import better_of
from kinolab.metrics.statistics import paired_difference

Record = Mapping[str, Any]
MARKS = {"best": " *", "noise": " =", "worse": "", "alone": ""}
LEGEND = (
    "`*` the best value; `=` no further from the best than the noise; nothing: worse beyond the noise. In brackets: "
    "the 95% interval, of several seeds from the lowest end to the highest. A score where neither more nor less is "
    "better bears no mark. Speeds and memory were measured one cell after the other: memory is the peak of a process "
    "that encodes and decodes a clip (peak memory) or trains (TMem). Held-out losses compare between denoisers on the "
    "same latents only."
)
LEGEND_OF_SHOWN = (
    "Rows that are shown the held-out clips (`position error`, `found` and `followed` are theirs) know more than a "
    "prompt says: they are compared with each other, and bear no marks beside rows that are told prompts alone."
)
LEGEND_OF_COSTS = (
    "Training is the steps times the time, and the operations, that one takes; SMem is the peak memory of a process "
    "that samples. Sampling is timed without guidance, which calls the denoiser twice, and with decoding."
)


@dataclass(frozen=True)
class Fact:
    """A column that is no score: its heading, its value in a record in the heading's unit, and how it is shown."""

    heading: str
    find: Callable[[Record], Any]
    show: Callable[[Any], str]


def _megabytes(value: Any) -> str:
    return f"{value:,.0f}"


AUTOENCODER_FACTS = (
    Fact("latents", lambda r: r["facts"]["latents"], lambda v: "x".join(map(str, v))),
    Fact("temporal : 1", lambda r: r["facts"]["temporal_compression"], lambda v: f"{v:.2f}"),
    Fact("spatial : 1", lambda r: r["facts"]["spatial_compression"], lambda v: f"{v:.0f}"),
    Fact("total : 1", lambda r: r["facts"]["total_compression"], lambda v: f"{v:.1f}"),
    Fact("channels", lambda r: r["facts"]["latent_channels"], str),
    Fact("parameters (M)", lambda r: r["facts"]["parameters"] / 1e6, lambda v: f"{v:.2f}"),
    Fact("encode (frames/s)", lambda r: r["cost"]["encode_frames_per_second"], lambda v: f"{v:.0f}"),
    Fact("decode (frames/s)", lambda r: r["cost"]["decode_frames_per_second"], lambda v: f"{v:.0f}"),
    Fact("peak memory (MB)", lambda r: r["cost"]["coding_memory"] / 1e6, _megabytes),
    Fact("steps", lambda r: r["training"]["steps"], str),
    Fact("TSpeed (clips/s)", lambda r: r["cost"]["clips_per_second"], lambda v: f"{v:.2f}"),
    Fact("TMem (MB)", lambda r: r["cost"]["training_memory"] / 1e6, _megabytes),
)
DENOISER_FACTS = (
    Fact("latents", lambda r: r["facts"]["latents"], lambda v: "x".join(map(str, v))),
    Fact("total : 1", lambda r: r["facts"]["total_compression"], lambda v: f"{v:.1f}"),
    Fact("parameters (M)", lambda r: r["facts"]["parameters"] / 1e6, lambda v: f"{v:.2f}"),
    Fact("trained (M)", lambda r: r["training"]["trained_parameters"] / 1e6, lambda v: f"{v:.2f}"),
    Fact("steps", lambda r: r["training"]["steps"], str),
    Fact("training (s)", lambda r: r["cost"]["training_seconds"], lambda v: f"{v:.0f}"),
    Fact("training (TFLOP)", lambda r: r["cost"]["training_flops"] / 1e12, lambda v: f"{v:.1f}"),
    Fact("TMem (MB)", lambda r: r["cost"]["training_memory"] / 1e6, _megabytes),
    Fact("TSpeed (clips/s)", lambda r: r["cost"]["clips_per_second"], lambda v: f"{v:.1f}"),
    Fact("sampling (s/clip)", lambda r: r["cost"]["seconds_per_clip"], lambda v: f"{v:.2f}"),
    Fact("SMem (MB)", lambda r: r["cost"]["sampling_memory"] / 1e6, _megabytes),
    Fact("held-out loss", lambda r: r["training"]["heldout"]["loss"], lambda v: f"{v:.4f}"),
)


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, and the record of each seed."""

    name: str
    cells: tuple[Cell, ...]
    records: tuple[Record, ...]

    @property
    def shown(self) -> bool:
        """Whether its method is shown the held-out clips."""
        return any(r.get("facts", {}).get("shown") for r in self.records)

    def mean(self, metric: str) -> float | None:
        """The mean over seeds of a score; none where one lacks it."""
        values = [r["metrics"].get(metric, {}).get("value") for r in self.records]
        known = [float(v) for v in values if v is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """From the lowest to the highest end of the seeds' intervals; none where one has none."""
        found = [r["metrics"].get(metric, {}).get("interval") for r in self.records]
        if any(i is None for i in found):
            return None
        return min(i["low"] for i in found), max(i["high"] for i in found)


@dataclass(frozen=True)
class Group:
    """The rows that stand in one table, which share clips, budget, kind, task, start and protocol."""

    title: str
    kind: str
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[str]:
        """Every score that any row has, in the order of the first one."""
        return list(dict.fromkeys(m for row in self.rows for r in row.records for m in r["metrics"]))

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The columns that are no scores."""
        return AUTOENCODER_FACTS if self.kind == "autoencoder" else DENOISER_FACTS

    @property
    def protocol(self) -> Record:
        """The protocol of all rows."""
        record: Record = self.rows[0].records[0]
        return record


def groups_of(plan: ComparePlan, scores: Mapping[Cell, Record]) -> list[Group]:
    """The tables of a comparison, from what has been measured so far; one for each protocol that occurs.

    Autoencoders that take another number of frames are measured on other clips, and so stand in another table.
    """
    found: dict[tuple[str, ...], dict[str, list[tuple[Cell, Record]]]] = {}
    for cell in cells_of(plan):
        if cell not in scores:
            continue
        start = "" if cell.denoiser is None else plan.denoisers[cell.denoiser].start
        key = (cell.data, cell.budget, cell.kind, cell.task or "", start, scores[cell]["protocol_hash"])
        name = cell.autoencoder if cell.denoiser is None else f"{cell.autoencoder} + {cell.denoiser}"
        found.setdefault(key, {}).setdefault(name, []).append((cell, scores[cell]))
    groups = []
    alike = Counter(key[:5] for key in found)
    for (data, budget, kind, task, start, digest), rows in sorted(
        found.items(), key=lambda item: (item[0][2], item[0])
    ):
        words = [data, *([] if len(plan.budgets) == 1 else [f"budget {budget}"]),
                 *([] if len(plan.tasks) == 1 or not task else [task]),
                 *([f"from {start}"] if start else []),
                 *([] if alike[data, budget, kind, task, start] == 1 else [f"protocol {digest[:8]}"])]  # fmt: skip
        title = f"{'Autoencoders' if kind == 'autoencoder' else 'Denoisers'}: {', '.join(words)}"
        made = tuple(Row(n, tuple(c for c, _ in items), tuple(r for _, r in items)) for n, items in rows.items())
        groups.append(Group(title, kind, made))
    return groups


def marks(group: Group, metric: str) -> list[str]:
    """For each row: "best", "noise" (no further from the best than the noise), "worse", or "alone".

    Nothing is said ("alone") where neither more nor less is better, where there is no interval to say it by, and of
    rows that are shown clips beside rows that are not.
    """
    good = better_of(metric)
    values = [row.mean(metric) for row in group.rows]
    told = [k for k, row in enumerate(group.rows) if not row.shown] or list(range(len(group.rows)))
    known = [(k, v) for k, v in enumerate(values) if v is not None and k in told]
    if good is None or len(known) < 2:
        return ["alone"] * len(values)
    texts = [None if v is None else shown(metric, v) for v in values]
    best = max(known, key=lambda item: _goodness(good, item[1]))[0]
    found = []
    for k, (row, value) in enumerate(zip(group.rows, values, strict=True)):
        if value is None or k not in told or not comparable(group.rows[best], row, metric):
            found.append("alone")
        elif texts[k] == texts[best]:  # what reads the same is the same: rounding is no difference
            found.append("noise" if texts.count(texts[best]) == len(known) else "best")
        else:
            found.append("worse" if beyond(group.rows[best], row, metric) else "noise")
    return found


def comparable(a: Row, b: Row, metric: str) -> bool:
    """Whether the noise between two rows is known: they have seeds in common, and clips or intervals, and are both
    shown clips or both not."""
    return (
        a.shown == b.shown
        and all(
            _clip_by_clip(x, y, metric) is not None or _intervals(x, y, metric) is not None for x, y in _pairs(a, b)
        )
        and bool(_pairs(a, b))
    )


def _pairs(a: Row, b: Row) -> list[tuple[Record, Record]]:
    """The records of the seeds that two rows have in common."""
    ours = {cell.seed: record for cell, record in zip(a.cells, a.records, strict=True)}
    theirs = {cell.seed: record for cell, record in zip(b.cells, b.records, strict=True)}
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _intervals(a: Record, b: Record, metric: str) -> tuple[Record, Record] | None:
    """The two values with their intervals; none where one has none."""
    values = [r["metrics"].get(metric) for r in (a, b)]
    if any(v is None or v["interval"] is None for v in values):
        return None
    return values[0], values[1]


def beyond(best: Row, other: Row, metric: str) -> bool:
    """Whether `best` is better than `other` by more than the noise, for every seed that both have.

    Where it can't be told, for want of intervals, it is not.
    """
    pairs = _pairs(best, other)
    return bool(pairs) and all(_beyond(a, b, metric) for a, b in pairs)


def _beyond(a: Record, b: Record, metric: str) -> bool:
    good = better_of(metric)
    assert good is not None
    paired = _clip_by_clip(a, b, metric)
    if paired is not None:
        x, y = ([_goodness(good, v) for v in side] for side in paired)
        _, interval = paired_difference(x, y)
        return interval is not None and interval.low > 0
    values = _intervals(a, b, metric)
    if values is None:
        return False
    ours, theirs = values
    halves = [0.5 * (m["interval"]["high"] - m["interval"]["low"]) for m in (ours, theirs)]
    gap = _goodness(good, ours["value"]) - _goodness(good, theirs["value"])
    return gap > math.hypot(*halves)


def _clip_by_clip(a: Record, b: Record, metric: str) -> tuple[list[float], list[float]] | None:
    """The scores of the same clips in both records; none where they are not of the same clips."""
    first, second = ({c["name"]: c["scores"].get(metric) for c in r["clips"]} for r in (a, b))
    if a["protocol"]["kind"] != "reconstruction" or len(first) < 3 or first.keys() != second.keys():
        return None
    x, y = list(first.values()), [second[name] for name in first]
    return None if any(v is None for v in (*x, *y)) else (x, y)


def _goodness(good: str, value: float) -> float:
    return value if good == "higher" else -value if good == "lower" else -abs(value - 1)


def fact_of(row: Row, fact: Fact) -> Any:
    """A fact of a row: of numbers the mean over seeds; none where it is not there (nothing was trained)."""
    values = []
    for record in row.records:
        try:
            values.append(fact.find(record))
        except (KeyError, TypeError):  # nothing was trained, or costs are those of another seed
            continue
    if not values or values[0] is None:
        return None
    return sum(values) / len(values) if isinstance(values[0], float) else values[0]


def markdown(plan: ComparePlan, groups: Sequence[Group]) -> str:
    """The tables as Markdown: first what was paid, then what came of it."""
    lines = [plan.description, "", LEGEND, ""]
    if any("training_seconds" in (r.get("cost") or {}) for g in groups for row in g.rows for r in row.records):
        lines += [LEGEND_OF_COSTS, ""]
    if any(row.shown for g in groups for row in g.rows):
        lines += [LEGEND_OF_SHOWN, ""]
    for group in groups:
        head = group.protocol
        lines += [f"## {group.title}", ""]
        lines += [f"Protocol {head['protocol']['name']} `{head['protocol_hash'][:12]}`, {samples_text(head)}.", ""]
        facts = [f for f in group.facts if any(fact_of(row, f) is not None for row in group.rows)]
        costs = [[row.name, *(_shown_fact(row, f) for f in facts)] for row in group.rows]
        lines += [*_pipes(["", *(f.heading for f in facts)], costs), ""]
        marked = {m: marks(group, m) for m in group.metrics}
        for names in _portions(group.metrics, 7):
            rows = [[row.name, *(_shown_score(row, m, marked[m][k]) for m in names)]
                    for k, row in enumerate(group.rows)]  # fmt: skip
            lines += [*_pipes(["", *(heading(m) for m in names)], rows), ""]
        lines += pairs_lines(group)
    return "\n".join(lines).rstrip() + "\n"


def samples_text(record: Record) -> str:
    facts, data = record["facts"], record["data"]
    if "generated_clips" in facts:
        return f"{facts['generated_clips']} generated clips against {facts['real_clips']} real ones"
    return f"{data['clips']} held-out clips of {data['files']} files"


def heading(metric: str) -> str:
    good = {"higher": " (more)", "lower": " (less)", "one": " (near 1)"}.get(better_of(metric) or "", "")
    return metric.replace("_", " ") + good


def _shown_fact(row: Row, fact: Fact) -> str:
    value = fact_of(row, fact)
    return "-" if value is None else fact.show(value)


def _shown_score(row: Row, metric: str, mark: str) -> str:
    value, interval = row.mean(metric), row.interval(metric)
    if value is None:
        return "-"
    text = shown(metric, value) + MARKS[mark]
    return text if interval is None else f"{text} [{shown(metric, interval[0])}, {shown(metric, interval[1])}]"


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _portions(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[k : k + size] for k in range(0, len(items), size)]


PAIRED = {"autoencoder": "psnr", "denoiser": "fvd"}
"""The score of each kind that all pairs of rows are compared by."""


def pairs_lines(group: Group) -> list[str]:
    """Every pair of rows by one score, as Markdown: is the row better than the column beyond the noise?"""
    metric, numbers = PAIRED[group.kind], range(1, len(group.rows) + 1)
    if metric not in group.metrics or len(group.rows) < 3:
        return []
    cells = [
        [f"{k}. {row.name}", *("" if row is other else pair_mark(row, other, metric) for other in group.rows)]
        for k, row in zip(numbers, group.rows, strict=True)
    ]
    text = f"By {metric}: `+` the row is better than the column beyond the noise, `-` worse, `=` not to be told."
    return [text, "", *_pipes(["", *map(str, numbers)], cells), ""]


def pair_mark(row: Row, other: Row, metric: str) -> str:
    """`+`, `-` or `=`; `?` where the noise between the two is not known."""
    if not comparable(row, other, metric):
        return "?"
    return "+" if beyond(row, other, metric) else "-" if beyond(other, row, metric) else "="


def to_csv(groups: Sequence[Group]) -> str:
    """One line per cell and score, and per cell and fact: what another program reads."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["cell", "kind", "name", "value", "low", "high", "count", "protocol", "protocol_hash"])
    for group in groups:
        for row in group.rows:
            for cell, record in zip(row.cells, row.records, strict=True):
                stated = [record["protocol"]["name"], record["protocol_hash"]]
                for name, m in record["metrics"].items():
                    ends = m["interval"] or {"low": "", "high": ""}
                    writer.writerow(
                        [cell.id, "score", name, m["value"], ends["low"], ends["high"], m["count"], *stated]
                    )
                one = Row(row.name, (cell,), (record,))
                for fact in group.facts:
                    value = fact_of(one, fact)
                    if value is not None:
                        plain = "x".join(map(str, value)) if isinstance(value, list) else value
                        writer.writerow([cell.id, "fact", fact.heading, plain, "", "", "", *stated])
    return stream.getvalue()
