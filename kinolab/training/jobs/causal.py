"""A causal form of a denoiser: trained to make each block of frames from the finished ones before it.

It begins with the weights of a model that makes all frames at once (Yin et al. 2025, CausVid). Two ways to tell it of
the past while it learns:

    teacher  blocks read clean frames of the training clip, as they will read finished ones (teacher forcing). One call
             holds the clip twice, clean and noisy, so that all its blocks are trained at once.
    diffusion  blocks read each other's noisy frames, each block at a time of its own (Chen et al. 2024, Diffusion
             Forcing, algorithm 1), so that no clean copy is needed.

Shapes: B clips, C channels, T latent frames, F blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from kinolab.config import merged
from kinolab.contracts.causal import BlockCausal, CausalConfig
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.events import Events
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.diffusion.times import inside
from kinolab.errors import InputError
from kinolab.layers.frame_rule import latents_of
from kinolab.models import ModelConfig, VideoModel, find_model, read_model_config
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import MicroBatch, spread
from kinolab.training.distilled import SHARED, check_teacher
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.randomness import normal, sample_seed
from kinolab.training.recipe import DenoiserRecipe, Fraction


class CausalRecipe(DenoiserRecipe):
    """Makes a causal form of a model. What is left out comes from the teacher's folder: its autoencoder, denoiser,
    diffusion, text encoder, conditions and tasks; it starts with its weights."""

    kind: Literal["causal"] = "causal"  # type: ignore[assignment]
    teacher: str
    """The model that it is made of: a model folder, a run folder, or the name of one that ships."""
    causal: CausalConfig = CausalConfig()
    """How frames lie in blocks, and how far back a block reads; by default single latents that read as many blocks as
    the teacher's clip has beside one, with the period of its autoencoder."""
    forcing: Literal["teacher", "diffusion"] = "teacher"
    """What a block reads while it learns: the clip's clean frames, or its noisy ones, each block at its own time."""
    past_noise: Fraction = 0.0
    """Teacher forcing: the most noise, as a fraction of time, on the clean frames that are read; how much a clip has is
    drawn evenly from 0 up to that, and the denoiser is told. With some of it a stream forgives its own faults."""

    @model_validator(mode="before")
    @classmethod
    def _of_teacher(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("teacher"), str):
            return values
        try:
            return merged(_filled(str(values["teacher"])), values)
        except InputError as error:
            raise ValueError(f"teacher: {error}") from None

    @model_validator(mode="after")
    def _check_causal(self) -> CausalRecipe:
        if self.parts or self.image_frames or self.frames_per_clip is not None:
            raise ValueError("a causal form is of a denoiser alone, on clips: leave out parts and single images")
        if self.past_noise and self.forcing != "teacher":
            raise ValueError("past_noise is of clean frames: use forcing: teacher, or leave it out")
        period, frames = self.causal.period, getattr(self.denoiser, "num_frames", None)
        if period is not None and frames is not None and period > frames:
            raise ValueError(f"causal.period {period}: the denoiser knows {frames} places in time, and not more")
        return self


def _filled(place: str) -> dict[str, Any]:
    """The fields of a recipe that its teacher settles."""
    model = read_model_config(find_model(place))
    check_teacher(place, model)
    told = model.model_dump(mode="json", include={*SHARED, "denoiser"})
    samples = model.model_dump(mode="json", include={"sampler", "guidance", "methods"})
    return {"autoencoder": place, "initial": {"path": place}, **told, "samples": samples, "causal": usual_rule(model)}


def usual_rule(model: ModelConfig) -> dict[str, Any]:
    """What a model's folder settles of a causal form of it: the blocks that a clip of the teacher's has before its last
    latent are read, and the autoencoder's groups are known."""
    trained = getattr(model.denoiser, "num_frames", 2)
    group, ratio = getattr(model.autoencoder, "group_frames", None), getattr(model.autoencoder, "temporal_ratio", 1)
    return {"window": max(trained - 1, 1), "period": None if group is None else latents_of(group, ratio)}


