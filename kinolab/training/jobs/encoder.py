"""Training of the video encoder that distribution metrics run on where no public network is at hand.

Three things are learned at once, from clips of the toy world and from real clips alike:
- what a clip of the world shows (scenario, direction, colours, shapes, number of objects), read from its caption;
- how strongly a clip was blurred, made noisy, shuffled in time or frozen, so that distances grow with distortion;
- which two views (crop, time window, distortion) come from one clip: NT-Xent (SimCLR, Chen et al. 2020, eq. 1).
The heads are thrown away; the embedding under them is the feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab import data
from kinolab.contracts.events import Events
from kinolab.contracts.examples import ClipSource, Example, Source, Split
from kinolab.errors import InputError
from kinolab.metrics.distortions import DISTORTIONS, distort
from kinolab.metrics.extractors.base import resize_frames
from kinolab.metrics.extractors.encoder import VideoEncoder, VideoEncoderConfig, save_encoder
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.toyworld.words import CLASSES, COLOURS, DIRECTIONS, SHAPES, parse_caption
from kinolab.training.batches import MicroBatch, micro_batches, spread
from kinolab.training.parallel import full_state
from kinolab.training.randomness import generators
from kinolab.training.recipe import EncoderRecipe
from kinolab.training.trainer import Job, Part

FACTS = {"scenario": len(CLASSES), "direction": len(DIRECTIONS) + 1, "count": 3}
"""What a caption says of which one answer is right, and how many there are."""
MANY = {"colours": len(COLOURS), "shapes": len(SHAPES)}
"""What a caption says of which several are right."""


class MixedSource(Source):
    """Several sources in turn, the shorter ones repeated."""

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self.sources = list(sources)

    def __len__(self) -> int:
        return len(self.sources) * max(len(s) for s in self.sources)

    def __getitem__(self, index: int) -> Example:
        source = self.sources[index % len(self.sources)]
        return source[index // len(self.sources) % len(source)]


class Learner(nn.Module):
    """The encoder and the heads that teach it; only the encoder is kept."""

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        self.encoder = VideoEncoder(config)
        self.facts = nn.ModuleDict({k: nn.Linear(config.embedding, n) for k, n in (FACTS | MANY).items()})
        self.strengths = nn.Linear(config.embedding, len(DISTORTIONS))
        self.projection = nn.Sequential(
            nn.Linear(config.embedding, config.embedding), nn.SiLU(), nn.Linear(config.embedding, 64)
        )

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Clips (B, 3, T, S, S) -> the heads' outputs."""
        h = F.silu(self.encoder(video))
        outputs = {name: head(h) for name, head in self.facts.items()}
        return {**outputs, "strengths": self.strengths(h), "projection": self.projection(h)}


