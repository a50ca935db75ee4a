"""A video model: autoencoder + denoiser + diffusion + conditioning, ready to generate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab.autoencoders import build as build_autoencoder
from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning import GivenPart, Setting, label_index, negative, of_requests
from kinolab.conditioning.text import TextEmbedding, check_widths
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.config import to_yaml
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.contracts.request import Request, listed_prompts
from kinolab.contracts.sampling import settled_guidance, settled_sampler
from kinolab.data.buckets import outside_buckets
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import Diffusion, SamplerConfig
from kinolab.errors import InputError
from kinolab.layers.masking import fully_given, place_given
from kinolab.methods import Guidance, GuidanceConfig, Held, Method, SteeringConfig, StepCache
from kinolab.models.folder import AUTOENCODER, DENOISER, SET, ModelConfig, find_model, read_model_config, read_part
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.devices import choose
from kinolab.runtime.files import write_text
from kinolab.runtime.modules import save_weights
from kinolab.runtime.precision import PrecisionPolicy, autocast, resolve
from kinolab.runtime.sets import MANIFEST, new_set
from kinolab.tasks import check_mask, encode_given, keep_exact, outside_training


class VideoModel:
    """An autoencoder and a denoiser that belong together, ready to generate.

    >>> model = VideoModel.load("kinolab/pretrained/world")
    >>> clips = model.generate("a red ball falls", seed=1)          # (1, 3, T, H, W) in [-1, 1]
    """

    def __init__(self, config: ModelConfig, autoencoder: Autoencoder, denoiser: Denoiser) -> None:
        self.config, self.autoencoder, self.denoiser = config, autoencoder.eval(), denoiser.eval()
        self.diffusion = Diffusion(config.diffusion)
        self.text_encoder = build_text_encoder(config.text_encoder)
        self.precision: PrecisionPolicy = "auto"
        self.device = torch.device("cpu")

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
        autoencoder = read_part(build_autoencoder, config.autoencoder, folder, AUTOENCODER)
        denoiser = read_part(build_denoiser, config.denoiser, folder, DENOISER)
        model = cls(config, autoencoder, denoiser)
        model.precision = precision
        return model.to(chosen)

    def to(self, device: str | torch.device) -> VideoModel:
        """Move the parts to a device (see `devices.choose`); returns the model itself."""
        self.device = choose(device)
        self.autoencoder.to(self.device)
        self.denoiser.to(self.device)
        if self.text_encoder is not None:
            self.text_encoder.to(self.device)
        return self

    def compile(self) -> VideoModel:
        """Compile the denoiser for sampling (see `compile_for_inference`); the first clip takes up to some minutes.

        Load weights, move to a device and choose the precision before.
        """
        compile_for_inference(self.denoiser, resolve(self.precision, self.device), self.device)
        return self

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the model folder; `dtype` is what weights are stored in (see `kinolab.runtime.modules`), int8 too."""
        with new_set(Path(folder), SET, manifest=MANIFEST) as room:
            save_weights(self.autoencoder, room / AUTOENCODER, dtype)
            save_weights(self.denoiser, room / DENOISER, dtype)
            write_text(room / "model.yaml", to_yaml(self.config))

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of both parts, by names that begin with `autoencoder.` and `denoiser.`."""
        parts = {"autoencoder": self.autoencoder, "denoiser": self.denoiser}
        return {f"{part}.{name}": v for part, module in parts.items() for name, v in module.state_dict().items()}

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
            spec=self.denoiser.spec,
            autoencoder=self.autoencoder,
            device=self.device,
            embed=None if self.text_encoder is None else self._embed,
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
    ) -> Tensor:
        """Generate one clip for each prompt: (B, 3, T, H, W) in [-1, 1].

        frames and size (height, width) default to those of training; other sizes are interpolated with a warning.
        Clip k draws its noise from seed + k, so that a clip does not depend on the batch it is made in (but with a
        step cache, which leaves blocks out only where every clip of the batch may do without). `negative` is a prompt
        that guidance moves away from; `methods` wrap the sampling run beside guidance and cache, which may be told to
        read other frames so: `[FrameReach(FrameReachConfig(frames="first_previous"))]`. `sampler` and `guidance` are
        whole configs, or the fields that differ from the model's own (`{"steps": 20}`); all defaults are those of
        `kinolab generate`.

        Raises:
            InputError: for a prompt that is no text and no list of texts, and for what the model can't take.
        """
        asked = Request(None, label, frames, size, seed, negative)
        requests = [replace(asked, prompt=p, seed=seed + k) for k, p in enumerate(listed_prompts(prompt))]
        how, guided = self.settled(requests, sampler, guidance)
        latents = self.sample_latents(
            requests, sampler=how, guidance=guided, events=events, cache=cache, methods=methods
        )
        return self.decode(latents)

    def settled(self, requests: Sequence[Request], sampler: Any, guidance: Any) -> tuple[SamplerConfig, GuidanceConfig]:
        """The sampler and guidance of requests: what is asked for, and the model's own for the rest.

        Raises:
            InputError: for fields or values that they don't have.
        """
        told = any(r.prompt is not None or r.label is not None or r.negative is not None for r in requests)
        own = self.config
        return settled_sampler(own.sampler, sampler), settled_guidance(own.guidance, guidance, told=told)

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
    ) -> Tensor:
        """Generate what a mask leaves open: video (B, 3, T, H, W) in [-1, 1] and mask (B, 1, T, H, W) -> the video.

        Every task is this one: `kinolab.tasks` makes the masks (1 = generate, 0 = given). What the video holds under
        the mask has no influence.

        Args:
            requests: prompt, label and seed of each clip; none = no prompt, seeds 0, 1, ...
            steering: how a denoiser that takes nothing given is held to the given part; none = as trained, or
                reconstruction guidance for a denoiser that was not trained to take any.
            exact: put the given pixels back as they were; else they are what the decoder makes of them.
            cache: reuses the denoiser's features between steps; not with reconstruction guidance.
            methods: what else wraps the sampling run.

        Raises:
            InputError: where shapes or the mask are wrong (empty, full, other than 0 and 1).
        """
        check_mask(video, mask)
        if steering is None and self.denoiser.spec.given != "none":
            for note in dict.fromkeys(outside_training(self.config.tasks, m[0]) for m in mask.cpu()):
                if note is not None:
                    warnings.warn(note, stacklevel=3)
        video, mask = video.to(self.device), mask.to(self.device)
        frames, size = video.shape[2], (video.shape[3], video.shape[4])
        asked = list(requests) if requests is not None else [Request(seed=k) for k in range(len(video))]
        asked = [replace(r, frames=frames, size=size) for r in asked]
        with autocast(self.precision, self.device):
            given, folded = encode_given(self.autoencoder, video, mask)
        if steering is None and self.denoiser.spec.given == "mask":
            self._check_whole(folded, "a model with given: mask is told of nothing else; give more frames, or steer it")
        how, guided = self.settled(asked, sampler, guidance)
        latents = self.sample_latents(
            asked,
            sampler=how,
            guidance=guided,
            events=events,
            cache=cache,
            methods=methods,
            given=GivenPart(given, folded, video, mask),
            steering=steering,
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
        if note is not None:
            warnings.warn(note, stacklevel=3)
        sources = [torch.Generator().manual_seed(r.seed) for r in requests]
        noise = torch.stack([torch.randn(shape, generator=g) for g in sources]).to(self.device)
        trained, wrapped = self.denoiser.spec.given, list(methods)
        if given is not None and trained != "none" and steering is None:
            rows = zip(requests, given.rows(), strict=True)
            requests = [replace(r, conditions={**r.conditions, "given": part}) for r, part in rows]
        elif given is not None:
            wrapped.append(self._steering(given, steering or SteeringConfig()))
        conditions, guidance = self.conditions(requests), guidance or self.config.guidance
        told = events_of(events)
        away = any(r.negative is not None for r in requests)
        negative = self.negative_conditions(requests, conditions) if guidance.active or away else None
        wrapped += [Guidance(guidance, negative), *([cache] if cache is not None else [])]
        with autocast(self.precision, self.device):
            latents = self.diffusion.sample(
                self.denoiser,
                noise,
                conditions,
                sampler=sampler or self.config.sampler,
                methods=wrapped,
                generator=sources[0],
                callback=lambda step, steps, *_: advance(told, step, steps),
            )
        if given is not None and trained not in ("none", "channels"):
            latents = place_given(latents, given.latents, given.mask)
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
            with autocast(self.precision, self.device):
                video = self.autoencoder.decode(latents.to(given.latents))
            return scale * torch.where(pixels, given.video - video.float(), torch.zeros_like(given.video))

        return config.build(Held(given.latents, known, residual))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') -> video (B, 3, T, H, W), clamped to [-1, 1]."""
        with autocast(self.precision, self.device):
            video = self.autoencoder.decode(latents.to(self.device))
        return video.float().clamp(-1, 1)
