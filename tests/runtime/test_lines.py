"""Errors are one line that a terminal shows as it is, of at most 300 characters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinolab.runtime.lines import LIMIT, one_line, shown


def test_short_lines_stay() -> None:
    assert one_line("clip.mp4: no such file; expected a video") == "clip.mp4: no such file; expected a video"


def test_long_ones_keep_their_beginning_and_their_end() -> None:
    line = one_line("model: does not fit: " + "missing a.b.c; " * 100 + "write it again")
    assert len(line) <= LIMIT
    assert line.startswith("model: does not fit: missing") and line.endswith("write it again") and " ... " in line


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert one_line("a\x1b[31mred\x07\n\tb\r\nc\u202ed") == "a\\u001b[31mred\\u0007 b c\\u202ed"


@settings(max_examples=50)
@given(st.text(max_size=800), st.integers(20, 400))
def test_any_text_becomes_one_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "'a'"),
        (3, "3"),
        (None, "None"),
        (True, "True"),
        (0.5, "0.5"),
        ({"a": 1}, "a dict of 1"),
        ([1, 2], "a list of 2"),
        (b"ab", "b'ab'"),
        (object(), "an object"),
    ],
)
def test_values_are_shown_briefly(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_long_and_endless_values_are_shown_briefly() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert shown(endless) == "a list of 1"
    assert len(shown("x" * 10**6)) < 70
    assert len(shown(b"x" * 10**6)) < 70
    assert shown(10**5000) == "an integer of 16610 bits", "Python refuses to write out more than 4,300 digits"
