"""Every fault that is known to be easy to make is seen by a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import FAULTS, Fault, broken, caught, copied


def test_a_fault_is_one_line_of_its_own_and_they_are_in_all_rooms(tmp_path: Path) -> None:
    files = [fault.file for fault in FAULTS]
    assert len(set(files)) == len(files) >= 20
    for fault in FAULTS:
        path = Path(__file__).parents[1] / "kinolab" / fault.file
        text = path.read_text(encoding="utf-8")
        assert text.count(fault.right) == 1 and fault.wrong != fault.right, f"{fault.file}: write the fault anew"
        compile(text.replace(fault.right, fault.wrong), str(path), "exec")


def test_the_copy_is_broken_for_a_while(tmp_path: Path) -> None:
    (tmp_path / "kinolab").mkdir()
    path = tmp_path / "kinolab" / "a.py"
    path.write_text("one\ntwo\n")
    with broken(tmp_path, Fault("a.py", "two", "2", "")):
        assert path.read_text() == "one\n2\n"
    assert path.read_text() == "one\ntwo\n"
    with pytest.raises(AssertionError, match="found 0 times"), broken(tmp_path, Fault("a.py", "three", "3", "")):
        pass


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with copied() as folder:
        yield folder


@pytest.mark.wide
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.file)
def test_the_fault_is_seen(tree: Path, fault: Fault) -> None:
    assert caught(tree, fault), f"{fault.file}: {fault.wrong!r} for {fault.right!r} is seen by none of {fault.tests}"
