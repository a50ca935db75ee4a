"""What a pickle is read into, and what its reader is told beforehand (see `runtime.unpickling`)."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kinolab.errors import InputError
from kinolab.runtime.lines import shown

PROGRAM = 64 * 2**20
"""Bytes of a pickle without the tensors, which lie beside it."""
OBJECTS = 3_000_000
"""Lists, dictionaries and placeholders that one pickle may make."""
INTEGER = 1024
"""Bytes of an integer."""
KEY_DEPTH = 4
"""Tuples inside each other in a dictionary's key: Python hashes deeper ones without looking after its stack."""


class Source(Protocol):
    """Bytes that are read from the front: an open file, or bytes in memory (io.BytesIO)."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, /) -> bytes: ...


@dataclass(frozen=True, eq=False)
class Named:
    """The name of a class or function that a pickle asked for and nobody looked up: `module.name`."""

    name: str


@dataclass(eq=False)
class Placeholder:
    """What a pickle would have made of a class or function; inert.

    name: of the class or function; args: what it would have been called with; state: what would have been put into it
    (of several, the last); items, pairs: what would have been appended to it, and set in it.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Known:
    """What stands for one class or function that a pickle may name.

    call: makes the object from the arguments; it gets whatever the pickle holds, and checks it.
    build: puts a state into an object of the class `call`; without it a state is left out.
    """

    call: Callable[..., Any]
    build: Callable[[Any, Any], None] | None = None


@dataclass(frozen=True)
class Table:
    """All that a pickle may name, by `module.name`: `functions` to make objects, `values` as they are.

    keys: types that may be keys of a dictionary besides texts, numbers and tuples of them.
    persistent: what a persistent id stands for, as tensors' storages are written in files of torch.save.
    strict: refuse other names instead of keeping placeholders.
    unknown: the names that were asked for and are not in the table, once a pickle was read.
    """

    functions: Mapping[str, Known] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[type, ...] = ()
    persistent: Callable[[Any], Any] | None = None
    strict: bool = False
    unknown: set[str] = field(default_factory=set)


def names_in(value: Placeholder | Named | Any) -> str:
    """What a placeholder stands for, for errors: the name of its class or function."""
    return value.name if isinstance(value, Placeholder | Named) else type(value).__name__


def check_key(key: Any, types: tuple[type, ...] = (), depth: int = 0) -> None:
    """Refuse what must not be hashed: Python's hash of a tuple in a tuple in a tuple ... ends the process.

    Raises:
        TypeError: for anything but texts, numbers, names, objects of `types`, and tuples of them.
    """
    if key is None or isinstance(key, (str, bytes, int, float, complex, Named, Placeholder, *types)):
        return
    if type(key) in (tuple, frozenset) and depth < KEY_DEPTH:
        for item in key:
            check_key(item, types, depth + 1)
        return
    raise TypeError(f"{shown(key)} as a key")


class _Bounded:
    """A source of which no more than a limit is read, and no piece is longer."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source, self._left, self._limit = source, limit, limit

    def read(self, size: int, /) -> bytes:
        if size > self._left:
            raise InputError(f"a pickle of more than {self._limit:,} bytes, or a damaged one")
        self._left -= size
        return self._source.read(size)

    def readline(self) -> bytes:
        line = self._source.readline()
        self._left -= len(line)
        if self._left < 0:
            raise InputError(f"a pickle of more than {self._limit:,} bytes")
        return line


def operations(source: Source, limit: int = PROGRAM) -> Iterator[tuple[str, Any]]:
    """The operations of a pickle and their arguments, up to its end."""
    for code, argument, _ in pickletools.genops(_Bounded(source, limit)):  # type: ignore[arg-type]
        yield code.name, argument
