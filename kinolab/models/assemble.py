"""One model of several that were trained by themselves: experts of one stage, and the stages of a cascade."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from kinolab.autoencoders.base import Autoencoder
from kinolab.errors import InputError
from kinolab.models.cascade import BASE, REFINED, refines
from kinolab.models.folder import ModelConfig, find_model, read_model_config
from kinolab.models.model import VideoModel
from kinolab.models.stage import LaterStage, Stage
from kinolab.models.stage_config import ExpertConfig, LaterStageConfig, StageConfig


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
        InputError: for one that takes no `low_resolution`, is a cascade itself, or does not fit the one before.
    """
    if not stages:
        return model
    made, notes = list(model.stages), [model.config.trained]
    for name, folder in stages.items():
        stage, trained = refining(name, folder, made[-1] if made else model)
        made.append(stage)
        notes.append(f"{name}: {trained}")
    return _with_stages(model, made, "; ".join(notes))


def refining(name: str, folder: Path | str, before: Stage) -> tuple[LaterStage, str]:
    """The model of a folder as the stage after another one, and what trained it.

    Raises:
        InputError: for one that can't be that.
    """
    other = VideoModel.load(folder, device="cpu", precision="float32")
    if REFINED not in other.spec.ports or other.stages:
        raise InputError(f"{folder}: expected a model of one stage that takes {REFINED}, to refine videos")
    config = refining_config(name, other.config, before.config, within_frames=other.denoiser.within_frames)
    shared = _same_autoencoder(other.autoencoder, before.autoencoder)
    config = config.model_copy(update={"autoencoder": None if shared else other.config.autoencoder})
    autoencoder = before.autoencoder if shared else other.autoencoder
    stage = LaterStage(config, autoencoder, other.denoiser, experts=other.experts, parts=other.parts, lora=other.lora)
    check_fit(stage, before, str(folder))
    return stage, other.config.trained


def refining_config(
    name: str, config: ModelConfig, before: StageConfig, *, within_frames: bool = False
) -> LaterStageConfig:
    """The config of a model as a later stage's; within_frames: its frames are nothing to each other."""
    values = {field: getattr(config, field) for field in StageConfig.model_fields}
    if config.frames == 1 and within_frames:  # it refines the frames of clips one by one
        values |= {"frames": before.frames, "fps": before.fps}
    return LaterStageConfig(**values, name=name, autoencoder=config.autoencoder)


def check_fit(stage: Stage, before: Stage, called: str) -> None:
    """Check that a stage refines what the one before makes; called: what an error names it.

    A rate that is another than in training is said in a warning.

    Raises:
        InputError: where channels, size, ratio or frames don't fit; says what was expected.
    """
    made, given = stage.config, before.config
    (height, width), (low_height, low_width) = made.size, given.size
    channels, has = stage.autoencoder.spec.channels, before.autoencoder.spec.channels
    if channels != has:
        raise InputError(f"{called}: refines videos of {channels} channels, and the stage before makes {has}")
    if min(height - low_height, width - low_width) < 0:
        raise InputError(
            f"{called}: makes videos of {width}x{height}, smaller than the {low_width}x{low_height} of the stage before"
        )
    if height * low_width != width * low_height:
        raise InputError(
            f"{called}: makes videos of {width}x{height}, of another shape than the {low_width}x{low_height} of the "
            "stage before"
        )
    if made.buckets or given.buckets:  # trained on clips of several shapes
        return
    refined = refines(made)
    frames, (h, w) = refined.input_shape(made.frames, made.size)
    if REFINED in made.conditions and (h, w) != (low_height, low_width):
        raise InputError(
            f"{called}: was trained to enlarge {w}x{h} to {width}x{height}, and the stage before makes "
            f"{low_width}x{low_height}"
        )
    if frames != given.frames:
        raise InputError(
            f"{called}: was trained to make {made.frames} frames of {frames}, and the stage before makes "
            f"{given.frames}: expected one of {frames} frames before it"
        )
    rate = made.fps / refined.frames_factor
    if given.frames > 1 and not math.isclose(rate, given.fps, rel_tol=0.01):
        warnings.warn(
            f"{called}: was trained on {rate:g} fps, and the stage before makes {given.fps:g} fps", stacklevel=3
        )


