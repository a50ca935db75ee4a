"""`python -m benchmarks.commits A [B]`: two commits side by side on this machine, bit for bit, on one thread.

    python -m benchmarks.commits d564d33                  # that commit and what stands here, changes included
    python -m benchmarks.commits d564d33 HEAD --only forward --only sample
    python -m benchmarks.commits HEAD~1 . --steps 10

Each is checked out into a temporary folder and computes the same quantities (`benchmarks/quantities.py`) on the models,
recipes and clips of the net (tests/net/) in a process of its own. The table says of each whether all its values are
equal bit for bit, or else by how much they differ at most, as a share of their spread, and where. The status is 1 where
anything differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.folders import unfold
from kinolab.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
NET = ROOT / "tests" / "net" / "d564d33.tar.xz"
VARIANTS = NET.with_name("variants.json.xz")
HERE = "."
"""Stands for the working tree as it is, changes that aren't committed included."""
ALIKE = "equal in what both have"
"""Of a quantity in which one side has values that the other hasn't, as a result with new fields."""


@dataclass(frozen=True)
class Side:
    """What one version computed: tensors by `quantity: name`, seconds by quantity, and what failed and why."""

    tensors: dict[str, Tensor]
    seconds: dict[str, float]
    failed: dict[str, str]

    def values(self, quantity: str) -> dict[str, Tensor]:
        """The tensors of one quantity by name."""
        start = f"{quantity}: "
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


@dataclass(frozen=True)
class Row:
    """One quantity on both sides."""

    name: str
    equal: bool
    verdict: str
    seconds: tuple[float, float]


@contextmanager
def checkout(commit: str, root: Path = ROOT) -> Iterator[Path]:
    """A folder with the files of a commit, for as long as the context is open; `HERE` is the repository itself.

    Raises:
        InputError: where there is no such commit.
    """
    if commit == HERE:
        yield root
        return
    found = _git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if found.returncode:
        raise InputError(f"{commit}: no such commit; expected a hash, a branch, a tag, or {HERE} for the files here")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tree"
        made = _git(root, "worktree", "add", "--detach", str(folder), found.stdout.strip())
        if made.returncode:
            raise InputError(f"{commit}: could not be checked out: {made.stderr.strip()}")
        try:
            yield folder
        finally:
            _git(root, "worktree", "remove", "--force", str(folder))


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)


def measure(
    tree: Path,
    work: Path,
    only: Sequence[str] = (),
    steps: int = 3,
    *,
    archive: Path = NET,
    variants: Path = VARIANTS,
) -> Side:
    """Compute the quantities of a net with the package in `tree`, in a process of one thread.

    Raises:
        InputError: where the process ended before it wrote anything, or took another package.
    """
    work.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(work / "net", filter="data")
    unfold(variants, work / "net")
    # In a folder of its own, as a script's folder is searched before all others: for what goes with it too.
    script = Path(shutil.copy(Path(__file__).with_name("quantities.py"), work / "script.py"))
    (work / "benchmarks").mkdir()
    for name in ("__init__.py", "adapter.py", "folders.py", "computing.py", "recipes.py"):
        shutil.copy(Path(__file__).with_name(name), work / "benchmarks" / name)
    out = work / "values.safetensors"
    environment = os.environ | {
        "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HOME": str(work / "home"),
    }  # fmt: skip
    words = [sys.executable, str(script), str(work / "net"), str(out), str(steps), *only]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"{tree}: computed nothing: {last}")
    return read(out, tree)


