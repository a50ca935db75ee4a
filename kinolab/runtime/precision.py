"""Which precision a model computes in, chosen by measuring the processor, and what to say when numbers break.

Weights always stay float32; `autocast` runs matrix products and convolutions in bfloat16 where that is chosen. Few
processors without a matrix unit gain from bfloat16 and some emulate it many times slower, so `auto` times both once
per device and process (some 50 ms) and `describe` says what came out.

Which library computes float32 is never a question of time: two libraries differ in the last bits, and two processes of
one machine must compute alike.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError

PrecisionPolicy = Literal["auto", "float32", "bfloat16"]

WORTH_IT = 1.2
"""bfloat16 must be this many times faster than float32 before `auto` chooses it."""

EXACT = 1e-5
"""The largest relative error at which a faster float32 matrix product still counts as float32."""


class NonFiniteError(InputError, FloatingPointError):
    """A tensor holds NaN or infinity; the message names the module and says what to do."""


@dataclass(frozen=True)
class Measurement:
    """Times of one device, each in seconds: a matrix product and a 3D convolution in both precisions.

    onednn_error: the largest error of float32 products through oneDNN (`set_float32_matmul_precision("medium")`),
    relative to the largest entry. About 1e-6 where oneDNN keeps float32 (AMD); near 1e-2 where it uses a bfloat16
    matrix unit instead (Intel AMX), which is then not float32 any more and is left off.
    onednn_fuses: whether oneDNN alone uses the processor's fused multiply-add (see `_only_onednn_fuses`).
    """

    matmul_float32: float
    matmul_bfloat16: float
    conv3d_float32: float
    conv3d_bfloat16: float
    onednn_error: float
    onednn_fuses: bool = False

    @property
    def ratio(self) -> float:
        """How many times faster bfloat16 is: the geometric mean over the two operations."""
        matmul = self.matmul_float32 / self.matmul_bfloat16
        return math.sqrt(matmul * self.conv3d_float32 / self.conv3d_bfloat16)

    @property
    def onednn_wanted(self) -> bool:
        """Whether float32 products should go through oneDNN: they stay float32, and gain more than others lose.

        Attention over short sequences loses: each of its many small products then sets up oneDNN anew. Times don't
        count: where both libraries are about as fast, each process would decide by chance, and have other last bits.
        """
        return self.onednn_error < EXACT and self.onednn_fuses


def resolve(policy: PrecisionPolicy, device: torch.device | str = "cpu") -> torch.dtype:
    """torch.float32 or torch.bfloat16, the precision that `policy` means on `device`.

    `auto` is bfloat16 on a GPU that has it in hardware and on a processor measured at least `WORTH_IT` times faster
    with it, float32 otherwise. The processes of a distributed run should share the answer of one of them.
    """
    device = torch.device(device)
    if policy == "bfloat16":
        return torch.bfloat16
    if policy == "float32":
        return torch.float32
    if policy != "auto":
        raise InputError(f"expected a precision of auto, float32 or bfloat16, got {policy!r}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if measure().ratio >= WORTH_IT else torch.float32
    return torch.float32


def describe(policy: PrecisionPolicy, device: torch.device | str = "cpu") -> str:
    """One line for a log: what `policy` means on `device`, and why."""
    device = torch.device(device)
    name = str(resolve(policy, device)).removeprefix("torch.")
    if policy != "auto":
        return f"{name} (as asked)"
    if device.type == "cuda":
        return f"{name} (auto: {torch.cuda.get_device_name(device)})"
    if device.type != "cpu":
        return f"{name} (auto: not measured on {device.type})"
    m = measure()
    return (
        f"{name} (auto: bfloat16 measured {m.ratio:.1f} times as fast as float32: "
        f"matmul {m.matmul_float32 / m.matmul_bfloat16:.1f}, conv3d {m.conv3d_float32 / m.conv3d_bfloat16:.1f})"
    )


@contextmanager
def autocast(policy: PrecisionPolicy, device: torch.device | str = "cpu") -> Iterator[torch.dtype]:
    """Run the forward pass inside in the precision of `policy`; gives the dtype that was chosen.

    float32 inside an enclosing bfloat16 autocast is float32. On a processor, float32 products go through oneDNN where
    that is exact (see `fast_float32`).
    """
    device = torch.device(device)
    dtype = resolve(policy, device)
    bfloat16 = dtype is torch.bfloat16
    with fast_float32(device), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
        yield dtype


@contextmanager
def fast_float32(device: torch.device | str = "cpu") -> Iterator[None]:
    """Float32 matrix products through oneDNN on the processor, where it is the faster one by far and still float32.

    PyTorch's default library is slow where it takes its code for any processor, without fused multiply-add: 2.7 times
    on one of AMD's, measured with MKL_CBWR=COMPATIBLE. Wrap a whole training step in it to have the backward pass gain
    as well. On a GPU, and where a program has set PyTorch's newer per-backend precision switches by itself, it changes
    nothing.
    """
    if torch.device(device).type != "cpu" or _matmul_precision() is None or not measure().onednn_wanted:
        yield
        return
    _MEDIUM.enter()
    try:
        yield
    finally:
        _MEDIUM.leave()


class _Medium:
    """The process's switch to oneDNN, for several threads at once: the first one sets it, the last one puts it back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, "highest"

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("medium")
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                torch.set_float32_matmul_precision(self.before)


_MEDIUM, _MEASURING = _Medium(), threading.Lock()


def measure() -> Measurement:
    """Time this processor once per process; some 50 ms.

    On one thread and by the time the processor spent on it, so that a busy machine does not change the answer. Other
    threads wait for it, as it changes how many compute.
    """
    with _MEASURING:
        return _measured()


