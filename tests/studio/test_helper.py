"""The processes that the studio begins: nothing in a project's folder is code to them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kinolab
from kinolab.errors import InputError
from kinolab.runtime import processes
from kinolab.studio.helper import CHANNEL, REACHED, Helper


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules of names that are imported early; each leaves a file where it is run."""
    folder = tmp_path / "p"
    for name in ("kinolab/__init__.py", "kinolab/studio/helper.py", "json.py", "random.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\nraise SystemExit(1)\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ":"])
def test_no_code_of_a_projects_folder_is_run(hostile: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    root = str(Path(kinolab.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", root + more)  # an empty part means the working folder
    begun = processes.begin("kinolab.studio.safety", [], output=hostile / "queue" / "said.txt", folder=hostile)
    assert begun.wait(60) == 0, (hostile / "queue" / "said.txt").read_text()
    helper = Helper(hostile)
    try:
        with pytest.raises(InputError, match="KeyError"):
            helper.ask("no such question")
    finally:
        helper.close()
    assert not (hostile.parent / "ran").exists()


def test_what_they_begin_takes_no_code_from_there_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":here")
    environment = processes.safe_environment()
    assert environment["PYTHONSAFEPATH"] == "1" and environment["PYTHONPATH"] == str(Path.cwd() / "here")


def test_every_python_is_begun_without_its_working_folder() -> None:
    package = Path(kinolab.__file__).parent
    begun = [
        (path.relative_to(package).as_posix(), words)
        for path in sorted(package.rglob("*.py"))
        for words in re.findall(r"\[sys\.executable, ([^,\]]+)", path.read_text("utf-8"))
    ]
    assert len(begun) >= 4 and {words for _, words in begun} == {'"-P"'}, begun


@pytest.mark.slow
def test_who_asks_hears_how_far_the_work_is_and_patience_begins_anew_with_each_word(tmp_path: Path) -> None:
    """A stand-in for the process says how far it is three times, and answers later than anybody waits for a word."""
    helper = Helper(tmp_path)
    said = ["1 4", "2 4", "4 4"]
    code = "import time\nfor line in {}:\n    time.sleep(0.4)\n    print(line, flush=True)"
    lines = [*(f"{REACHED}{words}" for words in said), f'{CHANNEL}{{"answer": 7}}']
    helper._process = subprocess.Popen(
        [sys.executable, "-c", code.format(lines)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(helper.ask, "proxy", {}, 1.2, of="a.mp4")
        while not asked.done():
            seen += [(each.done, each.total) for each in helper.doing if each.of == "a.mp4" and each.began]
            time.sleep(0.02)
    assert asked.result() == 7 and helper.doing == ()
    assert {(1, 4), (2, 4)} <= set(seen) and seen == sorted(seen, key=lambda each: each[0])
    helper.close()
