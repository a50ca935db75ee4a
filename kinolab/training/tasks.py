"""Tasks in training: which part of each clip of a batch is given, from a cache's draws or drawn and encoded here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.config import load_config
from kinolab.contracts.examples import Example, Source
from kinolab.denoisers import Conditions, DenoiserSpec
from kinolab.errors import InputError
from kinolab.layers.masking import generated_weight
from kinolab.tasks import TasksConfig, draw_mask, encode_given


class TaskDraws:
    """Adds given latents and their mask to the conditions of a batch.

    Raises:
        InputError: where the denoiser, the autoencoder, the cache and the recipe's tasks do not fit each other.
    """

    def __init__(self, tasks: TasksConfig | None, autoencoder: Autoencoder, spec: DenoiserSpec, source: Source) -> None:
        self.tasks, self.autoencoder, self.spec = tasks, autoencoder, spec
        self.device = torch.device("cpu")
        ratio = autoencoder.spec.temporal_ratio
        if spec.given != "none" and spec.mask_channels != ratio:
            raise InputError(
                f"denoiser.mask_channels={spec.mask_channels}: the autoencoder makes a latent of {ratio} frames; "
                f"set denoiser.mask_channels={ratio}"
            )
        if tasks is None:
            if spec.given != "none":
                raise InputError(f"denoiser.given={spec.given}: expected tasks in the recipe, which say what is given")
            return
        drawn = tasks.without_unconditional()
        if drawn is not None and spec.given == "none":
            raise InputError("tasks: this denoiser takes nothing given; set denoiser.given, for vdt to channels")
        if source.encoded and drawn is not None:
            held = None if source.draws is None else load_config(TasksConfig, source.draws["tasks"])
            if held is None or not held.draws_as(drawn):
                why = "holds no draws of masks" if held is None else "holds draws of masks for other tasks"
                raise InputError(f"{source.config.path}: the cache {why}; run kinolab encode with --tasks RECIPE")
        weights = tasks.weights
        self.unconditional = weights["unconditional"] / sum(weights.values())

    def give(
        self, conditions: Conditions, examples: Sequence[Example], sources: Sequence[torch.Generator]
    ) -> Conditions:
        """Conditions with the given part of each example; its draws come from its own generator."""
        if self.tasks is None or self.spec.given == "none":
            return conditions
        if examples[0].encoded:
            given, mask = self._from_cache(examples, sources)
        else:
            video = torch.stack([e.video for e in examples]).to(self.device)
            frames, height, width = video.shape[2:]
            masks = [draw_mask(self.tasks, frames, height, width, source)[1] for source in sources]
            with torch.no_grad():
                given, mask = encode_given(self.autoencoder, video, torch.stack(masks)[:, None].to(self.device))
        return conditions.replace(given=given, mask=mask)

    def _from_cache(self, examples: Sequence[Example], sources: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        given, masks = [], []
        for example, source in zip(examples, sources, strict=True):
            if float(torch.rand((), generator=source)) < self.unconditional:
                given.append(torch.zeros_like(example.latents))
                masks.append(torch.ones(self.spec.mask_channels, *example.latents.shape[1:]))
            else:
                assert example.given is not None and example.mask is not None, "checked against the cache's draws"
                draw = int(torch.randint(len(example.given), (), generator=source))
                given.append(example.given[draw])
                masks.append(example.mask[draw])
        return torch.stack(given).to(self.device), torch.stack(masks).to(self.device)

    def weight(self, conditions: Conditions) -> Tensor | None:
        """The weight of each latent in the loss; none = all alike.

        A model that takes what is given as channels makes all latents itself; in others given latents take no part.
        """
        if conditions.mask is None or self.spec.given == "channels":
            return None
        return generated_weight(conditions.mask)