@functools.cache
def _measured() -> Measurement:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> Measurement:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 384, 384, generator=generator).unbind()
    video = torch.randn(1, 32, 4, 24, 24, generator=generator)
    kernel = torch.randn(32, 32, 3, 3, 3, generator=generator)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        error = _onednn_error(x, w)

        def products(dtype: torch.dtype) -> Callable[[], Tensor]:
            a, b = x.to(dtype), w.to(dtype)
            return lambda: F.linear(a, b)

        def convolutions(dtype: torch.dtype) -> Callable[[], Tensor]:
            a, b = video.to(dtype), kernel.to(dtype)
            return lambda: F.conv3d(a, b, padding=1)

        fuses = error < EXACT and _only_onednn_fuses()
        with _matmul_precision_set("medium" if fuses else _matmul_precision()):
            matmul = _race(products(torch.float32), products(torch.bfloat16))
        conv = _race(convolutions(torch.float32), convolutions(torch.bfloat16))
    return Measurement(*matmul, *conv, error, fuses)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises NonFiniteError naming `name` where `tensor` (floating point, any shape) holds NaN or infinity.

    One pass, no temporary the size of the tensor; on a GPU it waits for the result.
    """
    if not tensor.is_floating_point() or _all_finite(tensor):
        return
    tensor = _local(tensor)
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    counts = " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (infinite, "infinite")) if n)
    dtype = str(tensor.dtype).removeprefix("torch.")
    cure = "lower the learning rate, or go back to an earlier checkpoint"
    if tensor.dtype is not torch.float32 or torch.is_autocast_enabled(tensor.device.type):
        cure = "use precision float32; in training, " + cure
    raise NonFiniteError(f"{name}: {counts} of {tensor.numel()} values ({dtype}) are not finite; {cure}")


@contextmanager
def watch_finite(module: nn.Module) -> Iterator[None]:
    """Inside, raise NonFiniteError for the first submodule that gives NaN or infinity.

    It checks every output, which costs time: use it to run a failed step again. The message names the innermost
    module, and says so where its weights or its input were not finite already.
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check(sub: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if tensor.is_floating_point() and not _all_finite(tensor):
                    check_finite(f"{name} ({type(sub).__name__}){_origin(sub, inputs)}", tensor)

        return check

    root = type(module).__name__
    handles = [m.register_forward_hook(hook(name or root)) for name, m in module.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _origin(module: nn.Module, inputs: Any) -> str:
    """What was not finite before the module ran, as a phrase; empty where everything was."""
    bad = [name for name, p in module.named_parameters() if not _all_finite(p)]
    if bad:
        return f", whose {bad[0]} is not finite"
    given = (t for t in _tensors(inputs) if t.is_floating_point())
    return "" if all(_all_finite(t) for t in given) else ", whose input is not finite either"


def _all_finite(tensor: Tensor) -> bool:
    tensor = _local(tensor)
    if not tensor.numel():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _local(tensor: Tensor) -> Tensor:
    """The values that this process holds: its shard of a DTensor (known by its method, as its import takes seconds)."""
    return tensor.to_local().detach() if hasattr(tensor, "to_local") else tensor.detach()


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and plain objects such as a posterior."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, tuple | list):
        for v in value:
            yield from _tensors(v)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name))


def _race(first: Callable[[], Tensor], second: Callable[[], Tensor], seconds: float = 0.02) -> tuple[float, float]:
    """The best time of each, taken in turns so that a busy machine slows both; at least 2 rounds, at most 8."""
    start = time.thread_time()
    best = [math.inf, math.inf]
    for turn in range(9):
        for i, function in enumerate((first, second)):
            before = time.thread_time()
            function()
            if turn:  # the first turn sets up the kernels
                best[i] = min(best[i], time.thread_time() - before)
        if turn >= 2 and time.thread_time() - start > seconds:
            break
    return best[0], best[1]


def _onednn_error(x: Tensor, w: Tensor) -> float:
    if _matmul_precision() is None or not torch.backends.mkldnn.is_available():
        return math.inf
    exact = F.linear(x.double(), w.double())
    with _matmul_precision_set("medium"):
        return float((F.linear(x, w) - exact).abs().max() / exact.abs().max())


def _only_onednn_fuses() -> bool:
    """Whether oneDNN multiplies and adds in one step, with one rounding, and PyTorch's default library in two.

    The default library then takes its code for any processor, which is slow. Nothing is timed: the answer is in the
    products, the same in every process.
    """
    x, w = _fused_or_not()
    with _matmul_precision_set("highest"):
        default = bool(F.linear(x, w).any())
    with _matmul_precision_set("medium"):
        return not default and bool(F.linear(x, w).any())


def _fused_or_not(size: int = 384, e: float = 2.0**-12) -> tuple[Tensor, Tensor]:
    """Two matrices (size, size) whose product is 0 if each product is rounded before it is added, in whatever order.

    (1 + e)^2 = 1 + 2e + e^2 is rounded to 1 + 2e in float32, and as many -(1 + 2e) are added: all sums are whole
    multiples of 2e, fewer than 2^24 of them, so exact. One rounding for both leaves a part of the e^2.
    """
    x, w = torch.tensor([-(1 + 2 * e), 1 + e]), torch.tensor([1.0, 1 + e])
    return x.repeat(size, size // 2), w.repeat(size, size // 2)


def _matmul_precision() -> str | None:
    """PyTorch's float32 matmul precision; None where a program has set the newer per-backend switches instead."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _matmul_precision_set(value: str | None) -> Iterator[None]:
    before = _matmul_precision()
    if value is None or before is None:
        yield
        return
    torch.set_float32_matmul_precision(value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
