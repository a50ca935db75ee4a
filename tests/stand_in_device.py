"""A device that this machine has not: tensors sent to it count as being there, and it refuses what the real one does.

It stands in for Apple's MPS, the strictest of the devices: no float64 tensor may be sent to it or come to be there, an
operation's tensors are on one device, generators of the CPU draw on the CPU, and numpy reads the CPU alone. Everything
is really computed on the CPU, so that whole trainings can be run on it. What torch does in C++ for one call (a backward
pass, an optimiser's fused loop) is not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

MPS = torch.device("mps")
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_BOTH = {torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_, _SET_DATA,
         torch._has_compatible_shallow_copy_type}  # fmt: skip
"""What may take tensors of the CPU beside those of a device."""


class StandInDevice(TorchFunctionMode):
    """Within this context torch has the device `device`.

    Raises:
        TypeError: for float64 on it, and for numpy's reading it.
        RuntimeError: for tensors of two devices in one operation, and a generator of another device.
    """

    def __init__(self, device: torch.device = MPS) -> None:
        super().__init__()
        self.device = device
        self.sent = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return self.device if _there(args[0]) else func(*args, **kwargs)
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.numpy):
            if func is torch.Tensor.numpy and _there(args[0]):
                raise TypeError(f"can't convert {self.device} tensor to numpy")
            return func(_plain(args[0]), *args[1:], **kwargs)
        made_there = self._is_it(kwargs.get("device"))
        if made_there:
            generator = kwargs.get("generator")
            if generator is not None and generator.device.type != self.device.type:
                raise RuntimeError(f"{resolve_name(func)}: a generator of {generator.device} draws on {self.device}")
            kwargs["device"] = torch.device("cpu")
        tensors = list(_tensors((args, kwargs)))
        on = [t for t in tensors if _there(t)]
        if on and func not in _BOTH and any(t.dim() and not _there(t) for t in tensors):
            shapes = ", ".join(f"{'here' if _there(t) else 'cpu'} {tuple(t.shape)}" for t in tensors)
            raise RuntimeError(f"{resolve_name(func)}: expected all tensors on one device, got {shapes}")
        result = func(*args, **kwargs)
        if func == _SET_DATA and _there(args[1]):
            self._mark(args[0], func)
        elif made_there or (on and func != _SET_DATA):
            for tensor in _tensors(result):
                self._mark(tensor, func)
        return result

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for arg in args:
            if isinstance(arg, Tensor):
                device, dtype = (self.device if _there(arg) else torch.device("cpu")), arg.dtype
            elif isinstance(arg, torch.dtype):
                dtype = arg
            elif isinstance(arg, torch.device | str):
                device = arg
        if device is not None and not self._is_it(device) and torch.device(device).type != "cpu":
            return torch.Tensor.to(tensor, *args, **kwargs)
        goes = _there(tensor) if device is None else self._is_it(device)
        if goes == _there(tensor) and dtype in (None, tensor.dtype):
            return tensor
        moved = torch.Tensor.to(tensor, dtype=dtype or tensor.dtype, copy=True)
        moved = moved if type(moved) is Tensor else moved.as_subclass(Tensor)
        return self._mark(moved, torch.Tensor.to) if goes else moved

    def _is_it(self, device: Any) -> bool:
        if device is None:
            return False
        return torch.device(device).type == self.device.type

    def _mark(self, tensor: Tensor, func: Any) -> Tensor:
        if tensor.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{resolve_name(func) or func}: {self.device} has no float64")
        self.sent += not _there(tensor)
        tensor.on_stand_in = True  # type: ignore[attr-defined]
        return tensor


def _there(value: Any) -> bool:
    return getattr(value, "on_stand_in", False)


def _plain(tensor: Tensor) -> Tensor:
    """The same values on the CPU, where the tensor is not there already."""
    return tensor.clone() if _there(tensor) else tensor


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in a nest of sequences and mappings."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, Sequence) and not isinstance(values, str):
        for value in values:
            yield from _tensors(value)
