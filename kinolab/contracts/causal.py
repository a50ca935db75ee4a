"""Block-causal reach: blocks of latent frames that read themselves and the past, never what comes after them.

So a video is made block by block, of any length, and what later blocks read of a frame - its keys and values - never
changes once the frame is made: it can be kept (Yin et al. 2025, CausVid, section 4.1; Chen et al. 2024, Diffusion
Forcing). A frame here is a latent frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pydantic import Field
from torch import Tensor, nn

from kinolab.config import Config


class CausalConfig(Config):
    """How the frames of a stream lie in blocks, and how far back a block reads."""

    block: int = Field(1, ge=1)
    """Latent frames of a block, which are made together and read each other."""
    first: int | None = Field(None, ge=1)
    """Latent frames of the first block, such as 1 where the first latent stands for one image; none = as others."""
    window: int | None = Field(None, ge=1)
    """Blocks before its own that a block reads; none = all of them, which a stream's memory grows with."""
    sink: bool = False
    """Read the first block too, however long ago it was; it then counts as standing right before the window."""
    noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Fraction of time (0 clean, 1 noise) at which past blocks are read: a little noise on them hides small faults,
    which otherwise add up."""
    period: int | None = Field(None, ge=1)
    """Latent frames after which the autoencoder begins again with a latent of one image; none = it never does."""

    def bounds(self, block: int) -> tuple[int, int]:
        """The first frame of a block, by its number from 0, and the frame behind its last one."""
        first = self.first or self.block
        if block == 0:
            return 0, first
        start = first + (block - 1) * self.block
        return start, start + self.block

    def block_of(self, frame: int) -> int:
        """The number of a frame's block."""
        first = self.first or self.block
        return 0 if frame < first else 1 + (frame - first) // self.block

    def past(self, block: int) -> tuple[int, ...]:
        """The frames of earlier blocks that a block reads, in order.

        >>> CausalConfig(block=2, window=1, sink=True).past(3)
        (0, 1, 4, 5)
        """
        oldest = 0 if self.window is None else self.bounds(max(block - self.window, 0))[0]
        frames = range(oldest, self.bounds(block)[0])
        sink = range(min(self.bounds(0)[1], oldest)) if self.sink else range(0)
        return (*sink, *frames)

    def cuts(self, count: int, start: int = 0) -> list[tuple[int, int]]:
        """The blocks of frames `start` .. `start` + `count` - 1 of a stream; the last may be cut short.

        `start` is the first frame of a block.
        """
        found, at = [], start
        while at < start + count:
            end = min(self.bounds(self.block_of(at))[1], start + count)
            found.append((at, end))
            at = end
        return found


@dataclass(frozen=True)
class BlockReads:
    """What one block of a call reads.

    own: its first frame in the call and the one behind its last. read: what it reads, as places among the frames at
    hand, which are those that are kept, then the call's; its own are the last. times: of what it reads, in frames from
    its own first one. number: of its first frame in the stream.
    """

    own: tuple[int, int]
    read: tuple[int, ...]
    times: tuple[int, ...]
    number: int


class KeptFrames(Protocol):
    """Keys and values of earlier frames, which belong to one stream."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The kept frames, by their numbers in the stream."""
        ...

    @property
    def start(self) -> int:
        """The number of the first frame of a call that is made now."""
        ...

    def joined(self, layer: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, T, S, N, d) of a call's frames with the kept ones of that layer before them."""
        ...

    def at_hand(self) -> KeptFrames:
        """What is kept now, and stays so for a call whose layers are run again when gradients are computed."""
        ...

    def of(self, branches: tuple[str, ...]) -> KeptFrames:
        """The same, as a call uses it whose batch holds so many equal parts, each of a branch of guidance."""
        ...


