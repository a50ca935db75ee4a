"""A clip made larger, or given frames between its own, by a super-resolution model; a clip of any length, as a stream.

The model is one that takes `low_resolution`: by itself, or a later stage of a cascade. It sees windows of as many
frames as it was trained on, and of larger frames tiles, which are blended in every step (`kinolab.generation.sweep`).
What is random is a function of the frame's number and the pixel's place, so all windows see the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kinolab import video
from kinolab.config import Config, load_config
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.cascade import REFINED, refines
from kinolab.models.stage import LaterStage
from kinolab.models.stage_config import StageConfig

CHUNK = 4
"""The window of a model whose frames are nothing to each other."""


class RefineConfig(Config):
    """A clip, and how a super-resolution model goes along it."""

    task: Literal["upscale", "interpolate"]
    """upscale: larger frames; interpolate: new frames between those of the clip."""
    video: Path
    """The clip, of any length."""
    start: float = Field(0.0, ge=0)
    """Seconds of the clip that are left out at its beginning."""
    side: int | None = Field(None, ge=1)
    """Shorter side of the made frames, whose shape is the clip's; none = as many times larger as in training."""
    stage: str | None = None
    """Of a cascade, the stage that does it; none = its only one that can."""
    window: int | None = Field(None, ge=1)
    """Latent frames that the model sees at a time; none = as trained."""
    overlap: int | None = Field(None, ge=0)
    """Latent frames that a window shares with the next one; none = a third of it, or of tiles half."""
    tile: int | None = Field(None, ge=0)
    """Side of the squares, in pixels, that frames are made of where they are larger; none = the size of the training
    clips, 0 = whole frames."""

    def files(self) -> list[Path]:
        """The files that it reads."""
        return [self.video]


def can_refine(config: StageConfig, task: str) -> bool:
    """Whether a model makes clips larger, or frames between theirs."""
    told = [getattr(config.denoiser, name, None) or {} for name in ("fields", "concatenated")]
    ports = [*(port for ports in told for port in ports), *(getattr(p, "port", "") for p in config.parts.values())]
    if REFINED not in ports:
        return False
    found = refines(config)
    return found.frames_factor > 1 if task == "interpolate" else found.factor > 1 and found.frames_factor == 1


def inserted(config: ModelConfig) -> list[int]:
    """How many new frames between each two the stages of a model make that can; none = it has no such stage."""
    stages = config.stages or (config,)
    return [refines(stage).frames_factor - 1 for stage in stages if can_refine(stage, "interpolate")]


def chosen_stage(config: ModelConfig, task: str, asked: str | None, called: str) -> str | None:
    """The name of the stage that refines; none = the model is one stage, which does.

    Raises:
        InputError: for a model that can't, a name that no stage has, and where several can.
    """
    does = "makes clips larger" if task == "upscale" else "makes frames between those of a clip"
    if not config.stages:
        if asked is not None:
            raise InputError(f"refine.stage {asked}: {called} is a model of one stage; leave it out")
        if can_refine(config, task):
            return None
        other = "interpolate" if task == "upscale" else "upscale"
        hint = f"; it is one for kinolab {other}" if can_refine(config, other) else ""
        raise InputError(f"{called}: is no model that {does} (none that takes {REFINED} for it){hint}")
    able = [stage.name for stage in config.stages if can_refine(stage, task)]
    if asked is not None:
        if asked not in able:
            named = ", ".join(able) or "none"
            raise InputError(f"refine.stage {asked}: no stage of {called} of that name {does}; expected {named}")
        return asked
    if len(able) != 1:
        which = f"say which of {', '.join(able)} by -s refine.stage=NAME" if able else "it has none that can"
        raise InputError(f"{called}: expected one stage that {does}; {which}")
    return able[0]


def lone_config(config: ModelConfig, name: str | None) -> ModelConfig:
    """The config of one stage of a cascade as a model of its own; none = the model as it is."""
    if name is None:
        return config
    autoencoder = config.autoencoder
    for stage in config.stages:
        autoencoder = stage.autoencoder or autoencoder
        if stage.name == name:
            values = {field: getattr(stage, field) for field in StageConfig.model_fields}
            return ModelConfig(**values, format=2, version=config.version, trained=config.trained,
                               autoencoder=autoencoder)  # fmt: skip
    raise InputError(f"no stage {name}")


