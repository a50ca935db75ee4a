"""What is said of all files of a source together, and how files are split into train and held-out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kinolab.contracts.examples import Verdict
from kinolab.runtime.hashes import Sha256


@dataclass(frozen=True)
class CheckSummary:
    """The totals of a list of verdicts."""

    files: int
    used: int
    windows: int
    train: int
    heldout: int
    reasons: Mapping[str, int] = field(default_factory=dict)


def summarise(verdicts: Iterable[Verdict]) -> CheckSummary:
    """Totals: files, files used, windows, windows per split, and how many files each reason dropped entirely."""
    files = used = train = heldout = 0
    reasons: dict[str, int] = {}
    for verdict in verdicts:
        files += 1
        used += verdict.kept > 0
        train += verdict.kept if verdict.split != "heldout" else 0
        heldout += verdict.kept if verdict.split == "heldout" else 0
        if not verdict.kept:
            for reason in verdict.dropped[:1]:
                reasons[reason] = reasons.get(reason, 0) + 1
    return CheckSummary(files, used, train + heldout, train, heldout, reasons)


def heldout_hashes(hashes: Iterable[str], fraction: float) -> frozenset[str]:
    """The source hashes that are held out: those whose value, uniform in [0, 1), lies below `fraction`.

    A file's side depends on its content alone, so adding files moves no other one. Two exceptions keep small folders
    usable: where no file (or every file) of at least two falls below, the one nearest to the line changes sides.
    """
    distinct = sorted(set(hashes), key=_uniform)
    if fraction <= 0 or len(distinct) < 2:
        return frozenset()
    below = sum(_uniform(h) < fraction for h in distinct)
    return frozenset(distinct[: min(max(below, 1), len(distinct) - 1)])


def _uniform(source_hash: str) -> float:
    """A number in [0, 1) from a hash, independent of other uses of the hash."""
    return int.from_bytes(Sha256().text(f"split:{source_hash}").digest()[:8], "big") / 2**64
