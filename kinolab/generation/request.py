"""A request for videos: its fields, and how all that it leaves open is filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from kinolab.conditioning import asked_files, check_asked
from kinolab.conditioning.image import FIRST_FRAME
from kinolab.config import Config, apply_overrides, load_config
from kinolab.contracts.adapters import AdapterUse
from kinolab.contracts.events import Events, Listener
from kinolab.contracts.reach import Lists, ReachName
from kinolab.contracts.sampling import cache_values, expanded, guidance_values, sampler_values
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.generation import warm
from kinolab.generation.low_resolution import LowResolutionConfig
from kinolab.generation.refine import RefineConfig, lone, refining, settled_refinement
from kinolab.generation.source import SourceConfig, check_sampler, invertible, settled_shape, way_of
from kinolab.methods import (
    FrameReach,
    FrameReachConfig,
    GuidanceConfig,
    Method,
    MethodsConfig,
    SteeringConfig,
    StepCache,
    StepCacheConfig,
)
from kinolab.methods import build as build_methods
from kinolab.models import ModelConfig, Request, VideoModel, find_model, read_model_config, shipped_models
from kinolab.models.assemble import exchanged, exchanged_config
from kinolab.models.cascade import StageSettings, check_stages, frame_rule, settled_stages
from kinolab.models.distilled import with_adapters
from kinolab.runtime.paths import visible
from kinolab.runtime.precision import PrecisionPolicy, resolve
from kinolab.tasks.request import GivenConfig, Prepared, Shape, prepare

PUBLIC = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of files that may hold a whole public model."""
MOST_THREADS, MOST_VIDEOS, MOST_FRAMES = 4096, 1_000_000, 1_000_000
"""What a request may ask for; a record that says more is damaged, or made to hurt."""


