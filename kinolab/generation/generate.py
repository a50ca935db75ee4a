"""From a request to video files with their provenance: the only path that the command line uses.

Beside every video stands a `.json` that holds everything needed to make it again, and `rerun` does so: bit for bit on
the same machine with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from kinolab import __version__, video
from kinolab.checkpoints.adapters import AdapterUse, put_on
from kinolab.conditioning import asked_files, check_asked
from kinolab.config import Config, apply_overrides, load_config
from kinolab.contracts.events import Events, Listener, Turn, events_of
from kinolab.contracts.reach import Lists, ReachName
from kinolab.contracts.sampling import cache_values, expanded, guidance_values, sampler_values
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import (
    FrameReach,
    FrameReachConfig,
    GuidanceConfig,
    Method,
    SteeringConfig,
    StepCache,
    StepCacheConfig,
)
from kinolab.methods import build as build_methods
from kinolab.methods import checked as checked_methods
from kinolab.models import Request, VideoModel, find_autoencoder, find_model, read_model_config, shipped_models
from kinolab.models.cascade import StageSettings, settled_stages
from kinolab.runtime.devices import announce, choose
from kinolab.runtime.files import remove, write_text
from kinolab.runtime.hashes import Sha256, file_sha256
from kinolab.runtime.paths import named, visible
from kinolab.runtime.precision import PrecisionPolicy, resolve
from kinolab.runtime.records import read_record
from kinolab.runtime.sets import finish_set, new_set
from kinolab.runtime.summed import summed
from kinolab.tasks.extend import Canvas
from kinolab.tasks.request import GivenConfig, Prepared, Shape, prepare

MOST_THREADS, MOST_VIDEOS, MOST_FRAMES = 4096, 1_000_000, 1_000_000
"""What a request may ask for; a record that says more is damaged, or made to hurt."""


class GenerateConfig(Config):
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
    lora: tuple[AdapterUse, ...] = ()
    """LoRA adapters on the denoiser: a file in peft's, diffusers' or kohya's form, or peft's folder, and a weight."""
    merge_lora: bool = True
    """Add the adapters to the weights; false keeps them beside their layers: slower, and the same up to rounding."""
    methods: dict[str, Any] = Field(default_factory=dict)
    """Other methods that wrap the sampling run, by name, each with its fields; the first is innermost."""
    precision: PrecisionPolicy = "auto"
    """`auto` measures the processor once; the file records what it chose."""
    compile: bool = False
    """Compile the denoiser first."""
    device: str = "auto"
    """Where to compute: auto, or a device by name (`devices.choose`); the file records what was taken."""
    given: GivenConfig | None = None
    """What is given of the video, for every task but generating it from nothing."""
    conditions: dict[str, Any] = Field(default_factory=dict)
    """What else is asked, by the names of conditions that the model takes: numbers, or a clip's file, as
    {noise_level: 0.2, low_resolution: small.mp4}."""

    @field_validator("conditions")
    @classmethod
    def _asked(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_asked(values)
        return values

    @field_validator("methods")
    @classmethod
    def _known(cls, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return checked_methods(asked)
        except InputError as error:
            raise ValueError(str(error)) from None

    @property
    def wrappers(self) -> list[Method]:
        """The methods beside guidance, cache and steering."""
        reach = [] if self.reach is None else [FrameReach(FrameReachConfig(frames=self.reach))]
        return [*reach, *build_methods(self.methods)]


def request_of(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> GenerateConfig:
    """The run that values ask for, with the model, its sampler and its guidance filled in where they are left out.

    values: fields of a `GenerateConfig`; of `sampler`, `guidance` and `cache` those that differ from the model's own
    (`kinolab.contracts.sampling`). overrides: `key=value` on top, as `guidance.scale=4`.

    Raises:
        InputError: for an unknown field or a value of the wrong type, or a model that is not there.
    """
    asked = {key: value for key, value in apply_overrides(values, expanded(overrides)).items() if value is not None}
    if "model" not in asked:
        asked["model"] = default_model(prompts="given" not in asked and "label" not in asked)
    trained = read_model_config(find_model(str(asked["model"])))
    words = any(asked.get(name) not in (None, (), []) for name in ("prompts", "negative"))
    label = asked.get("label") is not None
    settled = {
        "sampler": sampler_values(trained.sampler.model_dump(), asked.get("sampler")),
        "guidance": guidance_values(trained.guidance.model_dump(), asked.get("guidance"), told=words or label),
        "cache": cache_values(asked.get("cache")),
        "stages": settled_stages(trained.stages, asked.get("stages"), words=words, label=label),
    }
    return load_config(GenerateConfig, asked | settled)


def generate(
    config: GenerateConfig | Mapping[str, Any],
    out: Path,
    *,
    model: VideoModel | None = None,
    events: Listener = None,
) -> list[Path]:
    """Generate the videos of a request; several get numbered names. Returns the files written.

    A mapping is a request whose defaults are still to be filled in (see `request_of`).

    `model` is `config.model` as it is already loaded, with the request's precision and device, to save loading it
    again.

    Raises:
        InputError: for a request that the model can't fulfil; nothing is written then.
    """
    if isinstance(config, Mapping):
        config = request_of(config)
    for path in input_files(config):
        if not path.exists():  # before a model is loaded for it
            raise InputError(f"{path}: no such file")
    told = events_of(events)
    model = load_asked(config, told) if model is None else adapted(model, config, told)
    settled = settle(config, model)
    requests = make_requests(settled)
    fit_guidance(model, requests, settled)
    if settled.compile:
        model.compile()
    inputs, targets = input_hashes(settled), numbered(out, len(requests))
    check_writable(targets, settled)
    files, fps = targets, settled.fps or model.output.config.fps
    prepared = None if settled.given is None else prepare_given(settled, model)
    if prepared is not None:
        fps = settled.fps if config.fps is not None and settled.fps is not None else prepared.fps
        for note in prepared.notes:
            told.note(note)
    clips = make_clips(model, settled, requests, prepared, told)
    lossless = settled.given is not None and settled.given.keep == "exact" and out.suffix.lower() in LOSSLESS
    if settled.given is not None and settled.given.keep == "exact" and not lossless:
        told.note(f"{out.suffix} stores pixels with loss; for the given ones bit for bit write .mkv, .webp or a folder")
    for k, (request, path) in enumerate(zip(requests, files, strict=True)):
        write_with_provenance(
            path, video.to_uint8(clips(k)), settled.model_copy(update={"fps": fps}), k, request, inputs, lossless
        )
        told.wrote(path)
    return files


def load_asked(config: GenerateConfig, events: Events) -> VideoModel:
    """The model of a request on its device, with the adapters that it asks for."""
    model = VideoModel.load(config.model, device=config.device, precision=config.precision)
    return put_on(model, config.lora, merged=config.merge_lora, in_place=True, events=events)


def adapted(model: VideoModel, config: GenerateConfig, events: Events) -> VideoModel:
    """A model that somebody holds with the adapters of a request: a copy, where there are any."""
    return put_on(model, config.lora, merged=config.merge_lora, events=events)


LOSSLESS = frozenset({".mkv", ".webp", ""})
"""Endings that `keep: exact` is written to without loss."""


def prepare_given(config: GenerateConfig, model: VideoModel) -> Prepared:
    """The canvas of a request with a given part, at the model's size and rate."""
    assert config.given is not None and config.size is not None
    spec = model.autoencoder.spec
    fps = config.fps or model.config.fps
    shape = Shape(model.config.frames, config.size, fps, spec.frame_step, spec.group_frames)
    return prepare(config.given, shape, config.frames)


