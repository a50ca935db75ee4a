"""The built pages that ship, the studio's and the reports', are byte for byte those that their sources make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT

BUILT = ("kinolab/studio/static", "kinolab/reports/page")


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.wide("npm")
def test_the_pages_that_ship_are_those_that_their_sources_make(tmp_path: Path) -> None:
    source = tmp_path / "studio"
    shutil.copytree(ROOT / "studio", source, ignore=shutil.ignore_patterns("node_modules"))
    for words in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"], ["npm", "run", "check"]):
        done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in BUILT:
        made, ships = files(tmp_path / name), files(ROOT / name)
        assert made.keys() == ships.keys(), f"{name}: build anew (cd studio && npm ci && npm run build)"
        assert [each for each in made if made[each] != ships[each]] == [], name
