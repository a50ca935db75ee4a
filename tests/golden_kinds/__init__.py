"""Reference numbers whose files say how they are read: by `kind`, with `config`, `layout` and `outputs` in the header.

A file holds random weights under `weights.<public key>`, inputs, and what the public class gave for them. Of each kind
there is a runner in a module of this folder, which reads the weights through the importer and gives the outputs by
their names:

    @runs("Unet2D")
    def unet_2d(golden: Golden) -> dict[str, Tensor]:
        model = golden.load(num_heads=golden.config["attention_head_dim"])
        ...
        return {"out": ...}

`pytest tests/test_golden_files.py --golden FOLDER` runs any other files of these kinds; `--released FOLDER` says where
released weights are, for the kinds that need some.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinolab import checkpoints
from tests.closeness import STORED, difference

WEIGHTS = "weights."


@dataclass(frozen=True)
class Golden:
    """One file: its kind, the constructor's arguments, the names of the outputs, and all tensors but the weights."""

    path: Path
    kind: str
    config: dict[str, Any]
    outputs: tuple[str, ...]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """An input or an output; halves as float32."""
        value = self.tensors[name]
        return value.float() if value.dtype == torch.float16 else value

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """The weights under a prefix, by their public names behind it, for a layer that no importer reads alone."""
        start = f"{WEIGHTS}{prefix}."
        with safe_open(self.path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
            return {name.removeprefix(start): file.get_tensor(name) for name in names}

    def load(self, prefix: str = "", **fields: Any) -> Any:
        """The module of the weights under a prefix, by `kinolab.checkpoints.load`."""
        return checkpoints.load(self.path, prefix=WEIGHTS + prefix, **fields)


Runner = Callable[[Golden], Mapping[str, Tensor]]
Measure = Callable[[str, Tensor, Tensor], float]
"""measure(name of an output, ours, the reference) -> how far apart they are."""


@dataclass(frozen=True)
class Kind:
    """How files of a kind are run, and how far from the reference their outputs may be, by which measure."""

    run: Runner
    within: float
    measure: Measure


KINDS: dict[str, Kind] = {}
released: Path | None = None
"""The folder of `--released`, for kinds whose weights are not in the file."""


def of_spread(name: str, ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the spread of the reference."""
    return difference(ours, theirs)


def runs(kind: str, within: float = STORED, measure: Measure = of_spread) -> Callable[[Runner], Runner]:
    """Decorator: the function runs files of a kind."""

    def add(runner: Runner) -> Runner:
        assert kind not in KINDS, f"two runners of {kind}"
        KINDS[kind] = Kind(runner, within, measure)
        return runner

    return add


def kinds() -> dict[str, Kind]:
    """All kinds, with the modules of this folder imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return KINDS


def header(path: Path) -> dict[str, str]:
    """A file's metadata."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def files(folder: Path) -> list[Path]:
    """The files of a folder that say their kind."""
    return [path for path in sorted(folder.glob("*.safetensors")) if "kind" in header(path)]


def read(path: Path) -> Golden:
    """A file without its weights, which the importer reads."""
    said = header(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(WEIGHTS)}  # noqa: SIM118
    return Golden(path, said["kind"], json.loads(said["config"]), tuple(json.loads(said["outputs"])), tensors)


def check(path: Path) -> None:
    """Fails unless every output of a file is what the runner of its kind gives."""
    golden = read(path)
    kind = kinds()[golden.kind]
    with torch.no_grad():
        found = kind.run(golden)
    missing = [name for name in golden.outputs if name not in found]
    assert golden.outputs and not missing, f"{path.name}: nothing gives {', '.join(missing)}"
    for name in golden.outputs:
        ours, theirs = found[name], golden[name]
        assert ours.shape == theirs.shape, f"{path.name}: {name} is {tuple(ours.shape)}, not {tuple(theirs.shape)}"
        far = kind.measure(name, ours, theirs)
        assert far <= kind.within, f"{path.name}: {name} differs by {far:.3g}, expected at most {kind.within:g}"


def write(
    path: Path, kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor],
    outputs: tuple[str, ...] = ("out",),
) -> Path:  # fmt: skip
    """A file of a kind, of weights by their public names, inputs and outputs."""
    named = {f"{WEIGHTS}{name}": value for name, value in weights.items()} | dict(tensors)
    said = {"kind": kind, "config": json.dumps(dict(config)), "outputs": json.dumps(outputs), "layout": ""}
    save_file({name: value.contiguous() for name, value in named.items()}, path, said)
    return path
