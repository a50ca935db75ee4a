"""Distribution matching distillation of any denoiser (Yin et al. 2024, DMD2).

The student walks its own few steps from noise, to a random one of them, as it will when it is sampled (section 4.5:
backward simulation); the clean sample that it makes there is noised and moved by the difference of two estimates: the
teacher's, guided, and a critic's, which is trained on such samples all the time and so knows where they come from.
Neither the regression to the teacher's samples of DMD nor any clip of the data is needed, but for the adversarial loss
(`gan`), which is off by default.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.examples import Source
from kinolab.denoisers import Denoiser
from kinolab.diffusion.matching import matching_loss
from kinolab.models.distilled import GUIDANCE
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.assembly import Batch
from kinolab.training.batches import MicroBatch
from kinolab.training.critic import Critic, critics_loss, held_fixed, students_loss
from kinolab.training.distilled import student_of
from kinolab.training.few_steps import MatchingRecipe
from kinolab.training.jobs.few_steps import FewStepJob
from kinolab.training.randomness import generators, normal
from kinolab.training.trainer import Part

WALKED = "steps_walked"
"""The vector that tells the critic how far the student had walked when it made a sample."""


class MatchingJob(FewStepJob):
    """Computes the steps of distribution matching, the critic's and now and then the student's."""

    Recipe: ClassVar[type[MatchingRecipe]] = MatchingRecipe
    recipe: MatchingRecipe

    def __init__(
        self, recipe: MatchingRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        super().__init__(recipe, autoencoder, denoiser, source, heldout)
        config: Any = recipe.denoiser
        self.tells = recipe.critic_told and recipe.steps > 1 and "vectors" in type(config).model_fields
        if self.tells:
            config = config.model_copy(update={"vectors": {**config.vectors, WALKED: 0}})
        # It begins as the teacher, told all that the student is, and all of it is trained.
        self.critic = Critic(student_of(self.teacher.network, config, (GUIDANCE, WALKED)), recipe.gan)
        self.parts["denoiser"].every = recipe.critic_updates
        self.parts["critic"] = Part(self.critic, averaged=False)

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of the student or the critic; every draw belongs to its position in the global batch, but for
        the number of steps that are walked, which is the whole batch's."""
        batch = self.assembly.batch(micro_batch, step)
        [source] = generators(self.recipe.training.seed, step, [0], f"{name} steps")
        walked = int(torch.randint(self.recipe.steps, (), generator=source))
        if name == "critic":
            found = self.critic_error(self.parts[name].wrapped, batch, walked).mean()
            return found, {"critic_loss": float(found.detach())}
        found = self.student_error(self.parts[name].wrapped, batch, walked).mean()
        return found, {"loss": float(found.detach())}

    def told_walk(self, batch: Batch, walked: int) -> Batch:
        """The batch with what the critic is told of the student's samples: the share of its steps that lie behind."""
        if not self.tells:
            return batch
        share = torch.full((len(batch.latents),), walked / self.recipe.steps, device=batch.latents.device)
        return replace(batch, conditions=batch.conditions.told(Conditions.of({WALKED: Value("vector", share)})))

    def generated(self, student: Any, batch: Batch, walked: int, purpose: str, *, learns: bool) -> Tensor:
        """The student's clean samples after so many steps and one more, of which gradients know the last alone."""
        process, path = self.diffusion, self.diffusion.path
        grid = process.times(self.recipe.grid(self.recipe.steps), positions=batch.size)
        sources, shape = batch.draws(purpose), batch.latents.shape[1:]
        z = normal(shape, sources).to(batch.latents)
        x = z
        for i in range(walked + 1):
            with nullcontext() if learns and i == walked else torch.no_grad():
                x = self.mapped(student, z, grid[i].repeat(len(z)), batch)
            if i < walked:
                alpha, sigma = path.scalars(float(grid[i + 1]))
                z = alpha * x + sigma * normal(shape, sources).to(x)
        return x

    def student_error(self, student: Any, batch: Batch, walked: int) -> Tensor:
        """The loss (B,) whose gradient moves the student's samples from its own distribution to the teacher's."""
        x = self.generated(student, batch, walked, "student noise", learns=True)
        low, high = self.recipe.noise
        uniform = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in batch.draws("student time")])
        t = self.diffusion.shifted_path(batch.size).warp(low + (high - low) * uniform)
        noise = normal(x.shape[1:], batch.draws("score noise")).to(x)
        known = self.told_walk(batch, walked)
        with torch.no_grad():
            z = self.diffusion.q_sample(x.detach(), t, noise)
            real, fake = self.target(z, t, batch), self.estimate(self.critic, z, t, known)
        loss = matching_loss(x, real, fake, batch.weight)
        if self.recipe.gan is None:
            return loss
        with held_fixed(self.critic):
            again = self.diffusion.q_sample(x, t, normal(x.shape[1:], batch.draws("realism noise")).to(x))
            _, logits = self.critic(again, t.to(x.device, torch.float32), known.conditions, judged=True)
        return loss + self.recipe.gan.student * students_loss(logits)

    def critic_error(self, critic: Any, batch: Batch, walked: int) -> Tensor:
        """The loss (B,) of a denoiser that is trained on the student's samples."""
        x = self.generated(self.network, batch, walked, "critic student", learns=False)
        t = torch.cat([self.diffusion.draw_times(1, g, positions=batch.size) for g in batch.draws("critic time")])
        noise = normal(x.shape[1:], batch.draws("critic noise")).to(x)
        gan, logits = self.recipe.gan, list[Tensor]()

        def judging(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
            """The prediction for the student's samples, which are judged beside as noisy latents of the clips."""
            real = self.diffusion.q_sample(batch.latents, times, normal(z.shape[1:], batch.draws("real noise")).to(z))
            both = Conditions.cat(conditions, conditions)
            output, found = critic(torch.cat([z, real]), t.repeat(2), both, judged=True)
            logits.extend(found.chunk(2))
            return output[: len(z)]

        times = t
        called, known = critic if gan is None else judging, self.told_walk(batch, walked)
        found = self.diffusion.loss(called, x, known.conditions, t=t, noise=noise, weight=batch.weight)["loss"]
        return found if gan is None else found + gan.critic * critics_loss(*logits)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """On held-out prompts, with the same draws in every measurement and after all steps: both losses. The student's
        is half the mean square of its normalised gradient, and says how far the two scores are from each other."""
        sums = {"loss": 0.0, "critic_loss": 0.0}
        last = self.recipe.steps - 1
        for batch, share in self.heldout_batches():
            with autocast(self.recipe.training.precision, self.device):
                sums["loss"] += share * float(self.student_error(self.network, batch, last).mean())
                sums["critic_loss"] += share * float(self.critic_error(self.critic, batch, last).mean())
        return sums
