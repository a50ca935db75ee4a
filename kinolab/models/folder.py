"""A model folder: what `model.yaml` says, and its weights found, read and written.

A model folder holds `model.yaml` (the configs of the parts, the version, what trained it) and one `.safetensors` file
per part (see `kinolab.runtime.modules`). A folder with an autoencoder alone is a model folder too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from kinolab.autoencoders import AutoencoderConfig, DiffusersConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.autoencoders.base import Autoencoder
from kinolab.autoencoders.diffusers_adapter import folder_config, is_diffusers_folder
from kinolab.conditioning import ConditionsConfig
from kinolab.conditioning.text import TextEncoderConfig
from kinolab.config import Config, load_config, to_yaml
from kinolab.contracts.table import KindConfig
from kinolab.data.buckets import BucketShape
from kinolab.denoisers import Denoiser, DenoiserConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models.bounded import Bounded, TooLargeError
from kinolab.runtime.devices import choose
from kinolab.runtime.files import write_text
from kinolab.runtime.modules import load_weights, save_weights
from kinolab.runtime.sets import MANIFEST, finish_set, located, new_set, read_manifest, require
from kinolab.tasks import TasksConfig

Module = TypeVar("Module", bound=nn.Module)

FORMAT = 1
SET = "model"
"""The set of files that a model folder is: written together, and checked against its manifest when read."""
AUTOENCODER, DENOISER = "autoencoder.safetensors", "denoiser.safetensors"


class ModelConfig(Config):
    """What `model.yaml` holds."""

    format: Literal[1] = 1
    """Version of the folder's layout."""
    version: str = ""
    """Version of Kinolab that wrote it."""
    trained: str = ""
    """What trained it: the recipe's name and the steps."""
    autoencoder: AutoencoderConfig
    """The autoencoder's config."""
    denoiser: DenoiserConfig | None = None
    """The denoiser's config; none = an autoencoder alone."""
    diffusion: DiffusionConfig = DiffusionConfig()
    """Noise path and prediction that the denoiser was trained with."""
    text_encoder: TextEncoderConfig = "none"
    """What turns a prompt into conditions."""
    null_prompt: Literal["learned", "empty"] = "learned"
    """What no prompt is: the denoiser's learned null condition, or the empty prompt (as in Stable Diffusion 3)."""
    class_names: tuple[str, ...] = ()
    """Names of the class labels, in order."""
    tasks: TasksConfig | None = None
    """The tasks that the denoiser was trained on; none = nothing was ever given."""
    autoencoder_size: tuple[int, int] | None = None
    """Height and width of the clips that the autoencoder was trained on; none = not known."""
    frames: int = Field(17, ge=1)
    """Frames of a training clip."""
    size: tuple[int, int] = (64, 64)
    """Height and width of a training clip."""
    buckets: tuple[BucketShape, ...] = ()
    """Frames, height and width of all clips that it was trained on, where they differ."""
    fps: float = Field(8.0, gt=0)
    """Frame rate of the training clips."""
    conditions: ConditionsConfig = Field(default_factory=dict)
    """Settings of the conditions that have some, by name."""
    guidance: GuidanceConfig = GuidanceConfig()
    """The guidance to sample with by default."""
    sampler: SamplerConfig = SamplerConfig()
    """The sampler to use by default."""


def shipped_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    root = Path(str(resources.files("kinolab") / "pretrained"))
    return {p.parent.name: p.parent for p in sorted(root.glob("*/model.yaml"))}


def find_model(path: Path | str) -> Path:
    """The model folder meant by a folder, a run folder (its `model` inside), or a shipped model's name.

    Raises:
        InputError: where there is none; says what was looked for.
    """
    for folder in (Path(path), Path(path) / "model"):
        with suppress(OSError):  # of a folder that can't be written: `located` finds its files where they are
            finish_set(folder, SET)
        if located(folder, SET, "model.yaml").exists():
            return folder
    shipped = shipped_models()
    if str(path) in shipped:
        return shipped[str(path)]
    if Path(path).is_dir():
        raise InputError(f"{path}: no model.yaml inside; expected a model folder or a finished run folder")
    names = ", ".join(shipped) or "none"
    raise InputError(f"{path}: no such model; expected a model folder or a shipped model's name ({names})")


