"""The command: `python -m fuzz`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.cases import Case
from fuzz.run import Figures, fuzz, replay
from fuzz.targets import KINDS, TARGETS, of_kind
from fuzz.worker import Outcome


def main() -> int:
    """Fuzz the kinds that are asked for; 1 where there are findings. `crash` stops commands at every call instead, and
    `engines` kills workers and drivers."""
    if sys.argv[1:2] == ["crash"]:
        from fuzz import crash

        return crash.main(sys.argv[2:])
    if sys.argv[1:2] == ["engines"]:
        from fuzz import engines

        return engines.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz everything that Kinolab reads.")
    parser.add_argument("--minutes", type=float, help="time for all kinds together")
    parser.add_argument("--count", type=int, help="inputs of each kind")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this; may be named again")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other inputs")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where inputs that fail are kept")
    parser.add_argument("--replay", type=Path, nargs="+", help="read kept inputs again")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.replay:
        found = replay(options.replay, TARGETS)
        for path, outcome in zip(options.replay, found, strict=True):
            print(f"{path}: {outcome.result} {outcome.what}")
        return int(any(o.result == "finding" for o in found))
    kinds = options.kind or KINDS
    minutes = options.minutes if options.minutes or options.count else 1.0
    failed = False
    print(f"{'kind':12}{'inputs':>8}{'refused':>9}{'accepted':>9}{'findings':>9}{'a second':>9}{'slowest':>9}")
    for kind in kinds:
        with TemporaryDirectory(prefix="fuzz-") as room:
            figures = fuzz(
                of_kind(kind), Path(room), seed=options.seed, first=options.first, count=options.count,
                minutes=None if minutes is None else minutes / len(kinds),
            )  # fmt: skip
        print(row(figures), flush=True)
        for where, count in figures.counts.most_common():
            print(f"  {count:6} x {where}")
        for outcome, case in figures.findings:
            print(f"    {keep(outcome, case, options.out)}: {outcome.what[:200]}", flush=True)
        failed |= bool(figures.counts)
    return int(failed)


def row(figures: Figures) -> str:
    """A kind's line."""
    rate = figures.inputs / figures.seconds if figures.seconds else 0.0
    return (
        f"{figures.kind:12}{figures.inputs:8}{figures.refused:9}{figures.accepted:9}{sum(figures.counts.values()):9}"
        f"{rate:9.0f}{figures.slowest:8.1f}s"
    )


def keep(outcome: Outcome, case: Case, out: Path) -> Path:
    """Write an input that failed."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{case.target}-{outcome.number}.json"
    path.write_text(case.text(), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
