"""YAML that people write, and YAML that is made to hurt."""

from __future__ import annotations

import datetime
import random
import time
from pathlib import Path

import pytest
import yaml

from kinolab.errors import InputError
from kinolab.runtime.reading import Limits
from kinolab.runtime.yaml_files import parse_yaml, read_yaml

PLAIN = """
extends: latte-folder
training: &t {steps: 100, learning_rate: 3.0e-4, betas: [0.9, 0.99], on_cpu: true, threads: null}
again: {<<: *t, steps: 200}
size: 0x10
date: 2026-11-27
sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
digits: "11111111111111111111111111111111"
text: |
  several
  lines: ü
"""


def test_what_people_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PLAIN, encoding="utf-8")
    found = read_yaml(tmp_path / "a.yaml")
    assert found == yaml.safe_load(PLAIN)
    assert found["again"]["steps"] == 200 and found["date"] == datetime.date(2026, 11, 27)
    assert parse_yaml("", "x") is None and parse_yaml("3e-4", "x") == "3e-4" and parse_yaml("[1, a]", "x") == [1, "a"]


def aliases(levels: int, width: int) -> str:
    lines = ["a0: &a0 [" + "x, " * width + "]"]
    lines += [f"a{k}: &a{k} [" + f"*a{k - 1}, " * width + "]" for k in range(1, levels)]
    return "\n".join(lines)


HOSTILE = [
    (aliases(10, 10), r"holds more than 100,000 values"),
    ("a: &a [*a]", r"line 1: \*a stands in what it stands for"),
    ("a: &a {b: {c: *a}}", r"stands in what it stands for"),
    ("b: *nothing", "not valid YAML"),
    ("[" * 3000, "not valid YAML|nested deeper"),
    ("[" * 3000 + "]" * 3000, "not valid YAML|nested deeper"),
    ("- " * 40 + "x", "nested deeper than 32 levels"),
    ("a: &a [[[[[[[[[[1]]]]]]]]]]\nb: &b [[[[[[[[[[*a]]]]]]]]]]\nc: [[[[[[[[[[[[[[*b]]]]]]]]]]]]]]", "nested deeper"),
    ("a: " + "9" * 10_000, "10000 digits"),
    ("a: 0x" + "f" * 10_000, "10002 digits"),
    ("a: 1" + ":1" * 100_000, "digits"),
    ("a: !!int 1" + ":1" * 100_000, "digits"),
    ("a: 1" + ":1" * 100_000 + ".5", "doesn't fit its type"),
    ("a: !!bool x", "doesn't fit its type"),
    ("a: !!int x", "doesn't fit its type"),
    ("a: !!float x", "doesn't fit its type"),
    ("a: !!timestamp x", "doesn't fit its type"),
    ("a: 2026-99-99", "doesn't fit its type"),
    ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
    ("a: !!python/name:os.system", "not valid YAML"),
    ("? [a]\n: b", "not valid YAML"),
    ("? {a: 1}\n: b", "not valid YAML"),
    ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
    ("a: {b: {c: 1, c: 2}}", "the key 'c' stands twice"),
    ("on: 1", r'line 1: the key on is read by YAML as True; write it in quotes: "on"'),
    ("a:\n  ~: 1", r"line 2: the key ~ is read by YAML as None"),
    ("a: [1", "not valid YAML"),
    ("a: b: c", "not valid YAML"),
    ("--- a\n--- b", "not valid YAML"),
    ("a: \x00", "not valid YAML"),
    ("%YAML 9.9\n---\na", "not valid YAML"),
    ("x" * 2**21, "larger than"),
    ("[" + "1," * 150_000 + "]", "more than 100,000 values"),
]


@pytest.mark.parametrize(("text", "why"), HOSTILE, ids=[text[:20] for text, _ in HOSTILE])
def test_what_hurts_is_refused_in_one_line_at_once(text: str, why: str) -> None:
    began = time.perf_counter()
    with pytest.raises(InputError, match=why) as raised:
        parse_yaml(text, "f.yaml")
    assert str(raised.value).startswith("f.yaml: ")
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)
    assert time.perf_counter() - began < 20


def test_limits_can_be_narrower() -> None:
    with pytest.raises(InputError, match="more than 3 values"):
        parse_yaml("[1, 2, 3]", "x", Limits(values=3))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("seed", range(4))
def test_any_text_gives_a_value_or_one_error(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [
        *("&a ", "*a", "[", "]", "{", "}", ": ", "- ", "\n", "  ", "? ", "|", "'", '"', "~", "=", "%", "\t", "<<: "),
        *("!!bool ", "!!int ", "!!set ", "!!omap ", "!!pairs ", "!!binary ", "on", "1:1", "0b1", ".inf", "2026-13-01"),
    ]
    corpus = [PLAIN] + [text for text, _ in HOSTILE if len(text) < 200]
    for _ in range(150):
        text = chance.choice(corpus)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(pieces) + text[at + chance.randrange(4) :]
        try:
            parse_yaml(text, "x")
        except InputError as error:
            assert len(str(error)) < 300 and "\n" not in str(error), repr(text)
