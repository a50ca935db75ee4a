"""Writes the golden numbers: the early quantities of a version, thinned to some values each.

    python -m tests.net.golden VALUES.safetensors OUT.safetensors

VALUES is what `benchmarks/quantities.py` wrote with that version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

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


if __name__ == "__main__":
    from benchmarks.quantities import quantities

    net = Path(sys.argv[3]) if len(sys.argv) > 3 else Path()
    write(Path(sys.argv[1]), Path(sys.argv[2]), {k for k, q in quantities(net, Path()).items() if q.early})
