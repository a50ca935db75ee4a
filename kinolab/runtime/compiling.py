"""Compilation for inference: torch.compile with the weights frozen into what it makes.

Freezing lets the compiler cast the weights to bfloat16 once, lay them out as oneDNN wants them and fold what depends
on them alone. What autocast keeps in float32 (norms, tables, the residual stream) stays in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from kinolab.runtime.precision import PrecisionPolicy, autocast
from kinolab.runtime.text import first_line

M = TypeVar("M", bound=nn.Module)


def compile_for_inference(module: M, dtype: torch.dtype, device: torch.device | str = "cpu") -> M:
    """Compile the module in place: its calls then run compiled, in `dtype`, without gradients; returns the module.

    The first call of each kind of input (shapes, which arguments are given) compiles for some 10 seconds to some
    minutes; PyTorch keeps results on disk for later processes. Sizes that change between calls are compiled once more,
    for any size. On a processor the weights become part of the compiled code: load them before, and later changes
    don't count. Names in the module's state stay as they are. Where there is no C++ compiler, or it fails, a warning
    says so and the module runs as before.

    Args:
        module: in evaluation mode.
        dtype: torch.bfloat16 or torch.float32, as `precision.resolve` chose it.
        device: where the module is.
    """
    frozen = torch.device(device).type == "cpu"
    if frozen and find_compiler() is None:
        warnings.warn("not compiled, runs as it is: no C++ compiler (install g++)", stacklevel=2)
        return module
    precision: PrecisionPolicy = "bfloat16" if dtype is torch.bfloat16 else "float32"
    module.__dict__.pop("forward", None)
    eager: Callable[..., Any] = module.forward
    compiled = torch.compile(eager)

    def forward(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor import config

        with torch.no_grad(), autocast(precision, device):
            try:
                # Not through torch.compile's options: those reach the compiler only after the weights became inputs.
                with config.patch(freezing=frozen):
                    return compiled(*args, **kwargs)
            except TorchDynamoException as error:
                module.__dict__.pop("forward", None)
                reason = first_line(error)
                warnings.warn(f"not compiled, runs as it is: the compiler failed ({reason})", stacklevel=2)
                return eager(*args, **kwargs)

    module.__dict__["forward"] = forward
    return module


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on this machine; none where there is none that works."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except RuntimeError:
        return None