def make_clips(
    model: VideoModel,
    config: GenerateConfig,
    requests: Sequence[Request],
    prepared: Prepared | None,
    events: Events,
) -> Callable[[int], Tensor]:
    """Sample all clips of a request; returns a function from a clip's number to its pixels (3, T, H, W)."""
    cache = None if config.cache is None else StepCache(config.cache)
    if prepared is None:
        latents = model.sample_latents(
            requests,
            sampler=config.sampler,
            guidance=config.guidance,
            events=events,
            cache=cache,
            methods=config.wrappers,
            stages=config.stages,
        )
        return lambda k: model.decode(latents[k : k + 1])[0]
    assert config.given is not None
    if len(prepared.windows) > 1 and asked_files(config.conditions):
        # A window would be told of the clip's beginning, wherever it stands.
        names = ", ".join(config.conditions)
        raise InputError(f"conditions: {names} are of one clip of {model.config.frames} frames; ask for no longer one")
    made = fill_canvas(
        model,
        Canvas(*(t.expand(len(requests), -1, -1, -1, -1) for t in prepared.canvas.window(prepared.canvas.all))),
        prepared.windows,
        requests,
        steering=steering(config.given),
        exact=config.given.keep == "exact",
        sampler=config.sampler,
        guidance=config.guidance,
        cache=cache,
        methods=config.wrappers,
        events=events,
    )
    return lambda k: made[k][:, prepared.shown]