class EncoderJob(Job):
    """Computes the steps of the encoder's training."""

    Recipe = EncoderRecipe

    @classmethod
    def make(cls, recipe: EncoderRecipe, events: Events) -> EncoderJob:
        """The job of a recipe: all its sources in turn."""
        return cls(recipe, *mixed_sources(recipe, events))

    def __init__(self, recipe: EncoderRecipe, source: MixedSource, heldout: MixedSource) -> None:
        for side in (source, heldout):
            for part in side.sources:
                if part.frames < recipe.frames:
                    raise InputError(
                        f"{recipe.name}: a view has {recipe.frames} frames, but clips of {part.config.kind} have "
                        f"{part.frames}; set frames, or the source's own"
                    )
        self.recipe, self.source, self.heldout = recipe, source, heldout
        self.learner = Learner(recipe.encoder)
        self.parts = {"encoder": Part(self.learner)}
        self.device = torch.device("cpu")

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches, from `first_step` on."""
        self.device = ranks.device
        return micro_batches(self.source, self.recipe.training, first_step, ranks)

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Facts of the clean clip, strengths of the distorted view, and which view belongs to which clip."""
        sources = generators(self.recipe.training.seed, step, micro_batch.positions, "views")
        return self._loss(self.parts[name].wrapped, micro_batch.examples, sources)

    def _loss(
        self, learner: nn.Module, examples: Sequence[Example], sources: Sequence[torch.Generator]
    ) -> tuple[Tensor, dict[str, float]]:
        side, frames = self.recipe.encoder.size, self.recipe.frames
        clean, other, strengths = [], [], []
        for example, generator in zip(examples, sources, strict=True):
            clean.append(view(example.video, frames, side, generator, crop=1.0))
            picture = view(example.video, frames, side, generator, crop=0.8)
            levels = torch.zeros(len(DISTORTIONS))
            if bool(torch.rand((), generator=generator) < 0.8):
                kind = int(torch.randint(len(DISTORTIONS), (), generator=generator))
                levels[kind] = float(torch.rand((), generator=generator))
                picture = distort(picture, DISTORTIONS[kind], float(levels[kind]), generator)
            other.append(picture)
            strengths.append(levels)
        B = len(examples)
        outputs = learner(torch.stack(clean + other).to(self.device))
        wanted = torch.cat([torch.zeros(B, len(DISTORTIONS)), torch.stack(strengths)]).to(self.device)
        parts = {
            "strengths": F.mse_loss(outputs["strengths"].float(), wanted),
            "contrast": nt_xent(outputs["projection"].float()),
            **self._facts(outputs, examples),
        }
        weights = {"strengths": 10.0, "contrast": 0.5}
        total = sum((weights.get(k, 1.0) * v for k, v in parts.items()), torch.zeros((), device=self.device))
        return total, {k: float(v.detach()) for k, v in parts.items()} | {"loss": float(total.detach())}

    def _facts(self, outputs: dict[str, Tensor], examples: Sequence[Example]) -> dict[str, Tensor]:
        """The losses of what the captions of the world's clips say."""
        told = [(k, facts_of(e.caption)) for k, e in enumerate(examples) if is_world(e)]
        if not told:
            return {}
        rows = torch.tensor([k for k, _ in told])
        losses = {}
        for name in FACTS:
            target = torch.tensor([f[name] for _, f in told]).to(self.device)
            if bool((target >= 0).any()):  # captions of short clips name objects only; the mean of nothing is no number
                losses[name] = F.cross_entropy(outputs[name][rows].float(), target, ignore_index=-1)
        for name in MANY:
            target = torch.tensor([f[name] for _, f in told], dtype=torch.float32).to(self.device)
            losses[name] = F.binary_cross_entropy_with_logits(outputs[name][rows].float(), target)
        return losses

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """The losses on held-out clips, as many of each source."""
        values: dict[str, list[float]] = {}
        chosen = self.heldout_indices()
        size = self.recipe.training.batch_size
        batches = [chosen[k : k + size] for k in range(0, len(chosen), size)]
        for number, rows in enumerate(batches):
            sources = generators(self.recipe.training.seed, number, list(range(len(rows))), "heldout views")
            with autocast(self.recipe.training.precision, self.device):
                _, parts = self._loss(self.learner, [self.heldout[i] for i in rows], sources)
            for key, value in parts.items():
                values.setdefault(key, []).append(value)
        return {key: sum(found) / len(found) for key, found in values.items()}

    def heldout_indices(self) -> list[int]:
        """The held-out clips that are looked at, spread over every source: its turns come one after the other."""
        count = len(self.heldout.sources)
        turns = spread(len(self.heldout) // count, -(-self.recipe.heldout_clips // count))
        return [turn * count + k for turn in turns for k in range(count)][: self.recipe.heldout_clips]

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:
        """An encoder makes no videos."""

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the encoder's folder."""
        whole = full_state(self.learner, ranks)
        if not ranks.first:
            return
        state = {k.removeprefix("encoder."): v for k, v in whole.items() if k.startswith("encoder.")}
        encoder = VideoEncoder(self.recipe.encoder)
        encoder.load_state_dict(state)
        dtypes: dict[Literal["float32", "float16"], torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
        save_encoder(encoder, folder, dtype=dtypes[self.recipe.stored])


def view(video: Tensor, frames: int, side: int, generator: torch.Generator, crop: float) -> Tensor:
    """A window of `frames` frames at a random time, a random crop of at least `crop` of each side, resized to `side`.

    A clip with fewer frames is taken whole. (3, T, H, W) -> (3, frames, side, side).
    """
    T, H, W = video.shape[1:]
    start = int(torch.randint(max(1, T - frames + 1), (), generator=generator))
    share = crop + (1 - crop) * float(torch.rand((), generator=generator))
    h, w = round(share * H), round(share * W)
    top = int(torch.randint(H - h + 1, (), generator=generator))
    left = int(torch.randint(W - w + 1, (), generator=generator))
    return resize_frames(video[None, :, start : start + frames, top : top + h, left : left + w], (side, side),
                         "bilinear")[0]  # fmt: skip


def nt_xent(projection: Tensor, temperature: float = 0.2) -> Tensor:
    """NT-Xent of 2B projections (2B, D), of which k and k + B belong together (Chen et al. 2020, eq. 1)."""
    z = F.normalize(projection, dim=1)
    likeness = z @ z.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    B = len(z) // 2
    partner = torch.arange(2 * B, device=z.device).roll(B)
    return F.cross_entropy(likeness, partner)


def is_world(example: Example) -> bool:
    """Whether a clip is one of the toy world's, whose caption is the truth."""
    return example.caption is not None and re.fullmatch(r"world/\d{13,}", example.source) is not None


def facts_of(caption: str | None) -> dict[str, Any]:
    """What a caption of the world says, as targets; -1 where it says nothing."""
    request = parse_caption(caption or "")
    direction = len(DIRECTIONS) if request.direction is None else DIRECTIONS.index(request.direction)
    return {
        "scenario": -1 if request.scenario is None else CLASSES.index(request.scenario),
        "direction": -1 if request.scenario is None else direction,
        "count": len(request.objects) - 1,
        "colours": [float(any(c == name for c, _ in request.objects)) for name in COLOURS],
        "shapes": [float(any(s == name for _, s in request.objects)) for name in SHAPES],
    }


def mixed_sources(config: EncoderRecipe, events: Events) -> tuple[MixedSource, MixedSource]:
    """All sources in turn, to train on and held out."""
    sides: dict[Split, list[ClipSource]] = {"train": [], "heldout": []}
    for name, source in config.data.items():
        if data.SOURCES.of(source).encoded:
            raise InputError(f"data.{name}: the encoder learns from pixels, got a cache of latents; name its clips")
        if isinstance(source, data.FolderConfig) and source.buckets:
            raise InputError(
                f"data.{name}: the encoder learns from clips of one shape, got buckets; set frames and size"
            )
        for side, sources in sides.items():
            made = data.build(source, split=side, annotated=False)
            assert isinstance(made, ClipSource), "caches are refused above"
            sources.append(made)
            for note in sources[-1].notes():
                events.note(note)
    for shown, heldout in zip(sides["train"], sides["heldout"], strict=True):
        events.note(f"data: {shown.config.kind}, {len(shown)} windows to train on, {len(heldout)} held out")
    return MixedSource(sides["train"]), MixedSource(sides["heldout"])
