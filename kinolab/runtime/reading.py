"""Reading what a file holds, within limits: text, JSON, JSON lines and sizes of images. YAML: `runtime.yaml_files`;
fields by name and type: `runtime.records`; weights: `runtime.weights`.

Out of every reader here comes what was asked for, an InputError that says in one line what is wrong, or an OSError of
the system's (a missing file is a FileNotFoundError). No file, however damaged or hostile, takes more than its limits.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

from kinolab.errors import InputError
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.summed import checked

MIB = 2**20
BITS = 64
"""Bits of an integer; torch takes no longer ones, and seeds need no more."""
MARK = b"\xef\xbb\xbf"
TORN = "has no end: cut off while it was written"
PIXELS = 2**26
"""Pixels of an image, 67 million: decoding and turning one takes about 25 bytes for each."""


@dataclass(frozen=True)
class Limits:
    """What a file, or a line of it, may hold at most."""

    bytes: int = 64 * MIB
    """Bytes of the file, or of one line of JSON lines."""
    depth: int = 64
    """Lists and mappings inside each other."""
    values: int = 2_000_000
    """Values in all: texts, numbers, lists and mappings."""


def open_plain(path: Path) -> BinaryIO:
    """A plain file, open for reading; a pipe, which would be waited for, and a device, which may never end, are not.

    Raises:
        InputError: for what is no plain file.
        OSError: where it can't be opened.
    """
    file = open(path, "rb", opener=_quickly)  # noqa: SIM115  (handed on)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path}: no plain file (a pipe or a device); expected a file")


def read_bytes(path: Path, limit: int = Limits.bytes) -> bytes:
    """A file's content, of at most `limit` bytes.

    Raises:
        InputError: for a longer file, a folder, or a device (which may never end).
        OSError: where it can't be read.
    """
    with open(path, "rb", opener=_quickly) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: a folder; expected a file")
        if not stat.S_ISREG(mode) and not str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
            raise InputError(f"{path}: neither a file nor a folder; expected a file")
        os.set_blocking(file.fileno(), True)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: larger than the {limit:,} bytes that such a file may have")
    return data


def read_text(path: Path, limit: int = Limits.bytes) -> str:
    """A file's text, in UTF-8, with or without a byte order mark.

    Raises:
        InputError: as `read_bytes`, and for bytes that are no text; names the line.
        OSError: where it can't be read.
    """
    return decode(read_bytes(path, limit), str(path))


def decode(data: bytes, name: str) -> str:
    """Bytes as UTF-8 text; `name` is what errors call them.

    Raises:
        InputError: for bytes that are none; names the line and the byte.
    """
    try:
        return data.removeprefix(MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise InputError(
            f"{name}: line {line}: not UTF-8 text (byte 0x{byte:02x}); damaged, or saved otherwise"
        ) from None


def read_json(path: Path, limits: Limits = Limits(), *, constants: bool = False) -> Any:
    """The value in a JSON file.

    constants: take NaN and Infinity, which Python writes and JSON doesn't know.

    Raises:
        InputError: for what is no JSON, names twice in one object, and what exceeds the limits.
        OSError: where the file can't be read.
    """
    return parse_json(read_bytes(path, limits.bytes), str(path), limits, constants=constants)


def parse_json(
    data: bytes | str,
    name: str,
    limits: Limits = Limits(),
    *,
    constants: bool = False,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value that a JSON text stands for; `name` is what errors call it.

    pairs: for what people write: what an object becomes, where names that come twice are to be told rather than
        refused; numbers of any length are then taken.

    An object that was written with a sum (`runtime.summed`) is compared with it, and comes without it.

    Raises:
        InputError: as `read_json`; a DamagedError where it differs from its sum.
    """
    text = decode(data, name) if isinstance(data, bytes) else data
    if len(text) > limits.bytes:
        raise InputError(f"{name}: longer than the {limits.bytes:,} characters that it may have")
    try:
        value = json.loads(
            text, object_pairs_hook=pairs or _once, parse_constant=None if constants else _refuse_constant
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}: " if "\n" in text.strip() else ""
        raise InputError(f"{name}: not valid JSON ({where}{error.msg}); damaged or cut off") from None
    except RecursionError:
        raise InputError(f"{name}: nested deeper than {limits.depth} levels") from None
    except ValueError as error:  # the checks below, and Python's own of numbers with thousands of digits
        raise InputError(f"{name}: not valid JSON ({one_line(error, 120)})") from None
    if pairs is not None:
        return value
    check_value(value, name, limits)
    return checked(value, text, name) if isinstance(value, dict) else value


