"""Text files in any encoding that says what it is, lines that end where they end, and refusals that name the byte."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.runtime.text import decode, first_line, read_prompts, read_text, split_lines

TEXT = "file,caption\na.mp4,Café 猫 \u2028\U0001f408\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
    ],
)
def test_a_text_is_the_same_in_every_encoding_that_can_be_told(tmp_path: Path, mark: bytes, encoding: str) -> None:
    (tmp_path / "t").write_bytes(mark + TEXT.encode(encoding))
    assert read_text(tmp_path / "t") == TEXT


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("file\na,Caf\xe9\n".encode("latin-1"), r"t: line 2: byte 0xe9 at position 10 is not UTF-8"),
        ("file\r\na\rb,“x”".encode("cp1252"), r"line 3: byte 0x93 at position 10"),
        (b"caf\xc3", r"line 1: byte 0xc3 at position 3"),
        (codecs.BOM_UTF8 + b"a\nb\xff", r"line 2: byte 0xff at position 6 is not UTF-8"),
        (codecs.BOM_UTF16_LE + "ab\n".encode("utf-16-le") + b"\x00", r"line 2: byte 0x00 at position 8 is not UTF-16"),
        (codecs.BOM_UTF16_BE + b"\xd8\x00\x00a", r"line 1: byte 0xd8 at position 2 is not UTF-16"),
        (b"one\ntwo\0", r"line 2: holds a NUL character"),
    ],
)
def test_bytes_that_are_no_text_are_named_with_their_place(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decode(data, "t")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(InputError, match="a folder"):
        read_text(tmp_path)
    assert decode(b"", "t") == "" and decode(b"a", "t") == "a"


def test_only_line_feeds_and_carriage_returns_end_a_line() -> None:
    inside = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"
    assert len(inside.splitlines()) == 9, "what this function is for"
    assert split_lines(f"{inside}\n{inside}\r\n{inside}\r{inside}") == [inside] * 4
    assert split_lines("") == [] and split_lines("\n") == [""] and split_lines("a\n\nb\n") == ["a", "", "b"]


def test_a_file_of_prompts_has_one_on_each_line_that_holds_anything(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa red ball\r\n\r\n  a box\u2028of two lines \r\n".encode("utf-16-le"))
    assert read_prompts(path) == ["a red ball", "a box\u2028of two lines"]
    path.write_text(" \n\n")
    with pytest.raises(InputError, match=r"p\.txt: holds no prompts"):
        read_prompts(path)


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n  one \ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError" and first_line(ValueError(" \n")) == "ValueError"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "prompts.txt")
    with pytest.raises(InputError, match=r"prompts.txt: neither a file nor a folder"):
        read_text(tmp_path / "prompts.txt")
