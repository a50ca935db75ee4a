"""A stream of a causal model: latents block by block, of any length, in memory that does not grow with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinolab.contracts.causal import CausalConfig
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.contracts.request import Request
from kinolab.denoisers import Conditions
from kinolab.diffusion import SamplerConfig
from kinolab.diffusion.run import calls
from kinolab.errors import InputError
from kinolab.methods import Guidance, GuidanceConfig, Method
from kinolab.methods.streaming import Kept, Streamed, keep_block
from kinolab.runtime.precision import autocast

if TYPE_CHECKING:
    from kinolab.models.stage import Stage


def causal_rule(stage: Stage, name: str = "this model") -> CausalConfig:
    """How a stage's streams lie in blocks.

    Raises:
        InputError: for a model that is not causal; says how one is made of it.
    """
    if stage.config.causal is None:
        raise InputError(
            f"{name} makes all frames of a clip at once and can't stream: make a causal model of it first, by a recipe "
            "of kind: causal (kinolab train toy-causal, docs/streaming.md)"
        )
    return stage.config.causal


class LatentStream:
    """The latents of some requests, one block after the other; its first blocks are the same however long it gets.

    Args:
        stage: a causal one.
        requests: they agree in size; their `frames` don't count.
        methods: what else wraps the run of every block.

    Raises:
        InputError: for a model that is not causal, and for what it can't take.
    """

    def __init__(
        self,
        stage: Stage,
        requests: Sequence[Request],
        *,
        sampler: SamplerConfig,
        guidance: GuidanceConfig,
        methods: Sequence[Method] = (),
    ) -> None:
        self.stage, self.sampler, self.guidance, self.methods = stage, sampler, guidance, tuple(methods)
        self.rule = causal_rule(stage)
        if guidance.frames:
            raise InputError(
                "guidance.frames is spread over a whole clip, and a stream is made block by block: give one scale"
            )
        self.callback: Callable[[int, int, int], None] | None = None
        self.kept = Kept(self.rule)
        stage.denoiser.check_causal()
        self.sources = [torch.Generator().manual_seed(r.seed) for r in requests]
        spec, size = stage.autoencoder.spec, requests[0].size or stage.config.size
        _, trained, *self.sides = spec.latent_shape(spec.snap_frames(stage.config.frames), *size)
        # The times of a block's steps are those of a clip as the model was trained on.
        self.positions = trained * math.prod(self.sides)
        self.tell(requests)

    def tell(self, requests: Sequence[Request]) -> None:
        """From the next block on these requests hold, such as other prompts; the past stays as it was made."""
        away = any(r.negative is not None for r in requests)
        self.conditions: Conditions = self.stage.conditions(requests)
        guided = self.guidance.active or away
        self.negative = self.stage.negative_conditions(requests, self.conditions) if guided else None

    @property
    def frames(self) -> int:
        """Latent frames that are made."""
        return self.kept.start

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield self.block()

    @torch.no_grad()
    def block(self) -> Tensor:
        """The next block (B, C, T, H, W) of clean latents."""
        stage, kept = self.stage, self.kept
        first, behind = kept.start, kept.start + kept.next_frames
        shape = (stage.autoencoder.spec.latent_channels, behind - first, *self.sides)
        noise = torch.stack([torch.randn(shape, generator=g) for g in self.sources]).to(stage.device)
        told, away = (_cut(c, first, behind) for c in (self.conditions, self.negative))
        number, network = kept.block, stage.network
        kept.branches = {}

        def after(step: int, steps: int, *_: object) -> None:
            if self.callback is not None:
                self.callback(number, step, steps)

        with autocast(stage.precision, stage.device):
            latents = stage.diffusion.sample(
                network,
                noise,
                told,
                sampler=self.sampler,
                methods=[Streamed(kept), *self.methods, Guidance(self.guidance, away)],
                generator=self.sources[0],
                callback=after,
                positions=self.positions,
            )
            time = stage.diffusion.path.at_fraction(torch.tensor([self.rule.noise]))
            more = torch.zeros_like(latents)
            if self.rule.noise:
                more = torch.stack([torch.randn(shape, generator=g) for g in self.sources]).to(latents)
            seen = stage.diffusion.q_sample(latents, time.expand(len(latents)), more)
            keep_block(calls(network), kept, seen, float(time))
        return latents


def _cut(told: Conditions | None, first: int, behind: int) -> Conditions | None:
    """What is told of some frames: fields are those of a whole clip."""
    if told is None or all(value.kind != "field" for value in told.values()):
        return told
    frames = next(value.value.shape[2] for value in told.values() if value.kind == "field")
    # Behind the clip that was told of stands what was told of its last frame.
    return told.at_frames([min(frame, frames - 1) for frame in range(first, behind)])


def clip_latents(stream: LatentStream, frames: int, events: Listener = None) -> Tensor:
    """The first `frames` latent frames of a stream (B, C, T, H, W).

    Raises:
        Stopped: between two steps, where `events` ask to stop.
    """
    told, found = events_of(events), list[Tensor]()
    blocks = stream.rule.block_of(frames - 1) + 1
    stream.callback = lambda block, step, steps: advance(told, block * steps + step, blocks * steps)
    while stream.frames < frames:
        found.append(stream.block())
    return torch.cat(found, 2)[:, :, :frames]


def stream_frames(
    stream: LatentStream, frames: int | None, told_at: Mapping[int, Sequence[Request]] | None = None
) -> Iterator[Tensor]:
    """The frames (B, 3, H, W) in [-1, 1] of a stream, as soon as their latents are made.

    Args:
        stream: at its beginning.
        frames: how many; none = without end.
        told_at: requests that hold from the block on in which a frame lies, by the frame's number.
    """
    stage, changes = stream.stage, sorted((told_at or {}).items())
    spec = stage.autoencoder.spec

    def blocks() -> Iterator[Tensor]:
        while frames is None or spec.pixel_frames(stream.frames) < frames or stream.frames == 0:
            made = spec.pixel_frames(stream.frames + stream.kept.next_frames)
            while changes and changes[0][0] < made:
                stream.tell(changes.pop(0)[1])
            yield stream.block()

    given = 0
    decoded = stage.autoencoder.decode_stream(blocks())
    while frames is None or given < frames:
        with torch.no_grad(), autocast(stage.precision, stage.device):
            chunk = next(decoded, None)
        if chunk is None:
            return
        for frame in chunk.float().clamp(-1, 1).unbind(2):
            if frames is not None and given == frames:
                return
            given += 1
            yield frame
