"""What a worker answers, as it comes to the process that began it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from kinolab.contracts.engine import Task
from kinolab.engines.serving import served, started
from kinolab.errors import DamagedError, InputError, MissingExtraError
from kinolab.runtime.processes import packed, unpacked


@dataclass(frozen=True)
class Raising:
    """A job whose workers raise an error, when they are made (`early`) or when they work."""

    error: Exception
    early: bool = False

    def worker(self, number: int) -> Raising:
        if self.early:
            raise self.error
        return self

    def name(self, part: Any) -> str:
        return "x"

    def run(self, task: Task) -> Any:
        raise self.error

    def probe(self, part: Any) -> None:
        raise self.error


@pytest.mark.parametrize("error", [
    InputError("no such model"), DamagedError("cut off"), MissingExtraError("ray", "dist", "--engine ray"),
    OSError(28, "No space left on device", "x/y"), FileNotFoundError(2, "No such file", "z"),
])  # fmt: skip
def test_a_mistake_arrives_as_it_was_raised(error: Exception) -> None:
    task = Task("a", (1,))
    answers = [served(Raising(error), "run", task), served(Raising(error), "probe", 1)]
    worker, *early = started(Raising(error, early=True), 0, 1)
    assert worker is None
    for kind, value in (*answers, tuple(early)):
        arrived = unpacked(packed((kind, value)))[1]
        assert kind == "mistake" and type(arrived) is type(error) and str(arrived) == str(error)
        assert getattr(arrived, "filename", None) == getattr(error, "filename", None)


def test_any_other_error_is_said_in_a_line() -> None:
    kind, value = served(Raising(ZeroDivisionError("of\nno use")), "run", Task("a", (1,)))
    assert kind == "failed" and value.startswith("ZeroDivisionError: of") and "\n" not in value
