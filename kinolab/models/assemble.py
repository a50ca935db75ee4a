"""One model of several that were trained by themselves: experts of one stage, and the stages of a cascade."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from kinolab.autoencoders.base import Autoencoder
from kinolab.errors import InputError
from kinolab.models.cascade import REFINED
from kinolab.models.folder import ModelConfig
from kinolab.models.model import VideoModel
from kinolab.models.stage import ExpertConfig, LaterStage, LaterStageConfig, StageConfig


def same_latents(ours: Autoencoder, theirs: Autoencoder) -> bool:
    """Whether two autoencoders make the same latents: equal encoders, scales and shifts."""
    return _equal(ours.encoder_parts(), theirs.encoder_parts()) and all(
        torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("latent_scale", "latent_shift")
    )


def _equal(ours: nn.Module, theirs: nn.Module) -> bool:
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def with_experts(model: VideoModel, experts: Mapping[float, Path | str]) -> VideoModel:
    """The model with the denoisers of other folders in its place at cleaner times.

    Args:
        experts: the fraction of time (0 clean, 1 noise) that each is for, up from where the one before ends.

    Raises:
        InputError: where one was trained on other latents or another diffusion, or takes other conditions.
    """
    if not experts:
        return model
    configs, denoisers, notes = [], [], [model.config.trained]
    for until, folder in sorted(experts.items()):
        other = VideoModel.load(folder, device="cpu", precision="float32")
        if not same_latents(model.autoencoder, other.autoencoder):
            raise InputError(f"{folder}: an expert has to be trained on the latents of the same autoencoder")
        if other.config.diffusion != model.config.diffusion:
            raise InputError(f"{folder}: an expert has to be trained with the same diffusion")
        if other.lora or model.lora:
            raise InputError(f"{folder}: experts have no adapters beside them: fold those in first (pack --lora)")
        assert other.config.denoiser is not None
        configs.append(ExpertConfig(until=until, denoiser=other.config.denoiser))
        denoisers.append(other.denoiser)
        notes.append(f"up to {until:g}: {other.config.trained}")
    # Built anew, so that the config is checked as one that is read.
    values = dict(model.config) | {"format": 2, "experts": tuple(configs), "trained": "; ".join(notes)}
    made = VideoModel(
        ModelConfig.model_validate(values), model.autoencoder, model.denoiser,
        **{**model.others, "experts": denoisers},
    )  # fmt: skip
    _ = made.network  # which checks that they take and give the same
    return made


def cascade(model: VideoModel, stages: Mapping[str, Path | str]) -> VideoModel:
    """The model followed by those of other folders, in order, each of which refines what the one before made.

    An autoencoder that is equal to the one before is stored once.

    Raises:
        InputError: for one that takes no `low_resolution`, or is a cascade itself.
    """
    if not stages:
        return model
    made, notes, before = list(model.stages), [model.config.trained], model.output.autoencoder
    for name, folder in stages.items():
        other = VideoModel.load(folder, device="cpu", precision="float32")
        if REFINED not in other.spec.ports or other.stages:
            raise InputError(f"{folder}: expected a model of one stage that takes {REFINED}, to refine videos")
        shared = other.config.autoencoder.kind == before.config.kind and _equal(other.autoencoder, before)
        values = {field: getattr(other.config, field) for field in StageConfig.model_fields}
        if other.config.frames == 1 and other.denoiser.within_frames:
            last = made[-1].config if made else model.config
            values |= {"frames": last.frames, "fps": last.fps}  # it refines the frames of clips one by one
        config = LaterStageConfig(**values, name=name, autoencoder=None if shared else other.config.autoencoder)
        before = before if shared else other.autoencoder
        made.append(
            LaterStage(config, before, other.denoiser, experts=other.experts, parts=other.parts, lora=other.lora)
        )
        notes.append(f"{name}: {other.config.trained}")
    configs = [stage.config for stage in made]
    values = dict(model.config) | {"format": 2, "stages": tuple(configs), "trained": "; ".join(notes)}
    return VideoModel(
        ModelConfig.model_validate(values), model.autoencoder, model.denoiser, **{**model.others, "stages": made}
    )
