"""What one sampling run asks of a denoiser beside its conditions. Nothing of a run hangs on the module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from kinolab.contracts.reach import Reach


class BlockCache(Protocol):
    """What may leave a denoiser's blocks out and add again what they added before."""

    def run(self, x: Tensor, blocks: Callable[[Tensor], Tensor], modulated: Callable[[Tensor], Tensor]) -> Tensor:
        """blocks(x), or x and what the blocks added in an earlier call.

        Args:
            x: the tokens, (B, ...).
            blocks: runs all blocks, tokens -> tokens of the same shape.
            modulated: the tokens as the first block's norm and the time's shift and scale make them.
        """
        ...


@dataclass(frozen=True)
class ForwardOptions:
    """The last argument of a denoiser's `forward`.

    reach: which frames a frame's self-attention reads; none = as trained.
    cache: may leave the blocks out; belongs to one sampling run.
    """

    reach: Reach | None = None
    cache: BlockCache | None = None


def takes_options(denoiser: Any) -> bool:
    """Whether a denoiser, module or function, can be called with options as its fourth argument."""
    try:
        inspect.signature(getattr(denoiser, "forward", denoiser)).bind(*range(4))
    except TypeError:
        return False
    return True
