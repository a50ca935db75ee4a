"""Curation: every file's signals first, a table of clips from them, and a decision after (`kinolab data curate`)."""

from __future__ import annotations

from kinolab.data.curation.deciding import Bound, Cost, Decision, decide
from kinolab.data.curation.run import CurateSummary, curate
from kinolab.data.curation.settings import CurateConfig

__all__ = ["Bound", "Cost", "CurateConfig", "CurateSummary", "Decision", "curate", "decide"]