class SamplingConfig(Config):
    """How a run is sampled, the same for every command that samples; what is left out is the model's own."""

    sampler: SamplerConfig | None = None
    """Sampler and steps; none = the model's own."""
    guidance: GuidanceConfig | None = None
    """Classifier-free guidance; none = the model's own."""
    stages: dict[str, StageSettings] = Field(default_factory=dict)
    """Sampler and guidance of the later stages of a cascade, by name: {sr: {sampler: {steps: 10}}}; what is left out is
    the stage's own."""
    cache: StepCacheConfig | None = None
    """Reuse of the denoiser's features between steps: faster, and not quite the same; none = every step in full."""
    reach: ReachName | Lists | None = None
    """Which frames a frame's self-attention reads: own, first, first_previous, all, first_last, or for each frame of
    tokens the frames that it reads; none = as trained."""
    methods: MethodsConfig = Field(default_factory=dict)
    """Other methods that wrap the sampling run, by name, each with its fields; the first is innermost. One that the
    model has of itself is replaced."""

    @property
    def wrappers(self) -> list[Method]:
        """The methods beside guidance, cache and steering."""
        reach = [] if self.reach is None else [FrameReach(FrameReachConfig(frames=self.reach))]
        return [*reach, *build_methods(self.methods)]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `VideoModel.sample_latents` and `complete`, for one run."""
        return {
            "sampler": self.sampler,
            "guidance": self.guidance,
            "stages": self.stages,
            "cache": None if self.cache is None else StepCache(self.cache),
            "methods": self.wrappers,
        }

    def record(self) -> dict[str, Any]:
        """It as results record it: sampler and guidance, and of the rest what is set."""
        values = self.model_dump(mode="json", include=set(SamplingConfig.model_fields))
        return {name: v for name, v in values.items() if v or name in ("sampler", "guidance")}


class GenerateConfig(SamplingConfig):
    """A request for videos: what the `.json` beside each of them records."""

    model: str
    """A model folder, or the name of a shipped model."""
    prompts: tuple[str, ...] = ()
    """One video for each prompt and seed."""
    negative: str | None = None
    """A prompt that guidance moves away from; none = the null condition."""
    label: int | str | None = None
    """Class label, by number or name."""
    count: int = Field(1, ge=1, le=MOST_VIDEOS)
    """Videos for each prompt, from seeds seed, seed + 1, ..."""
    frames: int | None = Field(None, ge=1, le=MOST_FRAMES)
    """Frames of a video; none = as trained."""
    size: tuple[int, int] | None = None
    """Height and width; none = as trained."""
    fps: float | None = Field(None, gt=0)
    """Frame rate of the file, and what a model that takes a frame rate is told; none = the training clips'."""
    seed: int = Field(0, ge=0)
    """Seed of the first video."""
    exchange: dict[str, str] = Field(default_factory=dict)
    """Models that take the place of a cascade's stages, by the stages' names, base the first: {sr: FOLDER}. A model of
    one stage gets those of other names behind it."""
    lora: tuple[AdapterUse, ...] = ()
    """LoRA adapters on the denoiser: a file in peft's, diffusers' or kohya's form, or peft's folder, and a weight."""
    merge_lora: bool = True
    """Add the adapters to the weights; false keeps them beside their layers: slower, and the same up to rounding."""
    precision: PrecisionPolicy = "auto"
    """`auto` measures the processor once; the file records what it chose."""
    compile: bool = False
    """Compile the denoiser first."""
    device: str = "auto"
    """Where to compute: auto, or a device by name (`devices.choose`); the file records what was taken."""
    given: GivenConfig | None = None
    """What is given of the video, for every task but generating it from nothing."""
    low_resolution: LowResolutionConfig | None = None
    """A low-resolution clip that the video is held to, by a model that was not trained for it."""
    refine: RefineConfig | None = None
    """A clip that a super-resolution model makes larger, or frames between its own; of any length, as a stream."""
    source: SourceConfig | None = None
    """A clip that is edited: the noise that the video begins with comes from it."""
    saliency: Path | None = None
    """A mask for text2video_zero's smoothing: a picture or a clip, white where something is salient; none = found in
    the made pictures."""
    control: dict[str, Path] = Field(default_factory=dict)
    """Control networks put beside the model for this run, by the condition that each reads: {canny: FILE OR FOLDER}."""
    conditions: dict[str, Any] = Field(default_factory=dict)
    """What else is asked, by the names of conditions that the model takes: numbers, or a clip's file, as
    {noise_level: 0.2, low_resolution: small.mp4}."""

    stream: bool = False
    """Write each frame as soon as it is made, by a causal model: a video of any length in memory that does not grow."""
    prompts_at: dict[float, str] = Field(default_factory=dict)
    """Of a stream other prompts, by the second from which they hold: {5: a blue ball bounces}."""

    @field_validator("conditions")
    @classmethod
    def _asked(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_asked(values)
        return values


def request_of(values: Mapping[str, Any], overrides: Sequence[str] = (), events: Listener = None) -> GenerateConfig:
    """The run that values ask for, with the model, its sampler and its guidance filled in where they are left out.

    values: fields of a `GenerateConfig`; of `sampler`, `guidance` and `cache` those that differ from the model's own
    (`kinolab.contracts.sampling`). overrides: `key=value` on top, as `guidance.scale=4`. A public model is converted
    first (`ready`).

    Raises:
        InputError: for an unknown field or a value of the wrong type, or a model that is not there.
    """
    asked = {key: value for key, value in apply_overrides(values, expanded(overrides)).items() if value is not None}
    if "model" not in asked and "refine" in asked:
        raise InputError("no super-resolution model ships: name one with --model, such as the run of a recipe *-sr")
    if "model" not in asked:
        asked["model"] = default_model("world" if "label" in asked else "world-text")
    asked["model"] = ready(str(asked["model"]), events)
    trained = exchanged_config(read_model_config(find_model(asked["model"])), asked.get("exchange") or {})
    uses = [use if isinstance(use, AdapterUse) else load_config(AdapterUse, use) for use in asked.get("lora") or ()]
    trained = with_adapters(trained, uses)
    if "refine" in asked:
        asked["refine"], trained = refining(trained, asked["refine"], asked["model"])
    words = any(asked.get(name) not in (None, (), []) for name in ("prompts", "negative"))
    label = asked.get("label") is not None
    if "source" in asked:
        asked["sampler"] = invertible(trained.sampler, asked.get("sampler"), way_of(asked["source"]))
    return load_config(GenerateConfig, asked | settled_values(trained, asked, words=words, label=label))


def settled_values(trained: ModelConfig, asked: Mapping[str, Any], *, words: bool, label: bool) -> dict[str, Any]:
    """Fields of a `SamplingConfig` with those of the model filled in. words, label: whether a run is told any."""
    return {
        "sampler": sampler_values(trained.sampler.model_dump(), asked.get("sampler")),
        "guidance": guidance_values(
            trained.guidance.model_dump(),
            asked.get("guidance"),
            told=words or label,
            towards_given=trained.given_guidance if _told_given(asked.get("given")) else 1.0,
        ),
        "cache": cache_values(asked.get("cache")),
        "stages": settled_stages(trained.stages, asked.get("stages"), words=words, label=label),
    }


def _told_given(given: GivenConfig | Mapping[str, Any] | None) -> bool:
    """Whether a run has a part that is given, and that the model is told, and not steered to."""
    if given is None:
        return False
    method = given.method if isinstance(given, GivenConfig) else given.get("method", "auto")
    return method in ("auto", "trained")


def sampling_of(
    trained: ModelConfig, values: SamplingConfig | Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> SamplingConfig:
    """How a measured model is sampled: what is asked for, and its own settings for the rest, guidance included.

    values, overrides: as of `request_of`. What is settled stays as it is when it is settled again.

    Raises:
        InputError: for an unknown field or a value of the wrong type.
    """
    given = values.model_dump() if isinstance(values, SamplingConfig) else values or {}
    asked = {key: value for key, value in apply_overrides(given, expanded(overrides)).items() if value is not None}
    return load_config(SamplingConfig, asked | settled_values(trained, asked, words=True, label=True), name="sampling")


def settle(config: GenerateConfig, model: VideoModel) -> GenerateConfig:
    """The request with every open choice filled in, so that a rerun does not depend on later defaults.

    What is settled stays as it is when it is settled again.
    """
    if config.prompts_at and not config.stream:
        raise InputError("prompts_at: prompts change while a video is made frame by frame: ask for a stream too")
    made = model.output.config
    if config.refine is not None:
        others = ("given", "source", "low_resolution", "stream", "saliency", "control", "cache")
        used = [name for name in others if getattr(config, name)] + [str(p) for p in asked_files(config.conditions)]
        if used:
            raise InputError(f"a clip is refined as it is, window by window: leave {', '.join(used)} out")
        asked = {"size": config.size, "fps": config.fps, "frames": config.frames}
        return _sampled(config, model, settled_refinement(config.refine, model, asked))
    size, fps = config.size or made.size, config.fps or made.fps
    frames = config.frames if config.given is not None else config.frames or made.frames
    if config.source is not None:
        if config.given is not None:
            raise InputError("source and given: a clip is edited or a part of it is given; ask for one of them")
        frames, fps = settled_shape(config.source, model, config.frames, config.fps)
    # A task makes a video of any number of frames, and so does a stream.
    any_number = config.given is not None or frames is None or config.stream
    check_stages(model.cascade, made.frames if any_number else frames, size)
    takes = model.denoiser.spec.given != "none" or FIRST_FRAME in model.spec.ports
    if config.given is not None and config.given.method == "trained" and not takes:
        raise InputError("this model was not trained to take anything given: use --method reconstruction")
    return _sampled(config, model, {"frames": frames, "size": size, "fps": fps})


def _sampled(config: GenerateConfig, model: VideoModel, settled: dict[str, Any]) -> GenerateConfig:
    """The request with these fields settled, and those that say how it is sampled."""
    requests = make_requests(config)
    told = _told_given(config.given)
    sampler, guidance = model.settled(requests, config.sampler, config.guidance, given=told)
    if config.source is not None:
        check_sampler(config.source, sampler)
    return config.model_copy(
        update={
            **settled,
            "sampler": sampler,
            "guidance": guidance,
            "stages": model.settled_stages(requests, config.stages),
            "precision": str(resolve(config.precision, model.device)).removeprefix("torch."),
            "device": str(model.device),
        }
    )


def make_requests(config: GenerateConfig) -> list[Request]:
    """One request for each video, prompts first, then seeds."""
    prompts: Sequence[str | None] = config.prompts or (None,)
    pairs = [(p, config.seed + k) for p in prompts for k in range(config.count)]
    return [
        Request(p, config.label, config.frames, config.size, seed, config.negative, config.fps, config.conditions)
        for p, seed in pairs
    ]


def fit_guidance(model: VideoModel, requests: Sequence[Request], config: GenerateConfig) -> None:
    """Refuse guidance where there is no condition to be guided by, and a negative prompt where there is no guidance."""
    guidance = config.guidance or model.config.guidance
    if config.negative is not None and not guidance.active and model.text_encoder is not None:
        raise InputError("--negative is what guidance moves away from, and --guidance is 1: set it to 2 to 8")
    # Of scales by condition each is checked by itself (`kinolab.methods.Guidance.check`).
    unguided = config.guidance is None or not config.guidance.active or bool(config.guidance.scales)
    if guidance.active and FIRST_FRAME in guidance.of and config.given is None and FIRST_FRAME not in config.conditions:
        raise InputError("this model makes a video of an image: kinolab animate IMAGE --model ..., or --guidance 1")
    if unguided or guidance.of or any(r.prompt is not None or r.label is not None for r in requests):
        return
    spec = model.denoiser.spec
    if not (spec.num_classes or spec.text_dim or spec.pooled_dim):
        raise InputError("this model is unconditional: leave --guidance at 1")


def prepare_given(config: GenerateConfig, model: VideoModel) -> Prepared:
    """The canvas of a request with a given part, at the model's size and rate."""
    assert config.given is not None and config.size is not None
    made, group = model.output.config, model.autoencoder.spec.group_frames
    fps = config.fps or made.fps
    first = FIRST_FRAME in model.spec.ports
    shape = Shape(made.frames, config.size, fps, frame_rule(model.cascade), group, model.config.tasks, first)
    given = config.given
    if first and given.overlap is None and given.task in ("animate", "extend"):
        given = given.model_copy(update={"overlap": 1})  # a longer video goes on from the last frame of each window
    return prepare(given, shape, config.frames)


def steering(given: GivenConfig) -> SteeringConfig | None:
    """How a request wants the given part taken; none = as the model was trained, or its default."""
    changes = {"weight": given.weight, "error": given.error}
    chosen = {k: v for k, v in changes.items() if v is not None}
    if given.method in ("reconstruction", "replacement"):
        return load_config(SteeringConfig, {"method": given.method, **chosen})
    return None


def load_asked(config: GenerateConfig, events: Events) -> VideoModel:
    """The model of a request on its device, with the adapters that it asks for."""
    model = warm.load(config.model, device=config.device, precision=config.precision, compiled=config.compile)
    return adapted(beside(staged(model, config), config), config, events, in_place=not warm.keeping())


def staged(model: VideoModel, config: GenerateConfig) -> VideoModel:
    """The model with the stages of a request in the place of its own (`kinolab.models.assemble.exchanged`), and of
    these the one that refines a clip, where that is asked for.

    Raises:
        InputError: where others are there already, and for a stage that doesn't fit.
    """
    if dict(model.exchanged) != config.exchange:
        if model.exchanged:
            there = ", ".join(f"{name}={folder}" for name, folder in model.exchanged.items())
            raise InputError(f"the model has stages that are not the request's ({there}): name them as its exchange")
        model = exchanged(model, config.exchange)
    return model if config.refine is None else lone(model, config.refine.stage)


def beside(model: VideoModel, config: GenerateConfig) -> VideoModel:
    """The model with the control networks of a request beside it, but for those that it has there already."""
    for port, path in config.control.items():
        if port not in model.spec.ports:
            from kinolab.checkpoints.control import with_control

            made = with_control(model, port, path)
            made.precision, made.adapters = model.precision, model.adapters
            model = made.to(model.device)
    return model


def adapted(model: VideoModel, config: GenerateConfig, events: Events, *, in_place: bool = False) -> VideoModel:
    """The model with the adapters of a request on it (`kinolab.checkpoints.adapters.put_on`).

    Raises:
        InputError: where others are on it, so that the request would not say what made the video.
    """
    if model.adapters == config.lora:
        return model
    if model.adapters:
        there = ", ".join(f"{use.path}:{use.weight:g}" for use in model.adapters)
        raise InputError(f"the model has adapters on it that are not the request's ({there}): name them as its lora")
    from kinolab.checkpoints.adapters import put_on  # all public formats, half a second, for those who need them

    return put_on(model, config.lora, merged=config.merge_lora, in_place=in_place, events=events)


def input_files(config: GenerateConfig) -> list[Path]:
    """The files that a request reads."""
    groups = (config.given, config.low_resolution, config.source, config.refine)
    named = [group.files() for group in groups if group is not None]
    if config.lora:
        from kinolab.checkpoints.adapters import files_of

        named += map(files_of, config.lora)
    masks = [] if config.saliency is None else [config.saliency]
    named += map(weights_of, config.control.values())
    of_methods = (path for method in config.wrappers for path in method.files)
    return [*(path for files in named for path in files), *masks, *asked_files(config.conditions), *of_methods]


def weights_of(path: Path) -> list[Path]:
    """A file of weights, or those of a folder."""
    return visible(path, "**/*.safetensors") or [path] if path.is_dir() else [path]


def is_public(model: str) -> bool:
    """Whether a name is that of a whole public model: a pipeline's folder, or a file of weights."""
    path = Path(model)
    return (path / "model_index.json").is_file() or (path.is_file() and path.suffix in PUBLIC)


def ready(model: str, events: Listener = None) -> str:
    """A model's name, or the folder that a public model is converted into, which a note names.

    Raises:
        InputError: where it can't be converted, or something has to be given for that.
    """
    if not is_public(model):
        return model
    from kinolab.checkpoints.ready import ready_model

    return str(ready_model(model, events))


def default_model(first: str = "world-text") -> str:
    """The shipped model that is used where none is named: `first` (`world-text` takes prompts and any given part of a
    video, `world` labels too), or another one where that is not installed.

    Raises:
        InputError: where none is installed.
    """
    names = [name for name, folder in shipped_models().items() if read_model_config(folder).denoiser is not None]
    if not names:
        raise InputError("no shipped model is installed; name one with --model")
    return next((name for name in (first, "world") if name in names), names[0])