@dataclass(frozen=True)
class Plan:
    """What every block of one call reads by a rule, and the numbers in the stream of the call's frames."""

    rule: CausalConfig
    blocks: tuple[BlockReads, ...]
    numbers: tuple[int, ...]
    kept: KeptFrames | None = None

    def places(self, trained: int) -> tuple[int, ...]:
        """Where the frames stand in a table of positions that was trained on 0 .. trained - 1 (`place`)."""
        return tuple(place(number, trained, self.rule.period) for number in self.numbers)


def place(frame: int, trained: int, period: int | None) -> int:
    """Where a frame of a stream stands in a table that was trained on so many: it rolls.

    Behind the trained frames the table begins again at its second frame, as the first is that of a beginning; where the
    autoencoder begins again (`period`), the table does.
    """
    if period is not None:
        return frame % period
    if frame < trained:
        return frame
    return 1 + (frame - 1) % (trained - 1) if trained > 1 else 0


def rotary_start(number: int, length: int, trained: int, period: int | None) -> int:
    """The time that rotary attention gives the first of a block's `length` frames, which begin at `number`.

    Frames turn against each other by their distance alone, which no stream makes longer than the window. Against what
    has no time, such as a prompt, they turn as the last block of a trained clip does, and so do all later ones.
    """
    return number % period if period is not None else min(number, max(trained - length, 0))


@dataclass(frozen=True)
class BlockCausal:
    """A block-causal rule as one of the reaches of a run.

    doubled: the call holds a clip's frames twice, first as they are read later (clean, or nearly so), then noisy; a
    noisy block reads itself and the clean ones before it, as it will when it is made (teacher forcing).
    """

    rule: CausalConfig
    doubled: bool = False

    def lists(self, count: int) -> tuple[tuple[int, ...], ...]:
        """The frames that each of `count` frames reads."""
        plan = self.plan(count)
        return tuple(block.read for block in plan.blocks for _ in range(block.own[1] - block.own[0]))

    def plan(self, count: int, kept: KeptFrames | None = None) -> Plan:
        """What the blocks of a call of `count` frames read; its first frame is number 0, or as `kept` says."""
        if self.doubled:
            clean = self._blocks(count // 2, 0, ())
            noisy = [self._again(block, count // 2) for block in clean]
            return Plan(self.rule, (*clean, *noisy), (*range(count // 2), *range(count // 2)))
        kept = None if kept is None else kept.at_hand()
        numbers, start = ((), 0) if kept is None else (kept.numbers, kept.start)
        return Plan(self.rule, tuple(self._blocks(count, start, numbers)), tuple(range(start, start + count)), kept)

    def _blocks(self, count: int, start: int, kept: Sequence[int]) -> list[BlockReads]:
        at_hand = {number: at for at, number in enumerate((*kept, *range(start, start + count)))}
        found = []
        for first, behind in self.rule.cuts(count, start):
            past, own = self.rule.past(self.rule.block_of(first)), range(first, behind)
            oldest = first if not past else past[-1] + 1 - _run(past)
            # What stands before a gap, the first block, counts as standing right before the window.
            early = [number for number in past if number < oldest]
            times = (
                *(oldest - len(early) + k - first for k in range(len(early))),
                *(n - first for n in past[len(early) :]),
            )
            read = tuple(at_hand[number] for number in (*past, *own))
            found.append(BlockReads((first - start, behind - start), read, (*times, *range(len(own))), first))
        return found

    @staticmethod
    def _again(block: BlockReads, behind: int) -> BlockReads:
        """The block of noisy frames that stand `behind` frames later in the call than the clean ones it is like."""
        past = len(block.read) - (block.own[1] - block.own[0])
        read = (*block.read[:past], *(frame + behind for frame in block.read[past:]))
        return replace(block, own=(block.own[0] + behind, block.own[1] + behind), read=read)


def _run(frames: Sequence[int]) -> int:
    """How many of the last frames follow each other without a gap."""
    count = 1
    while count < len(frames) and frames[-count - 1] == frames[-count] - 1:
        count += 1
    return count
