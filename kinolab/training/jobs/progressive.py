"""Progressive distillation of any denoiser (Salimans & Ho 2022; with guidance, Meng et al. 2023).

First the student learns the guidance of its teacher, in one call what guidance takes two for. Then rounds follow: in
each the student learns to take in one step of DDIM what its teacher takes two for, and becomes the teacher of the next.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder
from kinolab.contracts.examples import Source
from kinolab.denoisers import Denoiser
from kinolab.diffusion.diffusion import weighted_mean
from kinolab.diffusion.progressive import as_prediction, distance, two_step_target
from kinolab.errors import InputError
from kinolab.models import VideoModel, find_model, read_model_config
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.assembly import Batch
from kinolab.training.batches import MicroBatch, spread
from kinolab.training.jobs.distilled import DistilJob
from kinolab.training.progressive import ProgressiveRecipe, Round, planned
from kinolab.training.randomness import normal
from kinolab.training.settings import TrainingConfig, learning_rate


class ProgressiveJob(DistilJob):
    """Computes the steps of progressive distillation."""

    Recipe = ProgressiveRecipe
    recipe: ProgressiveRecipe

    def __init__(
        self, recipe: ProgressiveRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        super().__init__(recipe, autoencoder, denoiser, source, heldout)
        if recipe.training.parallel != "ddp":
            raise InputError("training.parallel: a whole teacher takes the student's weights in every process: use ddp")
        model = read_model_config(find_model(recipe.teacher))
        recipe.check(model)
        self.rounds = planned(recipe, guided=recipe.guided(model))
        self.round = self.rounds[0]
        # The teacher of every round: at first it computes what the model that is distilled does. Checkpoints hold what
        # of it changes, as of the student.
        self.teacher.network = copy.deepcopy(self.network).eval()
        self.kept = {"teacher": self.teacher.network}
        self.notes = (*self.notes, f"rounds of training steps: {', '.join(map(str, self.rounds))}")
        if recipe.diffusion.prediction == "noise":
            self.notes += (
                "the model predicts noise, which says little of a sample that is nearly all noise: the first of few "
                "steps makes large errors; distil a model that predicts v, flow or sample",
            )

    def at(self, step: int) -> Round:
        """The round of a step."""
        return next(found for found in self.rounds if step < found.last)

    def learning_rate(self, step: int, config: TrainingConfig) -> float:
        """Warm-up and decay are each round's own."""
        found = self.at(step)
        return learning_rate(config.model_copy(update={"steps": found.last - found.first}), step - found.first)

    def begin(self, step: int) -> None:
        """At the start of a round but the first the student, averaged, is the teacher, and its optimiser forgets."""
        self.round = self.at(step)
        self.teacher.told = self.told or self.round.first > 0
        if step != self.round.first or step == 0:
            return
        part = self.parts["denoiser"]
        if part.ema is not None:
            part.ema.settle()
        self.teacher.network.load_state_dict(self.network.state_dict())
        part.optimizer.state.clear()

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss over one micro-batch; every draw belongs to its position in the global batch."""
        batch = self.assembly.batch(micro_batch, step)
        noise = normal(batch.latents.shape[1:], batch.draws("noise")).to(batch.latents.device)
        found = self.error(self.parts["denoiser"].wrapped, batch, self.times(batch), noise).mean()
        steps = 0 if self.round.steps is None else self.round.steps
        return found, {"loss": float(found.detach()), "student_steps": float(steps)}

    def times(self, batch: Batch) -> Tensor:
        """Random times (B,) of the round's guidance, or the three (3, B) of random steps of its student."""
        sources = batch.draws("time")
        if self.round.steps is None:
            return torch.cat([self._time(source, batch.size) for source in sources])
        N = self.round.steps
        grid = self.diffusion.shifted_path(batch.size).times(2 * N, "trailing")
        picks = torch.tensor([int(torch.randint(N, (), generator=source)) for source in sources])
        return torch.stack([grid[2 * picks + k] for k in range(3)])

    def error(self, student: nn.Module, batch: Batch, times: Tensor, noise: Tensor) -> Tensor:
        """The loss (B,) of a student at these times (see `times`), of this noise (B, C, T, H, W)."""
        halved, process = times.ndim == 2, self.diffusion
        t = times[0] if halved else times
        z = process.q_sample(batch.latents, t, noise)
        if halved:
            x = two_step_target(process, lambda z, t: self.target(z, t, batch), z, times)
            target = as_prediction(process, x, z, t)
        else:
            target = self.teacher.predict(z, t, batch.conditions, self.assembly.setting, self.scales(batch))
        output = student(z, t.to(z.device, torch.float32), batch.conditions).to(z.dtype)
        prediction = process.split(output, z.shape[1])[0]
        return weighted_mean(distance(process, prediction, target, t, self.recipe.weight), batch.weight)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """The loss of the round on held-out clips, with noise and times that are the same in every measurement."""
        chosen, total = spread(len(self.heldout), self.recipe.heldout_clips), 0.0
        for first, indices in self._heldout_batches(chosen):
            batch = self.assembly.heldout([self.heldout[i] for i in indices], first)
            noise = normal(batch.latents.shape[1:], batch.draws("noise")).to(batch.latents.device)
            with autocast(self.recipe.training.precision, self.device):
                found = self.error(self.network, batch, self.times(batch), noise)
            total += float(found.sum())
        return {"loss": total / len(chosen)}

    def model(self) -> VideoModel:
        """The student as it stands, with the steps of its round."""
        model, steps = super().model(), self.round.steps
        if steps is not None:
            sampler = model.config.sampler.model_copy(update={"steps": steps})
            made = self.distilled.model_copy(update={"steps": (steps,)})
            model.config = model.config.model_copy(update={"sampler": sampler, "distilled": made})
        return model

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the model folder of the last round's student."""
        self.round = self.rounds[-1]
        super().export(folder, step, ranks)
