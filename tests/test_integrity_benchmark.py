"""What benchmarks/integrity.py switches off is what checks, and what it times is that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import integrity
from benchmarks.integrity import Turn
from kinolab.errors import InputError
from kinolab.runtime.records import read_record, write_record
from kinolab.runtime.weights import read_weights, write_weights
from tests.stored import run_state


def test_without_checks_nothing_is_noticed_and_with_them_the_time_is_taken(tmp_path: Path) -> None:
    weights, record = tmp_path / "a.safetensors", tmp_path / "a.json"
    write_weights(weights, {"w": torch.ones(1000)})
    write_record(record, {"step": 3})
    data = bytearray(weights.read_bytes())
    data[-3] ^= 4
    weights.write_bytes(data)
    record.write_text(record.read_text().replace("3", "4", 1))
    with integrity.measured() as spent:
        for read in (read_weights, read_record):
            with pytest.raises(InputError):
                read(weights if read is read_weights else record)
    assert spent.seconds > 0 and not spent.depth
    with integrity.unchecked():
        read_weights(weights)
        assert read_record(record).values == {"step": 4}
    with pytest.raises(InputError):
        read_weights(weights)


def test_what_is_written_without_checks_is_read_without(tmp_path: Path) -> None:
    with integrity.unchecked():
        at = run_state(3).save(tmp_path, 3, keep=1)
        assert run_state(0).load(at) == 3
    with integrity.measured() as spent:
        at = run_state(3).save(tmp_path, 4, keep=1)
        assert run_state(0).load(at) == 4
    assert spent.seconds > 0


def test_sides_take_turns_and_the_first_is_not_counted() -> None:
    order: list[tuple[int, bool]] = []

    def run(checked: bool, turn: int) -> Turn:
        order.append((turn, checked))
        return Turn(2.0 if checked else 1.0, 4.0 if checked else 2.0, 0.02 if checked else 0.0)

    found = integrity.turns(run, 2, lambda line: None)
    assert order == [(0, False), (0, True), (1, True), (1, False), (2, False), (2, True)]
    made = integrity.result("n", "t", {"it": found})
    assert made.rows == [["it", "2 s", "1 s", "2.000", "2.000", "1.00%"]]
    assert made.aims[0].met and made.aims[0].reached == 0.02 / 2.0
