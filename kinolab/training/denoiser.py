"""Training of a denoiser on latents: noise, conditions with dropout, joint images, held-out loss, samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.conditioning.text import check_widths
from kinolab.contracts.examples import Example, Source
from kinolab.data.buckets import BucketShape
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.trained import trainable_parameters
from kinolab.diffusion import Diffusion
from kinolab.errors import InputError
from kinolab.layers.lora import merge_lora
from kinolab.layers.masking import generated_weight, partly_given
from kinolab.layers.precision import autocast
from kinolab.model import ModelConfig, Request, VideoModel
from kinolab.runtime.files import make_folder
from kinolab.training.annotated import check_annotations, drawn, worded
from kinolab.training.batches import MicroBatch, micro_batches, spread
from kinolab.training.mix import bucket_mix
from kinolab.training.parallel import World, full_state
from kinolab.training.prompts import CaptionEmbedder
from kinolab.training.randomness import generators, normal, sample_seed, uniform
from kinolab.training.recipe import DenoiserRecipe
from kinolab.training.tasks import TaskDraws
from kinolab.training.trainer import Part


class DenoiserJob:
    """Computes the steps of a denoiser's training (Latte, section 3; any denoiser of the table)."""

    def __init__(
        self, recipe: DenoiserRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        self.recipe, self.autoencoder, self.source, self.heldout = recipe, autoencoder, source, heldout
        self.autoencoder.requires_grad_(False)
        self.diffusion = Diffusion(recipe.diffusion)
        self.denoiser = denoiser
        spec = self.denoiser.spec
        if spec.channels != autoencoder.spec.latent_channels:
            raise InputError(
                f"the denoiser takes {spec.channels} latent channels and the autoencoder makes "
                f"{autoencoder.spec.latent_channels}; set denoiser.in_channels={autoencoder.spec.latent_channels}"
            )
        if recipe.image_frames and recipe.denoiser.kind != "latte":
            raise InputError(
                f"image_frames={recipe.image_frames}: joint images are for latte, not {recipe.denoiser.kind}"
            )
        self.count = trainable_parameters(denoiser, recipe.trained, recipe.lora_rank)
        if recipe.frames_per_clip is not None and source.encoded and autoencoder.spec.temporal_ratio > 1:
            raise InputError(
                f"frames_per_clip={recipe.frames_per_clip}: a latent of this cache stands for "
                f"{autoencoder.spec.temporal_ratio} frames; encode the clips by an image autoencoder"
            )
        self.tasks = TaskDraws(recipe.tasks, autoencoder, spec, source)
        encoder = build_text_encoder(recipe.text_encoder)
        self.text: CaptionEmbedder | None = None
        if encoder is not None:
            check_widths(encoder, spec.text_dim, spec.pooled_dim)
            self.text = CaptionEmbedder(encoder, source.cache)
        checked = check_annotations(recipe, spec, (source, heldout), encoder)
        self.class_names, self.notes = checked.class_names, checked.notes
        self.groups = source.groups()
        if recipe.image_frames and len({shape[1:] for shape in self._shapes()}) > 1:
            raise InputError(
                f"image_frames={recipe.image_frames}: joint images need clips of one size; to train on images too, "
                "give the data a bucket of one frame"
            )
        self.parts = {"denoiser": Part(self.denoiser)}
        self.device = torch.device("cpu")

    def batches(self, first_step: int, world: World) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches, from `first_step` on."""
        self.device = self.tasks.device = world.device
        self.autoencoder.to(world.device)
        if self.text is not None:
            self.text.encoder.to(world.device)
        mix = None
        if self.recipe.mix.active:
            shapes = self._shapes()
            positions = [math.prod(self.autoencoder.spec.latent_shape(*shape)[1:]) for shape in shapes]
            mix = bucket_mix(self.recipe.mix, self.groups, shapes, positions)
        return micro_batches(self.source, self.recipe.training, first_step, world, mix=mix)

    def _shapes(self) -> list[BucketShape]:
        """Frames, height and width of each group's clips."""
        return [self._shape(group[0]) for group in self.groups]

    def _shape(self, index: int) -> BucketShape:
        """Frames, height and width of what is trained on of clip `index` of the source."""
        frames, height, width = self._clip_shape(index)
        return (frames if self.recipe.frames_per_clip is None else 1), height, width

    def _clip_shape(self, index: int) -> BucketShape:
        """Frames, height and width of clip `index` of the source."""
        spec, (frames, height, width) = self.autoencoder.spec, self.source.shape(index)
        if not self.source.encoded:
            return frames, height, width
        return spec.pixel_frames(frames), height * spec.spatial_ratio, width * spec.spatial_ratio

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss over one micro-batch; every draw belongs to its position in the global batch."""
        seed = self.recipe.training.seed
        micro_batch = self._images(micro_batch, step)
        positions = micro_batch.positions
        micro_batch = replace(micro_batch, examples=worded(micro_batch.examples, seed, step, positions))
        z0, conditions = self.latents(micro_batch.examples), self.conditions(micro_batch.examples)
        size = z0[0, 0].numel()  # of the clip, without images beside it
        if self.recipe.image_frames:
            z0, conditions = self._with_images(z0, micro_batch, step)
        sources = generators(seed, step, positions, "noise")
        times = torch.cat([self.diffusion.draw_times(1, g, positions=size) for g in sources]).to(self.device)
        noise = normal(z0.shape[1:], sources).to(self.device)
        conditions = self.tasks.give(conditions, micro_batch.examples, generators(seed, step, positions, "tasks"))
        rate = torch.full((len(positions),), self.recipe.condition_dropout)
        if self.recipe.given_condition_dropout is not None and conditions.mask is not None:
            some = partly_given(conditions.mask).flatten(1).any(1).cpu()
            rate = torch.where(some, self.recipe.given_condition_dropout, rate)
        dropped = uniform(generators(seed, step, positions, "dropout")) < rate
        dropped |= self._untold(micro_batch.examples)
        if conditions.label is not None or conditions.text is not None or conditions.pooled is not None:
            conditions = self._dropped(conditions, dropped.to(self.device))
        if conditions.label is not None and self.recipe.label_dropout:
            alone = uniform(generators(seed, step, positions, "label")) < self.recipe.label_dropout
            conditions = conditions.replace(label=self._without(conditions.label, alone.to(self.device)))
        weight = self.tasks.weight(conditions)
        parts = self.diffusion.loss(self.parts["denoiser"].wrapped, z0, conditions, t=times, noise=noise, weight=weight)
        numbers = {k: float(v.detach().mean()) for k, v in parts.items()}
        return parts["loss"].mean(), numbers

    def _images(self, micro_batch: MicroBatch, step: int) -> MicroBatch:
        """A micro-batch whose every clip is replaced by `frames_per_clip` of its frames, where that is asked for."""
        count = self.recipe.frames_per_clip
        if count is None:
            return micro_batch
        sources = generators(self.recipe.training.seed, step, micro_batch.positions, "frames")
        images: list[Example] = []
        positions: list[int] = []
        for position, example, source in zip(micro_batch.positions, micro_batch.examples, sources, strict=True):
            picks = torch.randint(example.clip.shape[1], (count,), generator=source).tolist()
            images += [replace(example, clip=example.clip[:, pick : pick + 1]) for pick in picks]
            positions += range(position * count, (position + 1) * count)
        return MicroBatch(positions, images)

    def _dropped(self, conditions: Conditions, rows: Tensor) -> Conditions:
        """Conditions whose rows (B,) are the null ones: the learned ones, or the empty prompt without a label."""
        if self.text is None or self.recipe.null_prompt == "learned":
            return conditions.with_null(rows)
        empty = self._text([""])
        changes: dict[str, Any] = {}
        for name in ("text", "text_mask", "pooled"):
            value, none = getattr(conditions, name), getattr(empty, name)
            if value is not None:
                changes[name] = torch.where(rows.view(-1, *[1] * (value.ndim - 1)), none.to(value), value)
        if conditions.label is not None:
            changes["label"] = self._without(conditions.label, rows)
        return conditions.replace(**changes)

    def _untold(self, examples: Sequence[Example]) -> Tensor:
        """Which examples (B,) have nothing that the denoiser could be told of: these are trained with the null
        condition, as a request for nothing is sampled."""
        spec = self.denoiser.spec
        silent = [(self.text is None or not e.caption) and (e.label is None or not spec.num_classes) for e in examples]
        only = spec.num_classes > 0 and spec.unlabelled != spec.num_classes  # a single class is told of every clip
        return torch.tensor(silent) & (not only)

    def _without(self, label: Tensor, rows: Tensor) -> Tensor:
        """Labels (B,) or (B, 1 + images) with those of the given rows (B,) replaced by the null class."""
        null = torch.full_like(label, self.denoiser.spec.num_classes)
        return torch.where(rows.view(-1, *[1] * (label.ndim - 1)), null, label)

    def latents(self, examples: Sequence[Example]) -> Tensor:
        """Latents (B, C, T, H, W) of cached examples, or of clips encoded here."""
        if examples[0].encoded:
            return torch.stack([e.latents for e in examples]).float().to(self.device)
        clips = torch.stack([e.video for e in examples]).to(self.device)
        with torch.no_grad():
            return self.autoencoder.encode(clips).mean.float()

    def _with_images(self, z0: Tensor, micro_batch: MicroBatch, step: int) -> tuple[Tensor, Conditions]:
        """Latents with first frames of random other clips appended, and conditions with a row for each of them.

        z0 (B, C, T, H, W) -> (B, C, T + image_frames, H, W); conditions have 1 + image_frames in their second place
        (Latte, joint image-video training). The first latent of a causal autoencoder stands for one image.
        """
        count, rows, told = self.recipe.image_frames, [], []
        sources = generators(self.recipe.training.seed, step, micro_batch.positions, "images")
        for example, source in zip(micro_batch.examples, sources, strict=True):
            others = [self.source[i] for i in torch.randint(len(self.source), (count,), generator=source).tolist()]
            rows.append(self.latents(others)[:, :, 0])
            told += [example, *(drawn(other, source) for other in others)]
        images = torch.stack(rows).transpose(1, 2)
        conditions = self.conditions(told).map(lambda v: v.unflatten(0, (len(z0), 1 + count)))
        return torch.cat([z0, images], dim=2), conditions.replace(image_frames=count)

    def conditions(self, examples: Sequence[Example]) -> Conditions:
        """Labels and text of examples, as far as the denoiser takes them; what an example lacks is the null one."""
        spec = self.denoiser.spec
        conditions = self._text([e.caption or "" for e in examples])
        if spec.num_classes:
            known = [spec.unlabelled if e.label is None else int(e.label) for e in examples]
            conditions = conditions.replace(label=torch.tensor(known, device=self.device))
        if spec.fps:
            rates = [0.0 if self._frames(e) == 1 else float(e.fps) for e in examples]  # 0 = a still image
            conditions = conditions.replace(fps=torch.tensor(rates, device=self.device))
        return conditions

    def _text(self, captions: list[str]) -> Conditions:
        """The embeddings of captions, as far as the denoiser takes them."""
        spec = self.denoiser.spec
        if self.text is None or not (spec.text_dim or spec.pooled_dim):
            return Conditions()
        embedded = self.text(captions)
        text, mask = (embedded.states, embedded.mask) if spec.text_dim else (None, None)
        pooled = embedded.pooled if spec.pooled_dim else None
        return Conditions(text=text, text_mask=mask, pooled=pooled).to(self.device)

    def _frames(self, example: Example) -> int:
        """Frames of a clip, encoded or not."""
        frames = example.clip.shape[1]
        return self.autoencoder.spec.pixel_frames(frames) if example.encoded else frames

    def _heldout_batches(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Held-out clips in batches of one shape, each with the place of its first clip among all."""
        size, first = self.recipe.training.micro_batch or self.recipe.training.batch_size, 0
        for members in map(set, self.heldout.groups()):
            mine = [i for i in chosen if i in members]
            for k in range(0, len(mine), size):
                yield first + k, mine[k : k + size]
            first += len(mine)

    def evaluate(self, world: World) -> dict[str, float]:
        """The held-out loss (mse) at fixed times with fixed noise, and its mean."""
        chosen = spread(len(self.heldout), self.recipe.heldout_clips)
        sums: dict[str, float] = {}
        for first, indices in self._heldout_batches(chosen):
            positions = list(range(first, first + len(indices)))
            batch = self._images(MicroBatch(positions, [self.heldout[i] for i in indices]), 0)
            examples, positions = batch.examples, batch.positions
            z0, conditions = self.latents(examples), self.conditions(examples)
            seed = self.recipe.training.seed
            generator = torch.Generator().manual_seed(sample_seed(seed, "heldout", first))
            untold = self._untold(examples)
            if bool(untold.any()) and (conditions.label is not None or self.text is not None):
                conditions = self._dropped(conditions, untold.to(self.device))
            conditions = self.tasks.give(conditions, examples, generators(seed, 0, positions, "heldout tasks"))
            # Over what is generated, however a model takes what is given, so that models can be compared.
            weight = None if conditions.mask is None else generated_weight(conditions.mask)
            times = self.recipe.heldout_times
            with autocast(self.recipe.training.precision, self.device):
                losses = self.diffusion.loss_at(self.denoiser, z0, conditions, times, generator, weight)
            for time, value in losses.items():
                key = f"loss_at_{time:g}"
                sums[key] = sums.get(key, 0.0) + float(value) * len(indices) / len(chosen)
        return {**sums, "loss": sum(sums.values()) / len(sums)}

    def model(self) -> VideoModel:
        """The model as it stands: shares its parts with the job."""
        # The longest, and of those the largest; single frames of clips of several lengths have one shape.
        recipe, shapes = self.recipe, sorted(set(self._shapes()), key=lambda s: (s[0], s[1] * s[2], s), reverse=True)
        frames, *size = shapes[0]
        config = ModelConfig(
            version=_version(),
            trained=f"{recipe.name}, {recipe.training.steps} steps",
            autoencoder=self.autoencoder.config,
            denoiser=recipe.denoiser,
            diffusion=recipe.diffusion,
            text_encoder=recipe.text_encoder,
            null_prompt=recipe.null_prompt,
            class_names=self.class_names,
            tasks=recipe.tasks,
            frames=frames,
            size=(size[0], size[1]),
            buckets=tuple(shapes) if len(shapes) > 1 else (),
            fps=self.source[self.groups[0][0]].fps,
            guidance=recipe.samples.guidance,
            sampler=recipe.samples.sampler,
        )
        model = VideoModel(config, self.autoencoder, self.denoiser)
        model.precision, model.device = recipe.training.precision, self.device
        return model

    def sample(self, folder: Path, step: int, world: World) -> None:
        """`step-N-k.mp4` for every prompt, label or count of the recipe, from seeds 0, 1, 2, ..."""
        samples = self.recipe.samples
        if samples.prompts:
            requests = [Request(prompt=p, seed=k) for k, p in enumerate(samples.prompts)]
        elif samples.labels:
            requests = [Request(label=y, seed=k) for k, y in enumerate(samples.labels)]
        else:
            requests = [Request(seed=k) for k in range(samples.count)]
        model = self.model()
        clips = model.decode(model.sample_latents(requests))
        if world.first:
            make_folder(folder)
            for k, clip in enumerate(clips):
                video.write(folder / f"step-{step:08d}-{k}.mp4", video.to_uint8(clip), fps=model.config.fps)

    def export(self, folder: Path, step: int, world: World) -> None:
        """Write the model folder; sharded weights are gathered first, and LoRA's changes merged."""
        if self.text is not None:
            self.text.flush()
        state = merge_lora(full_state(self.denoiser, world))
        if not world.first:
            return
        model = self.model()
        if world.size > 1 or self.count.lora:
            model.denoiser = build_denoiser(self.recipe.denoiser)
            model.denoiser.load_state_dict(state)
        model.save(folder)


def _version() -> str:
    from kinolab import __version__

    return __version__
