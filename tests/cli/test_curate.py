"""`kinolab data curate` and `kinolab data caption` as a person meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from tests.cli.every import run

Printed = pytest.CaptureFixture[str]
OFF = [word for name in ("motion", "text", "blocks", "duplicates") for word in ("-s", f"signals.{name}=false")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for k, level in enumerate((30, 120, 200)):
        video.write(tmp_path / "raw" / f"{k}.mkv", np.full((8, 32, 32, 3), level, np.uint8), fps=8, lossless=True)
    return tmp_path / "raw"


def test_a_dry_run_says_what_thresholds_cost_and_a_page_shows_their_edges(raw: Path, capsys: Printed) -> None:
    out, page = raw.parent / "set", raw.parent / "page" / "set.html"
    keep = ["-s", "keep.brightness.min=0.3", "-s", "keep.seconds.min=0.5"]
    assert run("data", "curate", raw, "-o", out, "--dry-run", *keep, *OFF, "--page", page) == 0
    told = capsys.readouterr().out
    assert "3 videos (3 read now), 3 clips of 0.000833 hours" in told and "kept: 2 clips" in told
    assert "brightness >= 0.3 1 clips, 0.000278 h 1 clips, 0.000278 h" in " ".join(told.split())
    assert f"{page}: 3 clips at the edges" in told and not (out / "clips").exists()
    text = page.read_text(encoding="utf-8")
    assert "Just dropped" in text and text.count("media/curation/") >= 3
    assert run("data", "curate", raw, "-o", out, *keep, *OFF, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["read"], values["kept"], values["written"]["written"]) == (0, 2, 2)
    assert [cost["clips"] for cost in values["costs"]] == [1, 0] and Path(values["table"]).is_file()


def test_poison_is_named_and_the_status_is_3(raw: Path, capsys: Printed) -> None:
    (raw / "torn.mp4").write_bytes(b"\0" * 100)
    assert run("data", "curate", raw, "-o", raw.parent / "set", *OFF) == 3
    assert capsys.readouterr().err.count("left out: torn.mp4: ") == 1
    assert len(list((raw.parent / "set" / "clips").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-s", "keep.speed.min=1"], "keep: speed: no score of that name"),
        (["-s", "keep.motion.mim=1"], "keep.motion.mim"),
        (["--page", "x.pdf"], "expected the name of an .html file"),
        (["--dry-run", "--page", "x.html"], "--page: shows clips at the edges of thresholds, and there is none"),
        (["--settings", "none.yaml"], "none.yaml"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, raw: Path, capsys: Printed) -> None:
    assert run("data", "curate", raw, "-o", raw.parent / "set", *words, *([] if "motion" in words[1] else OFF)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error and error.startswith("kinolab: ")
    assert not (raw.parent / "set" / "table.jsonl").exists(), "it is said before anything is read"


def test_captions_by_a_command(raw: Path, capsys: Printed) -> None:
    told = f"{sys.executable} -c 'import sys; print(sys.argv[1][-5:])' {{clip}}"
    assert run("data", "caption", raw, "--command", told) == 0
    assert "3 clips captioned, 0 known already, 0 have captions" in capsys.readouterr().out
    assert (raw / "1.txt").read_text(encoding="utf-8") == "1.mkv\n"
    assert run("data", "caption", raw, "--command", told) == 0
    assert "0 clips captioned, 3 known already" in capsys.readouterr().out
    (raw / "1.txt").unlink()
    (raw / ".captions.jsonl").unlink()
    assert run("data", "caption", raw, "--command", f"{sys.executable} -c 'raise SystemExit(4)' {{clip}}") == 3
    assert "no caption: 1.mkv: ended with status 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one of --command, --server or --model-folder, got none"),
        (["--command", "x {clip}", "--server", "http://x"], "got --command and --server"),
        (["--server", "http://localhost:1"], "expected --model"),
        (["--command", "x {clip}", "--model", "m"], "--model: is for --server"),
        (["--command", "x {clip}", "--prompt", "m"], "--prompt: is for"),
        (["--model-folder", "nowhere"], "nowhere: no config.json"),
    ],
)
def test_whom_to_ask(words: list[str], said: str, raw: Path, capsys: Printed) -> None:
    assert run("data", "caption", raw, *words) == 2
    assert said in capsys.readouterr().err