def fill_canvas(
    model: VideoModel,
    canvas: Canvas,
    windows: Sequence[Sequence[int]],
    requests: Sequence[Request],
    *,
    steering: SteeringConfig | None = None,
    exact: bool = False,
    sampler: SamplerConfig | None = None,
    guidance: GuidanceConfig | None = None,
    cache: StepCache | None = None,
    methods: Sequence[Method] = (),
    events: Listener = None,
) -> Tensor:
    """Generate what a canvas lacks, window by window: (B, 3, T, H, W) in [-1, 1].

    A window with nothing given yet is generated freely; noise of clip k and window n comes from its seed and n. With
    `exact` the given pixels come out as they were; else as the decoder makes them in the first window that shows them.
    """
    told = events_of(events)
    shown, unseen = canvas.video.clone(), torch.ones_like(canvas.mask)
    for n, frames in enumerate(windows):
        video, mask = canvas.window(frames)
        if not canvas.missing(frames):
            made = video
        else:
            window = Turn(told, n, len(windows))
            asked = [replace(r, seed=window_seed(r.seed, n), frames=len(frames), size=None) for r in requests]
            if bool((mask == 1).all()):
                asked = [replace(r, size=(video.shape[3], video.shape[4])) for r in asked]
                latents = model.sample_latents(
                    asked, sampler=sampler, guidance=guidance, events=window, cache=cache, methods=methods
                )
                made = model.decode(latents)
            else:
                made = model.complete(
                    video,
                    mask,
                    asked,
                    steering=steering,
                    sampler=sampler,
                    guidance=guidance,
                    events=window,
                    cache=cache,
                    methods=methods,
                )
        made = made.to(shown)
        first = unseen[:, :, list(frames)] == 1
        shown[:, :, list(frames)] = torch.where(first, made, shown[:, :, list(frames)])
        unseen[:, :, list(frames)] = 0
        canvas.put(frames, made)
    return canvas.video if exact else shown


def window_seed(seed: int, window: int) -> int:
    """The seed of a window's noise; the first window has the request's own."""
    return seed if window == 0 else (seed + 1_000_003 * window) % 2**63


def input_files(config: GenerateConfig) -> list[Path]:
    """The files that a request reads."""
    given = [] if config.given is None else config.given.files()
    return [*given, *asked_files(config.conditions), *(file for use in config.lora for file in use.files())]


def steering(given: GivenConfig) -> SteeringConfig | None:
    """How a request wants the given part taken; none = as the model was trained, or its default."""
    changes = {"weight": given.weight, "error": given.error}
    chosen = {k: v for k, v in changes.items() if v is not None}
    if given.method in ("reconstruction", "replacement"):
        return load_config(SteeringConfig, {"method": given.method, **chosen})
    return None


def check_writable(targets: Sequence[Path], config: GenerateConfig) -> None:
    """Refuse to write over a file that the request reads."""
    files = input_files(config)
    for out in targets:
        if any(out.exists() and path.exists() and out.samefile(path) for path in files):
            raise InputError(f"{out}: is one of the files that the request reads; choose another --out")


