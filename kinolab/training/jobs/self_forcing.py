"""Self Forcing (Huang et al. 2025): a causal student of few steps, trained on what it makes itself.

The student makes a clip block by block as it will when it streams, each from the blocks that it has made and kept, in a
random number of its few steps; gradients know the last one of every block, and nothing of the past (section 3.2). The
clip as a whole is then moved from the student's distribution to the teacher's: both scores, the teacher's and the
critic's, are of models that read all frames at once (Yin et al. 2025, CausVid, section 4.2: asymmetric distillation).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kinolab.contracts.causal import BlockCausal, CausalConfig
from kinolab.contracts.events import Events
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Denoiser
from kinolab.methods.streaming import Kept
from kinolab.models import VideoModel, find_model, load_denoiser, read_model_config
from kinolab.training.assembly import Batch
from kinolab.training.distilled import student_of
from kinolab.training.few_steps import MatchingRecipe
from kinolab.training.jobs.causal import usual_rule
from kinolab.training.jobs.matching import MatchingJob
from kinolab.training.randomness import normal


class SelfForcingRecipe(MatchingRecipe):
    """Distribution matching of what a causal student makes block by block."""

    kind: Literal["self_forcing"] = "self_forcing"  # type: ignore[assignment]
    causal: CausalConfig = CausalConfig()
    """How frames lie in blocks, and how far back a block reads; by default as of kind: causal."""
    start: str | None = None
    """A causal form of the teacher to begin with, from a recipe of kind: causal; none = the teacher's own weights, with
    which a student of short blocks first has to learn to read the past alone."""
    method: ClassVar[str] = "self_forcing"

    @property
    def begun(self) -> Path:
        """The causal form that it begins with, or as of any student."""
        return super().begun if self.start is None else Path(self.start)

    @classmethod
    def filled(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a recipe that its teacher settles."""
        rule = usual_rule(read_model_config(find_model(str(values["teacher"]))))
        return {**super().filled(values), "causal": rule}


class SelfForcingJob(MatchingJob):
    """Computes the steps of self forcing: those of distribution matching, of clips that are rolled out."""

    Recipe = SelfForcingRecipe
    recipe: SelfForcingRecipe

    @classmethod
    def start(cls, recipe: SelfForcingRecipe, events: Events) -> Denoiser:  # type: ignore[override]
        """The student with the weights of the causal model that it begins with, or the teacher's."""
        student = super().start(recipe, events)
        student.check_causal()
        if recipe.start is not None:
            return student_of(load_denoiser(recipe.start, device="cpu"), recipe.denoiser)
        return student

    def generated(self, student: Any, batch: Batch, walked: int, purpose: str, *, learns: bool) -> Tensor:
        """The student's clips, each block made from the finished ones in so many steps and one more."""
        process, path = self.diffusion, self.diffusion.path
        grid = process.times(self.recipe.grid(self.recipe.steps), positions=batch.size)
        sources, frames = batch.draws(purpose), batch.latents.shape[2]
        kept, made = Kept(self.recipe.causal), list[Tensor]()
        while kept.start < frames:
            first, behind = kept.start, kept.start + kept.next_frames
            shape = (batch.latents.shape[1], behind - first, *batch.latents.shape[3:])
            network = self._of_block(student, batch, kept)
            z = normal(shape, sources).to(batch.latents)
            x = z
            for i in range(walked + 1):
                with nullcontext() if learns and i == walked else torch.no_grad():
                    x = self.mapped(network, z, grid[i].repeat(len(z)), batch)
                if i < walked:
                    alpha, sigma = path.scalars(float(grid[i + 1]))
                    z = alpha * x + sigma * normal(shape, sources).to(x)
            made.append(x)
            time = path.at_fraction(torch.full((len(x),), self.recipe.causal.noise))
            noise = normal(shape, sources).to(x) if self.recipe.causal.noise else torch.zeros_like(x)
            with torch.no_grad():
                kept.keeping = True
                network(process.q_sample(x.detach(), time, noise), time.to(x.device, torch.float32), batch.conditions)
                kept.keeping = False
            kept.advance()
        return torch.cat(made, 2)[:, :, :frames]

    def _of_block(self, student: Any, batch: Batch, kept: Kept) -> Any:
        """The student as it makes the block at hand, told what is told of its frames."""
        options = ForwardOptions(reach=Reach(BlockCausal(self.recipe.causal)), kept=kept)
        first, last = kept.start, batch.latents.shape[2] - 1
        frames = [min(first + k, last) for k in range(kept.next_frames)]

        def network(z: Tensor, t: Tensor, conditions: Any) -> Tensor:
            fields = any(value.kind == "field" for value in conditions.values())
            told = conditions.at_frames(frames) if fields else conditions
            return student(z, t, told, options)

        return network

    def model(self) -> VideoModel:
        """The student as it stands, which says that it is causal."""
        model = super().model()
        model.config = model.config.model_copy(update={"causal": self.recipe.causal})
        return model
