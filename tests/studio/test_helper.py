"""The processes that the studio begins: nothing in a project's folder is code to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kinolab
from kinolab.errors import InputError
from kinolab.runtime import processes
from kinolab.studio.helper import Helper


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
