"""One block of a stream: a sampling run whose frames read the past by keys and values that are kept.

Yin et al. 2025 (CausVid, section 4.4) and Huang et al. 2025 (Self Forcing, section 3.2): once a block is made, the
denoiser sees it once more, clean, and what its layers make of it is what later blocks read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kinolab.config import Config as BaseConfig
from kinolab.contracts.causal import BlockCausal, CausalConfig
from kinolab.contracts.method import Call, Method, Predict, Run
from kinolab.contracts.reach import Reach
from kinolab.errors import InputError

KeysValues = tuple[Tensor, Tensor]
"""(B, R, S, N, d) each."""


class Kept:
    """Keys and values of the frames that later blocks of one stream read, for each branch of guidance by itself."""

    def __init__(self, rule: CausalConfig) -> None:
        self.rule = rule
        self.numbers: tuple[int, ...] = ()
        self.start = 0
        self.keeping = False
        self.branches: dict[str, Any] = {}
        self._kept: dict[str, dict[nn.Module, KeysValues]] = {}
        self._made: dict[str, dict[nn.Module, KeysValues]] = {}

    @property
    def block(self) -> int:
        """The number of the block that is made now."""
        return self.rule.block_of(self.start)

    @property
    def next_frames(self) -> int:
        """Latent frames of that block."""
        first, behind = self.rule.bounds(self.block)
        return behind - first

    def joined(self, layer: nn.Module, k: Tensor, v: Tensor) -> KeysValues:
        """As a call uses it that has no branches: those of a single one."""
        return self.at_hand().joined(layer, k, v)

    def at_hand(self) -> KeptRows:
        """What a call reads that is made now, and has no branches: of a single one."""
        return self.of(("",))

    def of(self, branches: tuple[str, ...]) -> KeptRows:
        """What is kept of some branches, whose rows stand one after the other in a call's batch."""
        return KeptRows(self, branches)

    def take(self, layer: nn.Module, branch: str, k: Tensor, v: Tensor) -> None:
        """What a layer made of the finished block, in one branch. No gradient goes to the past."""
        self._made.setdefault(branch, {})[layer] = (k.detach(), v.detach())

    @property
    def kept(self) -> Mapping[str, Mapping[nn.Module, KeysValues]]:
        """What is kept of every layer in each branch, of frames `numbers`; no later block changes it."""
        return self._kept

    def advance(self) -> None:
        """The block is finished: keep what the next one reads, and nothing else."""
        at_hand = (*self.numbers, *range(self.start, self.start + self.next_frames))
        self.start += self.next_frames
        self.numbers = self.rule.past(self.block)
        places = [at_hand.index(number) for number in self.numbers]
        for branch, layers in self._made.items():
            old = self._kept.get(branch, {})
            for layer, made in layers.items():
                joined = [torch.cat(pair, 1) for pair in zip(old[layer], made, strict=True)] if old else list(made)
                layers[layer] = (joined[0][:, places], joined[1][:, places])
        self._kept, self._made = self._made, {}

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        pairs = [pair for layers in self._kept.values() for pair in layers.values()]
        return sum(a.numel() * a.element_size() for pair in pairs for a in pair)


class KeptRows:
    """What a stream keeps when this is made, as a call uses it whose batch holds the rows of some branches.

    A layer that is run again for its gradients, when the stream is further on, reads what it did the first time, and
    nothing is kept of it again.
    """

    def __init__(self, kept: Kept, branches: tuple[str, ...]) -> None:
        self.kept, self.branches = kept, branches
        self.numbers, self.start, self.keeping, self.at = kept.numbers, kept.start, kept.keeping, kept.kept

    def joined(self, layer: nn.Module, k: Tensor, v: Tensor) -> KeysValues:
        """Keys and values (B, T, S, N, d) of a call with those of the past before them."""
        count = len(self.branches)
        if self.keeping:
            for branch, *rows in zip(self.branches, k.chunk(count), v.chunk(count), strict=True):
                self.kept.take(layer, branch, *rows)
        if not self.numbers:
            return k, v
        past = [self.past(layer, branch) for branch in self.branches]
        keys, values = (torch.cat(rows) if count > 1 else rows[0] for rows in zip(*past, strict=True))
        return torch.cat([keys.to(k.dtype), k], 1), torch.cat([values.to(v.dtype), v], 1)

    def past(self, layer: nn.Module, branch: str) -> KeysValues:
        """What is kept of a layer in one branch.

        Raises:
            InputError: for a branch that did not run for the blocks before.
        """
        if branch not in self.at:
            raise InputError(
                f"the branch {branch!r} of guidance has no past in this stream: guide every block alike, from the first"
            )
        return self.at[branch][layer]

    def at_hand(self) -> KeptRows:
        """The same."""
        return self

    def of(self, branches: tuple[str, ...]) -> KeptRows:
        """The same of other branches."""
        return KeptRows(self.kept, branches)


class StreamedConfig(BaseConfig):
    """A stream's rule is its model's: there is nothing to set."""


class Streamed(Method):
    """Makes one block of a stream: its frames read those that are kept."""

    Config: ClassVar[type[BaseConfig]] = StreamedConfig
    decides = ("reach",)

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self.kept = kept

    def check(self, run: Run) -> None:
        """Raises InputError for a denoiser without a block-causal form, and beside methods that need a whole clip."""
        run.denoiser.check_causal()
        whole = next((type(method).__name__ for method in run.methods if method.whole_clips), None)
        if whole is not None:
            raise InputError(
                f"{whole} holds something of all frames, and a stream is made block by block: leave it out"
            )

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same calls with the past among their options, whose branches are noted."""
        reach = Reach(BlockCausal(self.kept.rule))

        def predict(call: Call) -> dict[str, Tensor]:
            self.kept.branches |= call.branches
            return inner(replace(call, options=replace(call.options, reach=reach, kept=self.kept)))

        return predict


def keep_block(predict: Predict, kept: Kept, z: Tensor, t: float) -> None:
    """Let the denoiser see a finished block (B, C, T, H, W) at time t, and keep what it makes of it.

    predict: the denoiser's calls, with no method around them. Every branch that ran keeps a past of its own.
    """
    reach = Reach(BlockCausal(kept.rule))
    kept.keeping = True
    try:
        call = Call(z, t, dict(kept.branches))
        predict(replace(call, options=replace(call.options, reach=reach, kept=kept)))
    finally:
        kept.keeping = False
    kept.advance()
