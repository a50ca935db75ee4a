"""Writes the golden numbers: the early quantities of a version, thinned to some values each.

    git worktree add --detach OLD COMMIT
    python -m tests.net.golden OLD OUT.safetensors [NET.tar.xz VARIANTS.json.xz]

Without another net they are computed on that of d564d33, and those that `golden.safetensors` has are left out: its
numbers stand.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FILES = tuple(Path(__file__).with_name(name) for name in ("golden.safetensors", "golden_variants.safetensors"))
"""The golden numbers: of the net's own folders, and of its variants."""
MOST = 96
"""Values kept of a tensor, evenly spaced."""


def thin(values: Tensor) -> Tensor:
    """At most `MOST` values of a tensor, evenly spaced from its first to its last: (n,)."""
    flat = values.detach().flatten().double()
    if len(flat) <= MOST:
        return flat.float()
    return flat[torch.linspace(0, len(flat) - 1, MOST).round().long()].float()


def write(source: Path, target: Path, early: set[str]) -> None:
    """Keep the early quantities of a file of values: thinned, with their shapes."""
    with safe_open(source, framework="pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys() if name.split(": ")[0] in early}  # noqa: SIM118
    shapes = {name: list(value.shape) for name, value in values.items()}
    save_file({name: thin(value) for name, value in values.items()}, target, {"shapes": json.dumps(shapes)})


def stored(path: Path) -> dict[str, dict[str, tuple[list[int], Tensor]]]:
    """The golden numbers of a file: quantity -> tensor's name -> shape and some values."""
    found: dict[str, dict[str, tuple[list[int], Tensor]]] = {}
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        for key in file.keys():  # noqa: SIM118
            quantity, name = key.split(": ")
            found.setdefault(quantity, {})[name] = (shapes[key], file.get_tensor(key))
    return found


def main(tree: str, out: str, *net: str) -> None:
    """Compute everything with the package in a folder, and keep what is early and not kept already."""
    from benchmarks.commits import NET, VARIANTS, measure
    from benchmarks.quantities import quantities

    with tempfile.TemporaryDirectory() as work:
        place = Path(work) / "values"
        archive, variants = map(Path, net) if net else (NET, VARIANTS)
        side = measure(Path(tree), place, archive=archive, variants=variants)
        if side.failed:
            raise RuntimeError(f"failed: {side.failed}")
        early = {k for k, q in quantities(place / "net", Path(work)).items() if q.early}
        write(place / "values.safetensors", Path(out), early - (set() if net else set(stored(FILES[0]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
