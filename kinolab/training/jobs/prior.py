"""Training of what pictures and texts have in common, and of the prior that goes from one to the other.

Two parts learn side by side from captioned pictures (of clips, single frames): an encoder of pictures and a projection
of texts by CLIP's loss, and from step `prior_starts` on a diffusion model of the pictures' embeddings, told the text
(`kinolab.conditioning.vision`). Nothing of it is trained on videos afterwards (Make-A-Video, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kinolab import data
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.conditioning.vision.contrastive import TextImage, save_embedding
from kinolab.conditioning.vision.prior import Prior
from kinolab.contracts.events import Events
from kinolab.contracts.examples import ClipSource, Example, Source
from kinolab.errors import InputError
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import MicroBatch, micro_batches, spread
from kinolab.training.parallel import full_state
from kinolab.training.prompts import CaptionEmbedder
from kinolab.training.randomness import generators
from kinolab.training.recipe import PriorRecipe
from kinolab.training.trainer import Job, Part


class PriorJob(Job):
    """Computes the steps of the embedding and of its prior."""

    Recipe = PriorRecipe

    @classmethod
    def make(cls, recipe: PriorRecipe, events: Events) -> PriorJob:
        """The job of a recipe: its captioned clips."""
        if data.SOURCES.of(recipe.data).encoded:
            raise InputError("data: pictures are looked at in pixels, got a cache of latents; name its clips")
        sides = []
        for split in ("train", "heldout"):
            made = data.build(recipe.data, split=split, annotated=True)
            assert isinstance(made, ClipSource)
            sides.append(made)
        for note in sides[0].notes():
            events.note(note)
        events.note(f"data: {len(sides[0])} windows to train on, {len(sides[1])} held out")
        return cls(recipe, *sides)

    def __init__(self, recipe: PriorRecipe, source: Source, heldout: Source) -> None:
        config = recipe.embedding
        encoder = build_text_encoder(config.text_encoder)
        if encoder is None or encoder.pooled_dim != config.pooled_dim:
            gives = "none is named" if encoder is None else f"{encoder.name} gives {encoder.pooled_dim}"
            raise InputError(f"embedding.text_encoder: expected a pooled embedding of {config.pooled_dim}, {gives}")
        for side in (source, heldout):
            _check_captions(side)
        self.recipe, self.source, self.heldout = recipe, source, heldout
        self.captions = CaptionEmbedder(encoder)
        self.joint, self.prior = TextImage(config), Prior(config.prior, config.embedding, config.pooled_dim)
        self.parts = {"embedding": Part(self.joint), "prior": Part(self.prior, starts=recipe.prior_starts)}
        self.device = torch.device("cpu")

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches, from `first_step` on."""
        self.device = ranks.device
        return micro_batches(self.source, self.recipe.training, first_step, ranks)

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """CLIP's loss, or the prior's squared error for embeddings that no gradient changes."""
        seed, positions = self.recipe.training.seed, micro_batch.positions
        pictures, pooled, same = self._shown(micro_batch.examples, generators(seed, step, positions, "frame"))
        if name == "embedding":
            found: Tensor = self.parts[name].wrapped(pictures, pooled, same)
        else:
            embedding, text = self._embedded(pictures, pooled)
            found = self.prior.loss(embedding, pooled, text, generators(seed, step, positions, "prior")).mean()
        return found, {f"{name}_loss": float(found.detach())}

    def _shown(self, examples: Sequence[Example], sources: Sequence[torch.Generator]) -> tuple[Tensor, Tensor, Tensor]:
        """A frame of each clip (B, 3, H, W), its caption (B, P), and which captions are the same (B, B)."""
        frames = []
        for example, source in zip(examples, sources, strict=True):
            frames.append(example.video[:, int(torch.randint(example.video.shape[1], (1,), generator=source))])
        captions = [example.caption or "" for example in examples]
        same = torch.tensor([[a == b for b in captions] for a in captions], device=self.device)
        return torch.stack(frames).to(self.device), self.captions(captions).pooled.to(self.device), same

    @torch.no_grad()
    def _embedded(self, pictures: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of pictures and of texts, (B, D) each."""
        return self.joint.pictures(pictures), self.joint.of_texts(pooled)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """On held-out pictures: both losses, the shares of pictures, and of the prior's embeddings of captions, that
        are closest to their own caption of all in a batch, and how alike (cosine) a prior's embedding is to the
        picture's."""
        chosen, size = spread(len(self.heldout), self.recipe.heldout_clips), self.recipe.training.batch_size
        sums: dict[str, float] = {}
        for first in range(0, len(chosen), size):
            examples = [self.heldout[i] for i in chosen[first : first + size]]
            positions = list(range(first, first + len(examples)))
            for key, value in self._measured(examples, positions).items():
                sums[key] = sums.get(key, 0.0) + value * len(examples) / len(chosen)
        return sums

    def _measured(self, examples: Sequence[Example], positions: list[int]) -> dict[str, float]:
        def draws(purpose: str) -> list[torch.Generator]:
            return generators(self.recipe.training.seed, 0, positions, f"heldout {purpose}")

        pictures, pooled, same = self._shown(examples, draws("frame"))
        with autocast(self.recipe.training.precision, self.device):
            loss = self.joint(pictures, pooled, same)
            embedding, text = self._embedded(pictures, pooled)
            error = self.prior.loss(embedding, pooled, text, draws("noise")).mean()
        imagined = self.prior.sample(pooled, text, draws("prior"))
        rows = torch.arange(len(examples), device=same.device)
        right, meant = (same[rows, (e @ text.T).argmax(1)].float().mean() for e in (embedding, imagined))
        return {
            "embedding_loss": float(loss),
            "prior_loss": float(error),
            "pictures_right": float(right),
            "imagined_right": float(meant),
            "likeness": float((embedding * imagined).mean(1).mean()),
            "loss": float(loss + error),
        }

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the folder that an `image_encoder` of kind contrastive names."""
        states = [full_state(module, ranks) for module in (self.joint, self.prior)]
        if not ranks.first:
            return
        config = self.recipe.embedding
        made = TextImage(config), Prior(config.prior, config.embedding, config.pooled_dim)
        for module, state in zip(made, states, strict=True):
            module.load_state_dict(state)
        save_embedding(folder, config, *made)


def _check_captions(source: Source) -> None:
    """Raises InputError for clips of which it is known that they have no caption; names the first."""
    bare = []
    for index in range(len(source)):
        record = source.record(index)
        if not record.annotated and record.caption is None:
            return  # clips that are made when they are asked for, each with its caption
        bare += [] if (record.caption or "").strip() else [record.source]
    if bare:
        raise InputError(
            f"{len(bare)} of {len(source)} windows have no caption (first: {bare[0]}): a prior learns text from "
            "captioned pictures; leave the others out"
        )
