"""The given part of a video: a field of latents and its mask, for every task (predict, interpolate, animate, ...).

Its null is that nothing is given: latents of zero and a mask of ones, which is what a request without a task has. In
training it is dropped as often as the recipe's tasks say (`unconditional`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinolab.conditioning.base import Condition, ConditionConfig, Draws, Setting
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.tasks import TasksConfig, draw_mask, encode_given

Part = tuple[Tensor, Tensor]
"""Latents (C, T, H, W) of what is given and the folded mask (R, T, H, W) of one clip (`kinolab.tasks.encode_given`)."""


@dataclass(frozen=True)
class GivenPart:
    """What is given of a batch of clips: latents and folded mask (`encode_given`), and the pixels they came from."""

    latents: Tensor
    mask: Tensor
    video: Tensor
    pixel_mask: Tensor
    later: tuple[GivenPart | None, ...] = ()
    """The same for each later stage of a cascade, at its size; none for one that isn't told of it."""

    def rows(self) -> list[Part]:
        """What each request is given, as its condition `given`."""
        return list(zip(self.latents, self.mask, strict=True))


class Given(Condition[Part]):
    """What is given of a clip.

    Args:
        tasks: what is given of training examples, how often; none = nothing is told of them.
    """

    name = "given"

    def __init__(self, config: ConditionConfig | None = None, tasks: TasksConfig | None = None) -> None:
        super().__init__(config)
        self.tasks = tasks
        weights = {} if tasks is None else tasks.weights
        self.unconditional = weights["unconditional"] / sum(weights.values()) if weights else 1.0

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Part | None]:
        """The parts that tasks give of examples: a cache's own draws, or drawn and encoded here."""
        if self.tasks is None:
            return [None] * len(examples)
        sources = draws("tasks")
        if examples[0].encoded:
            return [self._from_cache(e, source, setting) for e, source in zip(examples, sources, strict=True)]
        video = torch.stack([e.video for e in examples]).to(setting.device)
        frames, height, width = video.shape[2:]
        masks = [draw_mask(self.tasks, frames, height, width, source)[1] for source in sources]
        with torch.no_grad():
            parts = encode_given(setting.autoencoder, video, torch.stack(masks)[:, None].to(setting.device))
        return list(zip(*parts, strict=True))

    def _from_cache(self, example: Example, source: torch.Generator, setting: Setting) -> Part:
        if float(torch.rand((), generator=source)) < self.unconditional:
            mask = torch.ones(setting.spec.mask_channels, *example.latents.shape[1:])
            return torch.zeros_like(example.latents), mask
        assert example.given is not None and example.mask is not None, "checked against the cache's draws"
        draw = int(torch.randint(len(example.given), (), generator=source))
        return example.given[draw], example.mask[draw]

    def tell(self, told: Sequence[Part | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Given latents (B, C, T, H, W) and masks (B, R, T, H, W); nothing where no row has any."""
        some = next((part for part in told if part is not None), None)
        if some is None:
            return Conditions()
        nothing = (torch.zeros_like(some[0]), torch.ones_like(some[1]))
        parts = [nothing if part is None else part for part in told]
        given, mask = (torch.stack([part[k] for part in parts]).to(setting.device) for k in (0, 1))
        return Conditions(given=given, mask=mask)
