"""Tasks in training: whether a denoiser and its data fit them, and which latents the loss counts."""

from __future__ import annotations

from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.config import load_config
from kinolab.contracts.examples import Source
from kinolab.denoisers import Conditions, DenoiserSpec
from kinolab.errors import InputError
from kinolab.layers.masking import BESIDE, generated_weight
from kinolab.tasks import TasksConfig


class TaskDraws:
    """What a recipe's tasks mean for a denoiser: that it can take what they give, and what its loss counts. The parts
    that they give are the condition `given` (`kinolab.conditioning.given`).

    Raises:
        InputError: where the denoiser, the autoencoder, the cache and the recipe's tasks do not fit each other.
    """

    def __init__(self, tasks: TasksConfig | None, autoencoder: Autoencoder, spec: DenoiserSpec, source: Source) -> None:
        self.tasks, self.autoencoder, self.spec = tasks, autoencoder, spec
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

    def weight(self, conditions: Conditions) -> Tensor | None:
        """The weight of each latent in the loss; none = all alike.

        A model that takes what is given beside its noisy latents makes all of them itself; in others given latents
        take no part.
        """
        if conditions.mask is None or self.spec.given in BESIDE:
            return None
        return generated_weight(conditions.mask)
