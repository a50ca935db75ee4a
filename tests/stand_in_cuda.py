"""A CUDA device that isn't there: tensors of its kind have shapes and a device and no values.

torch's fake tensors refuse to compute with another device's tensors just as CUDA does, but a build of torch without
CUDA can't move real tensors to it, nor index such tensors; `StandIn` does these by shape. So a forward pass, a loss or
a whole sampling run by it shows every tensor that was made on, or left on, the wrong device. Gradients can't be had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from kinolab.contracts.conditions import Conditions

CUDA = torch.device("cuda", 0)
VALUES = {
    torch.Tensor.__float__: lambda tensor: 0.5,
    torch.Tensor.__bool__: lambda tensor: True,
    torch.Tensor.__int__: lambda tensor: 0,
    torch.Tensor.item: lambda tensor: 0.5,
    torch.Tensor.tolist: lambda tensor: np.zeros(tuple(tensor.shape)).tolist(),
}
"""What is read of tensors that have no values."""


class _AllTrue:
    """What `isfinite` gives here: nothing is known of values, and nothing is wrong with them."""

    def all(self) -> bool:
        return True


def _there(value: Any) -> bool:
    """Whether a tensor of the device that isn't there is among a function's arguments."""
    if isinstance(value, tuple | list):
        return any(map(_there, value))
    return isinstance(value, FakeTensor) and value.device.type == "cuda"


class StandIn(TorchFunctionMode):
    """Inside, `.to("cuda")`, `device="cuda"` and indexing work on tensors of the device that isn't there."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(self, like: Tensor, dtype: torch.dtype | None = None, device: torch.device = CUDA) -> Tensor:
        """A tensor of this shape there, or (with another device) one of zeros here."""
        if device.type != "cuda":
            return torch.zeros(like.shape, dtype=dtype or like.dtype, device=device)
        with self.mode:
            return torch.empty(like.shape, dtype=dtype or like.dtype, device=CUDA)

    def module(self, module: nn.Module) -> nn.Module:
        """The module, its parameters and buffers replaced by ones there."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self.empty(parameter), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.empty(buffer)
        return module

    def moved(self, value: Any) -> Any:
        """Tensors in tuples, lists and dataclasses as ones there."""
        if isinstance(value, Tensor):
            return self.empty(value)
        if isinstance(value, tuple | list):
            return type(value)(self.moved(v) for v in value)
        if isinstance(value, Conditions):
            return value.map(self.moved)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self.moved(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            moved = self._to(func, args, kwargs)
            return func(*args, **kwargs) if moved is None else moved
        if func in (torch.Tensor.contiguous, torch.Tensor.__invert__) and isinstance(args[0], FakeTensor):
            return self.empty(args[0])
        if func in VALUES and isinstance(args[0], FakeTensor):
            return VALUES[func](args[0])
        if func is torch.isfinite and isinstance(args[0], FakeTensor):
            return _AllTrue()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], FakeTensor):
            return self._indexed(func, *args)
        asked = kwargs.get("device")
        if (asked is not None and torch.device(asked).type == "cuda") or any(map(_there, [*args, *kwargs.values()])):
            with self.mode:
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """The tensor on another device; none where it stays on its own."""
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        if func is torch.Tensor.cpu:
            device = "cpu"
        for word in args[1:]:
            if isinstance(word, Tensor):
                device, dtype = word.device, word.dtype
            elif isinstance(word, str | torch.device):
                device = word
            elif isinstance(word, torch.dtype):
                dtype = word
        if args[0].device.type == "cuda" and (device is None or torch.device(device).type == "cuda"):
            return args[0] if dtype in (None, args[0].dtype) else self.empty(args[0], dtype)
        if device is None or torch.device(device).type == args[0].device.type:
            return None
        return self.empty(args[0], dtype, torch.device(device))

    def _indexed(self, func: Any, tensor: Tensor, index: Any, value: Any = None) -> Tensor | None:
        index = index if isinstance(index, tuple) else (index,)
        arrays = []
        for part in index:
            if isinstance(part, Tensor):
                assert part.device.type in ("cpu", tensor.device.type), f"an index on {part.device} of {tensor.device}"
                arrays.append(np.zeros(tuple(part.shape), bool if part.dtype == torch.bool else int))
            else:
                arrays.append(part)
        if func is torch.Tensor.__setitem__:
            alike = not isinstance(value, Tensor) or not value.ndim or value.device == tensor.device
            assert alike, f"values on {value.device} put into a tensor on {tensor.device}"
            return None
        shape = np.broadcast_to(np.zeros(()), tuple(tensor.shape))[tuple(arrays)].shape
        with self.mode:
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
