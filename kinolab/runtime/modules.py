"""Weights of a model folder on disk: `.safetensors` files in float32, float16, bfloat16 or 8 bits.

8 bits: a tensor NAME is int8 (q), and beside it stands `NAME.scale` (s), float32, one value per index i of dimension 0;
together they mean w[i] = s[i] q[i]. Which tensors are stored so says the entry `int8_rows` of the file's header, a JSON
list of names. Only what is listed has a scale: a parameter of the model that is itself called `... .scale` is read like
any other, and a tensor whose scale would take such a parameter's name is never stored in 8 bits. A file without the
entry holds plain tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kinolab.errors import InputError
from kinolab.runtime import weights
from kinolab.runtime.reading import parse_json

INT8_ROWS = "int8_rows"
"""The header's list of tensors in 8 bits; no other entry stands beside it, as their order in the file would vary."""
SCALE = ".scale"
LEAST_VALUES = 1024
"""Smaller tensors, and those of one dimension, are not worth 8 bits."""
LEVELS = 127
FRACTIONS = tuple(1 - k / 100 for k in range(51))
"""What the largest q of a row may stand for, as parts of the row's largest value; larger values are clipped."""
STORABLE = (torch.float32, torch.float16, torch.bfloat16, torch.int8)


class _Undrawn(TorchFunctionMode):
    """Within it no normal numbers are drawn into tensors."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Within it, modules are built on the meta device: for their shapes, or to be given the tensors of a file.

    The first normal number that is drawn on that device loads PyTorch's compiler, which takes one to two seconds; here
    none is drawn.
    """
    with torch.device("meta"), _Undrawn():
        yield


