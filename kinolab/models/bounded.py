"""Building a module whose weights are in a file: not one that is larger than the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class TooLargeError(Exception):
    """A module asks for more parameters than the file of its weights can hold."""


class Bounded(TorchFunctionMode):
    """Within it, modules are built as ever, until their parameters are more than `most`.

    The layers of PyTorch take the memory of their parameters by `torch.empty`, which is counted before it is done; one
    tensor that is made otherwise is refused where it alone is larger. (Building on the meta device first, to count,
    loads PyTorch's compiler with the first normal number that is drawn there, which takes a second.)

    Raises:
        TooLargeError: before the memory is taken.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.count = most, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full):
            asked = (kwargs or {}).get("size", args[0] if args and not isinstance(args[0], int) else args)
            count = 1
            for side in asked:
                count *= side
            self.count += count if func is torch.empty else 0
            # Tables that are no weights may be larger than a small file.
            if self.count > self.most or count > max(self.most, 2**24):
                raise TooLargeError
        return func(*args, **(kwargs or {}))
