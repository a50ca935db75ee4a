"""Curves as SVG, for a picture of their own; a page draws its plots itself (studio/src/lib/Curve.svelte).

Colours and dashes come from `style.PLOT_STYLE` (classes s0 to s7), so that light and dark both work and no line is told
from another by its colour alone. A value shows when the pointer rests on its point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kinolab.reports.axes import LARGEST, Axis, drawable, tick_label
from kinolab.reports.blocks import Curves, figures
from kinolab.reports.html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 466, 14, 250
"""The frame of the plot inside the picture, in pixels."""
STYLES = 8
"""How many kinds of lines the style sheet knows; after that they repeat."""
MOST_POINTS = 1000
"""Points of a line that are drawn; of longer ones the lowest and the highest of each stretch."""
MOST_HOVERS = 250
"""Points of a line that show their value."""
SHOWN_DOTS = 40
"""A line of at most so many points has a dot at each."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """Curves as they are drawn.

    parts: SVG elements in a picture of WIDTH x HEIGHT, styled by `style.PLOT_STYLE`.
    legend: of each line its number (its classes are `line s<number % STYLES>`), its name and its last value.
    notes: what could not be shown.
    """

    parts: tuple[str, ...]
    legend: tuple[tuple[int, str, str], ...]
    notes: tuple[str, ...]


def curves_plot(curves: Curves) -> Plot:
    """Frame, axes and lines of curves, apart from what stands around them."""
    shown = {name: [p for p in points if _drawable(p, curves.log)] for name, points in curves.series.items()}
    x = Axis.around([p[0] for points in shown.values() for p in points], LEFT, RIGHT)
    ys = [p[1] for points in shown.values() for p in points]
    y = Axis.around(ys, BOTTOM, TOP, log=curves.log, whole_steps=True)
    parts = [_frame(x, y, curves.x_label, curves.y_label)]
    for k, (name, points) in enumerate(curves.series.items()):
        parts.append(_line(k, name, points, x, y, curves.log))
    legend = [(k, name, _last(points)) for k, (name, points) in enumerate(shown.items())]
    return Plot(tuple(parts), tuple(legend), tuple(notes_of(curves)))


def notes_of(curves: Curves) -> list[str]:
    """What of curves can't be shown."""
    notes = []
    if lost := sum(1 for points in curves.series.values() for p in points if math.isfinite(p[1]) and p[1] <= 0):
        notes += [f"not shown on a logarithmic scale: values at or below zero, {lost} of them"] * curves.log
    if gaps := sum(1 for points in curves.series.values() for p in points if not math.isfinite(p[1])):
        notes.append(f"values that are not finite: {gaps}")
    if huge := sum(1 for points in curves.series.values() for p in points if LARGEST < abs(p[1]) < math.inf):
        notes.append(f"values too large to draw: {huge}")
    return notes


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    """Grid lines, ticks and the names of the axes."""
    parts = []
    for tick in y.ticks:
        height = y.place(tick)
        parts.append(f'<line class="rule" x1="{LEFT}" y1="{height:.2f}" x2="{RIGHT}" y2="{height:.2f}"/>')
        parts.append(f'<text class="y tick" x="{LEFT - 7}" y="{height + 4:.2f}">{tick_label(tick)}</text>')
    for tick in x.ticks:
        at = f"{x.place(tick):.2f}"
        parts.append(f'<line class="axis" x1="{at}" y1="{BOTTOM}" x2="{at}" y2="{BOTTOM + 5}"/>')
        parts.append(f'<text class="x tick" x="{at}" y="{BOTTOM + 19}">{tick_label(tick)}</text>')
    middle, across = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}"/>')
    parts.append(f'<text class="x name" x="{middle:g}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
    parts.append(
        f'<text class="x name" x="12" y="{across:g}" transform="rotate(-90 12 {across:g})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _line(k: int, name: str, points: Sequence[Point], x: Axis, y: Axis, log: bool) -> str:
    """One polyline per stretch without a gap, and the points that show their value."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if _drawable(point, log):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    parts = []
    for stretch in filter(None, stretches):
        path = " ".join(f"{x.place(a):.2f},{y.place(b):.2f}" for a, b in thinned(stretch, MOST_POINTS))
        parts.append(f'<polyline class="line s{k % STYLES}" points="{path}"/>')
    drawn = [p for stretch in stretches for p in stretch]
    every = max(1, math.ceil(len(drawn) / MOST_HOVERS))
    kind = "dot" if len(drawn) <= SHOWN_DOTS else "hit"
    for a, b in dict.fromkeys([*drawn[::every], *drawn[-1:]]):
        parts.append(
            f'<circle class="{kind} s{k % STYLES}" cx="{x.place(a):.2f}" cy="{y.place(b):.2f}" '
            f'r="{3 if kind == "dot" else 5}"><title>{escape(name)}: {figures(b)} at {figures(a)}</title></circle>'
        )
    return "".join(parts)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points that look the same: the first, lowest, highest and last of every stretch."""
    if len(points) <= most:
        return list(points)
    length = math.ceil(len(points) / (most // 4))
    kept: list[Point] = []
    for start in range(0, len(points), length):
        part = range(start, min(start + length, len(points)))
        low, high = min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])
        kept += [points[i] for i in sorted({part[0], low, high, part[-1]})]
    return kept


def _drawable(point: Point, log: bool) -> bool:
    return drawable(point[0]) and drawable(point[1]) and (point[1] >= 1 / LARGEST or not log)


def _last(points: Sequence[Point]) -> str:
    return figures(points[-1][1]) if points else "-"
