"""What students have in common that make a clean sample in each of a few steps: one step, by f of their estimate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kinolab.diffusion.consistency import consistency_function
from kinolab.models import VideoModel
from kinolab.training.assembly import Batch
from kinolab.training.batches import spread
from kinolab.training.few_steps import FewStepRecipe
from kinolab.training.jobs.distilled import DistilJob


class FewStepJob(DistilJob):
    """Base of consistency distillation and of distribution matching."""

    recipe: FewStepRecipe

    def mapped(self, network: Any, z: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """f(z, t), the clean sample (B, C, T, H, W) that a network takes z for, noisy at times t (B,).

        At the clean end, where no network is ever called and f is z, it is called at another time, and doesn't count.
        """
        path = self.diffusion.path
        end = t == path.clean_time
        told = torch.where(end, path.at_fraction(torch.ones_like(t)), t) if bool(end.any()) else t
        return consistency_function(self.estimate(network, z, told, batch), z, t, path)

    def estimate(self, network: Any, z: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """A network's estimate of the clean sample, told the conditions of a batch."""
        output = network(z, t.to(z.device, torch.float32), batch.conditions).to(z.dtype)
        return self.diffusion.to_sample(self.diffusion.split(output, z.shape[1])[0], z, t)

    def heldout_batches(self) -> Iterator[tuple[Batch, float]]:
        """Batches of held-out clips, nothing dropped and all draws fixed, each with its share of all clips."""
        chosen = spread(len(self.heldout), self.recipe.heldout_clips)
        for first, indices in self._heldout_batches(chosen):
            yield self.assembly.heldout([self.heldout[i] for i in indices], first), len(indices) / len(chosen)

    def model(self) -> VideoModel:
        """The student as it stands, sampled in its usual number of steps, at the times that it is trained at."""
        model = super().model()
        sampler = self.recipe.grid(self.distilled.steps[0])
        model.config = model.config.model_copy(update={"sampler": sampler})
        return model
