"""Whatever a file holds, reading it gives its value, one line that says what is wrong, or the system's error."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from kinolab.errors import InputError
from kinolab.runtime.reading import (
    Limits,
    check_pixels,
    json_lines,
    parse_json,
    read_bytes,
    read_json,
    read_text,
)


def test_plain_json_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}, "seed": 2**64 - 1}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode())
    assert read_json(tmp_path / "a.json") == value, "with a byte order mark"


HOSTILE: list[tuple[bytes, str]] = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b'{"a": 1}x', "not valid JSON"),
    (b"\xff\xfe{", "line 1: not UTF-8 text"),
    (b'{"a":\n "\xe4"}', "line 2: not UTF-8 text"),
    (b'{"a": 1, "a": 2}', "'a' stands twice"),
    (b"[NaN]", "NaN is no number"),
    (b"[-Infinity]", "-Infinity is no number"),
    (b"[" * 100_000, "nested deeper"),
    (b"[" * 100 + b"]" * 100, "nested deeper"),
    (b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper"),
    (b"9" * 10_000, "not valid JSON"),
    (b"1" + b"0" * 100, "bits"),
    (b"[" + b"1," * 3000 + b"1]", "more than 1,000 values"),
    (b'"\\ud800' + b"x" * 20, "not valid JSON"),
    (b"\0" * 50, "not valid JSON"),
]


@pytest.mark.parametrize(("data", "why"), HOSTILE)
def test_what_is_none_is_one_line(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=why) as raised:
        read_json(tmp_path / "a.json", Limits(values=1000))
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def test_constants_are_taken_where_they_may_be() -> None:
    found = parse_json("[NaN, Infinity]", "x", constants=True)
    assert math.isnan(found[0]) and found[1] == float("inf")


def test_sizes_are_limited(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert read_bytes(tmp_path / "a", 11) == b"x" * 11
    for read in (read_bytes, read_text):
        with pytest.raises(InputError, match="larger than the 10 bytes"):
            read(tmp_path / "a", 10)


def test_what_is_no_file_is_told_at_once(tmp_path: Path) -> None:
    began = time.perf_counter()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((InputError, IsADirectoryError)):
        read_bytes(tmp_path)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            read_bytes(path)
    with pytest.raises(InputError, match="no plain file"):
        list(json_lines(tmp_path / "pipe"))
    for missing in (tmp_path / "none", tmp_path / "none" / "none"):
        with pytest.raises(FileNotFoundError):
            read_bytes(missing)
    assert time.perf_counter() - began < 5


def rows(path: Path, **how: Any) -> list[Any]:
    return [value for _, value in json_lines(path, **how)]


def test_lines_are_read_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = b'{"a": 1}\n\n{"b": "\xc3\xbc"}\n'
    expected = [{"a": 1}, {"b": "ü"}]
    for tail in (b"", b'{"c": ', b'{"c": 3}', b"\0\0\0\0", b"\xff\n", b"[" * 5000 + b"\n", b"null x\n"):
        path.write_bytes(whole + tail)
        assert rows(path) == expected, tail
    path.write_bytes(whole + b'{"c": 3}\n')
    assert [number for number, _ in json_lines(path)] == [1, 3, 4]


def test_a_damaged_line_between_others_is_refused_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for damage in (b"{", b"\xff", b'{"a": NaN}', b"[" * 2000, b"\0"):
        path.write_bytes(b'{"a": 1}\n' + damage + b'\n{"a": 3}\n')
        with pytest.raises(InputError, match=r"log.jsonl: line 2"):
            rows(path)
        assert rows(path, damaged="skip") == [{"a": 1}, {"a": 3}]
    path.write_bytes(b'{"a": NaN}\n{"a": 1}\n')
    assert len(rows(path, constants=True)) == 2
    path.write_bytes(b"[" + b"1," * 500 + b"1]\n")
    with pytest.raises(InputError, match="longer than the 100 bytes"):
        rows(path, limits=Limits(bytes=100))


@pytest.mark.parametrize(("width", "height", "fine"), [(1, 1, True), (8000, 8000, True), (12000, 12000, False),
                                                       (0, 5, False), (2**31, 2**31, False)])  # fmt: skip
def test_images_are_refused_by_their_size(width: int, height: int, fine: bool, tmp_path: Path) -> None:
    if fine:
        check_pixels(tmp_path / "a.png", width, height)
        return
    with pytest.raises(InputError, match="pixels"):
        check_pixels(tmp_path / "a.png", width, height)


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_give_a_value_or_one_error(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    corpus = [data for data, _ in HOSTILE if len(data) < 1000] + [b'{"a": [1, {"b": "\\u00fc"}], "c": -1.5e300}'] * 5
    for k in range(200):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data) + 1)
            piece = chance.choice([b"[", b"{", b'"', b"\xff", b"1e9", b"null", b"\\u", b":"])
            data[at : at + chance.randrange(3)] = piece
        (tmp_path / str(k)).write_bytes(data)
        for read in (read_json, rows):
            try:
                read(tmp_path / str(k))
            except InputError as error:
                assert len(str(error)) < 300 and "\n" not in str(error)