def exchanged(model: VideoModel, stages: Mapping[str, Path | str]) -> VideoModel:
    """The model with stages from other folders in the place of its own, by name; `base` is the first.

    A model of one stage gets those of other names behind it, in order.

    Raises:
        InputError: for a name that no stage of a cascade has, and a model that does not fit there.
    """
    if not stages:
        return model
    check_names(model.config, stages)
    first: VideoModel = model
    if BASE in stages:
        first = VideoModel.load(stages[BASE], device="cpu", precision="float32")
        if first.stages:
            raise InputError(f"{stages[BASE]}: is a cascade; expected a model of one stage, to be the first one")
    made: list[LaterStage] = []
    names = list(dict.fromkeys([*(s.config.name for s in model.stages), *stages]))
    own, changed = {s.config.name: s for s in model.stages}, first is not model
    for name in names:
        if name == BASE:
            continue
        before: Stage = made[-1] if made else first
        if name in stages:
            stage, changed = refining(name, stages[name], before)[0], True
        else:
            stage = own[name]
            if changed:
                shared = _same_autoencoder(stage.autoencoder, before.autoencoder)
                autoencoder = None if shared else stage.autoencoder.config
                config = stage.config.model_copy(update={"autoencoder": autoencoder})
                stage = LaterStage(
                    config, stage.autoencoder, stage.denoiser, experts=stage.experts, parts=stage.parts, lora=stage.lora
                )
                check_fit(stage, before, f"stage {name}")
        made.append(stage)
    whole = _with_stages(first, made, model.config.trained)
    for each in whole.cascade:
        each.precision = model.precision
    whole.adapters, whole.exchanged = model.adapters, {name: str(folder) for name, folder in stages.items()}
    return whole.to(model.device)


def check_names(config: ModelConfig, stages: Mapping[str, Path | str]) -> None:
    """Raises InputError for names of stages that a cascade has not; a model of one stage takes any."""
    names = [BASE, *(stage.name for stage in config.stages)]
    for name in stages:
        if name not in names and config.stages:
            raise InputError(f"stage {name}: the model has no stage of that name; expected one of {', '.join(names)}")


def exchanged_config(config: ModelConfig, stages: Mapping[str, Path | str]) -> ModelConfig:
    """What `exchanged` makes of a model's config, as far as it says how stages are sampled; no weights are read.

    Raises:
        InputError: for a name that no stage of a cascade has, and a folder that is no model.
    """
    if not stages:
        return config
    check_names(config, stages)
    read = {name: read_model_config(find_model(folder)) for name, folder in stages.items()}
    for name, other in read.items():
        if other.denoiser is None:
            raise InputError(
                f"{stages[name]}: holds an autoencoder and no denoiser; expected a model that can generate"
            )
    first, own = read.pop(BASE, config), {stage.name: stage for stage in config.stages}
    made: list[LaterStageConfig] = []
    for name in dict.fromkeys([*own, *read]):
        before = made[-1] if made else first
        made.append(refining_config(name, read[name], before) if name in read else own[name])
    return first.model_copy(update={"format": 2, "stages": tuple(made)})


def _same_autoencoder(ours: Autoencoder, theirs: Autoencoder) -> bool:
    return ours is theirs or (ours.config.kind == theirs.config.kind and _equal(ours, theirs))


def _with_stages(model: VideoModel, stages: Sequence[LaterStage], trained: str) -> VideoModel:
    """The model with these stages behind its first one; its config is built anew, so that it is checked."""
    values = dict(model.config) | {"format": 2, "stages": tuple(s.config for s in stages), "trained": trained}
    return VideoModel(
        ModelConfig.model_validate(values), model.autoencoder, model.denoiser, **{**model.others, "stages": stages}
    )
