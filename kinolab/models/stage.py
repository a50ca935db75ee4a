"""A stage of a video model: an autoencoder, its denoisers, the parts beside them, and a diffusion.

Most models are one stage with one denoiser. A cascade has several, of which each refines what the one before made
(`kinolab.models.model`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning import GivenPart, Setting, label_index, negative, of_requests
from kinolab.conditioning.image import FIRST_FRAME, first_frames
from kinolab.conditioning.text import TextEmbedding, check_widths
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.conditioning.vision import build as build_image_encoder
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.contracts.request import Request
from kinolab.data.buckets import outside_buckets
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers.base import DenoiserSpec
from kinolab.diffusion import Diffusion, SamplerConfig
from kinolab.errors import InputError
from kinolab.layers.masking import BESIDE, fully_given, place_given
from kinolab.methods import Guidance, GuidanceConfig, Held, Method, SteeringConfig, StepCache
from kinolab.methods import build as build_methods
from kinolab.models.distilled import outside
from kinolab.models.experts import Experts
from kinolab.models.lora import StageLora
from kinolab.models.part import ModelPart, WithParts
from kinolab.models.stage_config import LaterStageConfig, StageConfig
from kinolab.models.streaming import LatentStream, clip_latents
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.devices import choose
from kinolab.runtime.precision import PrecisionPolicy, autocast, resolve


class Stage:
    """An autoencoder and a denoiser that belong together, ready to sample latents.

    Args:
        experts: the denoisers of the config's `experts`.
        parts: the networks of the config's `parts`.
        lora: the adapters of the config's `lora`, which the denoisers have beside their layers already.
    """

    config: StageConfig

    def __init__(
        self,
        config: StageConfig,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        *,
        experts: Sequence[Denoiser] = (),
        parts: Mapping[str, ModelPart] | None = None,
        lora: Mapping[str, StageLora] | None = None,
    ) -> None:
        self.lora = dict(lora or {})
        self.config, self.autoencoder, self.denoiser = config, autoencoder.eval(), denoiser.eval()
        self.experts = [expert.eval() for expert in experts]
        self.parts = {name: part.eval() for name, part in (parts or {}).items()}
        self.composed: Denoiser | None = None
        self.diffusion = Diffusion(config.diffusion)
        self.text_encoder = build_text_encoder(config.text_encoder)
        self.image_encoder = build_image_encoder(config.image_encoder)
        self.precision: PrecisionPolicy = "auto"
        self.device = torch.device("cpu")

    @property
    def network(self) -> Denoiser:
        """What predicts: the denoiser, in its place those of the cleaner times, and the parts beside them.

        Raises:
            InputError: where they don't fit each other.
        """
        if self.composed is not None:  # a training job's own, which may be sharded as one module
            return self.composed
        network = self.denoiser
        if self.experts:
            ends = [expert.until for expert in self.config.experts]
            network = Experts([*self.experts, network], ends, self.diffusion.path.fraction)
        composed = WithParts(network, self.parts) if self.parts else network
        return composed if composed is self.denoiser else composed.eval()

    @property
    def spec(self) -> DenoiserSpec:
        """What the stage can be told."""
        return self.network.spec

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything that has weights, by the name of its file."""
        experts = {f"expert{number}": expert for number, expert in enumerate(self.experts)}
        parts = {f"part-{name}": part for name, part in self.parts.items()}
        lora = {f"lora-{name}": adapter for name, adapter in self.lora.items()}
        return {"autoencoder": self.autoencoder, "denoiser": self.denoiser, **experts, **parts, **lora}

    def move(self, device: torch.device) -> None:
        """Move everything that has weights to a device."""
        self.device = choose(device)
        for module in self.modules.values():
            module.to(self.device)
        for encoder in (self.text_encoder, self.image_encoder):
            if encoder is not None:
                encoder.to(self.device)

    def compile_networks(self) -> None:
        """Compile the denoisers for sampling (see `compile_for_inference`)."""
        for denoiser in (self.denoiser, *self.experts):
            compile_for_inference(denoiser, resolve(self.precision, self.device), self.device)

    def conditions(self, requests: Sequence[Request]) -> Conditions:
        """The conditions of a batch of requests.

        Raises:
            InputError: for a prompt or label that the model can't take, or a mix of requests with and without.
        """
        with autocast(self.precision, self.device):
            return of_requests(requests, self.setting)

    def negative_conditions(self, requests: Sequence[Request], conditions: Conditions) -> Conditions | None:
        """What guidance moves away from: negative prompts, without a label and with all else the same.

        A request without a negative prompt has the null condition; none = all have, and it is the learned one.
        """
        return negative(requests, conditions, self.setting)

    @property
    def setting(self) -> Setting:
        """What conditions of this model are made with."""
        config = self.config
        return Setting(
            spec=self.spec,
            autoencoder=self.autoencoder,
            device=self.device,
            embed=None if self.text_encoder is None else self._embed,
            look=None if self.image_encoder is None else self.image_encoder.encode,
            imagine=self.image_encoder.imagine if self.image_encoder and self.image_encoder.imagines else None,
            null_prompt=config.null_prompt,
            class_names=config.class_names,
            frames=config.frames,
            size=config.size,
            fps=config.fps,
            settings=config.conditions,
        )

    def _embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """The embeddings of prompts; a warning says which of them the encoder doesn't know."""
        assert self.text_encoder is not None
        check_widths(self.text_encoder, self.denoiser.spec.text_dim, self.denoiser.spec.pooled_dim)
        self.text_encoder.warn_unknown(prompts)
        return self.text_encoder.encode(prompts)

    def label_index(self, label: int | str | None) -> int:
        """The index of a class given by number or name; none is the null class (or the only one)."""
        spec = self.denoiser.spec
        return spec.unlabelled if label is None else label_index(label, spec, self.config.class_names)

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
    ) -> Tensor:
        """Latents (B, C, T', H', W') of requests that agree in frames and size.

        Raises:
            InputError: for settings of another type, and for what the model can't take.
            Stopped: between two steps, where `events` ask to stop.
        """
        for given_as, kind in ((sampler, SamplerConfig), (guidance, GuidanceConfig)):
            if given_as is not None and not isinstance(given_as, kind):
                raise InputError(f"expected a {kind.__name__} of kinolab.diffusion, got {given_as!r}")
        frames, size = requests[0].frames or self.config.frames, requests[0].size or self.config.size
        shape = self.autoencoder.spec.latent_shape(frames, *size)
        note = outside_buckets(self.config.buckets, frames, size)
        if self.config.causal is None and note is not None:
            warnings.warn(note, stacklevel=3)
        sources = [torch.Generator().manual_seed(r.seed) for r in requests]
        noise = torch.stack([torch.randn(shape, generator=g) for g in sources]).to(self.device)
        asked = {type(method) for method in methods}
        own = [method for method in build_methods(self.config.methods) if type(method) not in asked]
        requests, steered = self._told_given(requests, given, steering)
        wrapped = [*own, *methods, *steered]
        guidance, told = guidance or self.config.guidance, events_of(events)
        for note in outside(self.config, sampler or self.config.sampler, guidance):
            warnings.warn(note, stacklevel=3)
        if self.config.causal is not None:
            wrapped += [cache] if cache is not None else []
            stream = LatentStream(
                self, requests, sampler=sampler or self.config.sampler, guidance=guidance, methods=wrapped
            )
            return self._with_given(clip_latents(stream, shape[1], told), given)
        conditions = self.conditions(requests)
        away = any(r.negative is not None for r in requests)
        negative = self.negative_conditions(requests, conditions) if guidance.active or away else None
        wrapped += [Guidance(guidance, negative), *([cache] if cache is not None else [])]
        with autocast(self.precision, self.device):
            latents = self.diffusion.sample(
                self.network,
                noise,
                conditions,
                sampler=sampler or self.config.sampler,
                methods=wrapped,
                generator=sources[0],
                callback=lambda step, steps, *_: advance(told, step, steps),
                codec=StageCodec(self),
            )
        return self._with_given(latents, given)

    def takes_given(self, steering: SteeringConfig | None = None) -> bool:
        """Whether the denoiser is told what is given of a video, and not steered to it."""
        return steering is None and self.denoiser.spec.given != "none"

    def _told_given(
        self, requests: Sequence[Request], given: GivenPart | None, steering: SteeringConfig | None
    ) -> tuple[list[Request], list[Method]]:
        """The requests with what is given of each among their conditions, or a method that holds a run to it.

        Raises:
            InputError: where a causal model would have to be steered.
        """
        if given is None:
            return list(requests), []
        if self.takes_given(steering):
            rows = zip(requests, given.rows(), strict=True)
            return [replace(r, conditions={**r.conditions, "given": part}) for r, part in rows], []
        if steering is None and FIRST_FRAME in self.spec.ports:
            pictures = zip(requests, first_frames(given.video, given.pixel_mask), strict=True)
            return [replace(r, conditions={**r.conditions, FIRST_FRAME: picture}) for r, picture in pictures], []
        if self.config.causal is not None:
            raise InputError("a causal model makes clips block by block, and can't be steered to a given part")
        return list(requests), [self._steering(given, steering or SteeringConfig())]

    def _with_given(self, latents: Tensor, given: GivenPart | None) -> Tensor:
        """Latents with the given ones in their places, where the denoiser does not make these too."""
        trained = self.denoiser.spec.given
        if given is not None and trained != "none" and trained not in BESIDE:
            return place_given(latents, given.latents, given.mask)
        return latents

    def _check_whole(self, mask: Tensor, advice: str) -> None:
        if not bool(fully_given(mask).flatten(1).any(1).all()):
            raise InputError(f"no latent of the video is given whole, and {advice}")

    def _steering(self, given: GivenPart, config: SteeringConfig) -> Method:
        """What holds a sample to latents that are given whole, by the error in latents or in their pixels."""
        known = fully_given(given.mask)
        if config.error == "latents" or config.method == "replacement":
            advice = "there is nothing to steer by: use reconstruction guidance with --error pixels, or give more"
            self._check_whole(given.mask, advice)
            return config.build(Held(given.latents, known))
        # As many squares as the given pixels amount to in latents, so that one weight suits both errors.
        pixels = (given.pixel_mask == 0).expand_as(given.video)
        scale = (given.latents[0].numel() / given.video[0].numel()) ** 0.5

        def residual(latents: Tensor) -> Tensor:
            return scale * torch.where(pixels, given.video - self.pixels(latents), torch.zeros_like(given.video))

        return config.build(Held(given.latents, known, residual))

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') -> video (B, 3, T, H, W), not clamped, through which gradients go."""
        with autocast(self.precision, self.device):
            video = self.autoencoder.decode(latents.float())
        return video.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') -> video (B, 3, T, H, W), clamped to [-1, 1]."""
        with autocast(self.precision, self.device):
            video = self.autoencoder.decode(latents.to(self.device))
        return video.float().clamp(-1, 1)


class StageCodec:
    """A stage's way to pixels and back, for the methods of a run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def temporal_ratio(self) -> int:
        """Frames that one latent frame stands for."""
        return self.stage.autoencoder.spec.temporal_ratio

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> latents (B, C, T', H', W'), the mean of their distribution."""
        with autocast(self.stage.precision, self.stage.device):
            return self.stage.autoencoder.encode(video.to(self.stage.device)).mean.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') -> (B, 3, T, H, W), not clamped."""
        return self.stage.pixels(latents)

    @property
    def spatial_ratio(self) -> int:
        """Pixels of a frame's side for one latent."""
        return self.stage.autoencoder.spec.spatial_ratio


class LaterStage(Stage):
    """A stage that refines what the one before it made; one without an autoencoder of its own has that one's."""

    config: LaterStageConfig