def save_weights(module: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a module's state in `dtype`, one of `STORABLE`; what that can't hold stays wider (see `encode`)."""
    save_state(module.state_dict(), path, dtype)


def save_state(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a state dict in `dtype`, as `save_weights` does."""
    tensors, header = encode({k: v.detach().cpu() for k, v in state.items()}, dtype)
    weights.write_weights(path, tensors, header)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a module's whole state, in float32 whatever it is stored in.

    Raises:
        InputError: where the file is missing or damaged, or does not fit; lists every tensor that doesn't.
    """
    state = {k: v.float() if v.is_floating_point() else v for k, v in decode(path, *read_tensors(path)).items()}
    expected = module.state_dict()
    problems = [f"missing {k}" for k in expected if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in expected]
    problems += [
        f"{k} has shape {tuple(v.shape)}, expected {tuple(expected[k].shape)}"
        for k, v in state.items()
        if k in expected and v.shape != expected[k].shape
    ]
    if problems:
        raise InputError(f"{path}: does not fit model.yaml: {'; '.join(problems)}")
    module.load_state_dict(state)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file as they are stored, and its header.

    Raises:
        InputError: where the file is missing, is no whole safetensors file, differs from what was written, or holds
            NaN; names the tensor.
    """
    if not path.exists():
        raise InputError(f"{path}: missing; the model folder is not complete")
    found = weights.read_weights(path)
    return dict(found.tensors), {k: v for k, v in found.metadata.items() if k != weights.SUMS}


def encode(state: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """What a file of `dtype` holds for these weights, and its header.

    With int8, floating tensors of two dimensions and `LEAST_VALUES` values at least are stored in 8 bits, all others in
    float16. A tensor with a value that overflows in 16 bits is float32. Integers stay as they are.
    """
    if dtype not in STORABLE:
        known = ", ".join(str(d).removeprefix("torch.") for d in STORABLE)
        raise InputError(f"weights are stored in one of {known}; got {str(dtype).removeprefix('torch.')}")
    tensors: dict[str, Tensor] = {}
    listed = []
    for name, value in state.items():
        if dtype == torch.int8 and name + SCALE not in state and _takes_int8(value):
            tensors[name], tensors[name + SCALE] = to_int8(value)
            listed.append(name)
        elif value.is_floating_point():
            tensors[name] = _narrowed(value, torch.float16 if dtype == torch.int8 else dtype)
        else:
            tensors[name] = value.contiguous()
    return tensors, {INT8_ROWS: json.dumps(sorted(listed))} if listed else None


def decode(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights that a file's tensors and header mean; those in 8 bits come back in float32.

    Raises:
        InputError: as `without_scales` does.
    """
    kept = without_scales(path, tensors, header)
    listed = _listed(path, header)
    return {k: from_int8(v, tensors[k + SCALE]) if k in listed else v for k, v in kept.items()}


def without_scales(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Tensor]:
    """The model's own tensors as they are stored: all but the scales of those in 8 bits.

    Raises:
        InputError: where a listed tensor or its scale is missing or of the wrong type or shape; lists all of them.
    """
    listed = _listed(path, header)
    problems = []
    for name in sorted(listed):
        value, scale = tensors.get(name), tensors.get(name + SCALE)
        if value is None or value.dtype != torch.int8 or not value.ndim:
            problems.append(f"{name} is {_kind(value)}, expected int8 of one dimension or more")
        elif scale is None or scale.dtype != torch.float32 or scale.shape != value.shape[:1]:
            problems.append(f"{name + SCALE} is {_kind(scale)}, expected float32 {tuple(value.shape[:1])}")
    if problems:
        raise InputError(f"{path}: damaged, its 8-bit weights can't be read: {'; '.join(problems)}; write it again")
    scales = {name + SCALE for name in listed}
    return {k: v for k, v in tensors.items() if k not in scales}


def to_int8(value: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N, ...) -> q, int8 of the same shape in [-127, 127], and s (N,): the w[i] = s[i] q[i] nearest to them.

    q = round(w / s). Each s is that of `FRACTIONS` * max |w[i]| / 127 with the least squared error of its row, the
    unclipped one where they are equal. Scales have 16 significant bits, so that s q is exact in float32: what was
    decoded is encoded to the same q and s again.
    """
    rows = value.detach().float().flatten(1)
    unclipped = rows.abs().amax(1) / LEVELS
    best = _sixteen_bits(unclipped)
    least = _squared_error(rows, best)
    for fraction in FRACTIONS[1:]:
        scale = _sixteen_bits(fraction * unclipped)
        error = _squared_error(rows, scale)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return _quantized(rows, best).to(torch.int8).view_as(value), best


def from_int8(q: Tensor, scale: Tensor) -> Tensor:
    """w[i] = s[i] q[i] in float32, of q's shape."""
    return q.float() * scale.view(-1, *[1] * (q.ndim - 1))


def largest_error(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[str, float]:
    """The tensor that storing changed most, and |after - before| / |before| of it; "" and 0 where nothing changed."""
    worst = ("", 0.0)
    for name, value in before.items():
        if value.is_floating_point() and not torch.equal(value, after[name]):
            change, size = (after[name] - value).norm().item(), value.norm().item()
            worst = max(worst, (name, change / size if size else float("inf")), key=lambda pair: pair[1])
    return worst


def _listed(path: Path, header: Mapping[str, str]) -> frozenset[str]:
    """The names in the header's list."""
    try:
        names = parse_json(header.get(INT8_ROWS, "[]"), str(path))
    except InputError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: damaged, the {INT8_ROWS!r} entry of its header is no JSON list of names")
    return frozenset(names)


def _takes_int8(value: Tensor) -> bool:
    """Whether a tensor is large enough for 8 bits, and finite with room for the rounding of its scale."""
    if not value.is_floating_point() or value.ndim < 2 or value.numel() < LEAST_VALUES:
        return False
    return bool(value.abs().max() < torch.finfo(torch.float32).max / 2)


def _narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in `dtype`, or in float32 where a finite value would become infinite."""
    narrow = value.to(dtype)
    return (narrow if torch.equal(narrow.isfinite(), value.isfinite()) else value.float()).contiguous()


def _sixteen_bits(scale: Tensor) -> Tensor:
    """Values that aren't negative, rounded to 16 of the 24 significant bits of float32."""
    return ((scale.view(torch.int32) + 0x80) & ~0xFF).view(torch.float32)


def _quantized(rows: Tensor, scale: Tensor) -> Tensor:
    """round(w / s), clipped, as float32; a row of zeros has scale 0."""
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / divisor[:, None]).round_().clamp_(-LEVELS, LEVELS)


def _squared_error(rows: Tensor, scale: Tensor) -> Tensor:
    """sum_j (s round(w_j / s) - w_j)^2 of each row."""
    return _quantized(rows, scale).mul_(scale[:, None]).sub_(rows).square_().sum(1)


def _kind(value: Tensor | None) -> str:
    return "missing" if value is None else f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
