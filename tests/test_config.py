"""Recipes and overrides: what is read back equals what was written, and every mistake names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from kinolab.config import Config, apply_overrides, differences, load_config, to_yaml
from kinolab.errors import InputError


class Inner(Config):
    rate: float = Field(default=1e-3, gt=0)
    names: tuple[str, ...] = ()


class Outer(Config):
    steps: int
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict)
    listed: tuple[Inner, ...] = ()
    free: dict[str, Any] = Field(default_factory=dict)


def test_written_and_read_back_is_equal(tmp_path: Path) -> None:
    config = Outer(steps=3, inner=Inner(rate=0.5, names=("a", "b")))
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    assert load_config(Outer, path) == config


@pytest.mark.parametrize(
    ("override", "value"), [("inner.rate=3e-4", 3e-4), ("inner.rate=2", 2.0), ("inner.names=[x, y]", ("x", "y"))]
)
def test_overrides_parse_as_yaml_and_coerce(override: str, value: object) -> None:
    config = load_config(Outer, {"steps": 1}, [override])
    assert getattr(config.inner, override.split("=")[0].split(".")[1]) == value


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({"steps": 1, "iner": {}}, [], "unknown key 'iner', did you mean 'inner'"),
        ({"steps": 1}, ["inner.raet=1"], "unknown key 'inner.raet', did you mean 'rate'"),
        ({}, [], "missing key 'steps'"),
        ({"steps": "many"}, [], "steps: .*integer.*'many'"),
        ({"steps": 1}, ["inner.rate=-1"], "inner.rate: .*greater than 0.*-1"),
        ({"steps": 1}, ["inner.rate"], "expected key=value"),
        ({"steps": 1}, ["steps.deep=1"], "'steps' holds the value 1"),
        ({"steps": 1, "named": {"a": {"rate": -1}}}, [], "named.a.rate: .*greater than 0.*-1"),
        ({"steps": 1, "named": {"a": {"raet": 1}}}, [], "unknown key 'named.a.raet', did you mean 'rate'"),
        ({"steps": 1, "listed": [{}, {"rate": -1}]}, [], "listed.1.rate: .*greater than 0.*-1"),
    ],
)
def test_a_mistake_names_the_key(values: dict[str, object], overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(Outer, values, overrides)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 1\non: 2\n", 'line 2: the key on is read by YAML as True; write it in quotes: "on"'),
        ("steps: 1\nnamed:\n  a: {}\n  No: {}\n", "line 4: the key No is read by YAML as False"),
        ("steps: 1\nlisted:\n- rate: 1\n- {yes: 1}\n", "line 4: the key yes is"),
        ("steps: 1\n~: 2\n", "line 2: the key ~ is read by YAML as None"),
    ],
)
def test_keys_that_yaml_reads_as_no_words_are_shown_as_written(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(Outer, path)
    assert str(caught.value).startswith(f"{path}: {said}") and "\n" not in str(caught.value)


def test_keys_of_overrides_and_mappings_have_to_be_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"override 'inner=\{off: 1\}': line 1: the key off is read"):
        load_config(Outer, {"steps": 1}, ["inner={off: 1}"])
    for values, where in (
        ({True: 1}, "config: keys"),
        ({"inner": {True: 1}}, "config: inner"),
        ({"named": {True: {}}}, "config: named"),
        ({"listed": [{False: 1}]}, "config: listed.0"),
        ({"free": {None: 1}}, "config: free"),
    ):
        with pytest.raises(InputError, match=f"{where}: expected words as keys, got (True|False|None)"):
            load_config(Outer, {"steps": 1, **values})  # type: ignore[dict-item]
    path = tmp_path / "c.yaml"
    path.write_text('steps: 1\nnamed: &all\n  "on": {}\n  17: {}\nfree: *all\n')
    assert set(load_config(Outer, path).named) == {"on", "17"}, "words in quotes, and numbers, are names"


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_config(Outer, tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1,\n b: }")
    with pytest.raises(InputError, match=r"bad.yaml: not valid YAML \(line 2\)"):
        load_config(Outer, bad)
    bad.write_text("- 1")
    with pytest.raises(InputError, match="mapping"):
        load_config(Outer, bad)


def test_overrides_leave_the_original_alone() -> None:
    values = {"a": {"b": 1}}
    assert apply_overrides(values, ["a.b=2"]) == {"a": {"b": 2}}
    assert values == {"a": {"b": 1}}


def test_differences_are_dotted() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert list(differences(old, new)) == ["a.c: 2 -> 5", "d: 3 -> None", "e: None -> 4"]
