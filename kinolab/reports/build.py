"""A report from run folders and from the JSON that `kinolab evaluate` writes, in the order in which they are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kinolab import __version__
from kinolab.errors import InputError
from kinolab.reports.blocks import Report, Section
from kinolab.reports.media import Media
from kinolab.reports.results import read_result
from kinolab.reports.runs import LOG, Series, curves_of_run, is_run, run_comparison, run_section
from kinolab.reports.systems import System, comparison
from kinolab.runtime.paths import real

WORST = 24
"""Clips shown of those with the worst scores."""


def build_report(inputs: Sequence[Path], title: str = "Kinolab report", worst: int = WORST) -> tuple[Report, Media]:
    """Read everything and check that every video is there; nothing is written.

    Write `media` first and the report after it: `media.write(path.parent)`, `write_report(report, path)`.

    Args:
        inputs: run folders, logs of runs (.jsonl), and JSON files.
        title: the heading.
        worst: clips shown of those with the worst scores.

    Raises:
        InputError: for an input that is neither, or one that can't be read.
    """
    if not inputs:
        raise InputError("expected at least one run folder or JSON file to report on")
    media, sections = Media(), list[Section]()
    systems, runs = list[System](), dict[str, Series]()
    for path, name in zip(inputs, names_of(inputs), strict=True):
        if is_run(path) or (path.suffix == ".jsonl" and path.is_file()):
            sections.append(run_section(path, name, media))
            if path.is_file() or (path / LOG).is_file():
                runs[name] = curves_of_run(path)
        elif path.is_file():
            result = read_result(path, name, media, worst)
            sections.append(result.section)
            systems += [result.system] if result.system is not None else []
        elif path.is_dir():
            raise InputError(
                f"{path}: no run folder (it has no {LOG}); name a run folder or a file of kinolab evaluate"
            )
        else:
            raise InputError(f"{path}: no such file or folder; expected a run folder or a file of kinolab evaluate")
    together = [run_comparison(runs)] if len(runs) > 1 else []
    if (systems_together := comparison(systems)) is not None:
        together.insert(0, systems_together)
    text = f"Made from {', '.join(str(path) for path in inputs)}."
    footer = f"kinolab {__version__}. This page needs no network; its videos lie in the folder media beside it."
    return Report(title, text, (*together, *sections), footer=footer), media


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each path: as short as it can be for all of them to differ."""
    absolute = [real(path) for path in paths]
    if len(set(absolute)) < len(absolute):
        twice = next(path for path, count in Counter(absolute).items() if count > 1)
        raise InputError(f"{twice}: named twice; name every input once")
    for length in range(1, max(len(path.parts) for path in absolute)):
        names = ["/".join((*path.parts[-length:-1], path.stem if path.is_file() else path.name)) for path in absolute]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in absolute]