def through_json(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Plain values as they come back from a JSON file: tuples are lists, keys are texts.

    default: what other values are written as, as for json.dumps.
    """
    return json.loads(json.dumps(value, default=default))


def json_lines(
    path: Path,
    limits: Limits = Limits(),
    *,
    damaged: Literal["refuse", "skip"] = "refuse",
    constants: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line of a file of JSON lines, one in memory at a time; empty lines are left out.

    A last line that no line break ends, or that is no JSON, was cut off while it was written: it is left out.

    Args:
        damaged: what other lines that can't be read are: refused, or left out, too.
        constants: take NaN and Infinity.
        say: is told of each line that is left out, and why.

    Raises:
        InputError: for a line that can't be read (with `damaged: refuse`) or is too long, and for no plain file.
        OSError: where the file can't be read.
    """
    for number, line, last in _lines(path, limits.bytes):
        if not line.strip():
            continue
        try:
            value = parse_json(line, f"{path}: line {number}", limits, constants=constants)
        except InputError as error:
            if damaged == "refuse" and not last:
                raise
            say(str(error) if line.endswith(b"\n") else f"{path}: line {number}, the last, {TORN}")
            continue
        if not last or line.endswith(b"\n"):
            yield number, value
        else:
            say(f"{path}: line {number}, the last, {TORN}")


def lines_behind(path: Path, begin: int, most: int = 64 * MIB) -> tuple[list[bytes], int]:
    """The whole lines among the `most` bytes behind byte `begin` of a file that grows, and the byte behind the last.

    Raises:
        OSError: where it can't be read.
    """
    with open(path, "rb", opener=_quickly) as file:
        file.seek(begin)
        data = file.read(most)
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return lines, begin + sum(len(line) + 1 for line in lines)


def check_value(value: Any, name: str, limits: Limits = Limits()) -> None:
    """Check plain values (of JSON, YAML) against the limits: depth, how many, and integers of 64 bits.

    Raises:
        InputError: for what exceeds them.
    """
    count, level, depth = 0, [value], 0
    while level:
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list | tuple):
                below += item
            elif isinstance(item, int) and item.bit_length() > BITS:
                raise InputError(f"{name}: holds {shown(item)}; numbers have at most {BITS} bits")
        count += len(level)
        if count + len(below) > limits.values:
            raise InputError(f"{name}: holds more than {limits.values:,} values")
        if depth > limits.depth:
            raise InputError(f"{name}: nested deeper than {limits.depth} levels")
        level = below


def check_pixels(path: Path, width: int, height: int, limit: int = PIXELS) -> None:
    """Refuse an image by the size in its header, before any of it is decoded.

    Raises:
        InputError: for more pixels than `limit`, or none.
    """
    if width < 1 or height < 1:
        raise InputError(f"{path}: an image of {width}x{height} pixels")
    if width * height > limit:
        raise InputError(
            f"{path}: {width}x{height} pixels; an image may have at most {limit / 1e6:.0f} million, so shrink it"
        )


def _lines(path: Path, limit: int) -> Iterator[tuple[int, bytes, bool]]:
    """(number, bytes, whether it is the last) of each line; a longer one than `limit` is refused."""
    with open(path, "rb", opener=_quickly) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{path}: no plain file; expected JSON lines")
        number, line = 0, file.readline(limit + 1)
        while line:
            number += 1
            if len(line) > limit:
                raise InputError(f"{path}: line {number} is longer than the {limit:,} bytes that a line may have")
            following = file.readline(limit + 1)
            yield number, line, not following
            line = following


def _quickly(path: str, flags: int) -> int:
    """Open without waiting: a pipe that nobody writes to would stop a command for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {shown(twice)} stands twice in one object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
