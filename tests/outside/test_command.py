"""A command from outside the package: a line in the table, and it is listed under its heading and runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer

from kinolab.cli import COMMANDS, HEADINGS, Command, main
from kinolab.cli.options import common, show, watch
from kinolab.contracts.events import advance


@common(events=True)
def count(
    clips: Annotated[list[Path], typer.Argument(help="Files.")],
    unit: Annotated[str, typer.Option(help="What is counted.")] = "bytes",
) -> None:
    """Count the bytes of files."""
    total = 0
    with watch("counting", "files") as events:
        for done, clip in enumerate(clips, start=1):
            total += clip.stat().st_size
            advance(events, done, len(clips))
    show({"total": total, "unit": unit}, [f"{total} {unit}"])


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("somebodys_command")
    module.count = count  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "count", Command("count the bytes of files", "data", module.__name__))


def test_it_is_listed_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert not stop.value.code
        return capsys.readouterr().out

    section = run("--help").split(f"{HEADINGS['data']}:")[1].split("\n\n")[0]
    assert "count        count the bytes of files" in section
    assert "--events" in run("count", "--help")
    (tmp_path / "a").write_bytes(b"12345")
    assert run("count", tmp_path / "a", "--unit", "B") == "5 B\n"
    assert json.loads(run("count", tmp_path / "a", tmp_path / "a", "--json")) == {"total": 10, "unit": "bytes"}
    run("count", tmp_path / "a", "--events", tmp_path / "e")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "e").read_text().splitlines()]
    assert kinds == ["begin", "stage", "progress", "end"]
