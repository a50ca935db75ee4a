"""A mapping from a file, asked for its fields by name and type, so that nothing else reaches the code behind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError

from kinolab.errors import InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.reading import Limits, read_json
from kinolab.runtime.summed import summed

M = TypeVar("M", bound=BaseModel)
D = TypeVar("D")
MISSING: Any = object()


class Record:
    """The fields of a mapping; every question says what is expected, and every wrong answer is one InputError.

    Args:
        value: what was read.
        name: what errors call it: the file, and the place in it.
        advice: what to do about a damaged one; added to every error.

    Raises:
        InputError: where it is no mapping of texts to values.
    """

    def __init__(self, value: Any, name: str, advice: str = "") -> None:
        self.name, self._advice = name, f"; {advice}" if advice else ""
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise InputError(f"{name}: expected named values, got {shown(value)}{self._advice}")
        self.values: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: D) -> str | D: ...
    def text(self, key: str, default: Any = MISSING) -> Any:
        """A text; `default` where it is missing (or null, for a default of None)."""
        return self._get(key, default, (str,), "a text")

    @overload
    def flag(self, key: str) -> bool: ...
    @overload
    def flag(self, key: str, default: D) -> bool | D: ...
    def flag(self, key: str, default: Any = MISSING) -> Any:
        """True or false."""
        return self._get(key, default, (bool,), "true or false")

    @overload
    def integer(self, key: str, *, at_least: int | None = None, at_most: int | None = None) -> int: ...
    @overload
    def integer(self, key: str, default: D, *, at_least: int | None = None, at_most: int | None = None) -> int | D: ...
    def integer(
        self, key: str, default: Any = MISSING, *, at_least: int | None = None, at_most: int | None = None
    ) -> Any:
        """An integer between bounds."""
        found = self._get(key, default, (int,), "an integer")
        if found is default:
            return found
        if (at_least is not None and found < at_least) or (at_most is not None and found > at_most):
            bounds = [f"at least {at_least}"] if at_least is not None else []
            bounds += [f"at most {at_most}"] if at_most is not None else []
            raise self.wrong(key, f"an integer of {' and '.join(bounds)}", found)
        return found

    @overload
    def number(self, key: str) -> float: ...
    @overload
    def number(self, key: str, default: D) -> float | D: ...
    def number(self, key: str, default: Any = MISSING) -> Any:
        """A number, whole or not, as a float."""
        found = self._get(key, default, (int, float), "a number")
        return float(found) if isinstance(found, int) and found is not default else found

    @overload
    def choice(self, key: str, options: Collection[str]) -> str: ...
    @overload
    def choice(self, key: str, options: Collection[str], default: D) -> str | D: ...
    def choice(self, key: str, options: Collection[str], default: Any = MISSING) -> Any:
        """One of several words."""
        found = self._get(key, default, (str,), f"one of {', '.join(options)}")
        if found is not default and found not in options:
            raise self.wrong(key, f"one of {', '.join(options)}", found)
        return found

    def record(self, key: str, default: Any = MISSING) -> Record:
        """Named values inside; a `default` is a mapping."""
        found = self._get(key, default, (dict,), "named values")
        return Record(found, f"{self.name}: {key}", self._advice.removeprefix("; "))

    def items(self, key: str, default: Any = MISSING) -> list[Any]:
        """A list of anything."""
        return list(self._get(key, default, (list, tuple), "a list"))

    def records(self, key: str, default: Any = MISSING) -> list[Record]:
        """A list of named values."""
        found = self.items(key, default)
        return [Record(v, f"{self.name}: {key}[{i}]", self._advice.removeprefix("; ")) for i, v in enumerate(found)]

    def texts(self, key: str, default: Any = MISSING) -> list[str]:
        """A list of texts."""
        return self._all(key, default, (str,), "a text")

    def integers(self, key: str, default: Any = MISSING, *, count: int | None = None) -> list[int]:
        """A list of integers; of `count` of them, where that is given."""
        return self._all(key, default, (int,), "an integer", count)

    def numbers(self, key: str, default: Any = MISSING, *, count: int | None = None) -> list[float]:
        """A list of numbers, as floats."""
        return [float(v) for v in self._all(key, default, (int, float), "a number", count)]

    def wrong(self, key: str, expected: str, found: Any) -> InputError:
        """The error for a field that is not what was expected, for checks of the caller's own."""
        return InputError(f"{self.name}: {key} is {shown(found)}, expected {expected}{self._advice}")

    def _get(self, key: str, default: Any, types: tuple[type, ...], expected: str) -> Any:
        found = self.values.get(key, MISSING)
        if found is MISSING or (found is None and default is None):
            if default is MISSING:
                raise InputError(f"{self.name}: no {key}, expected {expected}{self._advice}")
            return default
        if not isinstance(found, types) or (isinstance(found, bool) and bool not in types):
            raise self.wrong(key, expected, found)
        return found

    def _all(
        self, key: str, default: Any, types: tuple[type, ...], expected: str, count: int | None = None
    ) -> list[Any]:
        found = self.items(key, default)
        if count is not None and len(found) != count:
            raise self.wrong(key, f"a list of {count}", found)
        for value in found:
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise self.wrong(key, f"{expected} in every place", value)
        return found


def read_record(path: Path, advice: str = "", limits: Limits = Limits(), *, constants: bool = False) -> Record:
    """The named values in a JSON file.

    Raises:
        InputError: for what is no JSON, no object, or exceeds the limits.
        OSError: where the file can't be read.
    """
    try:
        value = read_json(path, limits, constants=constants)
    except InputError as error:
        raise InputError(f"{error}; {advice}" if advice else str(error)) from None
    return Record(value, str(path), advice)


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write named values as JSON with their sum (`runtime.summed`).

    Raises:
        OSError: where it can't be written.
    """
    write_text(path, summed(values, indent=1) + "\n")


def as_model(cls: type[M], value: Any, name: str, advice: str = "") -> M:
    """A value checked by a pydantic class; `name` is what errors call it.

    Raises:
        InputError: for what doesn't fit; names the first three fields and what was wrong with them.
    """
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, e['loc'])) or 'it'}: {one_line(e['msg'], 80)} (got {shown(e.get('input'))})"
            for e in error.errors(include_url=False)[:3]
        ]
        raise InputError(f"{name}: {'; '.join(found)}{'; ' + advice if advice else ''}") from None
    except (RecursionError, ValueError, TypeError, OverflowError) as error:  # of a validator of the class's own
        raise InputError(f"{name}: {one_line(error, 160)}{'; ' + advice if advice else ''}") from None
