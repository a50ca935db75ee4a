"""Which device a run takes and how that is said: the only place that asks torch what this machine has.

`auto` is the first of CUDA (AMD's ROCm too, which torch calls cuda), XPU, MPS and the CPU that is there. The CPU is run
by the tests, which know XPU and MPS by a stand-in alone: choice, messages, and that no float64 tensor is sent to a
device that has none.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import Tensor

from kinolab.errors import InputError

ACCELERATORS = ("cuda", "xpu", "mps")
"""The kinds that `auto` prefers to the CPU, the first one first."""
NAMES = {"cuda": "CUDA", "xpu": "XPU", "mps": "MPS"}
MEANT = {"gpu": "auto", "rocm": "cuda", "hip": "cuda", "nvidia": "cuda", "amd": "cuda", "intel": "xpu", "metal": "mps",
         "apple": "mps"}  # fmt: skip
"""Words that people try, and what torch calls that."""


def choose(device: torch.device | str = "auto") -> torch.device:
    """The device that a word means: auto, cpu, cuda, cuda:1, xpu, mps. A `torch.device` is taken as it is.

    Raises:
        InputError: for another word, or a device that is not there; says what is.
    """
    if isinstance(device, torch.device):
        return device
    word = device.strip().lower() if isinstance(device, str) else ""
    if word == "auto":
        return torch.device(next((kind for kind in ACCELERATORS if count(kind)), "cpu"))
    found = re.fullmatch(r"(cuda|xpu|mps)(?::(\d+))?|cpu(?::0)?", word)
    if found is None:
        meant = MEANT.get(word.partition(":")[0])
        hint = f"; for {word} write {meant}" if meant is not None else ""
        raise InputError(f"device {device!r}: expected {listed()}{hint}")
    kind, index = found.group(1), found.group(2)
    if kind is None:
        return torch.device("cpu")
    there = count(kind)
    if not there:
        raise InputError(f"device {word}: not there, {missing(kind)}; expected {listed()}")
    if index is None:
        return torch.device(kind)
    if int(index) >= there:
        raise InputError(f"device {word}: not there, there {_are(there, kind)}; expected {listed()}")
    return torch.device(kind, int(index))


def device_of(module: object) -> torch.device:
    """Where a module's weights are; the CPU for one that has none."""
    tensors = chain(module.parameters(), module.buffers()) if isinstance(module, torch.nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def for_process(device: torch.device | str, local_rank: int, local_size: int) -> torch.device:
    """The device of one of several processes on this machine: each takes an accelerator of its own, or all the CPU.

    Raises:
        InputError: where there is not one for each, or one is named that all would share.
    """
    chosen = choose(device)
    if local_size == 1 and local_rank == 0:
        return chosen if chosen.type not in ("cuda", "xpu") else indexed(chosen)
    kind = chosen.type
    if kind == "cpu":
        return chosen
    if kind == "mps":
        raise InputError("MPS can't be shared by several processes: start one, or take the device cpu")
    if chosen.index is not None:
        raise InputError(
            f"device {chosen}: each of the {local_size} processes here takes one of its own; write {kind} alone"
        )
    there = count(kind)
    if local_rank >= there:
        raise InputError(
            f"process {local_rank + 1} of {local_size} on this machine has no device: there {_are(there, kind)}; "
            f"start {there} with --nproc-per-node {there}, or take the device cpu"
        )
    return torch.device(kind, local_rank)


def indexed(device: torch.device) -> torch.device:
    """The same device with its number: the current one's where none is named."""
    if device.type not in ("cuda", "xpu") or device.index is not None:
        return device
    return torch.device(device.type, torch.get_device_module(device.type).current_device())


def count(kind: str) -> int:
    """How many devices of a kind torch can use here; a driver that torch complains about has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "cuda":
            return torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind == "xpu":
            return torch.xpu.device_count() if torch.xpu.is_available() else 0
        if kind == "mps":
            return int(torch.backends.mps.is_available())
    return 1


def is_built(kind: str) -> bool:
    """Whether this torch was built for a kind of accelerator, be one there or not."""
    if kind == "cuda":
        return torch.version.cuda is not None or torch.version.hip is not None
    return torch.version.xpu is not None if kind == "xpu" else torch.backends.mps.is_built()


def missing(kind: str) -> str:
    """Why torch can use no device of a kind that is not there."""
    if not is_built(kind):
        return f"this torch ({torch.__version__}) is built without {NAMES[kind]}"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.get_device_module(kind).is_available()
    reason = " ".join(str(said[0].message).split()).partition(" (Triggered")[0] if said else "torch finds none"
    return f"this torch ({torch.__version__}) is built for {NAMES[kind]}, but {reason}"


def there() -> list[torch.device]:
    """Every device that torch can use here, in the order that `auto` tries them; the CPU is the last."""
    found = [torch.device(kind, k) for kind in ("cuda", "xpu") for k in range(count(kind))]
    return [*found, *([torch.device("mps")] if count("mps") else []), torch.device("cpu")]


def listed() -> str:
    """The words that `choose` takes on this machine: `auto, cuda:0 or cpu`."""
    *others, last = ["auto", *map(str, there())]
    return f"{', '.join(others)} or {last}"


def name(device: torch.device) -> str:
    """What a device is: its card's name, or the processor's threads."""
    if device.type == "cuda":
        rocm = ", ROCm" if torch.version.hip is not None else ""
        return f"{torch.cuda.get_device_name(device)}{rocm}"
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads != 1)}"


def announce(device: torch.device, asked: torch.device | str = "auto") -> str:
    """The one line that says what was taken, and by `auto`, why the CPU."""
    line = f"device: {device}, {name(device)}"
    if not isinstance(asked, str) or asked.strip().lower() != "auto":
        return line
    if device.type != "cpu":
        return f"{line} (auto)"
    built = next((kind for kind in ACCELERATORS if is_built(kind)), None)
    return f"{line} (auto: {'this torch is built for no GPU' if built is None else missing(built)})"


def has_float64(device: torch.device | str) -> bool:
    """Whether float64 tensors can be on a device: MPS has none, and some of Intel's GPUs neither."""
    device = torch.device(device)
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


@contextmanager
def no_autocast() -> Iterator[None]:
    """Every device in the dtypes of its tensors, whatever autocast surrounds the call."""
    with ExitStack() as stack:
        for kind in ("cpu", *ACCELERATORS):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws inside that name no generator come from `seed`; the random states are as before afterwards.

    For modules of other libraries that draw on the device by themselves; ours draw on the CPU from generators.
    """
    numbered = device.type in ("cuda", "xpu")
    before = torch.mps.get_rng_state() if device.type == "mps" else None  # which fork_rng can't ask for
    with torch.random.fork_rng(devices=[device] if numbered else [], device_type=device.type if numbered else "cpu"):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it, so that a clock tells the truth."""
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory(device: torch.device) -> tuple[int, int] | None:
    """Free and all memory of an accelerator in bytes; None for the CPU, whose memory is the machine's."""
    if device.type in ("cuda", "xpu"):
        free, size = torch.get_device_module(device.type).mem_get_info(device)
        return int(free), int(size)
    if device.type == "mps":
        size = int(torch.mps.recommended_max_memory())
        return max(0, size - int(torch.mps.driver_allocated_memory())), size
    return None


def peak_memory(device: torch.device) -> int | None:
    """The most that tensors have taken of an accelerator since `reset_peak`; None for the CPU.

    MPS keeps no peak: what its driver holds now, of which little is given back.
    """
    if device.type in ("cuda", "xpu"):
        return int(torch.get_device_module(device.type).max_memory_allocated(device))
    return int(torch.mps.driver_allocated_memory()) if device.type == "mps" else None


def reset_peak(device: torch.device) -> None:
    """Begin to count `peak_memory` anew."""
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device.type).reset_peak_memory_stats(device)


def cores() -> int:
    """The processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _are(number: int, kind: str) -> str:
    """`is 1 cuda device`, `are 2 cuda devices`."""
    return f"{'is' if number == 1 else 'are'} {number} {kind} device{'s' * (number != 1)}"


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64: on the CPU, as not every device has it; a tensor without memory (meta) stays one."""
    return (tensor if tensor.is_meta else tensor.cpu()).double()
