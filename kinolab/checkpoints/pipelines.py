"""Whole public models -> a model of Kinolab's: folders of diffusers' pipelines, and checkpoints with all parts in one.

A pipeline's folder has `model_index.json` and a folder for each part. Of its parts the denoiser and the autoencoder are
read; the text encoder stays where it is and is named, as it is a person's own folder; the scheduler's settings become
the diffusion and the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab import __version__
from kinolab.autoencoders.base import Autoencoder
from kinolab.checkpoints.checkpoint_image import held_image, write_image_encoder
from kinolab.checkpoints.checkpoint_text import held_text, tokenizer_beside, write_text_encoder
from kinolab.checkpoints.files import read_weights
from kinolab.checkpoints.reading import diffusers_class, fitting_prefixes, load
from kinolab.checkpoints.svd_pipeline import INDEX, PIPELINE, read_svd_pipeline, svd_model_config
from kinolab.conditioning.text import ClipTextConfig, T5TextConfig
from kinolab.conditioning.vision import ClipImageConfig
from kinolab.denoisers import Denoiser, MotionModules, Svd, Unet
from kinolab.denoisers.controlnet import ControlNet
from kinolab.denoisers.controlnet_mmdit import ControlNetMmdit
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.diffusion.diffusion import SCALED_LINEAR
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel, load_autoencoder
from kinolab.runtime.reading import read_json

PIPELINES: dict[str, Callable[..., VideoModel]] = {PIPELINE: read_svd_pipeline}
"""Class of a pipeline that has more than the parts below, and what reads it."""
DENOISERS = ("unet", "transformer")
"""Names of the denoiser's folder."""
GUIDANCE = 7.5
"""Scale of guidance that the pipelines of models with a prompt have."""
PREDICTIONS = {"epsilon": "noise", "sample": "sample", "v_prediction": "v"}
SCHEDULES = {"linear": (1e-4, 2e-2), "scaled_linear": SCALED_LINEAR}
"""Schedules of both names, and the betas that they have here where no others are told."""


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is one of a whole pipeline."""
    return (folder / INDEX).is_file()


def read_pipeline(folder: Path, **fields: Any) -> VideoModel:
    """A model of all that a pipeline's folder holds; `fields` are of the denoiser's config, for what no file tells.

    Raises:
        InputError: where a part is missing or is of no known format.
    """
    index = read_json(folder / INDEX)
    own = PIPELINES.get(index.get("_class_name"))
    if own is not None:
        return own(folder, **fields)
    parts = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    name = next((part for part in DENOISERS if part in parts), None)
    if name is None or "vae" not in parts:
        held = ", ".join(parts) or "nothing"
        raise InputError(f"{folder}: expected a pipeline with a unet or transformer and a vae; it has {held}")
    for part in (name, "vae"):
        if not (folder / part).is_dir():
            raise InputError(f"{folder}: lacks the folder {part} that {INDEX} names")
    denoiser, autoencoder = load(folder / name, **fields), _autoencoder(folder / "vae")
    if "motion_adapter" in parts and type(denoiser) is Unet:
        modules = load(folder / "motion_adapter")
        assert isinstance(modules, MotionModules)
        denoiser = modules.under(denoiser)
    settings = read_json(folder / "scheduler" / "scheduler_config.json") if "scheduler" in parts else {}
    text = folder / "text_encoder" if "text_encoder" in parts else None
    return assembled(denoiser, autoencoder, f"converted from {folder.name}", text_encoder=text, scheduler=settings)


def _autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder of a part's folder: Kinolab's own class where there is one, else through diffusers."""
    if diffusers_class(read_weights(folder)) is not None:
        return load_autoencoder(folder, device="cpu")
    made: Autoencoder = load(folder)
    return made