def find_autoencoder(path: Path | str) -> Path:
    """The folder of an autoencoder: a model folder (see `find_model`), or one in the layout of diffusers.

    Raises:
        InputError: where there is none; says what was looked for.
    """
    folder = Path(path)
    if not any((f / "model.yaml").exists() for f in (folder, folder / "model")):
        if is_diffusers_folder(folder):
            return folder
        if (folder / "model_index.json").is_file():
            raise InputError(
                f"{path}: a whole diffusers pipeline; name the folder of its autoencoder, {folder / 'vae'}"
            )
    return find_model(path)


def autoencoder_config(path: Path | str) -> KindConfig:
    """The config of the autoencoder in a folder (see `find_autoencoder`), without reading its weights."""
    folder = find_autoencoder(path)
    if (folder / "model.yaml").exists():
        return read_model_config(folder).autoencoder
    return folder_config(folder)


def read_model_config(folder: Path) -> ModelConfig:
    """The config in a model folder."""
    return load_config(ModelConfig, located(folder, SET, "model.yaml"))


def load_part(module: nn.Module, folder: Path, name: str) -> None:
    """Read the weights of one part of a model folder, which has to be of the set that its manifest lists.

    Folders of earlier versions have no manifest and are read as they are.

    Raises:
        InputError: where the file is missing, damaged, of another set, or does not fit.
    """
    path = located(folder, SET, name)
    require(path.parent, read_manifest(folder, SET), [name], "write the folder again, or get it again")
    load_weights(module, path)


def read_part(build: Callable[[Any], Module], config: Any, folder: Path, name: str) -> Module:
    """A part of a model folder; one that its file can't hold is refused before it takes memory and time.

    Raises:
        InputError: as `load_part`.
    """
    path = located(folder, SET, name)
    # The class for diffusers reads files itself. The smallest type that is stored has a byte.
    bounded = path.exists() and config.kind != "diffusers"
    try:
        with Bounded(path.stat().st_size) if bounded else nullcontext():
            module = build(config)
    except TooLargeError:
        raise InputError(f"{path}: does not fit model.yaml, which asks for more parameters than its bytes") from None
    load_part(module, folder, name)
    return module


def load_autoencoder(path: Path | str, *, device: torch.device | str = "auto") -> Autoencoder:
    """The autoencoder of a model folder, or of a folder in diffusers' layout (`DiffusersAutoencoder`), in evaluation
    mode on a device (see `devices.choose`).

    Raises:
        InputError: where there is none, or its files are not complete or don't fit, or the device is not there.
    """
    folder, chosen = find_autoencoder(path), choose(device)
    if not (folder / "model.yaml").exists():
        return build_autoencoder(DiffusersConfig(path=folder)).eval().to(chosen)
    autoencoder = read_part(build_autoencoder, read_model_config(folder).autoencoder, folder, AUTOENCODER)
    return autoencoder.eval().to(chosen)


def load_denoiser(path: Path | str, *, device: torch.device | str = "auto") -> Denoiser:
    """The denoiser of a model folder that has one, in evaluation mode on a device (see `devices.choose`)."""
    folder, chosen = find_model(path), choose(device)
    config = read_model_config(folder).denoiser
    assert config is not None
    denoiser = read_part(build_denoiser, config, folder, DENOISER)
    return denoiser.eval().to(chosen)


def trained_size(path: Path | str) -> tuple[int, int] | None:
    """Height and width of the clips that the autoencoder in a folder was trained on; None where nobody knows."""
    folder = find_autoencoder(path)
    if not (folder / "model.yaml").exists():
        return None
    config = read_model_config(folder)
    # A denoiser's clips went through the autoencoder; without one, older folders say nothing of it.
    return config.autoencoder_size or (None if config.denoiser is None else config.size)


def save_autoencoder(
    autoencoder: Autoencoder, folder: Path, *, trained: str = "", size: tuple[int, int] | None = None
) -> None:
    """Write a model folder that holds an autoencoder alone; `size` is that of the clips that trained it."""
    from kinolab import __version__

    config = ModelConfig(version=__version__, trained=trained, autoencoder=autoencoder.config, autoencoder_size=size)
    with new_set(folder, SET, manifest=MANIFEST, replaces=(DENOISER,)) as room:
        save_weights(autoencoder, room / AUTOENCODER)
        write_text(room / "model.yaml", to_yaml(config))
