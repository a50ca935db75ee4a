"""A report as one HTML file that opens from disk without a network; its videos are files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from kinolab.evaluation.heatmap import css_gradient
from kinolab.reports.blocks import (
    Block,
    Cell,
    Curves,
    Facts,
    Fold,
    Gallery,
    Histogram,
    Report,
    ScoredClip,
    Section,
    SyncedVideos,
    Table,
    Text,
    WorstFirst,
    figures,
)
from kinolab.reports.cards import CARD_SCRIPT, CARD_STYLE, gallery
from kinolab.reports.charts import curves_figure, histogram_figure
from kinolab.reports.html import document, escape, facts_at_the_top, link, write_html
from kinolab.reports.style import PLOT_STYLE, SCRIPT, STYLE

MARKS = {"better": ("&#9650;", "better beyond noise"), "noise": ("&#8776;", "within the noise of the best")}
"""Symbol and words of a marked cell: colour alone would not reach everyone."""
SPEEDS = ("0.1", "0.25", "0.5", "1", "2")


def write_report(report: Report, path: Path) -> None:
    """Write the report, atomically.

    Raises:
        InputError: where a video that it shows is not there, or not below the report's own folder.
    """
    write_html(path, render(report), report.media)


def render(report: Report) -> str:
    """The report as HTML; every text is escaped."""
    links = "".join(f'<li><a href="#part-{k}">{escape(s.title)}</a></li>' for k, s in enumerate(report.sections, 1))
    nav = f'<nav aria-label="parts of the report"><ul>{links}</ul></nav>' if len(report.sections) > 1 else ""
    sections = "\n".join(_section(section, k) for k, section in enumerate(report.sections, 1))
    body = (
        f"<header><h1>{escape(report.title)}</h1><p>{escape(report.text)}</p>"
        f'<div class="facts">{facts_at_the_top(report.facts.items())}</div>{nav}</header>\n'
        f"<main>\n{sections}\n</main>\n<footer><p>{escape(report.footer)}</p></footer>"
    )
    return document(report.title, body, style=PLOT_STYLE + STYLE + CARD_STYLE, script=SCRIPT + CARD_SCRIPT)


def _section(section: Section, number: int) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    return f'<section id="part-{number}"><h2>{escape(section.title)}</h2>{text}\n{_blocks(section.blocks)}</section>'


def _blocks(blocks: Sequence[Block]) -> str:
    """Blocks one below the other; plots that follow each other stand side by side where there is room."""
    parts = []
    for plots, group in groupby(blocks, lambda block: isinstance(block, Curves | Histogram)):
        inner = "\n".join(map(_block, group))
        parts.append(f'<div class="charts">\n{inner}\n</div>' if plots else inner)
    return "\n".join(parts)


def _block(block: Block) -> str:
    match block:
        case Text():
            return _text(block)
        case Facts():
            return f'<div class="block facts-list">{_title(block.title)}{_list(block.values)}</div>'
        case Table():
            return _table(block)
        case Curves():
            return curves_figure(block)
        case Histogram():
            return histogram_figure(block)
        case SyncedVideos():
            return _synced(block)
        case WorstFirst():
            return _worst(block)
        case Gallery():
            return gallery(block)
        case Fold():
            return f'<details class="block"><summary>{escape(block.title)}</summary>\n{_blocks(block.blocks)}</details>'


def _title(title: str) -> str:
    return f"<h3>{escape(title)}</h3>" if title else ""


def _text(block: Text) -> str:
    inner = f"<pre><code>{escape(block.text)}</code></pre>" if block.code else f"<p>{escape(block.text)}</p>"
    return f'<div class="block{"" if block.code else " text"}">{_title(block.title)}{inner}</div>'


def _list(values: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in values.items()) + "</dl>"


def _table(table: Table) -> str:
    cells = table.cells
    numeric = [any(row[c].number is not None for row in cells) for c in range(len(table.columns))]
    head = "".join(
        f'<th scope="col" aria-sort="none"{" class=number" * number}><button type="button">{escape(name)}</button></th>'
        for name, number in zip(table.columns, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(_td(cell, number) for cell, number in zip(row, numeric, strict=True)) + "</tr>"
        for row in cells
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    used = [mark for mark in MARKS if any(cell.mark == mark for row in cells for cell in row)]
    legend = "&ensp; ".join(f"{MARKS[mark][0]} {MARKS[mark][1]}" for mark in used)
    return (
        f'<div class="block"><div class="scroll"><table class="sortable">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{f'<p class=note>{legend}</p>' if legend else ''}</div>"
    )


def _td(cell: Cell, numeric: bool) -> str:
    """A cell; `data-sort` is what the column is sorted by, empty for a number that is not there."""
    if numeric:
        key = "" if cell.number is None or not math.isfinite(cell.number) else repr(float(cell.number))
    else:
        key = escape(cell.text.lower())
    kinds = " ".join(["number"] * numeric + [cell.mark] * bool(cell.mark))
    low_high = ""
    if cell.interval is not None:
        low, high = (_like(bound, cell.text) for bound in cell.interval)
        low_high = f" <small>({low} to {high})</small>"
    mark = ""
    if cell.mark:
        symbol, words = MARKS[cell.mark]
        mark = f'<span aria-hidden="true" title="{words}">{symbol}</span><span class="vh">{words}: </span> '
    return f'<td class="{kinds}" data-sort="{key}">{mark}{escape(cell.text)}{low_high}</td>'


def _like(value: float, text: str) -> str:
    """A number with as many decimals as another one has."""
    whole, point, decimals = text.partition(".")
    return f"{value:.{len(decimals)}f}" if point and (whole.lstrip("-") + decimals).isdigit() else figures(value, 3)


def _synced(block: SyncedVideos) -> str:
    videos = [_video(name, caption, f"<figcaption>{escape(caption)}</figcaption>") for caption, name in block.videos]
    if block.heatmap is not None:
        scale = figures(block.heatmap_scale)
        caption = (
            f'<figcaption>error<span class="scale">0<i style="background:{css_gradient()}"></i>{scale} of 255</span>'
            "</figcaption>"
        )
        videos.append(_video(block.heatmap, f"error, from 0 to {scale} of 255", caption))
    speeds = "".join(f"<option{' selected' * (s == '1')}>{s}</option>" for s in SPEEDS)
    return (
        f'<div class="block synced" role="group" aria-label="{escape(block.title)}" data-fps="{block.fps:g}" '
        f'data-frames="{block.frames}">{_title(block.title)}\n<div class="videos">{"".join(videos)}</div>\n'
        '<div class="controls"><button type="button" class="play">&#9654; Play</button>'
        '<button type="button" class="back" aria-label="one frame back">&#8722;1</button>'
        '<button type="button" class="next" aria-label="one frame on">+1</button>'
        f'<input type="range" class="frame" min="0" max="{block.frames - 1}" value="0" aria-label="frame">'
        f'<output class="counter">1 / {block.frames}</output>'
        f'<label>speed <select class="speed">{speeds}</select></label></div>'
        f"{_list(block.facts) if block.facts else ''}</div>"
    )


def _video(name: str, label: str, caption: str) -> str:
    return (
        f'<figure><video src="{link(name)}" aria-label="{escape(label)}" muted playsinline preload="auto"></video>'
        f"{caption}</figure>"
    )


def _worst(block: WorstFirst) -> str:
    cards = "\n".join(_clip(clip, rank) for rank, clip in enumerate(block.clips, 1))
    text = f'<p class="note">{escape(block.text)}</p>' if block.text else ""
    return f'<div class="worst">{_title(block.title)}{text}<div class="grid">\n{cards}\n</div></div>'


def _clip(clip: ScoredClip, rank: int) -> str:
    shown = ""
    if clip.video is not None:
        shown = (
            f'<video class="lazy" src="{link(clip.video)}" aria-label="{escape(clip.name)}" tabindex="0" '
            'title="click to play or stop" loop muted playsinline preload="none"></video>'
        )
    text = f"<p>{escape(clip.text)}</p>" if clip.text else ""
    scores = _list({name: figures(value) for name, value in clip.scores.items()})
    return (
        f'<article class="card">{shown}<div class="body"><h3><span class="rank">{rank}.</span> {escape(clip.name)}</h3>'
        f"{text}{scores}</div></article>"
    )
