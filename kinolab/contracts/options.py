"""What one sampling run asks of a denoiser beside its conditions. Nothing of a run hangs on the module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from kinolab.contracts.causal import KeptFrames
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

    def of(self, branches: tuple[str, ...]) -> BlockCache:
        """The cache as a call uses it whose batch holds so many equal parts, each of a branch of guidance."""
        ...

    def within(self, network: str) -> BlockCache:
        """The same cache for one of several networks of a run, whose features are not those of the others."""
        ...


@dataclass(frozen=True)
class ForwardOptions:
    """The last argument of a denoiser's `forward`.

    reach: which frames a frame's self-attention reads; none = as trained.
    cache: may leave the blocks out; belongs to one sampling run.
    residuals: what a network beside the denoiser (`kinolab.models.part`) adds to the tokens behind blocks, by their
    number from 0; each of the shape of those tokens.
    image_only: (B, T) bool, frames that layers over time leave as an image model makes them; none = no frame.
    strength: what the contributions of control networks are multiplied by, by their ports; none = as their configs say.
    text_beside: frames beside which text weighs as it does in an attention that it shares with pictures; none = as they
    come (`kinolab.methods.text_balance`).
    reach_beside: whether the reach is that of networks beside the denoiser too, which otherwise keep their own.
    kept: keys and values of the frames before this call's, of a block-causal reach; none = the call begins a clip.
    """

    reach: Reach | None = None
    cache: BlockCache | None = None
    residuals: Mapping[int, Tensor] | None = None
    image_only: Tensor | None = None
    strength: Mapping[str, float] | None = None
    reach_beside: bool = False
    kept: KeptFrames | None = None
    text_beside: int | None = None

    def of(self, branches: tuple[str, ...]) -> ForwardOptions:
        """The options of a call whose batch holds the rows of these branches, one after the other."""
        told = self if self.kept is None else replace(self, kept=self.kept.of(branches))
        return told if self.cache is None else replace(told, cache=self.cache.of(branches))


AS_TRAINED = ForwardOptions()
"""Nothing is asked for."""


def takes_options(denoiser: Any) -> bool:
    """Whether a denoiser, module or function, can be called with options as its fourth argument."""
    try:
        inspect.signature(getattr(denoiser, "forward", denoiser)).bind(*range(4))
    except TypeError:
        return False
    return True
