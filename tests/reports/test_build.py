"""A report is made of runs and results in the order in which they are named, and compares what can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.reports import build_report
from kinolab.reports.build import names_of


def metrics(path: Path, psnr: float) -> Path:
    interval = {"low": psnr - 1, "high": psnr + 1, "method": "bootstrap", "level": 0.95}
    found = {"psnr": {"value": psnr, "count": 9, "interval": interval, "protocol": {}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"kind": "reconstruction", "protocol": {}, "protocol_hash": "p", "metrics": found}))
    return path


def run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "log.jsonl").write_text('{"step": 1, "kind": "train", "seconds": 1, "loss": 2.0}\n')
    return path


def test_comparisons_stand_first_and_the_rest_in_order(tmp_path: Path) -> None:
    inputs = [metrics(tmp_path / "b.json", 30), run(tmp_path / "r1"), metrics(tmp_path / "a.json", 20)]
    report, _ = build_report([*inputs, run(tmp_path / "r2")], "title")
    titles = [
        "Systems side by side",
        "Runs side by side",
        "Reconstruction: b",
        "Run: r1",
        "Reconstruction: a",
        "Run: r2",
    ]
    assert [section.title for section in report.sections] == titles and report.title == "title"
    alone, _ = build_report(inputs[:1])
    assert [section.title for section in alone.sections] == ["Reconstruction: b"]


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    paths = [metrics(tmp_path / folder / "x.json", 1) for folder in ("a", "b")]
    assert names_of(paths) == ["a/x", "b/x"] and names_of(paths[:1]) == ["x"]
    with pytest.raises(InputError, match="named twice"):
        names_of([paths[0], tmp_path / "b" / ".." / "a" / "x.json"])


def test_what_is_neither_a_run_nor_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, said in ((tmp_path / "empty", "no run folder"), (tmp_path / "gone", "no such file or folder")):
        with pytest.raises(InputError, match=said):
            build_report([path])
    with pytest.raises(InputError, match="at least one"):
        build_report([])
