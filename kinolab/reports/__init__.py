"""Reports that people look at: blocks of plain data (`blocks`) that become one HTML file (`render`).

`build_report` makes one from run folders and from the JSON that `kinolab evaluate` writes.
"""

from __future__ import annotations

from kinolab.evaluation.heatmap import error_heatmap, write_heatmap
from kinolab.reports.blocks import (
    Block,
    Card,
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
)
from kinolab.reports.build import build_report
from kinolab.reports.media import Media, compared
from kinolab.reports.render import render, write_report
from kinolab.reports.runs import curves_of_run

__all__ = [
    "Block", "Card", "Cell", "Curves", "Facts", "Fold", "Gallery", "Histogram", "Media", "Report", "ScoredClip",
    "Section", "SyncedVideos", "Table", "Text", "WorstFirst", "build_report", "compared", "curves_of_run",
    "error_heatmap", "render", "write_heatmap", "write_report",
]  # fmt: skip