def read(path: Path, tree: Path | None = None) -> Side:
    """The values that `quantities.py` wrote, made by the package in `tree`."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    package = Path(record["package"])
    if tree is not None and package.resolve() != (tree / "kinolab").resolve():
        raise InputError(f"{tree}: computed with the package in {package}")
    return Side(tensors, record["seconds"], record["failed"])


def compare(a: Side, b: Side) -> list[Row]:
    """A row for each quantity of either side, in the order that they were computed in."""
    names = dict.fromkeys([*a.seconds, *b.seconds])
    rows = []
    for name in names:
        seconds = (a.seconds.get(name, math.nan), b.seconds.get(name, math.nan))
        verdict = _verdict(name, a, b)
        rows.append(Row(name, verdict == "equal", verdict, seconds))
    return rows


def _verdict(name: str, a: Side, b: Side) -> str:
    for side, other, word in ((a, b, "A"), (b, a, "B")):
        if name in side.failed:
            both = name in other.failed
            return f"failed in {'both' if both else word}: {side.failed[name].splitlines()[0][:160]}"
    first, second = a.values(name), b.values(name)
    apart = [
        f"{sorted(only)[0]} only in {letter}" + (f", and {len(only) - 1} more" if len(only) > 1 else "")
        for letter, only in (("A", first.keys() - second.keys()), ("B", second.keys() - first.keys()))
        if only
    ]
    differences = {k: difference(v, second[k]) for k, v in first.items() if k in second}
    worst = max(differences, key=lambda k: differences[k], default=None)
    if worst is not None and differences[worst]:
        apart.insert(0, f"{differences[worst]:.2g} in {worst}")
    elif differences and apart:
        apart.insert(0, ALIKE)
    if not first and not second:
        return "nothing was computed"
    return "; ".join(apart) or "equal"


def difference(a: Tensor, b: Tensor) -> float:
    """0 where both are the same bit for bit; else the largest difference over the first one's spread, inf for shapes.

    A zero's sign and a NaN's place count as bits do: -0 beside 0 has a difference of the least that there is.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if torch.equal(_bits(a), _bits(b)):
        return 0.0
    first, second = a.double(), b.double()
    worst = float((first - second).abs().max())
    scale = float(first.std(correction=0)) or float(first.abs().max())
    if worst == 0:
        return sys.float_info.min
    return worst / scale if scale and not math.isnan(worst) else math.inf


def _bits(value: Tensor) -> Tensor:
    """A tensor's bytes."""
    return value.contiguous().reshape(-1).view(torch.uint8)


def table(rows: Sequence[Row], names: tuple[str, str]) -> list[str]:
    """The rows as lines: name, verdict, seconds of both."""
    width = max([len(row.name) for row in rows] + [8])
    lines = [f"{'quantity':<{width}}  {'A (s)':>7} {'B (s)':>7}  A = {names[0]}, B = {names[1]}"]
    lines += [f"{row.name:<{width}}  {row.seconds[0]:7.2f} {row.seconds[1]:7.2f}  {row.verdict}" for row in rows]
    unequal = sum(not row.equal for row in rows)
    more = sum(row.verdict.startswith(ALIKE) for row in rows)
    also = f"; {more} more {ALIKE}" if more else ""
    lines.append(f"{len(rows) - unequal} of {len(rows)} equal, bit for bit{also}")
    return lines


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> int:
    """Compare two commits; returns the status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("a", metavar="A", help="a commit")
    parser.add_argument("b", metavar="B", nargs="?", default=HERE, help="another; default the files as they are here")
    parser.add_argument("--only", action="append", default=[], help="quantities with this in their name; repeatable")
    parser.add_argument("--steps", type=int, default=3, help="steps that are sampled and trained")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps {options.steps}: expected at least 1")
    sides = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for letter, commit in (("a", options.a), ("b", options.b)):
            tree = stack.enter_context(checkout(commit))
            sides.append(measure(tree, place / letter, options.only, options.steps))
    rows = compare(*sides)
    if not rows:
        raise InputError(f"no quantity has {' or '.join(map(repr, options.only))} in its name")
    for line in table(rows, (options.a, options.b)):
        say(line)
    if options.out is not None:
        record = [{"name": r.name, "verdict": r.verdict, "equal": r.equal, "seconds": r.seconds} for r in rows]
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.equal for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"commits: {error}", file=sys.stderr)
        sys.exit(2)
