"""Consistency distillation in latents of any denoiser (Luo et al. 2023, Latent Consistency Models, algorithm 1).

A clip's latents are noised to a time of the solver's grid; the teacher, guided by a random scale that the student is
told, takes one step of the solver down; and the student's f at the first point is to be what the student's average says
at the second. At the clean end f is the sample itself, which is where all of it comes from.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.contracts.examples import Source
from kinolab.denoisers import Denoiser
from kinolab.diffusion.consistency import distance, ode_step
from kinolab.errors import InputError
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.assembly import Batch
from kinolab.training.batches import MicroBatch
from kinolab.training.few_steps import ConsistencyRecipe
from kinolab.training.jobs.few_steps import FewStepJob
from kinolab.training.randomness import normal


class ConsistencyJob(FewStepJob):
    """Computes the steps of consistency distillation."""

    Recipe: ClassVar[type[ConsistencyRecipe]] = ConsistencyRecipe
    recipe: ConsistencyRecipe

    def __init__(
        self, recipe: ConsistencyRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        super().__init__(recipe, autoencoder, denoiser, source, heldout)
        if recipe.slow and recipe.training.parallel != "ddp":
            raise InputError("training.parallel: the target's average is called whole: use ddp, or slow=false")

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss over one micro-batch; every draw belongs to its position in the global batch."""
        batch = self.assembly.batch(micro_batch, step)
        found = self.error(self.parts["denoiser"].wrapped, batch).mean()
        return found, {"loss": float(found.detach())}

    def error(self, student: Any, batch: Batch) -> Tensor:
        """The distance (B,) of a student's f to its target, at random steps of the solver."""
        process, z0 = self.diffusion, batch.latents
        grid = process.times(self.recipe.grid(self.recipe.solver_steps), positions=batch.size)
        sources = batch.draws("time")
        picks = torch.tensor([int(torch.randint(len(grid) - 1, (), generator=source)) for source in sources])
        t, s = grid[picks], grid[picks + 1]
        noise = normal(z0.shape[1:], batch.draws("noise")).to(z0.device)
        z = process.q_sample(z0, t, noise)
        with torch.no_grad():
            lower = ode_step(z, self.target(z, t, batch), t, s, process.path)
            target = self.mapped(self.averaged if self.recipe.slow else student, lower, s, batch)
        found = self.mapped(student, z, t, batch)
        return distance(found, target, self.recipe.distance, self.recipe.huber, batch.weight)

    def averaged(self, *args: Any) -> Any:
        """The student with its averaged weights, called."""
        average = self.parts["denoiser"].ema
        assert average is not None
        return torch.func.functional_call(self.network, average.shadow, args)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """The loss on held-out clips, with the same draws in every measurement."""
        total = 0.0
        for batch, share in self.heldout_batches():
            with autocast(self.recipe.training.precision, self.device):
                total += share * float(self.error(self.network, batch).mean())
        return {"loss": total}
