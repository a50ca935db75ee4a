"""Losses of several runs by step in one picture, an SVG file that stands alone and suits light and dark pages.

python examples/loss_curves.py losses.svg "first=docs/logs/toy-latte.jsonl" "long=docs/logs/toy-latte-long.jsonl"
python examples/loss_curves.py heldout.svg --heldout --log --title "Held-out loss" vdt=runs/toy-vdt latte=runs/toy-latte
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from kinolab.errors import InputError
from kinolab.reports.blocks import Curves
from kinolab.reports.charts import HEIGHT, LEFT, RIGHT, STYLES, WIDTH, curves_plot
from kinolab.reports.html import COLOURS, escape
from kinolab.reports.runs import curves_of_run
from kinolab.reports.style import PLOT_STYLE
from kinolab.runtime.files import write_text

TOP, ROW, SIDE, SCALE = 46, 19, 10, 1.5
"""Heights of the title and of a row of the legend, room at both sides, and pixels per unit of the drawing."""
SHORT = 22
"""Characters of a legend's entry that fit in half the width."""
STYLE = """
svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
.card { fill: var(--card); stroke: var(--line); } .title { font-size: 16px; font-weight: 600; fill: var(--ink); }
.plot .legend { fill: var(--ink); } .value { font-weight: 600; }
"""

Point = tuple[float, float]


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """At each step s, the mean of the values logged from s - window (left out) to s."""
    last: deque[Point] = deque()
    means = []
    for step, value in points:
        last.append((step, value))
        while last[0][0] <= step - window:
            last.popleft()
        means.append((step, fmean(v for _, v in last)))
    return means


def losses(run: Path, *, heldout: bool) -> list[Point]:
    """The training or held-out loss of a run folder, or of a log, by step.

    Raises:
        InputError: where the run has none; lists what it logs.
    """
    series, name = curves_of_run(run), "heldout loss" if heldout else "train loss"
    if name not in series:
        raise InputError(f"{run}: no {name} in its log; it has {', '.join(series) or 'no values'}")
    return series[name]


def picture(curves: Curves) -> str:
    """A whole SVG file: title, plot, and a legend with the last value of each line."""
    plot = curves_plot(curves)
    entries = [(k, name, value) for k, name, value in plot.legend]
    columns = 2 if all(len(f"{name} {value}") <= SHORT for _, name, value in entries) else 1
    rows, below = -(-len(entries) // columns), TOP + HEIGHT + 14
    lines = []
    for at, (k, name, value) in enumerate(entries):
        x, y = LEFT + at // rows * (RIGHT - LEFT) / 2, below + at % rows * ROW
        lines.append(
            f'<line class="line s{k % STYLES}" x1="{x:g}" y1="{y - 4:g}" x2="{x + 28:g}" y2="{y - 4:g}"/>'
            f'<text class="legend" x="{x + 36:g}" y="{y:g}">{escape(name)} <tspan class="value">{value}</tspan></text>'
        )
    lines += [f'<text x="{LEFT}" y="{below + (rows + k) * ROW}">{escape(n)}</text>' for k, n in enumerate(plot.notes)]
    width, height = WIDTH + 2 * SIDE, below + (rows + len(plot.notes)) * ROW
    said = "; ".join(f"{name}: last {value}" for _, name, value in entries)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * SCALE:g}" height="{height * SCALE:g}" '
        f'viewBox="{-SIDE} 0 {width} {height}" role="img" aria-label="{escape(f"{curves.title}. {said}")}">\n'
        f"<style>{COLOURS}{PLOT_STYLE}{STYLE}</style>\n"
        f'<rect class="card" x="{0.5 - SIDE}" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>\n'
        f'<text class="title" x="{LEFT}" y="30">{escape(curves.title)}</text>\n'
        f'<g class="plot"><g transform="translate(0 {TOP - 6})">{"".join(plot.parts)}</g>\n'
        f"{''.join(lines)}</g>\n</svg>\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Read the logs, smooth training losses, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="SVG file to write")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="name of a line, and its run folder or log.jsonl")
    parser.add_argument("--title", help="default: what is drawn")
    parser.add_argument("--heldout", action="store_true", help="the held-out loss, as it was logged")
    parser.add_argument("--window", type=int, default=100, help="steps that the training loss is averaged over (100)")
    parser.add_argument("--log", action="store_true", help="logarithmic scale of losses")
    chosen = parser.parse_args(words)
    series = {}
    for run in chosen.runs:
        name, found, path = run.partition("=")
        if not (name and found and path) or name in series or chosen.window < 1:
            raise InputError(f"{run}, --window {chosen.window}: expected NAME=RUN, each name once, and a window from 1")
        points = losses(Path(path), heldout=chosen.heldout)
        series[name] = points if chosen.heldout else smoothed(points, chosen.window)
    label = "held-out loss" if chosen.heldout else f"training loss, mean of {chosen.window} steps"
    title = chosen.title or label.capitalize()
    write_text(chosen.out, picture(Curves(title, series, "step", label, chosen.log)))
    print(chosen.out)


if __name__ == "__main__":
    main()
