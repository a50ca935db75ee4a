"""Clips of the toy world, made without end by many processes into shared memory, each with a mask of some task.

A chunk is some clips in one slot of the shared tensors. Processes fill free slots; who trains takes full ones and
gives them back. The processes are forked: begin a stream before anything uses a card.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import queue
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.text import CarriedText
from kinolab.errors import InputError
from kinolab.tasks import TasksConfig, draw_mask
from kinolab.toyworld.clips import WorldClip, WorldConfig, make_clip
from kinolab.toyworld.words import WorldRequest, describe

TOKENS = 22
"""Tokens of a caption at most, start and end mark included."""


@dataclass(frozen=True)
class Chunk:
    """Some clips. frames (N, T, S, S, 3) uint8; masks (N, T, S, S) bool, True = to be generated; tokens (N, 22) int64
    of the captions, `lengths` (N,) of them real; labels (N,) int64."""

    slot: int
    frames: Tensor
    masks: Tensor
    tokens: Tensor
    lengths: Tensor
    labels: Tensor


class ClipStream:
    """Endless chunks of clips that differ from one another.

    Args:
        world: what the clips look like.
        tasks: whose masks are drawn, of each clip by one of them; of no task that gives nothing.
        text: the folder of the carried text encoder, for the tokens of the captions; none = no tokens.
        first: seed of the first clip.
        workers: processes; at least 1.
        plain: share of the captions that name the objects alone, and not what happens.
        size: clips of a chunk.
        slots: chunks that are held at once.
    """

    def __init__(
        self,
        world: WorldConfig,
        tasks: Sequence[TasksConfig],
        text: Path | None,
        *,
        first: int,
        workers: int,
        plain: float = 0.0,
        size: int = 256,
        slots: int = 24,
    ) -> None:
        self.size, self.next, self.made = size, first, 0
        T, S = world.frames, world.size
        self.shared = {
            "frames": shared(torch.uint8, slots, size, T, S, S, 3),
            "masks": shared(torch.bool, slots, size, T, S, S),
            "tokens": shared(torch.int64, slots, size, TOKENS),
            "lengths": shared(torch.int64, slots, size),
            "labels": shared(torch.int64, slots, size),
        }
        context = multiprocessing.get_context("fork")
        self.free: Any = context.Queue()
        self.full: Any = context.Queue()
        job = (world, tuple(tasks), text, plain, self.shared, self.free, self.full)
        self.processes = [context.Process(target=_work, args=job, daemon=True) for _ in range(max(1, workers))]
        for process in self.processes:
            process.start()
        for slot in range(slots):
            self._order(slot)

    def take(self, timeout: float | None = None) -> Chunk | None:
        """The next full chunk; none where there is none after `timeout` seconds (0 = at once, none = wait).

        Raises:
            RuntimeError: with what went wrong in a process.
        """
        try:
            slot, error = self.full.get(timeout != 0, timeout)
        except queue.Empty:
            return None
        if error:
            raise RuntimeError(f"a process that makes clips failed:\n{error}")
        self.made += self.size
        return Chunk(slot, **{name: tensor[slot] for name, tensor in self.shared.items()})

    def give_back(self, chunk: Chunk) -> None:
        """Let a chunk's slot be filled anew."""
        self._order(chunk.slot)

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(5)

    def _order(self, slot: int) -> None:
        self.free.put((slot, self.next))
        self.next += self.size


def shared(dtype: torch.dtype, *shape: int) -> Tensor:
    """Zeros that processes forked from this one share: of no name, as /dev/shm may be small."""
    count = math.prod(shape)
    memory = mmap.mmap(-1, count * torch.empty((), dtype=dtype).element_size())
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


def _work(
    world: WorldConfig,
    tasks: Sequence[TasksConfig],
    text: Path | None,
    plain: float,
    shared: dict[str, Tensor],
    free: Any,
    full: Any,
) -> None:
    """A process: fill slots as they are asked for."""
    torch.set_num_threads(1)
    os.nice(5)  # who feeds the card goes first
    try:
        words = None if text is None else CarriedText(text, TOKENS)._tokenizer
        while True:
            slot, first = free.get()
            for k in range(shared["frames"].shape[1]):
                place, seed = {name: tensor[slot, k] for name, tensor in shared.items()}, first + k
                clip = make_clip(world, seed)
                place["frames"].copy_(torch.from_numpy(clip.frames))
                place["labels"].fill_(clip.label)
                if words is not None:
                    _tell(clip, plain, seed, words, place)
                if tasks:
                    place["masks"].copy_(_mask(world, tasks, seed))
            full.put((slot, ""))
    except Exception:
        full.put((-1, traceback.format_exc()))


def _tell(clip: WorldClip, plain: float, seed: int, words: Any, place: dict[str, Tensor]) -> None:
    """The tokens of a clip's caption, or of one that names its objects alone."""
    rng = np.random.default_rng((seed, 1))
    caption = describe(WorldRequest(clip.request.objects), rng) if rng.random() < plain else clip.caption
    ids = words.encode(caption).ids
    if len(ids) > TOKENS:
        raise InputError(f"{caption!r}: {len(ids)} tokens, expected at most {TOKENS}")
    place["lengths"].fill_(len(ids))
    place["tokens"][: len(ids)] = torch.tensor(ids)


def _mask(world: WorldConfig, tasks: Sequence[TasksConfig], seed: int) -> Tensor:
    """A mask (T, S, S) bool of one of the tasks' draws."""
    generator = torch.Generator().manual_seed(seed)
    chosen = tasks[int(torch.randint(len(tasks), (), generator=generator))]
    return draw_mask(chosen, world.frames, world.size, world.size, generator)[1] > 0.5
