"""`kinolab fetch` and `kinolab vbench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinolab.cli import main
from kinolab.metrics.extractors.manifest import load_manifest
from tests.tiny_model import save_tiny_model


def test_fetch_lists_every_file_and_says_where_a_hash_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fetch"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    entries = load_manifest()
    assert [line.split()[0] for line in lines] == list(entries)
    for line, entry in zip(lines, entries.values(), strict=True):
        assert entry.file in line and ("give --sha256" in line) == (entry.sha256 is None)


def test_fetch_checks_a_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / load_manifest()["i3d"].file).write_bytes(b"something else")
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "i3d", "--folder", str(tmp_path)])
    assert stopped.value.code == 2
    assert "expected sha256" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "i3dd", "--folder", str(tmp_path)])
    assert "did you mean 'i3d'" in capsys.readouterr().err


@pytest.mark.slow
def test_vbench_writes_its_layout_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_model(tmp_path / "model")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball falls\na blue box floats to the left\n", encoding="utf-8")
    command = ["vbench", str(prompts), "--model", str(model), "-o", str(tmp_path / "out"), "--videos", "2"]
    for made in (4, 0):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--steps", "1", "--precision", "float32"])
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        assert f"4 videos, {made} of them made now" in said
        assert "--mode custom_input" in said and "full_json_dir" not in said, "these are not VBench's own prompts"
    names = {p.name for p in (tmp_path / "out" / "videos").iterdir()}
    assert names == {f"{p}-{k}.mp4" for p in ("a red ball falls", "a blue box floats to the left") for k in (0, 1)}
