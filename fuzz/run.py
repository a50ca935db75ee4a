"""Over kinds and numbers: what was read, what came of it, and what is kept."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.cases import Case, Target, make_case, parse_case
from fuzz.seeds import prepare, secrets
from fuzz.worker import SECONDS, Outcome, outcomes

KEPT = 3
"""Inputs that are kept of each kind of finding."""


@dataclass
class Figures:
    """What came of a kind's inputs; of each kind of finding the first ones, with their inputs, and how many."""

    kind: str
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[Outcome, Case]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """How many were read."""
        return self.refused + self.accepted + sum(self.counts.values())

    def add(self, outcome: Outcome, case: Case) -> None:
        """Count one more."""
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.result == "refused":
            self.refused += 1
        elif outcome.result == "accepted":
            self.accepted += 1
        else:
            self.counts[outcome.where] += 1
            if self.counts[outcome.where] <= KEPT:
                self.findings.append((outcome, case))


def fuzz(
    targets: Sequence[Target],
    room: Path,
    *,
    seed: int = 0,
    first: int = 0,
    count: int | None = None,
    minutes: float | None = None,
    make: Callable[[Path, list[str]], None] = prepare,
    seconds: float = SECONDS,
) -> Figures:
    """Read inputs of one kind's targets until there were `count`, or time is up.

    Args:
        room: an empty folder to work in.
        seed, first: name the inputs; number n of a seed is always the same.
        make: writes the valid folders.
        seconds: for one input.

    Raises:
        ValueError: where a valid folder is refused.
    """
    seeds, place = room / "seeds", room / "room"
    place.mkdir(parents=True)
    make(seeds, [t.name for t in targets])
    secrets(place)
    warm(targets, seeds, place)
    figures, begin = Figures(targets[0].kind), time.monotonic()

    def cases() -> Iterator[tuple[int, Case]]:
        number = first
        while (count is None or number < first + count) and (
            minutes is None or time.monotonic() - begin < 60 * minutes
        ):
            made.append(make_case(targets, seeds, seed, number))
            yield number, made[-1]
            number += 1

    made: list[Case] = []
    for outcome in outcomes(cases(), {t.name: t for t in targets}, seeds, place, seconds):
        figures.add(outcome, made.pop())
    figures.seconds = time.monotonic() - begin
    return figures


def warm(targets: Sequence[Target], seeds: Path, room: Path) -> None:
    """Read the valid folders in this process: forked ones then have everything imported, and the seeds are valid."""
    from fuzz.cases import lay_out

    for target in targets:
        for variant in sorted(p.name for p in (seeds / target.name).iterdir()):
            folder = lay_out(Case(target.name, variant, {}), seeds, room)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    target.read(folder)
            except Exception as error:
                raise ValueError(f"the valid input {target.name}/{variant} is refused: {error!r}") from error


def replay(paths: Sequence[Path], targets: Sequence[Target], seconds: float = SECONDS) -> list[Outcome]:
    """Read kept inputs again, in their order."""
    cases = [parse_case(path.read_text(encoding="utf-8")) for path in paths]
    wanted = [t for t in targets if t.name in {case.target for case in cases}]
    with TemporaryDirectory(prefix="fuzz-") as folder:
        seeds, place = Path(folder) / "seeds", Path(folder) / "room"
        place.mkdir()
        prepare(seeds, [t.name for t in wanted])
        secrets(place)
        warm(wanted, seeds, place)
        return list(outcomes(enumerate(cases), {t.name: t for t in wanted}, seeds, place, seconds))