def settle(config: GenerateConfig, model: VideoModel) -> GenerateConfig:
    """The request with every open choice filled in, so that a rerun does not depend on later defaults.

    What is settled stays as it is when it is settled again.
    """
    made = model.output.config
    size = config.size or made.size
    frames = config.frames if config.given is not None else config.frames or made.frames
    # A task makes a video of any number of frames.
    checked = made.frames if config.given is not None or frames is None else frames
    model.output.autoencoder.spec.check(checked, *size)
    if config.given is not None and config.given.method == "trained" and model.denoiser.spec.given == "none":
        raise InputError("this model was not trained to take anything given: use --method reconstruction")
    requests = make_requests(config)
    sampler, guidance = model.settled(requests, config.sampler, config.guidance)
    return config.model_copy(
        update={
            "frames": frames,
            "size": size,
            "fps": config.fps or made.fps,
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
    if unguided or any(r.prompt is not None or r.label is not None for r in requests):
        return
    spec = model.denoiser.spec
    if not (spec.num_classes or spec.text_dim or spec.pooled_dim):
        raise InputError("this model is unconditional: leave --guidance at 1")


def numbered(out: Path, count: int) -> list[Path]:
    """`out` itself for one video; else `out` with -0, -1, ... before its ending."""
    if count == 1:
        return [out]
    width = len(str(count - 1))
    return [out.with_name(f"{out.stem}-{k:0{width}d}{out.suffix}") for k in range(count)]


def write_with_provenance(
    path: Path,
    frames: np.ndarray,
    config: GenerateConfig,
    index: int,
    request: Request,
    inputs: Mapping[str, str] | None,
    lossless: bool,
    fps: float | None = None,
) -> None:
    """Write a video and the `.json` beside it, together or not at all; a folder of images before its `.json`."""
    rate = fps or config.fps
    assert rate is not None
    target = provenance_path(path)
    if path.suffix:
        with new_set(path.parent, path.name) as room:
            video.write(room / path.name, frames, fps=rate, lossless=lossless)
            write_text(room / target.name, provenance(room / path.name, config, index, request, inputs))
        return
    remove(target)  # of other frames from here on
    video.write(path, frames, fps=rate, lossless=lossless)
    write_text(target, provenance(path, config, index, request, inputs))


def provenance(
    path: Path, config: GenerateConfig, index: int, request: Request, inputs: Mapping[str, str] | None = None
) -> str:
    """The `.json` beside a video: the whole request, which of its videos this is, and what made it."""
    record = {
        "kinolab": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model_sha256": model_hash(config.model),
        "request": config.model_dump(mode="json"),
        "index": index,
        "prompt": request.prompt,
        "seed": request.seed,
        "frames_sha256": frames_hash(path),
        **({"file_sha256": file_sha256(path)} if path.is_file() else {}),
        "inputs_sha256": dict(inputs or {}),
    }
    return summed(record, indent=1) + "\n"


def provenance_path(path: Path) -> Path:
    """`clip.mp4` -> `clip.json`, and a folder of images -> its name with `.json`."""
    path = named(path)
    return path.with_suffix(".json") if path.suffix else path.with_name(path.name + ".json")


def rerun(
    path: Path,
    out: Path,
    *,
    device: torch.device | str | None = None,
    events: Listener = None,
) -> tuple[Path, list[str]]:
    """Make a video again from the `.json` beside it; returns the new file and what differs from then.

    Args:
        device: where to compute; none = where it was made. On another device the last bits may differ.
        events: a note says which one that is.

    Raises:
        InputError: where there is no usable `.json`, or the model's weights are not those of then, or the device is
            not there.
    """
    record = read_provenance(path)
    config = load_config(GenerateConfig, record["request"])
    then = config.device
    try:
        config = config.model_copy(update={"device": str(choose(then if device is None else device))})
    except InputError as error:
        if device is not None:
            raise
        raise InputError(f"{path}: {error}; it was made there: name another by --device, such as cpu") from None
    if model_hash(config.model) != record["model_sha256"]:
        raise InputError(f"{path}: the weights of {config.model} have changed since; this video can't be made again")
    check_writable([out], config)
    found = input_hashes(config)
    for file, digest in record.get("inputs_sha256", {}).items():
        if found.get(file) != digest:
            raise InputError(f"{path}: {file}, which was given, has changed since; this video can't be made again")
    torch.set_num_threads(record["threads"])
    told = events_of(events)
    told.note(announce(torch.device(config.device), then if device is None else device))
    model = load_asked(config, told)
    if config.compile:
        model.compile()
    # The whole batch again: a sample's last bits may depend on the batch it was computed in.
    requests, k = make_requests(config), record["index"]
    prepared = None if config.given is None else prepare_given(config, model)
    clips = make_clips(model, config, requests, prepared, told)
    lossless = config.given is not None and config.given.keep == "exact" and out.suffix.lower() in LOSSLESS
    fps = config.fps or model.output.config.fps
    write_with_provenance(
        out, video.to_uint8(clips(k)), config, k, requests[k], record.get("inputs_sha256"), lossless, fps
    )
    now = {"kinolab": __version__, "torch": torch.__version__, "frames_sha256": frames_hash(out)}
    changed = [f"{key}: {record[key]} then, {value} now" for key, value in now.items() if record[key] != value]
    return out, [*([] if config.device == then else [f"device: {then} then, {config.device} now"]), *changed]


def read_provenance(path: Path) -> Mapping[str, Any]:
    """The record beside a video (or the `.json` itself).

    Raises:
        InputError: where there is none, or it is not what `kinolab generate` writes; names the field.
    """
    source = path if path.suffix == ".json" else provenance_path(path)
    if path.suffix != ".json":
        with suppress(OSError):
            finish_set(path.parent, path.name)
    try:
        record = read_record(source, "not a record of a generated video")
    except FileNotFoundError:
        raise InputError(f"{path}: no {source.name} beside it, which says how it was made") from None
    missing = [k for k in ("request", "index", "model_sha256", "threads", "frames_sha256") if k not in record]
    if missing:
        raise InputError(f"{source}: not a record of a generated video (no {', '.join(missing)})")
    threads, index = record.integer("threads", at_least=1), record.integer("index", at_least=0)
    if threads > MOST_THREADS:
        raise InputError(f"{source}: threads {threads}: expected at most {MOST_THREADS}")
    asked = record.record("request")
    count, prompts = asked.values.get("count", 1), asked.values.get("prompts") or [None]
    videos = (count if isinstance(count, int) else 1) * (len(prompts) if isinstance(prompts, list | tuple) else 1)
    if index >= videos:
        raise InputError(f"{source}: index {index}: its request has {videos} videos, numbered from 0")
    for name in ("model_sha256", "frames_sha256"):
        record.text(name)
    record.record("inputs_sha256", {})
    return record.values


def model_hash(model: str) -> str:
    """sha256 over the files of a model folder (or an autoencoder's in diffusers' layout), wherever it lies."""
    folder, digest = find_autoencoder(model), Sha256()
    config = next(path for name in ("model.yaml", "config.json") if (path := folder / name).exists())
    for path in [*visible(folder, "*.safetensors"), config]:
        digest.text(path.name).data(Sha256().file(path).digest())
    return digest.hex()


def input_hashes(config: GenerateConfig) -> dict[str, str]:
    """sha256 of each file that a request reads; of a folder, over the names and contents of its files."""
    hashes = {}
    for path in input_files(config):
        if not path.exists():
            raise InputError(f"{path}: no such file")
        digest = Sha256()
        files = [file for file in video.visible_files(path) if file.parent == path] if path.is_dir() else [path]
        for file in files:
            digest.text(file.name if path.is_dir() else "").file(file)
        hashes[str(path)] = digest.hex()
    return hashes


def frames_hash(path: Path) -> str:
    """sha256 of a video's decoded frames, so that a container's own dates don't count."""
    digest = Sha256()
    for frame in video.iter_frames(path):
        digest.data(frame.image.tobytes())
    return digest.hex()


def default_model(*, prompts: bool = False) -> str:
    """The shipped model that is used where none is named: with `prompts`, for what prompts alone ask for.

    Raises:
        InputError: where none is installed.
    """
    names = list(shipped_models())
    if not names:
        raise InputError("no shipped model is installed; name one with --model")
    wanted = ("world-text", "world") if prompts else ("world",)
    return next((name for name in wanted if name in names), names[0])
