"""Random data of the shape that a recipe's data will have, to measure a run before its data is there."""

from __future__ import annotations

from typing import Any

import torch

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec
from kinolab.contracts.events import events_of
from kinolab.contracts.examples import Example, Source, SourceConfig
from kinolab.errors import InputError
from kinolab.models import load_autoencoder
from kinolab.tables import JOBS
from kinolab.training.initial import first_autoencoder
from kinolab.training.jobs.autoencoder import AutoencoderJob
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe
from kinolab.training.trainer import Job

LENGTH = 1_000
"""Windows that a stand-in source has."""
CAPTION = "a red ball falls to the floor"


class NoAutoencoder(Autoencoder):
    """Stands in for an autoencoder that is not there: only its shapes are known, from the denoiser that reads it."""

    def __init__(self, channels: int, temporal_ratio: int) -> None:
        super().__init__()
        self.spec = AutoencoderSpec(channels, temporal_ratio, 8, causal=True)


class RandomSource(Source):
    """Noise in the place of windows: latents (C, T, h, w), or clips (3, T, H, W); with draws of masks for tasks."""

    def __init__(self, shape: tuple[int, ...], *, latents: bool, ratio: int = 1, tasks: dict[str, Any] | None) -> None:
        self.whole_shape, self.encoded, self.ratio = shape, latents, ratio
        self.draws = None if tasks is None else {"count": 1, "tasks": tasks}

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Example:
        """Window `index`, the same one whenever it is asked for."""
        noise = torch.randn(self.whole_shape, generator=torch.Generator().manual_seed(index))
        name, seconds = f"random/{index}", (0.0, self.whole_shape[1] / 8.0)
        if not self.encoded:
            return Example(noise.clamp(-1, 1), 8.0, CAPTION, 0, name, seconds)
        mask = torch.ones(1, self.ratio, *self.whole_shape[1:])
        mask[:, :, 0] = 0.0
        given = noise[None] * (1 - mask[:, :1])
        return Example(noise, 8.0, CAPTION, 0, name, seconds, encoded=True, given=given, mask=mask)


def stand_in_job(config: AutoencoderRecipe | DenoiserRecipe) -> tuple[Job, bool]:
    """The job of a recipe on random data, and whether its autoencoder was there.

    Raises:
        InputError: where the recipe itself is wrong.
    """
    if isinstance(config, AutoencoderRecipe):
        autoencoder = first_autoencoder(config)
        source = RandomSource((3, *_clip_shape(config.data, autoencoder)), latents=False, tasks=None)
        return AutoencoderJob(config, autoencoder, source, source), True
    kind = JOBS.of(config)  # of a denoiser's own training, or a way to distil one
    assert issubclass(kind, DenoiserJob)
    denoiser, there = kind.start(config, events_of(None)), True
    spec = denoiser.spec
    ratio = spec.mask_channels if spec.given != "none" else 1
    try:
        autoencoder = load_autoencoder(config.autoencoder, device="cpu")
    except InputError:
        autoencoder, there = NoAutoencoder(spec.channels, ratio), False
    drawn = None if config.tasks is None else config.tasks.without_unconditional()
    if there and config.data.clip_shape() is not None:
        shape, latents = (3, *_clip_shape(config.data, autoencoder)), False
    else:
        frames = getattr(config.denoiser, "num_frames", 16)  # DiT makes every frame by itself
        shape, latents = (spec.channels, frames, *config.denoiser.latent_size), True
    source = RandomSource(
        shape, latents=latents, ratio=ratio, tasks=None if drawn is None else drawn.model_dump(mode="json")
    )
    return kind(config, autoencoder, denoiser, source, source), there


def _clip_shape(data: SourceConfig, autoencoder: Autoencoder) -> tuple[int, int, int]:
    """(T, H, W) of the clips that a data config asks for, as the autoencoder takes them."""
    shape = data.clip_shape()
    if shape is None:
        raise InputError(f"data: an autoencoder is trained on clips; expected kind: folder or world, not {data.kind}")
    return autoencoder.spec.snap_frames(shape[0]), *shape[1:]
