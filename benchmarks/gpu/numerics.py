"""Part 1: does every family compute on the device what it computes on the CPU, and how far off is each precision?

The reference is the CPU in float32. What is compared are the outputs and, where there are gradients, those of a fixed
weighted sum of the outputs by the inputs and all parameters, as one long vector.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import Case, moved, tensors
from benchmarks.gpu.running import FAILED, Item, Place, Record, number


@dataclass(frozen=True)
class Mode:
    """A precision: whether products and convolutions may round their factors to TF32, and whether bfloat16 is on.

    limit: the relative error (norm over norm) of outputs that still passes for this precision's rounding; gradients
    may have `GRADIENTS` times as much, as what is rounded flips a rectifier here and there.
    """

    matmul_tf32: bool
    conv_tf32: bool
    bfloat16: bool
    limit: float


MODES = {
    "float32": Mode(False, False, False, 1e-4),
    "as torch comes": Mode(False, True, False, 1e-2),
    "tf32": Mode(True, True, False, 1e-2),
    "bfloat16": Mode(False, True, True, 6e-2),
}
GRADIENTS = 4
SKIPPED = "skipped"
"""The key of a record that says why there was nothing to compare."""
"""TF32 is for CUDA alone; torch comes with it off for matrix products and on for convolutions."""


@dataclass(frozen=True)
class Difference:
    """Of two results: the largest difference over the reference's spread, and norm of the difference over its norm."""

    largest: float
    relative: float


@contextmanager
def precision(mode: Mode, device: torch.device) -> Iterator[None]:
    """Inside, the device computes in a mode; afterwards as before."""
    if device.type != "cuda":
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mode.bfloat16):
            yield
        return
    backends = torch.backends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch would have these switches by other names
        before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = mode.matmul_tf32, mode.conv_tf32
        try:
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=mode.bfloat16):
                yield
        finally:
            backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = before


def results_of(case: Case, module: nn.Module, device: torch.device, mode: Mode) -> tuple[Tensor, Tensor | None]:
    """A case's outputs, and its gradients or none, each as one vector in float64 on the CPU; the module is copied."""
    module = copy.deepcopy(module).to(device).requires_grad_(case.gradients)
    inputs = moved(case.inputs(), device)
    leaves = [t for t in tensors(inputs) if t.is_floating_point()] if case.gradients else []
    for leaf in leaves:
        leaf.requires_grad_()
    leaves += [p for p in module.parameters() if p.is_floating_point()] if case.gradients else []
    with precision(mode, device):
        with torch.set_grad_enabled(case.gradients):
            outputs = tensors(case.run(module, *inputs))
        gradient = None
        if case.gradients:
            total = sum((_weighted(o, k) for k, o in enumerate(outputs)), torch.zeros((), device=device))
            found = torch.autograd.grad(total, leaves, allow_unused=True)
            gradient = _vector([torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)])
    return _vector(outputs), gradient


def _weighted(output: Tensor, number: int) -> Tensor:
    """A weighted sum of an output, so that no gradient cancels."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(100 + number))
    return (output.float() * weights.to(output.device)).sum() / max(output.numel(), 1) ** 0.5


def _vector(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.detach().double().flatten().cpu() for part in parts])


def difference(found: Tensor, reference: Tensor) -> Difference:
    """How far a result is from the reference; infinite where it is not finite."""
    apart = found - reference
    if not bool(torch.isfinite(apart).all()):
        return Difference(float("inf"), float("inf"))
    size = float(reference.abs().max())
    spread = float(reference.std(correction=0)) if reference.numel() > 1 else 0.0
    spread = spread if spread > 1e-6 * size else size
    norm = float(reference.norm())
    nothing = not float(apart.abs().max())
    return Difference(
        0.0 if nothing else float(apart.abs().max()) / spread if spread else float("inf"),
        0.0 if nothing else float(apart.norm()) / norm if norm else float("inf"),
    )


def compare(case: Case, device: torch.device) -> Record:
    """The differences of a case in every mode that the device has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = case.build()
        except ImportError as error:  # of a library that a family is read through
            return {SKIPPED: str(error)}
        reference, slopes = results_of(case, module, torch.device("cpu"), MODES["float32"])
        record: Record = {"values": len(reference), "gradients": 0 if slopes is None else len(slopes), "modes": {}}
        for name, mode in MODES.items():
            if device.type != "cuda" and name in ("as torch comes", "tf32"):
                continue
            outputs, found = results_of(case, module, device, mode)
            of_outputs = difference(outputs, reference)
            entry: dict[str, Any] = {"largest": of_outputs.largest, "relative": of_outputs.relative}
            passes = of_outputs.relative <= mode.limit
            if found is not None and slopes is not None:
                of_slopes = difference(found, slopes)
                entry |= {"gradient_largest": of_slopes.largest, "gradient_relative": of_slopes.relative}
                passes = passes and of_slopes.relative <= GRADIENTS * mode.limit
            entry["passes"] = passes
            record["modes"][name] = entry
    return record


def items(place: Place) -> Iterator[Item]:
    """One item for each case."""
    from benchmarks.gpu import cases_models, cases_networks

    makers = (
        cases_models.denoisers, cases_models.autoencoders, cases_networks.networks, cases_networks.sampling,
        cases_networks.shipped,
    )  # fmt: skip
    for maker in makers:
        for case in maker(place.small):
            yield case.name, lambda case=case: compare(case, place.device)  # type: ignore[misc]


def table(records: dict[str, Record]) -> tuple[list[str], list[list[str]]]:
    """Largest difference over the spread, of outputs and of gradients, by mode; `!` where the limit is passed."""
    modes = [name for name in MODES if any(name in record.get("modes", {}) for record in records.values())]
    rows = []
    for name, record in records.items():
        reason = record.get(FAILED, record.get(SKIPPED))
        if reason is not None:
            rows.append([name, reason, *[""] * (len(modes) - 1)])
            continue
        cells = []
        for mode in modes:
            entry = record["modes"].get(mode)
            cells.append("" if entry is None else _cell(entry))
        rows.append([name, *cells])
    return ["case", *modes], rows


def _cell(entry: dict[str, Any]) -> str:
    gradient = f" / {number(entry['gradient_largest'])}" if "gradient_largest" in entry else ""
    return f"{number(entry['largest'])}{gradient}{'' if entry['passes'] else ' !'}"
