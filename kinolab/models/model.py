"""A video model: one stage, or a cascade of them, ready to generate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning import GivenPart
from kinolab.contracts.adapters import AdapterUse
from kinolab.contracts.events import Events, Listener, Share, events_of
from kinolab.contracts.request import Request, listed_prompts
from kinolab.contracts.sampling import settled_guidance, settled_sampler
from kinolab.denoisers import Denoiser
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig, Method, SteeringConfig, StepCache
from kinolab.methods import build as build_methods
from kinolab.models.cascade import (
    Keeper,
    StageSettings,
    frame_steps,
    given_part,
    settled_stages,
    stage_name,
    stage_requests,
    untrained,
)
from kinolab.models.folder import ModelConfig, find_model, read_model_config, read_stage, write_model
from kinolab.models.lora import StageLora, stored_state
from kinolab.models.part import ModelPart
from kinolab.models.stage import LaterStage, Stage
from kinolab.models.streaming import LatentStream, stream_frames
from kinolab.runtime.devices import choose
from kinolab.runtime.precision import PrecisionPolicy
from kinolab.tasks import check_mask, keep_exact, outside_training


class VideoModel(Stage):
    """An autoencoder and a denoiser that belong together, ready to generate; in a cascade, with the stages after them.

    A model is its first stage (its autoencoder, denoiser, diffusion and conditions are that stage's), and `stages`
    follow it, each refining what the one before made.

    >>> model = VideoModel.load("kinolab/pretrained/world")
    >>> clips = model.generate("a red ball falls", seed=1)          # (1, 3, T, H, W) in [-1, 1]
    """

    config: ModelConfig
    adapters: tuple[AdapterUse, ...] = ()
    """What a person put on it beside what its folder holds (`kinolab.checkpoints.adapters.put_on`)."""
    exchanged: Mapping[str, str] = {}
    """The folders that stages were taken from in place of its own, by name (`kinolab.models.exchange`)."""

    def __init__(
        self,
        config: ModelConfig,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        *,
        experts: Sequence[Denoiser] = (),
        parts: Mapping[str, ModelPart] | None = None,
        lora: Mapping[str, StageLora] | None = None,
        stages: Sequence[LaterStage] = (),
    ) -> None:
        super().__init__(config, autoencoder, denoiser, experts=experts, parts=parts, lora=lora)
        self.stages = tuple(stages)
        before = autoencoder
        for stage in self.stages:  # one without an autoencoder of its own has that of the stage before
            if stage.config.autoencoder is None:
                stage.autoencoder = before
            before = stage.autoencoder

    @classmethod
    def load(
        cls, path: Path | str, *, device: torch.device | str = "auto", precision: PrecisionPolicy = "auto"
    ) -> VideoModel:
        """Load a model folder (or a run folder, or the name of a shipped model) onto a device (see `devices.choose`).

        Raises:
            InputError: where the folder is not a model folder, or holds an autoencoder alone, or the device is not
                there.
        """
        folder, chosen = find_model(path), choose(device)
        config = read_model_config(folder)
        if config.denoiser is None:
            raise InputError(f"{path}: holds an autoencoder and no denoiser; expected a model that can generate")
        first = read_stage(folder, config)
        stages: list[LaterStage] = []
        for later in config.stages:
            before = stages[-1].autoencoder if stages else first.autoencoder
            read = read_stage(folder, later, f"{later.name}-", before)
            stages.append(LaterStage(later, read.autoencoder, read.denoiser, **read.others))
        model = cls(config, first.autoencoder, first.denoiser, **first.others, stages=stages)
        for stage in (model, *stages):
            stage.precision = precision
        return model.to(chosen)

    @property
    def others(self) -> dict[str, Any]:
        """What it is made of beside its autoencoder and its denoiser, as the constructor's keywords."""
        return {"experts": self.experts, "parts": self.parts, "lora": self.lora, "stages": self.stages}

    @property
    def cascade(self) -> tuple[Stage, ...]:
        """All stages, the first among them."""
        return (self, *self.stages)

    @property
    def output(self) -> Stage:
        """The stage whose frames, size and rate the videos have, and whose autoencoder decodes them: the last."""
        return self.cascade[-1]

    def to(self, device: str | torch.device) -> VideoModel:
        """Move the parts to a device (see `devices.choose`); returns the model itself."""
        for stage in self.cascade:
            stage.move(choose(device))
        return self

    def compile(self) -> VideoModel:
        """Compile the denoisers for sampling (see `compile_for_inference`); the first clip takes up to some minutes.

        Load weights, move to a device and choose the precision before.
        """
        for stage in self.cascade:
            stage.compile_networks()
        return self

    @property
    def files(self) -> dict[str, nn.Module]:
        """Everything that has weights, by the name of its file; an autoencoder that stages share is the first's."""
        found = dict(self.modules)
        for stage in self.stages:
            shared = () if stage.config.autoencoder is not None else ("autoencoder",)
            found |= {f"{stage.config.name}-{name}": m for name, m in stage.modules.items() if name not in shared}
        return found

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the model folder; `dtype` is what weights are stored in (see `kinolab.runtime.modules`), int8 too."""
        write_model(Path(folder), self.config, self.files, dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """All weights, by names that begin with that of their file: `autoencoder.`, `denoiser.`, ..."""
        return {f"{part}.{name}": v for part, module in self.files.items() for name, v in stored_state(module).items()}

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative: str | None = None,
        label: int | str | None = None,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        sampler: SamplerConfig | Mapping[str, Any] | str | None = None,
        guidance: GuidanceConfig | Mapping[str, Any] | float | None = None,
        events: Listener = None,
        cache: StepCache | None = None,
        methods: Sequence[Method] = (),
        stages: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Generate one clip for each prompt: (B, 3, T, H, W) in [-1, 1].

        frames and size (height, width) default to those of training; other sizes are interpolated with a warning.
        Clip k draws its noise from seed + k, so that a clip does not depend on the batch it is made in (but with a
        step cache, which leaves blocks out only where every clip of the batch may do without). `negative` is a prompt
        that guidance moves away from; `methods` wrap the sampling run beside guidance and cache, which may be told to
        read other frames so: `[FrameReach(FrameReachConfig(frames="first_previous"))]`. `sampler` and `guidance` are
        whole configs, or the fields that differ from the model's own (`{"steps": 20}`); all defaults are those of
        `kinolab generate`; `stages` holds a sampler and a guidance of later stages of a cascade, by their names.

        Raises:
            InputError: for a prompt that is no text and no list of texts, and for what the model can't take.
        """
        asked = Request(None, label, frames, size, seed, negative)
        requests = [replace(asked, prompt=p, seed=seed + k) for k, p in enumerate(listed_prompts(prompt))]
        how, guided = self.settled(requests, sampler, guidance)
        later = self.settled_stages(requests, stages)
        latents = self.sample_latents(
            requests, sampler=how, guidance=guided, events=events, cache=cache, methods=methods, stages=later
        )
        return self.decode(latents)

    def stream(
        self,
        prompt: str | None = None,
        *,
        frames: int | None = None,
        negative: str | None = None,
        label: int | str | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        sampler: SamplerConfig | Mapping[str, Any] | str | None = None,
        guidance: GuidanceConfig | Mapping[str, Any] | float | None = None,
        methods: Sequence[Method] = (),
        prompts_at: Mapping[int, str] | None = None,
    ) -> Iterator[Tensor]:
        """The frames (3, H, W) in [-1, 1] of a causal model, each as soon as it is made, in memory of a few blocks.

        >>> for frame in model.stream("a red ball bounces", frames=500): ...

        frames: how many; none = without end. A stream begins alike however long it gets. prompts_at: other prompts from
        a frame on, which hold from the beginning of the block that it lies in. The rest as `generate`.

        Raises:
            InputError: for a model that makes all frames of a clip at once, a cascade, and as `generate`.
        """
        asked = Request(prompt, label, None, size, seed, negative)
        later = {at: [replace(asked, prompt=other)] for at, other in (prompts_at or {}).items()}
        stream = self.opened_stream([asked], sampler=sampler, guidance=guidance, methods=methods)
        return (frame[0] for frame in stream_frames(stream, frames, later))

    def opened_stream(
        self, requests: Sequence[Request], *, sampler: Any = None, guidance: Any = None, methods: Sequence[Method] = ()
    ) -> LatentStream:
        """A stream of requests before its first block; sampler and guidance as of `generate`.

        Raises:
            InputError: for a model that makes all frames of a clip at once, and a cascade.
        """
        if self.stages:
            raise InputError("a cascade's later stages take clips whole: stream its first stage alone")
        how, guided = self.settled(requests, sampler, guidance)
        asked = {type(method) for method in methods}
        own = [method for method in build_methods(self.config.methods) if type(method) not in asked]
        return LatentStream(self, requests, sampler=how, guidance=guided, methods=[*own, *methods])

    def settled(
        self, requests: Sequence[Request], sampler: Any, guidance: Any, *, given: bool = False
    ) -> tuple[SamplerConfig, GuidanceConfig]:
        """The sampler and guidance of requests: what is asked for, and the model's own for the rest.

        given: whether the denoiser is told a part of the video (`StageConfig.given_guidance`).

        Raises:
            InputError: for fields or values that they don't have.
        """
        told = any(r.prompt is not None or r.label is not None or r.negative is not None for r in requests)
        own, towards = self.config, self.config.given_guidance if given else 1.0
        guided = settled_guidance(own.guidance, guidance, told=told, towards_given=towards)
        return settled_sampler(own.sampler, sampler), guided

    def settled_stages(
        self, requests: Sequence[Request], asked: Mapping[str, Any] | None = None
    ) -> dict[str, StageSettings]:
        """Sampler and guidance of every later stage, by name: what is asked for, and the stage's own for the rest.

        Raises:
            InputError: for a name that no stage has, and as `settled`.
        """
        words = any(r.prompt is not None or r.negative is not None for r in requests)
        label = any(r.label is not None for r in requests)
        return settled_stages(self.config.stages, asked, words=words, label=label)

    @torch.no_grad()
    def complete(
        self,
        video: Tensor,
        mask: Tensor,
        requests: Sequence[Request] | None = None,
        *,
        steering: SteeringConfig | None = None,
        exact: bool = False,
        sampler: SamplerConfig | Mapping[str, Any] | str | None = None,
        guidance: GuidanceConfig | Mapping[str, Any] | float | None = None,
        events: Listener = None,
        cache: StepCache | None = None,
        methods: Sequence[Method] = (),
        stages: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Generate what a mask leaves open: video (B, 3, T, H, W) in [-1, 1] and mask (B, 1, T, H, W) -> the video.

        Every task is this one: `kinolab.tasks` makes the masks (1 = generate, 0 = given). What the video holds under
        the mask has no influence. Every stage of a cascade is told of it at its own size; one that was not trained to
        be sees it in what it refines.

        Args:
            requests: prompt, label and seed of each clip; none = no prompt, seeds 0, 1, ...
            steering: how a denoiser that takes nothing given is held to the given part; none = as trained, or
                reconstruction guidance for a denoiser that was not trained to take any.
            exact: put the given pixels back as they were; else they are what the decoder makes of them.
            cache: reuses the denoiser's features between steps; not with reconstruction guidance.
            methods: what else wraps the sampling run.
            stages: a sampler and a guidance of later stages of a cascade, by their names.

        Raises:
            InputError: where shapes or the mask are wrong (empty, full, other than 0 and 1).
        """
        check_mask(video, mask)
        taken = self.takes_given(steering)
        if taken:
            shown = mask[:, :, :: frame_steps(self.cascade)[0]].cpu()
            for note in dict.fromkeys(outside_training(self.config.tasks, m[0]) for m in shown):
                if note is not None:
                    warnings.warn(note, stacklevel=3)
        video, mask = video.to(self.device), mask.to(self.device)
        frames, size = video.shape[2], (video.shape[3], video.shape[4])
        asked = list(requests) if requests is not None else [Request(seed=k) for k in range(len(video))]
        asked = [replace(r, frames=frames, size=size) for r in asked]
        given = given_part(self.cascade, video, mask)
        if taken and self.denoiser.spec.given == "mask":
            self._check_whole(given.mask, "a model with given: mask knows nothing else; give more frames, or steer it")
        how, guided = self.settled(asked, sampler, guidance, given=taken)
        latents = self.sample_latents(
            asked,
            sampler=how,
            guidance=guided,
            events=events,
            cache=cache,
            methods=methods,
            given=given,
            steering=steering,
            stages=self.settled_stages(asked, stages),
        )
        made = self.decode(latents)
        return keep_exact(made, video, mask) if exact else made

    @torch.no_grad()
    def sample_latents(
        self,
        requests: Sequence[Request],
        *,
        sampler: SamplerConfig | None = None,
        guidance: GuidanceConfig | None = None,
        events: Listener = None,
        cache: StepCache | None = None,
        methods: Sequence[Method] = (),
        given: GivenPart | None = None,
        steering: SteeringConfig | None = None,
        stages: Mapping[str, StageSettings] | None = None,
        keeper: Keeper | None = None,
    ) -> Tensor:
        """Latents (B, C, T', H', W') of requests that agree in frames and size; of a cascade, the last stage's.

        `stages` are the settings of later stages, by name (see `settled_stages`); none = their own. `keeper` keeps what
        each stage but the last makes, and a run goes on behind the last one that it has.

        Raises:
            InputError: for settings of another type, and for what the model can't take.
            Stopped: between two steps, where `events` ask to stop.
        """
        told = events_of(events)
        how: dict[str, Any] = {"cache": cache, "methods": methods}
        if not self.stages:
            return Stage.sample_latents(
                self, requests, sampler=sampler, guidance=guidance, events=told, given=given, steering=steering, **how
            )
        note = untrained(self.cascade, requests[0].frames, requests[0].size)
        if note is not None:
            warnings.warn(note, stacklevel=3)
        settings = [StageSettings(sampler=sampler, guidance=guidance)]
        settings += [(stages or {}).get(stage.config.name) or StageSettings() for stage in self.stages]
        steps = [(own.sampler or s.config.sampler).steps for own, s in zip(settings, self.cascade, strict=True)]
        first, clips = _begun(self.cascade, keeper)
        for number, (stage, own) in enumerate(zip(self.cascade, settings, strict=True)):
            if number < first:
                continue
            asked = stage_requests(self.cascade, number, requests, clips)
            _announce(told, self.cascade, number, asked[0], steps[number])
            part = given if number == 0 or given is None else given.later[number - 1]
            latents = Stage.sample_latents(
                stage,
                asked,
                sampler=own.sampler,
                guidance=own.guidance,
                events=Share(told, sum(steps[:number]), steps[number], sum(steps)),
                given=part,
                steering=steering if number == 0 else None,
                **how,
            )
            if stage is not self.output:
                clips = Stage.decode(stage, latents)
                if keeper is not None:
                    keeper.keep(stage_name(stage), clips)
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') of the last stage -> video (B, 3, T, H, W), clamped to [-1, 1]."""
        return Stage.decode(self.output, latents)


def _begun(stages: Sequence[Stage], keeper: Keeper | None) -> tuple[int, Tensor | None]:
    """The first stage that is still to be run, and what the one before it made."""
    for number in reversed(range(1, len(stages))):
        clips = None if keeper is None else keeper.kept(stage_name(stages[number - 1]))
        if clips is not None:
            return number, clips.to(stages[number].device)
    return 0, None


def _announce(events: Events, stages: Sequence[Stage], number: int, request: Request, steps: int) -> None:
    """Say which stage is run from here on, and what it makes."""
    stage = stages[number]
    (height, width), fps = request.size or stage.config.size, stage.config.fps
    frames = request.frames or stage.config.frames
    made = f"{frames} frame{'s' * (frames > 1)} of {width}x{height}"
    rate = f" at {fps:g} fps" if frames > 1 else ""
    events.note(f"stage {stage_name(stage)} ({number + 1} of {len(stages)}): {made}{rate}, {steps} steps")
