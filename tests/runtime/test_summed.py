"""JSON with a sum: what was written comes back, and every flipped bit is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kinolab.errors import DamagedError, InputError
from kinolab.runtime.reading import json_lines, parse_json
from kinolab.runtime.records import read_record, write_record
from kinolab.runtime.summed import ENTRY, is_summed, summed

VALUES: dict[str, Any] = {"step": 3, "e-": 1e-07, "é": "ü\u2028\ud800", "a": [1, {"b": None}], "sum": "0123abcd"}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("values", [VALUES, {}, {"nan": 1.5, ENTRY: "of before"}])
def test_what_was_written_comes_back_without_the_sum(values: dict[str, Any], indent: int | None) -> None:
    text = summed(values, indent)
    assert is_summed(text) and parse_json(text, "it") == {k: v for k, v in values.items() if k != ENTRY}
    assert list(json.loads(text))[-1] == ENTRY, "other readers find one entry more"


@pytest.mark.parametrize("indent", [None, 1])
def test_every_flipped_bit_is_noticed(indent: int | None) -> None:
    data = (summed(VALUES, indent) + "\n").encode()
    unnoticed = []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            parse_json(bytes(changed), "it")
        except InputError:
            continue
        unnoticed.append(bit)
    assert not unnoticed


def test_what_has_no_sum_is_taken_as_it_is() -> None:
    for value in (VALUES, {"a": "0123abcd"}, [{ENTRY: 3}], {}, "text"):
        text = json.dumps(value)
        assert not is_summed(text) and parse_json(text, "it") == value


@pytest.mark.parametrize("change", [{"step": 4}, {"later": 1}])
def test_an_edited_one_is_refused_until_its_sum_goes(change: dict[str, Any], tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", VALUES)
    edited = json.loads((tmp_path / "a.json").read_text()) | change
    (tmp_path / "a.json").write_text(json.dumps(edited))
    with pytest.raises(InputError, match=ENTRY):
        read_record(tmp_path / "a.json")
    del edited[ENTRY]
    (tmp_path / "a.json").write_text(json.dumps(edited))
    assert read_record(tmp_path / "a.json").values == VALUES | change


def test_damage_is_a_damaged_error() -> None:
    with pytest.raises(DamagedError, match="differs from its sum"):
        parse_json(summed({"a": 1}).replace("1", "2", 1), "it")


def test_lines_are_checked_one_by_one(tmp_path: Path) -> None:
    rows = [{"step": k, "loss": k / 7} for k in range(4)]
    lines = [summed(row) + "\n" for row in rows]
    path = tmp_path / "log.jsonl"
    path.write_text("".join([lines[0], lines[1].replace("loss", "lost"), json.dumps(rows[2]) + "\n", lines[3][:-1]]))
    said: list[str] = []
    found = [row for _, row in json_lines(path, damaged="skip", say=said.append)]
    assert found == [rows[0], rows[2]], "a line of an older version among others is taken"
    assert "line 2" in said[0] and "differs from its sum" in said[0]
    assert "line 4" in said[1] and "cut off" in said[1]
    with pytest.raises(InputError, match="line 2"):
        list(json_lines(path))
