"""`kinolab report` writes one page with its videos beside it, and nothing where an input is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.cli import main
from tests.reports.reading import Reader

DOCS = Path(__file__).parents[2] / "docs"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, words)])
    return int(stop.value.code or 0)


def test_a_page_of_runs_and_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "small"
    video.write(folder / "samples" / "step-00000010.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8.0)
    (folder / "log.jsonl").write_text(json.dumps({"step": 10, "kind": "heldout", "seconds": 1, "psnr": 30.5}) + "\n")
    page = tmp_path / "out" / "report.html"
    evaluations = sorted(DOCS.glob("evaluate-*.json"))
    assert run(folder, *evaluations, "--out", page, "--title", "Mine", "--worst", 5) == 0
    together = sum(path.name.startswith("evaluate-generation") for path in evaluations) > 1
    assert f"parts: {1 + len(evaluations) + together}, videos: 1" in capsys.readouterr().out, "one compares systems"
    reader = Reader(page.read_text())
    assert sorted(p.name for p in page.parent.iterdir()) == ["media", "report.html"]
    linked = reader.files
    assert linked == ["media/small-samples/step-00000010.mp4"] and (page.parent / linked[0]).is_file()
    for words in ("Mine", "Run: small", "Toy world: evaluate-world", "Physics: ", "Tasks: ", "held out"):
        assert any(words in text for text in reader.texts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.json"], "gone.json: no such file or folder"),
        (["gone.json", "--out", "x.pdf"], "ends in .html"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_video_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric: dict[str, object] = {"value": 1.0, "count": 1, "interval": None, "protocol": {}}
    clip = {"name": "a", "scores": {"psnr": 1.0}, "video": "gone.mp4"}
    record = {"kind": "generation", "protocol": {}, "protocol_hash": "p", "metrics": {"psnr": metric}, "clips": [clip]}
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert run(tmp_path / "x.json", "--out", tmp_path / "out" / "r.html") == 2
    assert "gone.mp4" in capsys.readouterr().err and not (tmp_path / "out").exists()