def read_checkpoint(
    path: Path,
    encoders: Mapping[str, Path | None] | None = None,
    *,
    into: Path | None = None,
    **fields: Any,
) -> VideoModel | None:
    """A model of a file that holds a denoiser and an autoencoder under prefixes; none = it doesn't hold both.

    Args:
        encoders: folders of an encoder of prompts, "text", or of images, "image"; and of a "tokenizer", for the text
            encoder that the file itself holds. Without one a tokenizer beside the file is taken.
        into: the folder of the model that is to be written, in which the file's own encoder of prompts or images gets
            a folder; none = it is left out.
        fields: of the denoiser's config, for what no file tells.

    Raises:
        InputError: where it does and they don't fit, or it holds a text encoder and there is no tokenizer.
    """
    if path.is_dir():
        return None
    found: dict[str, Any] = {}
    stored = read_weights(path)
    for prefix, format in fitting_prefixes(stored.tensors).items():
        what = "autoencoder" if issubclass(format.module_class, Autoencoder) else "denoiser"
        if issubclass(format.module_class, ControlNet | ControlNetMmdit):
            continue  # beside the model in ControlNet's own files
        if issubclass(format.module_class, Autoencoder | Denoiser) and what not in found:
            found[what] = prefix
    if len(found) < 2:
        return None
    denoiser = load(path, prefix=found["denoiser"], **fields)
    autoencoder = load(path, prefix=found["autoencoder"])
    given = {"text": None, "image": None, "tokenizer": None, **(encoders or {})}
    trained = f"converted from {path.name}"
    if isinstance(denoiser, Svd):
        if given["text"] is not None or given["tokenizer"] is not None:
            raise InputError("--text-encoder and --tokenizer: Stable Video Diffusion reads no prompt; leave them out")
        folder = given["image"] or _own_image(stored.tensors, into)
        encoder = None if folder is None else ClipImageConfig(folder=folder.absolute())
        config = svd_model_config(denoiser.config, autoencoder, trained, image_encoder=encoder)
        return VideoModel(config, autoencoder, denoiser)
    if given["image"] is not None:
        raise InputError("--image-encoder is for Stable Video Diffusion: this denoiser reads no image")
    text, tokenizer = given["text"], given["tokenizer"]
    if text is None and into is not None and denoiser.spec.text_dim:
        text = _own_text(path, stored.tensors, tokenizer, into)
    elif tokenizer is not None:
        raise InputError("--tokenizer is for the text encoder in the file: a folder of --text-encoder has its own")
    return assembled(denoiser, autoencoder, trained, text_encoder=text)


def _own_image(tensors: Mapping[str, Tensor], into: Path | None) -> Path | None:
    """The folder of the image encoder that a file holds; none = it holds none, or there is no place for one."""
    held = held_image(tensors) if into is not None else None
    return None if held is None or into is None else write_image_encoder(held, into)


def _own_text(path: Path, tensors: Mapping[str, Tensor], tokenizer: Path | None, into: Path) -> Path | None:
    """The folder of the text encoder that a file holds; none = it holds none."""
    held = held_text(tensors)
    if held is None:
        if tokenizer is not None:
            raise InputError(f"{path}: holds no text encoder of a known kind; name a whole one: --text-encoder FOLDER")
        return None
    tokenizer = tokenizer or tokenizer_beside(path)
    if tokenizer is None:
        raise InputError(
            f"{path}: holds a text encoder, and no tokenizer, as no such file does: name the folder of one (vocab.json "
            "and merges.txt), --tokenizer FOLDER, or of a whole text encoder, --text-encoder FOLDER"
        )
    return write_text_encoder(held, tokenizer, into.absolute())


def animated(image: VideoModel, modules: MotionModules, trained: str) -> VideoModel:
    """A model of images with motion modules under its denoiser, and the diffusion that these were trained with.

    Raises:
        InputError: where they are for another image model.
    """
    if not isinstance(image.denoiser, Unet):
        raise InputError(f"motion modules go under a U-Net of images, got a {type(image.denoiser).__name__}")
    denoiser = modules.under(image.denoiser)
    fresh = model_config(denoiser.config, image.autoencoder, trained)
    kept = {name: getattr(image.config, name) for name in ("text_encoder", "null_prompt", "guidance", "size", "fps")}
    return VideoModel(fresh.model_copy(update=kept), image.autoencoder, denoiser)


