"""Commands that are cut off by a kill or a power cut leave the old or the new state, whole, and go on afterwards.

Here some of the moments of each command; all of them by `python -m fuzz crash`, and in `make test-wide`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.command_crashes import Command, check, commands
from tests.runtime.crashing import count_calls, crashes, failures

MOMENTS = {
    "train": 2, "encode": 5, "pack": 2, "generate": 3, "compare": 1, "reconstruct": 4, "report": 4, "convert": 2,
    "shrink": 4, "world": 4, "curate": 3,
}  # fmt: skip
"""Of each command, in the short run; which ones, a seed says."""

LONG = ("compare", "curate")
"""Those that `make test-wide` alone cuts off."""
SEED = 1

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Command]]:
    yield {command.name: command for command in commands(tmp_path_factory.mktemp("commands"))}


def test_the_list_of_commands_is_whole(made: dict[str, Command]) -> None:
    assert tuple(made) == tuple(MOMENTS)


@pytest.mark.parametrize("name", [n if n not in LONG else pytest.param(n, marks=pytest.mark.wide) for n in MOMENTS])
@pytest.mark.wide
def test_some_moments(name: str, made: dict[str, Command], tmp_path: Path) -> None:
    command = made[name]
    count = len(count_calls(command.before, command.act, tmp_path / "count"))
    chosen = Random(f"{SEED} {name}").sample(range(1, count + 1), MOMENTS[name])
    for after in crashes(command.before, command.act, tmp_path, ("kill", "flushed"), lambda point: point in chosen):
        check(command, after, goes_on=after.how == "kill before" and after.point == max(chosen))


@pytest.mark.wide()
@pytest.mark.parametrize("name", MOMENTS)
def test_all_moments(name: str, made: dict[str, Command], tmp_path: Path) -> None:
    command = made[name]
    for after in crashes(command.before, command.act, tmp_path):
        check(command, after, goes_on=after.how.startswith("kill"))


@pytest.mark.wide()
@pytest.mark.parametrize("name", MOMENTS)
def test_all_errors_of_the_disk(name: str, made: dict[str, Command], tmp_path: Path) -> None:
    command = made[name]
    for after in failures(command.before, command.act, tmp_path, numbers=(28, 5)):
        assert after.error is None or after.error.filename is not None, f"{name}, {after}: {after.error}"
        check(command, after, goes_on=True)
