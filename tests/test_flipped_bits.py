"""A bit is flipped in each kind of file that Kinolab stores, one after the other: none goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinolab.verify import verify
from tests.stored import KINDS, make, unnoticed, unread, wrongly_resumed


def check(kind: str, folder: Path, count: int) -> None:
    files = make(kind, folder)
    assert {file.whole: [str(f) for f in verify(file.whole)] for file in files} == {f.whole: [] for f in files}
    for file in files:
        assert not unnoticed(file, count), file.path.name
        if file.read is not None:
            assert not unread(file, count), file.path.name


@pytest.mark.wide
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path, 20)


@pytest.mark.wide()
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_flipped_bits_are_noticed(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path, 100)


@pytest.mark.slow
def test_a_run_goes_on_from_the_last_whole_checkpoint(tmp_path: Path) -> None:
    assert not wrongly_resumed(tmp_path, 20)


@pytest.mark.wide()
def test_a_run_goes_on_after_a_hundred_damages(tmp_path: Path) -> None:
    assert not wrongly_resumed(tmp_path, 100)