def refining(config: ModelConfig, asked: Any, called: str) -> tuple[dict[str, Any], ModelConfig]:
    """What is asked of `refine` with its stage filled in, and the config of the model that does it.

    Raises:
        InputError: as `chosen_stage`, and for what is no `RefineConfig`.
    """
    values = asked.model_dump() if isinstance(asked, Config) else dict(asked)
    checked = load_config(RefineConfig, values, name="refine")
    name = chosen_stage(config, checked.task, checked.stage, called)
    return values | {"stage": name}, lone_config(config, name)


def lone(model: VideoModel, name: str | None) -> VideoModel:
    """One stage of a cascade as a model of its own; none = the model as it is."""
    if name is None or not model.stages:
        return model
    stage: LaterStage = next(stage for stage in model.stages if stage.config.name == name)
    made = VideoModel(
        lone_config(model.config, name), stage.autoencoder, stage.denoiser, experts=stage.experts, parts=stage.parts,
        lora=stage.lora,
    )  # fmt: skip
    made.precision, made.adapters, made.exchanged = stage.precision, model.adapters, model.exchanged
    return made.to(model.device)


def settled_refinement(config: RefineConfig, model: VideoModel, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Size, rate, window and tile of a request, filled in; asked: its `size`, `fps` and `frames`.

    Raises:
        InputError: for a clip that is larger than what is asked for, and what the model can't take.
    """
    info, spec, refined = video.probe(config.video), model.autoencoder.spec, refines(model.config)
    size = asked["size"]
    if size is None:
        shorter = min(info.height, info.width)
        scale = refined.factor if config.side is None else config.side / shorter
        height, width = (
            max(1, round(side * scale / spec.spatial_ratio)) * spec.spatial_ratio for side in (info.height, info.width)
        )
        size = (height, width)
    frames = spec.snap_frames(max(model.config.frames, spec.least_frames))
    spec.check(frames, *size)
    if size[0] < info.height or size[1] < info.width:
        raise InputError(
            f"{config.video}: is {info.width}x{info.height}, larger than the {size[1]}x{size[0]} that is asked for; "
            "ask for a larger --size"
        )
    trained = spec.latent_shape(frames, *model.config.size)
    window = config.window or (CHUNK if _by_frame(model) else trained[1])
    overlap = _overlap(config, model, window)
    tile = min(model.config.size) if config.tile is None else config.tile
    if tile % spec.spatial_ratio or 0 < tile < 4 * spec.spatial_ratio:
        raise InputError(
            f"refine.tile {tile}: expected a multiple of {spec.spatial_ratio} from {4 * spec.spatial_ratio} on, or 0"
        )
    settled = config.model_copy(update={"window": window, "overlap": overlap, "tile": tile})
    return {"size": size, "fps": asked["fps"] or info.fps * refined.frames_factor, "refine": settled}


def _overlap(config: RefineConfig, model: VideoModel, window: int) -> int:
    """Latent frames that a window shares with the next one.

    Where the model puts frames between those of the clip, every window begins with one of the clip's, as in training.

    Raises:
        InputError: for an overlap that leaves no step, or one that is no multiple of the frames between.
    """
    n = refines(model.config).frames_factor if model.autoencoder.spec.temporal_ratio == 1 else 1
    overlap = config.overlap
    if overlap is None:
        overlap = 0 if _by_frame(model) else window // 3
        overlap = window - max(n, (window - overlap) // n * n)
    if not 0 <= overlap < window:
        raise InputError(f"refine.overlap {overlap}: expected less than the window of {window} latent frames")
    if (window - overlap) % n:
        raise InputError(
            f"refine.overlap {overlap}: windows of {window} that begin {window - overlap} frames apart; expected a "
            f"multiple of {n}, as every {n}th frame is the clip's"
        )
    return overlap


def _by_frame(model: VideoModel) -> bool:
    """Whether the frames of a model are nothing to each other."""
    return model.autoencoder.spec.temporal_ratio == 1 and model.denoiser.within_frames


def refine_notes(config: RefineConfig, model: VideoModel, size: tuple[int, int]) -> list[str]:
    """What to know of a settled refinement."""
    info, refined, notes = video.probe(config.video), refines(model.config), list[str]()
    scale = size[0] / info.height
    if abs(scale / refined.factor - 1) > 0.25:
        notes.append(f"the model was trained to enlarge {refined.factor} times, and this is {scale:.3g} times")
    if info.has_audio:
        notes.append(f"{config.video.name}: its sound is left out")
    return notes