class CausalJob(DenoiserJob):
    """Computes the steps of a causal form's training."""

    Recipe: ClassVar[type[CausalRecipe]] = CausalRecipe
    recipe: CausalRecipe

    @classmethod
    def make(cls, recipe: DenoiserRecipe, events: Events) -> DenoiserJob:
        """The job of a recipe, of a denoiser that can be causal."""
        job = super().make(recipe, events)
        job.denoiser.check_causal()
        assert isinstance(recipe, CausalRecipe)
        for note in period_notes(recipe.causal, job.autoencoder.spec):
            events.note(note)
        return job

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss over one micro-batch; every draw belongs to its position in the global batch."""
        batch = self.assembly.batch(micro_batch, step)
        z0, sources = batch.latents, batch.draws("noise")
        blocks = BlockCausal(self.recipe.causal).plan(z0.shape[2]).blocks
        lengths = torch.tensor([block.own[1] - block.own[0] for block in blocks])
        drawn = [torch.cat([self._time(s, batch.size) for _ in blocks]) for s in sources]
        times = torch.stack(drawn).repeat_interleave(lengths, 1)  # (B, F) -> (B, T)
        noise = normal(z0.shape[1:], sources).to(z0.device)
        past = self._past(z0, batch.draws("past")) if self.recipe.forcing == "teacher" else None
        prediction, target, weight = self._compared(
            self.parts["denoiser"].wrapped, z0, times, noise, batch.conditions, past
        )
        error = (prediction - target).square() * weight
        if batch.weight is not None:
            shares = batch.weight.to(error).expand_as(error)
            each = (error * shares).flatten(1).sum(1) / shares.flatten(1).sum(1)
        else:
            each = error.flatten(1).mean(1)
        return each.mean(), {"loss": float(each.detach().mean())}

    def _past(self, z0: Tensor, sources: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """The frames that blocks read, (B, C, T, H, W), and their time (B,): clean but for what `past_noise` asks."""
        most, fixed = self.recipe.past_noise, self.recipe.causal.noise
        levels = torch.cat([torch.rand(1, generator=s) * most if most else torch.tensor([fixed]) for s in sources])
        times = self.diffusion.path.at_fraction(levels).float()
        noise = normal(z0.shape[1:], sources).to(z0.device) * (levels > 0).to(z0).view(-1, 1, 1, 1, 1)
        return self.diffusion.q_sample(z0, times, noise), times

    def _compared(
        self,
        network: Any,
        z0: Tensor,
        times: Tensor,
        noise: Tensor,
        conditions: Conditions,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction and target (B, C, T, H, W), and the loss's weight (B, 1, T, 1, 1), of frames at times (B, T)."""
        z_t = self.diffusion.q_sample(z0, times, noise)
        output = self._predicted(network, z_t, times.to(z0.device), conditions, past)
        prediction, _ = self.diffusion.split(output.to(z0.dtype), z0.shape[1])
        weight = self.diffusion.loss_weight(times).to(z0.device, z0.dtype)[:, None, :, None, None]
        return prediction, self.diffusion.target(z0, noise, times), weight

    def _predicted(
        self, network: Any, z: Tensor, times: Tensor, conditions: Conditions, past: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """What the network makes of frames z at times (B, T) that read `past`, or one another."""
        frames, rule = z.shape[2], self.recipe.causal
        if past is None:
            return network(z, times.float(), conditions, ForwardOptions(reach=Reach(BlockCausal(rule))))
        clean, early = past
        both = torch.cat([clean.to(z), z], 2)
        told = torch.cat([early.to(z.device)[:, None].expand(-1, frames), times], 1).float()
        if any(value.kind == "field" for value in conditions.values()):
            conditions = conditions.at_frames([*range(frames), *range(frames)])
        options = ForwardOptions(reach=Reach(BlockCausal(rule, doubled=True)))
        return network(both, told, conditions, options)[:, :, frames:]

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """The held-out loss at fixed times with fixed noise, of blocks that read the clip's clean frames."""
        chosen = spread(len(self.heldout), self.recipe.heldout_clips)
        sums: dict[str, float] = {}
        for first, indices in self._heldout_batches(chosen):
            batch = self.assembly.heldout([self.heldout[i] for i in indices], first)
            z0 = batch.latents
            early = self.diffusion.path.at_fraction(torch.full((len(z0),), self.recipe.causal.noise)).float()

            def network(z: Tensor, t: Tensor, told: Conditions, z0: Tensor = z0, early: Tensor = early) -> Tensor:
                return self._predicted(self.network, z, t[:, None].expand(-1, z.shape[2]), told, (z0, early))

            generator = torch.Generator().manual_seed(sample_seed(self.recipe.training.seed, "heldout", first))
            times = inside(self.recipe.heldout_times, self.recipe.interval)
            with autocast(self.recipe.training.precision, self.device):
                losses = self.diffusion.loss_at(network, z0, batch.conditions, times, generator, batch.weight)
            for time, value in losses.items():
                key = f"loss_at_{time:g}"
                sums[key] = sums.get(key, 0.0) + float(value) * len(indices) / len(chosen)
        return {**sums, "loss": sum(sums.values()) / len(sums)}

    def model(self) -> VideoModel:
        """The model as it stands, which says that it is causal. A clip of which no length is asked is the teacher's."""
        model = super().model()
        frames = read_model_config(find_model(self.recipe.teacher)).frames
        model.config = model.config.model_copy(update={"causal": self.recipe.causal, "frames": frames})
        return model


def period_notes(rule: CausalConfig, spec: Any) -> list[str]:
    """What is to be known of a rule beside an autoencoder, whose latents may begin again now and then."""
    if spec.group_frames is None:
        return []
    group = spec.latent_shape(spec.group_frames, spec.spatial_ratio, spec.spatial_ratio)[1]
    if rule.period == group:
        return []
    return [f"the autoencoder begins again after {group} latent frames, which causal.period={group} would tell"]
