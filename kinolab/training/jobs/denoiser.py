"""Training of a denoiser on latents: noise, conditions with dropout, joint images, held-out loss, samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning import Draws, Rates, Setting, check_conditions, drop, joined, of_examples
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.conditioning.text import check_widths
from kinolab.contracts.events import Events
from kinolab.contracts.examples import Example, Source
from kinolab.data.buckets import BucketShape
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.trained import trainable_parameters
from kinolab.diffusion import Diffusion
from kinolab.errors import InputError
from kinolab.layers.lora import merge_lora
from kinolab.layers.masking import generated_weight
from kinolab.layers.precision import autocast
from kinolab.models import ModelConfig, Request, VideoModel, load_autoencoder
from kinolab.runtime.files import make_folder
from kinolab.runtime.ranks import Ranks
from kinolab.training.annotated import check_annotations, drawn, worded
from kinolab.training.batches import MicroBatch, micro_batches, spread
from kinolab.training.initial import first_denoiser
from kinolab.training.mix import bucket_mix
from kinolab.training.parallel import full_state
from kinolab.training.prompts import CaptionEmbedder
from kinolab.training.randomness import generators, normal, sample_seed
from kinolab.training.recipe import DenoiserRecipe
from kinolab.training.sources import sources_of
from kinolab.training.tasks import TaskDraws
from kinolab.training.trainer import Job, Part


class DenoiserJob(Job):
    """Computes the steps of a denoiser's training (Latte, section 3; any denoiser of the table)."""

    Recipe = DenoiserRecipe

    @classmethod
    def make(cls, recipe: DenoiserRecipe, events: Events) -> DenoiserJob:
        """The job of a recipe: its clips or latents, their autoencoder, and its denoiser with first weights."""
        autoencoder = load_autoencoder(recipe.autoencoder, device="cpu")
        denoiser = first_denoiser(recipe, events)
        annotated = recipe.text_encoder != "none" or denoiser.spec.num_classes > 0
        sides = sources_of(recipe.data, autoencoder.spec, events, annotated=annotated)
        job = cls(recipe, autoencoder, denoiser, *sides)
        for note in job.notes:
            events.note(note)
        if recipe.trained != "all":
            events.note(f"{recipe.trained}: {job.count}")
        return job

    def settled(self, recipe: DenoiserRecipe) -> DenoiserRecipe:
        """The recipe with the classes' names that came from the data, so that a resumed run's labels still mean
        them."""
        return recipe.model_copy(update={"class_names": self.class_names})

    def __init__(
        self, recipe: DenoiserRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        self.recipe, self.autoencoder, self.source, self.heldout = recipe, autoencoder, source, heldout
        self.autoencoder.requires_grad_(False)
        self.device = torch.device("cpu")
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
        check_conditions(self.setting)
        if recipe.image_frames and spec.more:
            raise InputError(
                f"image_frames={recipe.image_frames}: joint images are told a label and a prompt alone; leave out the "
                "denoiser's vectors and fields"
            )
        self.groups = source.groups()
        if recipe.image_frames and len({shape[1:] for shape in self._shapes()}) > 1:
            raise InputError(
                f"image_frames={recipe.image_frames}: joint images need clips of one size; to train on images too, "
                "give the data a bucket of one frame"
            )
        self.parts = {"denoiser": Part(self.denoiser)}

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches, from `first_step` on."""
        self.device = ranks.device
        self.autoencoder.to(ranks.device)
        if self.text is not None:
            self.text.encoder.to(ranks.device)
        mix = None
        if self.recipe.mix.active:
            shapes = self._shapes()
            positions = [math.prod(self.autoencoder.spec.latent_shape(*shape)[1:]) for shape in shapes]
            mix = bucket_mix(self.recipe.mix, self.groups, shapes, positions)
        return micro_batches(self.source, self.recipe.training, first_step, ranks, mix=mix)

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
        draws = partial(generators, seed, step, positions)
        z0 = self.latents(micro_batch.examples)
        conditions = of_examples(micro_batch.examples, self.setting, draws, self.recipe.tasks)
        size = z0[0, 0].numel()  # of the clip, without images beside it
        if self.recipe.image_frames:
            z0, conditions = self._with_images(z0, conditions, micro_batch, draws)
        sources = draws("noise")
        times = torch.cat([self.diffusion.draw_times(1, g, positions=size) for g in sources]).to(self.device)
        noise = normal(z0.shape[1:], sources).to(self.device)
        recipe = self.recipe
        rates = Rates(recipe.condition_dropout, recipe.given_condition_dropout, recipe.label_dropout)
        conditions = drop(conditions, self.setting, draws, rates)
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

    @property
    def setting(self) -> Setting:
        """What conditions of the trained model are made with."""
        recipe = self.recipe
        return Setting(
            spec=self.denoiser.spec,
            autoencoder=self.autoencoder,
            device=self.device,
            embed=self.text,
            null_prompt=recipe.null_prompt,
            class_names=self.class_names,
            settings=recipe.conditions,
        )

    def latents(self, examples: Sequence[Example]) -> Tensor:
        """Latents (B, C, T, H, W) of cached examples, or of clips encoded here."""
        if examples[0].encoded:
            return torch.stack([e.latents for e in examples]).float().to(self.device)
        clips = torch.stack([e.video for e in examples]).to(self.device)
        with torch.no_grad():
            return self.autoencoder.encode(clips).mean.float()

    def _with_images(
        self, z0: Tensor, conditions: Conditions, micro_batch: MicroBatch, draws: Draws
    ) -> tuple[Tensor, Conditions]:
        """Latents and conditions of clips with the first frames of random other clips behind them (`joined`).

        The first latent of a causal autoencoder stands for one image.
        """
        count, rows, told = self.recipe.image_frames, [], []
        for example, source in zip(micro_batch.examples, draws("images"), strict=True):
            others = [self.source[i] for i in torch.randint(len(self.source), (count,), generator=source).tolist()]
            rows.append(self.latents(others)[:, :, 0])
            told += [example, *(drawn(other, source) for other in others)]
        theirs = of_examples(told, self.setting, draws, whole=False)
        return joined(z0, torch.stack(rows), conditions, theirs)

    def _heldout_batches(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Held-out clips in batches of one shape, each with the place of its first clip among all."""
        size, first = self.recipe.training.micro_batch or self.recipe.training.batch_size, 0
        for members in map(set, self.heldout.groups()):
            mine = [i for i in chosen if i in members]
            for k in range(0, len(mine), size):
                yield first + k, mine[k : k + size]
            first += len(mine)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """The held-out loss (mse) at fixed times with fixed noise, and its mean."""
        chosen = spread(len(self.heldout), self.recipe.heldout_clips)
        sums: dict[str, float] = {}
        for first, indices in self._heldout_batches(chosen):
            positions = list(range(first, first + len(indices)))
            batch = self._images(MicroBatch(positions, [self.heldout[i] for i in indices]), 0)
            examples, positions = batch.examples, batch.positions
            z0, seed = self.latents(examples), self.recipe.training.seed
            generator = torch.Generator().manual_seed(sample_seed(seed, "heldout", first))
            conditions = of_examples(examples, self.setting, _heldout_draws(seed, positions), self.recipe.tasks)
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
            conditions=recipe.conditions,
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

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:
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
        if ranks.first:
            make_folder(folder)
            for k, clip in enumerate(clips):
                video.write(folder / f"step-{step:08d}-{k}.mp4", video.to_uint8(clip), fps=model.config.fps)

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the model folder; sharded weights are gathered first, and LoRA's changes merged."""
        if self.text is not None:
            self.text.flush()
        state = merge_lora(full_state(self.denoiser, ranks))
        if not ranks.first:
            return
        model = self.model()
        if ranks.size > 1 or self.count.lora:
            model.denoiser = build_denoiser(self.recipe.denoiser)
            model.denoiser.load_state_dict(state)
        model.save(folder)


def _heldout_draws(seed: int, positions: Sequence[int]) -> Draws:
    """The randomness of held-out clips, the same in every step."""
    return lambda purpose: generators(seed, 0, positions, f"heldout {purpose}")


def _version() -> str:
    from kinolab import __version__

    return __version__
