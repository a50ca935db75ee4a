"""A record's fields are what the code asks for, or one line says which is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from kinolab.errors import InputError
from kinolab.runtime.records import Record, as_model, read_record

VALUE = {"text": "a", "flag": True, "count": 3, "rate": 0.5, "inside": {"x": 1}, "list": [1, 2], "words": ["a"],
         "rows": [{"y": 2}], "none": None, "kind": "b"}  # fmt: skip


@pytest.fixture
def record() -> Record:
    return Record(VALUE, "run/state.json", "resume from an older one")


def test_fields_by_type(record: Record) -> None:
    assert record.text("text") == "a" and record.flag("flag") is True and record.integer("count", at_least=3) == 3
    assert record.number("rate") == 0.5 and isinstance(record.number("count"), float)
    assert record.record("inside").integer("x") == 1
    assert record.integers("list", count=2) == [1, 2] and record.numbers("list") == [1.0, 2.0]
    assert record.texts("words") == ["a"] and record.items("list") == [1, 2]
    assert record.records("rows")[0].integer("y") == 2 and record.choice("kind", ("a", "b")) == "b"
    assert "text" in record and list(record)[:2] == ["text", "flag"]


def test_defaults_stand_for_what_is_missing(record: Record) -> None:
    assert record.text("no", "d") == "d" and record.text("none", None) is None and record.integer("no", None) is None
    assert record.items("no", []) == [] and record.record("no", {}).values == {} and record.number("no", 2.0) == 2.0
    assert record.choice("no", ("a",), None) is None and record.texts("no", ()) == []


WRONG: list[tuple[Callable[[Record], Any], str]] = [
    (lambda r: r.text("count"), "count is 3, expected a text"),
    (lambda r: r.text("none", "x"), "none is None, expected a text"),
    (lambda r: r.integer("flag"), "flag is True, expected an integer"),
    (lambda r: r.integer("rate"), "rate is 0.5, expected an integer"),
    (lambda r: r.integer("count", at_least=4), "count is 3, expected an integer of at least 4"),
    (lambda r: r.integer("count", at_least=0, at_most=2), "expected an integer of at least 0 and at most 2"),
    (lambda r: r.number("text"), "text is 'a', expected a number"),
    (lambda r: r.flag("count"), "count is 3, expected true or false"),
    (lambda r: r.record("list"), "list is a list of 2, expected named values"),
    (lambda r: r.items("inside"), "inside is a dict of 1, expected a list"),
    (lambda r: r.integers("list", count=3), "expected a list of 3"),
    (lambda r: r.integers("words"), "words is 'a', expected an integer in every place"),
    (lambda r: r.choice("kind", ("x", "y")), "kind is 'b', expected one of x, y"),
    (lambda r: r.text("gone"), "no gone, expected a text"),
    (lambda r: r.record("inside").text("x"), "run/state.json: inside: x is 1, expected a text"),
    (lambda r: r.records("rows")[0].text("y"), r"rows\[0\]: y is 2, expected a text"),
    (lambda r: Record([1], "f"), "f: expected named values, got a list of 1"),
    (lambda r: Record({1: 2}, "f"), "f: expected named values"),
]


@pytest.mark.parametrize(("ask", "why"), WRONG)
def test_what_is_wrong_is_one_line_with_advice(ask: Callable[[Record], Any], why: str, record: Record) -> None:
    with pytest.raises(InputError, match=why) as raised:
        ask(record)
    assert str(raised.value).startswith("f: ") or str(raised.value).endswith("; resume from an older one")


def test_a_file_is_read_with_its_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(VALUE))
    assert read_record(path).integer("count") == 3
    path.write_text("{")
    with pytest.raises(InputError, match=r"a.json: not valid JSON .*; make it again"):
        read_record(path, "make it again")
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"got a list of 1; make it again"):
        read_record(path, "make it again")


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    step: int = Field(ge=0)
    name: str = ""


def test_models_of_pydantic_give_one_line() -> None:
    assert as_model(Model, {"step": 3}, "x").step == 3
    for value in ({"step": -1}, {"step": "a" * 1000}, {"step": 1, "other": 2}, [1], None):
        with pytest.raises(InputError, match=r"^x: .*; do this$") as raised:
            as_model(Model, value, "x", "do this")
        assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)