def assembled(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    trained: str,
    *,
    text_encoder: Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> VideoModel:
    """A model of public parts, with the diffusion that they were trained on (see `model_config`)."""
    config = model_config(denoiser.config, autoencoder, trained, text_encoder=text_encoder, scheduler=scheduler)
    return VideoModel(config, autoencoder, denoiser)


def model_config(
    denoiser: Any,
    autoencoder: Autoencoder,
    trained: str,
    *,
    text_encoder: Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """The config of a model of public weights.

    Args:
        denoiser: its config; without a scheduler the diffusion is what it says of the published weights of its kind.
        text_encoder: the folder of a text encoder, for a denoiser that reads a prompt.
        scheduler: settings of a scheduler of diffusers.

    Raises:
        InputError: where the denoiser takes other latents than the autoencoder makes, or reads no prompt.
    """
    spec = autoencoder.spec
    if spec.latent_channels != denoiser.in_channels:
        raise InputError(
            f"the denoiser takes {denoiser.in_channels} latent channels and the autoencoder makes "
            f"{spec.latent_channels}: it was trained on the latents of another one"
        )
    values: dict[str, Any] = {}
    if text_encoder is not None:
        if not getattr(denoiser, "text_dim", 0):
            raise InputError(f"{text_encoder}: this denoiser ({denoiser.kind}) reads no prompt")
        values = {"text_encoder": text_config(text_encoder), "null_prompt": "empty"}
        values["guidance"] = GuidanceConfig(scale=GUIDANCE)
    diffusion, sampler = diffusion_of(denoiser, scheduler or {})
    height, width = (side * spec.spatial_ratio for side in denoiser.latent_size)
    return ModelConfig(
        version=__version__,
        trained=trained,
        autoencoder=autoencoder.config,
        denoiser=denoiser,
        diffusion=diffusion,
        sampler=sampler,
        frames=spec.pixel_frames(getattr(denoiser, "num_frames", 1)),
        size=(height, width),
        **values,
    )


def text_config(folder: Path) -> ClipTextConfig | T5TextConfig:
    """The config of a text encoder's folder, by what its config.json says it is.

    Raises:
        InputError: for another kind.
    """
    try:
        settings = read_json(folder / "config.json")
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json; expected the folder of a text encoder") from None
    kind = settings.get("model_type")
    if kind in ("clip", "clip_text_model"):
        longest = min(settings.get("max_position_embeddings", 77), 77)
        return ClipTextConfig(folder=folder.absolute(), padded=True, max_tokens=longest)
    if kind == "t5":
        return T5TextConfig(folder=folder.absolute())
    raise InputError(f"{folder}: a text encoder of type {kind!r}, expected clip or t5")


def diffusion_of(denoiser: Any, settings: Mapping[str, Any]) -> tuple[DiffusionConfig, SamplerConfig]:
    """Diffusion and sampler of a public model: what its scheduler says, and without one what the published weights of
    the kind have.

    Raises:
        InputError: for betas or predictions without a counterpart.
    """
    published = type(denoiser).published
    values, sampler = dict(published.get("diffusion", {})), dict(published.get("sampler", {}))
    if settings:
        read = READERS.get(str(settings.get("_class_name")), _discrete)
        told, sampler = read(settings)
        values = told if "betas" in told else {**values, **told}
    if getattr(denoiser, "learned_variance", False):
        values |= {"learned_variance": True, "loss": "mse_vb"}
    return DiffusionConfig(**values), SamplerConfig(**sampler)


Said = tuple[dict[str, Any], dict[str, Any]]
"""Fields of a diffusion, and of a sampler."""


def _discrete(settings: Mapping[str, Any]) -> Said:
    """Of the schedulers with 1000 steps or so (DDIM, DDPM, PNDM, Euler, DPM-Solver)."""
    schedule, prediction = settings.get("beta_schedule", "linear"), settings.get("prediction_type", "epsilon")
    if schedule not in SCHEDULES or settings.get("trained_betas") is not None:
        raise InputError(f"scheduler_config.json: beta_schedule {schedule!r} is not supported, expected scaled_linear")
    if prediction not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise InputError(f"scheduler_config.json: prediction_type {prediction!r} is not supported, expected {known}")
    zero = bool(settings.get("rescale_betas_zero_snr", False))
    ends = settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02)
    values = {
        "schedule": schedule,
        "betas": None if ends == SCHEDULES[schedule] else ends,
        "num_steps": settings.get("num_train_timesteps", 1000),
        "prediction": PREDICTIONS[prediction],
        "zero_terminal_snr": zero,
    }
    spacing = settings.get("timestep_spacing", "leading")
    if spacing == "leading" and settings.get("steps_offset", 0):
        spacing = "sd"
    return values, {"spacing": "trailing" if zero else spacing}


def _flow(settings: Mapping[str, Any]) -> Said:
    """Of rectified flow (Stable Diffusion 3)."""
    return {"time_shift": settings.get("shift", 1.0)}, {}


READERS: dict[str, Callable[[Mapping[str, Any]], Said]] = {"FlowMatchEulerDiscreteScheduler": _flow}
"""Class of a scheduler -> what its settings say; all others are discrete."""
