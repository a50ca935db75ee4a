"""Weights that a person has on disk, for metrics: read without running code, hashed, and fitted to a network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.runtime.hashes import file_sha256
from kinolab.runtime.torch_files import read_torch
from kinolab.runtime.weights import kind_of, read_weights

COUNTER = "num_batches_tracked"
"""What BatchNorm counts in training; old files lack it and no output depends on it."""
SHOWN = 4
"""How many names of tensors an error shows of each kind."""


class LpipsConfig(Config):
    """The weights of a distance of deep features."""

    features: Path
    """File of feature weights in torchvision's layout, .pth or .safetensors."""
    heads: Path | None = None
    """File of LPIPS's linear heads; null = those in `features`, or none (plain distance of normalised features)."""
    network: Literal["vgg16", "alexnet"] = "alexnet"
    """The network that `features` holds."""


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits; raises InputError where there is no such file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected your own file of weights")
    return file_sha256(path)


def checked_hash(path: Path, expected: str | None) -> str:
    """The file's sha256; raises InputError where another one is expected, before anything is read from the file."""
    came = file_hash(path)
    if expected is not None and came != expected.lower():
        raise InputError(f"{path}: expected sha256 {expected.lower()}, got {came}: not the file that was meant")
    return came


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A flat mapping of names to tensors from a .safetensors file or one that torch.save wrote (weights only, no code).

    Raises:
        InputError: where there is no such file, it is damaged, or it holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected your own file of weights")
    if is_torchscript(path):
        raise InputError(f"{path}: holds a TorchScript network, expected a file of tensors")
    try:
        state: Any = read_weights(path).tensors if kind_of(path) == "safetensors" else read_torch(path).value
    except InputError as error:
        raise InputError(f"{error}; expected a .pth or .safetensors file of tensors") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a flat mapping of names to tensors")
    return {str(name): value for name, value in state.items()}


def is_torchscript(path: Path) -> bool:
    """Whether torch.jit.save wrote the file: an archive that holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, ignored: Sequence[str] = ()) -> None:
    """Give a network (it may be on the meta device) the tensors of a file, as float32; then freeze it.

    ignored: beginnings of names that such files hold beside what is used.

    Raises:
        InputError: in one line, the names that are missing or unexpected and the shapes that differ.
    """
    own = network.state_dict()
    wanted = {name: tuple(value.shape) for name, value in own.items() if not name.endswith(COUNTER)}
    found = {n: v for n, v in tensors.items() if not n.endswith(COUNTER) and not n.startswith(tuple(ignored))}
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise InputError(f"{path}: not weights of {type(network).__name__}; {'; '.join(problems)}")
    counters = {name: torch.zeros((), dtype=torch.int64) for name in own if name.endswith(COUNTER)}
    floats = {name: found[name].float().contiguous() for name in wanted}
    network.load_state_dict(floats | counters, assign=True)
    network.eval().requires_grad_(False)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
