"""Batches of a denoiser's training: from examples to latents, and what the denoiser is told beside them.

Every draw belongs to its position in the global batch, so that any split into processes and micro-batches is alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning import (
    Draws,
    Rates,
    Setting,
    check_conditions,
    drop,
    fields_of_images,
    joined,
    of_examples,
)
from kinolab.conditioning.crops import check_crop, crop_step, cropped, first_frame
from kinolab.conditioning.low_resolution import LowResolution
from kinolab.conditioning.noise_level import NoiseLevel
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.conditioning.text import check_widths
from kinolab.conditioning.vision import build as build_image_encoder
from kinolab.contracts.conditions import PROMPT
from kinolab.contracts.examples import Example, Source
from kinolab.data.buckets import BucketShape
from kinolab.denoisers import Conditions, DenoiserSpec
from kinolab.errors import InputError
from kinolab.layers.masking import generated_weight
from kinolab.runtime.ranks import Ranks
from kinolab.training.annotated import check_annotations, drawn, worded
from kinolab.training.batches import MicroBatch, micro_batches
from kinolab.training.mix import bucket_mix
from kinolab.training.prompts import CaptionEmbedder
from kinolab.training.randomness import generators
from kinolab.training.recipe import DenoiserRecipe
from kinolab.training.tasks import TaskDraws


@dataclass(frozen=True)
class Batch:
    """What a denoiser is trained on in one micro-batch.

    latents: clean, (B, C, T, H, W), single images of joint training behind the clip; conditions: what it is told, some
    of it dropped; weight: of each latent in the loss, None = all alike; positions: in the global batch; size: latent
    positions T x H x W of a clip, without images beside it; draws: the randomness of each position, by purpose.
    """

    latents: Tensor
    conditions: Conditions
    weight: Tensor | None
    positions: Sequence[int]
    size: int
    draws: Draws


class Assembly:
    """Makes the batches that a recipe asks for, of the examples of a source.

    Raises:
        InputError: where the recipe, the denoiser, the autoencoder and the clips don't fit each other.
    """

    def __init__(
        self, recipe: DenoiserRecipe, autoencoder: Autoencoder, spec: DenoiserSpec, source: Source, heldout: Source
    ) -> None:
        self.recipe, self.autoencoder, self.spec, self.source = recipe, autoencoder, spec, source
        self.device = torch.device("cpu")
        if recipe.frames_per_clip is not None and source.encoded and autoencoder.spec.temporal_ratio > 1:
            raise InputError(
                f"frames_per_clip={recipe.frames_per_clip}: a latent of this cache stands for "
                f"{autoencoder.spec.temporal_ratio} frames; encode the clips by an image autoencoder"
            )
        if recipe.window_frames is not None:
            self._check_window(recipe.window_frames)
        self.crop_step = 1 if recipe.crop_size is None else self._check_crop(recipe.crop_size)
        self.tasks = TaskDraws(recipe.tasks, autoencoder, spec, source)
        encoder = build_text_encoder(recipe.text_encoder)
        self.text: CaptionEmbedder | None = None
        if encoder is not None:
            check_widths(encoder, spec.text_dim, spec.pooled_dim)
            self.text = CaptionEmbedder(encoder, source.cache)
        self.image_encoder = build_image_encoder(recipe.image_encoder)
        checked = check_annotations(recipe, spec, (source, heldout), encoder)
        self.class_names, self.notes = checked.class_names, checked.notes
        check_conditions(self.setting)
        self.groups = source.groups()
        if recipe.image_frames:
            self._check_joint_images()

    def _check_window(self, window: int) -> None:
        source, ratio = self.source, self.autoencoder.spec.temporal_ratio
        if source.encoded and ratio > 1:
            raise InputError(
                f"window_frames={window}: a latent of this cache stands for {ratio} frames; train on the clips, or "
                "encode them by an image autoencoder"
            )
        if source.encoded and self.recipe.tasks is not None:
            raise InputError(
                f"window_frames={window}: what this cache has given was drawn of whole clips; train on them"
            )
        if ratio > 1 and self.autoencoder.spec.snap_frames(window) != window:
            raise InputError(f"window_frames={window}: the autoencoder takes {self.autoencoder.spec.frame_rule} frames")
        least = self.recipe.frame_skips[0] * (window - 1) + 1
        # A picture is no clip that is too short: it is trained on as it is.
        short = [i for i in (group[0] for group in source.groups()) if 1 < source.shape(i)[0] < least]
        if short:
            raise InputError(
                f"window_frames={window} of every {self.recipe.frame_skips[0]}th frame need {least} frames, and clips "
                f"have {source.shape(short[0])[0]}; take fewer, or longer clips"
            )

    def _check_crop(self, size: tuple[int, int]) -> int:
        """What the places of crops are multiples of."""
        if self.source.encoded:
            raise InputError("crop: a latent cache holds no pixels to cut a crop from: train on the clips")
        low: Any = self.recipe.conditions.get(LowResolution.name) or LowResolution.Config()
        told = any(port.name == LowResolution.name for port in self.spec.more)
        step = crop_step(self.autoencoder.spec.spatial_ratio, low.factor if told else 1)
        for group in self.source.groups():
            check_crop(size, self.source.shape(group[0])[1:], step)
        return step

    def _check_joint_images(self) -> None:
        count = self.recipe.image_frames
        if len({shape[1:] for shape in self.shapes()}) > 1:
            raise InputError(
                f"image_frames={count}: joint images need clips of one size; to train on images too, give the data a "
                "bucket of one frame"
            )
        if not self.spec.joint_images:
            raise InputError(
                f"image_frames={count}: joint images are for latte, vdm and U-Nets with norms of each frame, not this "
                f"{self.recipe.denoiser.kind}"
            )
        others = [p.name for p in self.spec.more if p.kind != "field" and p.name != NoiseLevel.name]
        others += ["given"] if self.spec.given != "none" else []
        if others:
            raise InputError(
                f"image_frames={count}: joint images are told a label, a prompt, fields and the level of noise in "
                f"these; leave out {others[0]}, which is of a whole clip"
            )

    @property
    def setting(self) -> Setting:
        """What conditions of the trained model are made with."""
        recipe = self.recipe
        return Setting(
            spec=self.spec,
            autoencoder=self.autoencoder,
            device=self.device,
            embed=self.text,
            look=None if self.image_encoder is None else self.image_encoder.encode,
            imagine=self.image_encoder.imagine if self.image_encoder and self.image_encoder.imagines else None,
            null_prompt=recipe.null_prompt,
            class_names=self.class_names,
            settings=recipe.conditions,
        )

    def micro_batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's examples, from `first_step` on; from here on tensors are made on its device."""
        self.device = ranks.device
        self.autoencoder.to(ranks.device)
        if self.text is not None:
            self.text.encoder.to(ranks.device)
        if self.image_encoder is not None:
            self.image_encoder.to(ranks.device)
        mix = None
        if self.recipe.mix.active:
            shapes = self.shapes()
            positions = [math.prod(self.autoencoder.spec.latent_shape(*shape)[1:]) for shape in shapes]
            mix = bucket_mix(self.recipe.mix, self.groups, shapes, positions)
        return micro_batches(self.source, self.recipe.training, first_step, ranks, mix=mix)

    def shapes(self) -> list[BucketShape]:
        """Frames, height and width of each group's clips."""
        return [self._shape(group[0]) for group in self.groups]

    def _shape(self, index: int) -> BucketShape:
        """Frames, height and width of what a model makes that is trained on clip `index` of the source.

        That is what it is trained on, but for one that is trained on crops, which are parts of what it makes.
        """
        frames, height, width = self._clip_shape(index)
        if self.recipe.crop is not None and self.recipe.frames_per_clip is None:
            return (frames - 1) // self.recipe.frame_skips[0] + 1, height, width
        taken = 1 if self.recipe.frames_per_clip is not None or frames == 1 else self.recipe.window_frames
        return taken or frames, height, width

    def _clip_shape(self, index: int) -> BucketShape:
        """Frames, height and width of clip `index` of the source."""
        spec, (frames, height, width) = self.autoencoder.spec, self.source.shape(index)
        if not self.source.encoded:
            return frames, height, width
        return spec.pixel_frames(frames), height * spec.spatial_ratio, width * spec.spatial_ratio

    def batch(self, micro_batch: MicroBatch, step: int) -> Batch:
        """What is trained on in one step of one micro-batch."""
        recipe, seed = self.recipe, self.recipe.training.seed
        micro_batch = self.images(micro_batch, step)
        positions = micro_batch.positions
        micro_batch = replace(micro_batch, examples=self._said(worded(micro_batch.examples, seed, step, positions)))
        draws = partial(generators, seed, step, positions)
        z0 = self.latents(micro_batch.examples)
        conditions = of_examples(micro_batch.examples, self.setting, draws, recipe.tasks)
        size = z0[0, 0].numel()
        if recipe.image_frames:
            z0, conditions = self.with_images(z0, conditions, micro_batch, draws)
        rates = Rates(recipe.condition_dropout, recipe.given_condition_dropout, recipe.label_dropout)
        conditions = drop(conditions, self.setting, draws, rates)
        return Batch(z0, conditions, self.tasks.weight(conditions), positions, size, draws)

    def heldout(self, examples: Sequence[Example], first: int) -> Batch:
        """The same of held-out examples, of which the first is number `first`: nothing is dropped, and every step draws
        alike. The weight is over what is generated, however a model takes what is given, so that models can be
        compared."""
        seed = self.recipe.training.seed
        chosen = self.images(MicroBatch(list(range(first, first + len(examples))), list(examples)), 0)
        z0, positions = self.latents(chosen.examples), chosen.positions
        chosen = replace(chosen, examples=self._said(chosen.examples))

        def draws(purpose: str) -> list[torch.Generator]:
            return generators(seed, 0, positions, f"heldout {purpose}")

        conditions = of_examples(chosen.examples, self.setting, draws, self.recipe.tasks)
        weight = None if conditions.mask is None else generated_weight(conditions.mask)
        return Batch(z0, conditions, weight, positions, z0[0, 0].numel(), draws)

    def _said(self, examples: Sequence[Example]) -> list[Example]:
        """Examples with what the recipe lets be said of them."""
        if not self.recipe.unlabelled:
            return list(examples)
        return [replace(example, caption=None, label=None, alternatives=()) for example in examples]

    def images(self, micro_batch: MicroBatch, step: int) -> MicroBatch:
        """A micro-batch whose every clip is replaced by `frames_per_clip` of its frames, or by a window of
        `window_frames` of them, and by a crop, where that is asked for."""
        taken = self._taken(micro_batch, step)
        if self.recipe.crop is None:
            return taken
        sources = generators(self.recipe.training.seed, step, taken.positions, "crop")
        pairs = zip(taken.examples, sources, strict=True)
        return replace(taken, examples=[self._cropped(example, source) for example, source in pairs])

    def _cropped(self, example: Example, source: torch.Generator) -> Example:
        size = self.recipe.crop_size
        return example if size is None else cropped(example, size, self.crop_step, source)

    def _taken(self, micro_batch: MicroBatch, step: int) -> MicroBatch:
        """A micro-batch of the frames that are trained on."""
        count = self.recipe.frames_per_clip
        if self.recipe.window_frames is not None:
            sources = generators(self.recipe.training.seed, step, micro_batch.positions, "window")
            pairs = zip(micro_batch.examples, sources, strict=True)
            return replace(micro_batch, examples=[self._window(example, source) for example, source in pairs])
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

    def _window(self, example: Example, source: torch.Generator) -> Example:
        """Every n-th frame of a clip from a random one on, at its own rate."""
        window, frames = self.recipe.window_frames, example.clip.shape[1]
        assert window is not None
        if frames == 1:
            return example
        low, high = self.recipe.frame_skips
        n = int(torch.randint(low, min(high, (frames - 1) // (window - 1)) + 1, (), generator=source))
        start = int(torch.randint(frames - (window - 1) * n, (), generator=source))
        taken = example.clip[:, start : start + (window - 1) * n + 1 : n]
        return replace(example, clip=taken, fps=example.fps / n)

    def latents(self, examples: Sequence[Example]) -> Tensor:
        """Latents (B, C, T, H, W) of cached examples, or of clips encoded here."""
        if examples[0].encoded:
            return torch.stack([e.latents for e in examples]).float().to(self.device)
        clips = torch.stack([e.video for e in examples]).to(self.device)
        with torch.no_grad():
            return self.autoencoder.encode(clips).mean.float()

    def with_images(
        self, z0: Tensor, conditions: Conditions, micro_batch: MicroBatch, draws: Draws
    ) -> tuple[Tensor, Conditions]:
        """Latents and conditions of clips with the first frames of random other clips behind them (`joined`).

        The first latent of a causal autoencoder stands for one image.
        """
        count, rows = self.recipe.image_frames, []
        told: list[Example] = []
        pictures: list[Example] = []
        for example, source in zip(micro_batch.examples, draws("images"), strict=True):
            others = [self.source[i] for i in torch.randint(len(self.source), (count,), generator=source).tolist()]
            others = [self._cropped(other, source) for other in others]
            rows.append(self.latents(others)[:, :, 0])
            told += [example, *(drawn(other, source) for other in others)]
            pictures += map(first_frame, others)
        spec = replace(self.spec, more=())
        theirs = of_examples(told, replace(self.setting, spec=spec, settings={}), draws, whole=False)
        fields = self._image_fields(pictures, conditions, draws) if self.spec.more else None
        return joined(z0, torch.stack(rows), conditions, theirs, fields)

    def _image_fields(self, pictures: Sequence[Example], conditions: Conditions, draws: Draws) -> Conditions:
        """The fields that images of one frame are told, with noise of the level that their clip is told."""
        count = self.recipe.image_frames

        def of_each(purpose: str) -> list[torch.Generator]:
            columns = [draws(f"{purpose} of image {k}") for k in range(count)]
            return [source for row in zip(*columns, strict=True) for source in row]

        repeated = Conditions.of({name: conditions[name] for name in conditions if name not in PROMPT})
        return fields_of_images(pictures, self.setting, of_each, repeated.map(lambda v: v.repeat_interleave(count, 0)))
