"""A clip on its way through a super-resolution model: read, enlarged, encoded, sampled, decoded, all as a stream.

Every frame's noise, that of the steps and that of what is told, is drawn by the frame's number, so that all windows and
tiles that see a place see the same. Estimates are brought into range (thresholding) over a window as a whole, or tiles
would differ in brightness.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kinolab import video
from kinolab.conditioning.noise_level import levels, noised
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.events import Events, proceed
from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.diffusion import SAMPLERS, SamplerConfig
from kinolab.diffusion.run import wrapped_estimate
from kinolab.errors import InputError
from kinolab.generation.refine import RefineConfig
from kinolab.generation.sweep import Sweep, Windows, over_tiles
from kinolab.layers.resizing import enlarge
from kinolab.methods import FrameReach, Guidance, GuidanceConfig, NoiseConfig, NoisePolicy, Thresholding
from kinolab.methods import build as build_methods
from kinolab.models import Request, VideoModel
from kinolab.models.cascade import REFINED, refines
from kinolab.models.distilled import outside
from kinolab.runtime.hashes import seed_bytes
from kinolab.runtime.precision import autocast

PIECE = 4
"""Frames of the clip that are enlarged and encoded at a time."""
ALLOWED: tuple[type[Method], ...] = (Guidance, Thresholding, NoisePolicy, FrameReach)
"""Methods that go with windows; all others hold something of the whole clip."""


@dataclass(frozen=True)
class Refinement:
    """A settled request as it runs.

    sampler, guidance, methods: how it is sampled, whole. frames: how many are made at most; none = of all the clip.
    """

    model: VideoModel
    config: RefineConfig
    size: tuple[int, int]
    sampler: SamplerConfig
    guidance: GuidanceConfig
    methods: Sequence[Method] = ()
    frames: int | None = None

    def check(self) -> None:
        """Raises InputError for samplers and methods that need the whole clip at once; warns of what a distilled model
        was not made for."""
        if self.model.config.causal is not None:
            raise InputError("a causal model makes clips block by block, and refines none: use one that is not causal")
        for note in outside(self.model.config, self.sampler, self.guidance):
            warnings.warn(note, stacklevel=3)
        kinds = {name: SAMPLERS.get(name) for name in SAMPLERS}
        able = [name for name, kind in kinds.items() if (kind.corrected or kind.few_steps) and kind.calls == 1]
        if self.sampler.name not in able or self.sampler.churn is not None:
            what = "churn" if self.sampler.name in able else self.sampler.name
            raise InputError(f"a clip is refined step by step as a stream, which {what} can't: use {', '.join(able)}")
        for method in self.wrappers:
            if not isinstance(method, ALLOWED):
                raise InputError(
                    f"{type(method).__name__} is of whole clips, and a clip is refined window by window: leave it out"
                )
        if self.guidance.frames:
            raise InputError("guidance.frames is spread over a whole clip, and a clip is refined by windows: use scale")

    @cached_property
    def info(self) -> video.VideoInfo:
        """What is known of the clip."""
        return video.probe(self.config.video)

    @cached_property
    def wrappers(self) -> list[Method]:
        """The methods of the request, and the model's own that it doesn't name."""
        asked = {type(method) for method in self.methods}
        own = [method for method in build_methods(self.model.config.methods) if type(method) not in asked]
        return [*own, *self.methods]

    def made(self, request: Request, events: Events) -> Iterator[Tensor]:
        """The frames of the made clip, (3, 1, H, W) each in [-1, 1], as they come.

        Raises:
            Stopped: between two windows, where `events` ask to stop.
        """
        return Flow(self, request, events).frames()


class _SteppedError(Exception):
    """A sampler has made its first step."""


class Flow:
    """One clip on its way: read, enlarged, encoded, sampled, decoded."""

    def __init__(self, how: Refinement, request: Request, events: Events) -> None:
        self.how, self.model, self.events, self.seed = how, how.model, events, request.seed
        model, spec = how.model, how.model.autoencoder.spec
        self.refined = refines(model.config)
        self.channels, _, height, width = spec.latent_shape(
            spec.snap_frames(max(model.config.frames, spec.least_frames)), *how.size
        )
        self.latent = (height, width)
        self.by_frame = spec.temporal_ratio == 1
        self.limit = how.frames
        told = replace(request, frames=None, size=how.size, fps=self._rate(), conditions=dict(request.conditions))
        with torch.no_grad():
            self.conditions = model.conditions([told])
            away = how.guidance.active or request.negative is not None
            self.negative = model.negative_conditions([told], self.conditions) if away else None
        self.level = levels(self.conditions, 1)[0]
        assert how.config.window is not None and how.config.overlap is not None
        self.windows = Windows(how.config.window, how.config.overlap)
        self.tiles = self._tiles(how.config.tile or 0, spec.spatial_ratio)
        h, w = (self.latent[k] if self.tiles is None else min(self.tiles[k].length, self.latent[k]) for k in (0, 1))
        self.times = model.diffusion.times(how.sampler, positions=self.windows.length * h * w)
        self.total, self.passed, self.given, self.ended = self._expected(), 0, 0, False
        self.work = how.sampler.steps * len(self.windows.starts(-(-self.total // spec.temporal_ratio)))
        policies = [method.config for method in how.wrappers if isinstance(method, NoisePolicy)]
        self.policy: NoiseConfig = policies[0] if policies else NoiseConfig(kind="independent")
        self.before: Tensor | None = None

    def _rate(self) -> float | None:
        """The frames a second that are made, for a model that is told them."""
        if not self.model.spec.fps:
            return None
        return self.how.info.fps * self.refined.frames_factor

    def _tiles(self, side: int, ratio: int) -> tuple[Windows, Windows] | None:
        """How frames are covered by tiles; none = they are made whole."""
        length = side // ratio
        if not side or max(self.latent) <= length:
            return None
        return Windows(length, length // 2), Windows(length, length // 2)

    def _expected(self) -> int:
        """Frames that will be made, as far as the file says."""
        info = self.how.info
        count = info.frames or round((info.duration or 0.0) * info.fps)
        left = max(1, count - round(self.how.config.start * info.fps))
        made = self.refined.made_frames(left)
        return made if self.limit is None else min(made, self.limit)

    # --- pixels in, latents

    @property
    def most(self) -> int | None:
        """Frames of the clip that are needed; none = all."""
        return None if self.limit is None else (self.limit - 1) // self.refined.frames_factor + 1

    @property
    def count(self) -> int:
        """Frames that are made of those that were given: the last one given is the last one made, but where it is cut
        off before."""
        if self.limit is not None and self.given == self.most:
            return self.limit
        return self.refined.made_frames(self.given)

    def images(self) -> Iterator[Tensor]:
        """The clip's frames (1, 3, 1, h, w) as stored, as many as are needed."""
        shown = video.iter_frames(self.how.config.video, start=self.how.config.start)
        for frame in islice(shown, self.most):
            self.given += 1
            yield video.to_tensor(frame.image[None])[None]
        self.ended = True

    def clips(self) -> Iterator[Tensor]:
        """The same in pieces at the size that is made; where a latent is of several frames, each as often as it is
        held, and the last one as often as the autoencoder's rule wants."""
        n, held = self.refined.frames_factor, list[Tensor]()
        for image in self.images():
            if held and not self.by_frame:
                held += [held[-1]] * (n - 1)
            held.append(image)
            if len(held) > PIECE:
                yield self._large(held[:-1])
                held = held[-1:]
        if not held:
            raise InputError(f"{self.how.config.video}: no frames from {self.how.config.start:g} s on")
        if not self.by_frame:
            more = self.count - self.refined.made_frames(self.given)
            held += [held[-1]] * (more + self._missing(self.count))
        yield self._large(held)

    def _missing(self, frames: int) -> int:
        """Frames that the autoencoder's rule wants behind so many."""
        more, spec = 0, self.model.autoencoder.spec
        while spec.snap_frames(frames + more) != frames + more:
            more += 1
        return more

    def _large(self, images: Sequence[Tensor]) -> Tensor:
        return enlarge(torch.cat(list(images), 2).to(self.model.device), self.how.size)

    @torch.no_grad()
    def latents(self) -> Iterator[Tensor]:
        """Latent frames (1, C, 1, H, W) of what is told, with their noise."""
        number = 0
        for piece in self._encoded():
            for latent in piece.split(1, 2):
                source = frame_source(self.seed, f"{REFINED} noise", number)
                yield noised(latent[0], self.level, source)[None]
                number += 1

    def _encoded(self) -> Iterator[Tensor]:
        autoencoder, clips = self.model.autoencoder, self.clips()
        if self.by_frame:
            for clip in clips:
                with self._autocast():
                    latents = autoencoder.encode(clip).mean.float()
                yield latents
            return
        for posterior in self._apart(autoencoder.encode_stream(clips)):
            yield posterior.mean.float()

    def told(self) -> Iterator[Tensor]:
        """The field (1, C, 1, H, W) of every latent frame that is made."""
        n, before = self.refined.frames_factor, None
        for latent in self.latents():
            if before is not None and self.by_frame:
                yield from [self._held(before)] * (n - 1)
            yield latent
            before = latent
        if before is not None and self.by_frame:
            yield from [self._held(before)] * (self.count - self.refined.made_frames(self.given))

    def _held(self, latent: Tensor) -> Tensor:
        return torch.zeros_like(latent) if self.refined.hold == "blank" else latent

    # --- noise and steps

    def noise(self, number: int) -> Tensor:
        """The noise (1, C, 1, H, W) that a latent frame begins with, by the run's noise policy; called in order."""
        kind, shared = self.policy.kind, self.policy.shared
        own = self._draw("noise", 0 if kind == "same" else number)
        if kind == "mixed":
            own = shared**0.5 * self._draw("noise of all", 0) + (1.0 - shared) ** 0.5 * own
        elif kind == "progressive" and self.before is not None:
            own = shared**0.5 * self.before + (1.0 - shared) ** 0.5 * own
        self.before = own
        return own

    def _draw(self, purpose: str, number: int) -> Tensor:
        source = frame_source(self.seed, purpose, number)
        return torch.randn(1, self.channels, 1, *self.latent, generator=source).to(self.model.device)

    def step(self, number: int, z: Tensor, found: Denoised, frame: int) -> Tensor:
        """One frame after a step of the sampler, which draws its noise by the frame's number."""
        sampler, made = self.how.sampler, list[Tensor]()

        def first(step: int, steps: int, z: Tensor, denoised: Tensor) -> None:
            made.append(z)
            raise _SteppedError  # what it would do with further estimates is another call's

        with suppress(_SteppedError):
            SAMPLERS.get(sampler.name).sample(
                lambda z, t: found, z, self.times[number:], path=self.model.diffusion.path, config=sampler,
                generator=frame_source(self.seed, f"step {number}", frame), callback=first,
            )  # fmt: skip
        return made[0]

    @torch.no_grad()
    def estimate(self, number: int, z: Tensor, told: Tensor, start: int) -> Denoised:
        """The estimate of a clean window: of its tiles, blended, and brought into range as a whole."""
        whole = self._run(number, z, self.conditions, [])

        def blended(z: Tensor, t: float) -> Denoised:
            return over_tiles(self.latent, self.tiles, partial(self._tile, number, z, told))

        made: Denoise = blended
        for method in self.how.wrappers:
            made = method.estimate(made, whole)
        return made(z, float(self.times[number]))

    def _tile(self, number: int, z: Tensor, told: Tensor, part: tuple[slice, slice]) -> Denoised:
        here = Conditions.of({REFINED: Value("field", told[(..., *part)].contiguous())})
        negative = None if self.negative is None else self.negative.told(here)
        methods = [m for m in self.how.wrappers if isinstance(m, FrameReach)]
        run = self._run(
            number, z[(..., *part)], self.conditions.told(here), [*methods, Guidance(self.how.guidance, negative)]
        )
        for method in run.methods:
            method.check(run)
        with self._autocast():
            return wrapped_estimate(self.model.diffusion, run)(z[(..., *part)].contiguous(), float(self.times[number]))

    def _run(self, number: int, z: Tensor, told: Conditions, methods: Sequence[Method]) -> Run:
        return Run(
            self.model.network, told, tuple(z.shape), self.how.sampler.steps, self.model.diffusion.path, methods,
            step=number, times=self.times,
        )  # fmt: skip

    # --- latents, pixels out

    def frames(self) -> Iterator[Tensor]:
        """All of it."""
        sweep = Sweep(self.how.sampler.steps, self.windows, self.estimate, self.step, self._hear)
        pairs = ((self.noise(number), told) for number, told in enumerate(self.told()))
        done = 0
        for clip in self._decoded(sweep.run(pairs)):
            for frame in clip[0].float().clamp(-1, 1).split(1, 1):
                if self.ended and done == self.count:  # what is left was there for the autoencoder's rule
                    return
                yield frame.cpu()
                done += 1
                self.events.progress(done, max(self.total, done))

    @torch.no_grad()
    def _decoded(self, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        alpha = self.model.diffusion.path.scalars(self.model.diffusion.path.clean_time)[0]  # 1 / sigma_data for EDM
        clean = (z if alpha == 1.0 else z / alpha for z in latents)
        if self.by_frame:
            for z in clean:
                with self._autocast():
                    frame = self.model.autoencoder.decode(z)
                yield frame
            return
        yield from self._apart(self.model.autoencoder.decode_stream(clean))

    def _apart(self, items: Iterable[Any]) -> Iterator[Any]:
        """Each item is made in the model's precision, and what is done with it is not."""
        iterator = iter(items)
        while True:
            with torch.no_grad(), self._autocast():
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def _autocast(self) -> Any:
        return autocast(self.model.precision, self.model.device)

    def _hear(self) -> None:
        """A window of a step is done."""
        self.passed += 1
        self.events.within(self.total * min(self.passed / self.work, 0.999), self.total)
        proceed(self.events)


def frame_source(seed: int, purpose: str, number: int) -> torch.Generator:
    """The generator of one frame's draws, on the CPU: whoever asks for this frame again gets the same."""
    digest = seed_bytes(f"{seed}/{purpose}/{number}")
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
