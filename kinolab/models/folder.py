"""A model folder: what `model.yaml` says, and its weights found, read and written.

A model folder holds `model.yaml` (the configs of the parts, the version, what trained it) and one `.safetensors` file
per part (see `kinolab.runtime.modules`). A folder with an autoencoder alone is a model folder too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import model_validator
from torch import nn

from kinolab.autoencoders import AutoencoderConfig, DiffusersConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.autoencoders.base import Autoencoder
from kinolab.autoencoders.diffusers_adapter import folder_config, is_diffusers_folder
from kinolab.config import Config, load_config
from kinolab.contracts.table import KindConfig
from kinolab.denoisers import Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.errors import InputError
from kinolab.models.bounded import Bounded, TooLargeError
from kinolab.models.lora import StageLora, read_lora, stored_state
from kinolab.models.part import ModelPart
from kinolab.models.stage_config import LaterStageConfig, StageConfig
from kinolab.runtime import yaml_files
from kinolab.runtime.devices import choose
from kinolab.runtime.files import write_text
from kinolab.runtime.modules import load_weights, save_state, save_weights
from kinolab.runtime.remote import Mirror, address, is_remote
from kinolab.runtime.sets import MANIFEST, finish_set, located, new_set, read_manifest, require
from kinolab.tables import PARTS

Module = TypeVar("Module", bound=nn.Module)

SET = "model"
"""The set of files that a model folder is: written together, and checked against its manifest when read."""
AUTOENCODER, DENOISER = "autoencoder.safetensors", "denoiser.safetensors"


class ModelConfig(StageConfig):
    """What `model.yaml` holds: the fields of its first stage are its own, and `stages` follow it."""

    format: Literal[1, 2] = 1
    """Version of the folder's layout: 1 for one denoiser with one autoencoder, which older versions read too."""
    version: str = ""
    """Version of Kinolab that wrote it."""
    trained: str = ""
    """What trained it: the recipe's name and the steps."""
    autoencoder: AutoencoderConfig
    """The autoencoder's config."""
    autoencoder_size: tuple[int, int] | None = None
    """Height and width of the clips that the autoencoder was trained on; none = not known."""
    stages: tuple[LaterStageConfig, ...] = ()
    """The stages of a cascade after the first, in order, each of which refines what the one before made."""

    @model_validator(mode="after")
    def _check_stages(self) -> ModelConfig:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: each needs a name of its own, got {', '.join(names)}")
        if self.stages and self.denoiser is None:
            raise ValueError("stages: an autoencoder alone makes nothing that they could refine")
        return self

    @property
    def plain(self) -> bool:
        """Whether it is one autoencoder with at most one denoiser, which format 1 can say."""
        return not (self.stages or self.experts or self.parts or self.lora)

    @property
    def output(self) -> StageConfig:
        """The stage whose frames, size and rate the model's videos have: the last."""
        return self.stages[-1] if self.stages else self


def model_yaml(config: ModelConfig) -> str:
    """What stands in `model.yaml`: nothing that is empty by default, so that versions without it read the rest."""
    config = config.model_copy(update={"format": 1 if config.plain else 2})
    values = _filled(config, config.model_dump(mode="json"))
    first = ("format", "version", "trained", "autoencoder", "denoiser")
    return yaml_files.to_yaml({name: values[name] for name in (*(n for n in first if n in values), *values)})


def _filled(config: Config, values: dict[str, Any]) -> dict[str, Any]:
    """A config's values without those that are empty, as they are by default."""
    found = {}
    for name, field in type(config).model_fields.items():
        own, value = getattr(config, name), values[name]
        if value in (None, {}, [], "") and own == field.get_default(call_default_factory=True):
            continue
        found[name] = _filled(own, value) if isinstance(own, Config) else value
    return found


def shipped_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    root = Path(str(resources.files("kinolab") / "pretrained"))
    return {p.parent.name: p.parent for p in sorted(root.glob("*/model.yaml"))}


def find_model(path: Path | str) -> Path:
    """The model folder meant by a folder, a run folder (its `model` inside), or a shipped model's name; of one in a
    store (`s3://bucket/model`) the copy on this machine, fetched once by a process.

    Raises:
        InputError: where there is none; says what was looked for.
    """
    if is_remote(path):
        path = _fetched(address(path))
    for folder in (Path(path), Path(path) / "model"):
        with suppress(OSError):  # of a folder that can't be written: `located` finds its files where they are
            finish_set(folder, SET)
        if located(folder, SET, "model.yaml").exists():
            return folder
    shipped = shipped_models()
    if str(path) in shipped:
        return shipped[str(path)]
    if (Path(path) / "model_index.json").is_file():
        raise InputError(f"{path}: a whole diffusers pipeline; make a model of it: kinolab convert {path} --out FOLDER")
    if Path(path).is_dir():
        raise InputError(f"{path}: no model.yaml inside; expected a model folder or a finished run folder")
    names = ", ".join(shipped) or "none"
    raise InputError(f"{path}: no such model; expected a model folder or a shipped model's name ({names})")


@cache
def _fetched(url: str) -> Path:
    """The copy of a model folder in a store; of a run folder without what only a training needs."""
    found = Mirror(url)
    found.fetch(lambda name: not name.startswith(("checkpoints/", "samples/", "tensorboard/")))
    return found.path


def find_autoencoder(path: Path | str) -> Path:
    """The folder of an autoencoder: a model folder (see `find_model`), or one in the layout of diffusers.

    Raises:
        InputError: where there is none; says what was looked for.
    """
    if is_remote(path):
        path = _fetched(address(path))
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
    load_weights(module, part_file(folder, name))


def part_file(folder: Path, name: str) -> Path:
    """The file of one part, where it is; it has to be of the set that the folder's manifest lists.

    Raises:
        InputError: where it is of another set.
    """
    path = located(folder, SET, name)
    require(path.parent, read_manifest(folder, SET), [name], "write the folder again, or get it again")
    return path


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
    """The denoiser of a model folder, in evaluation mode on a device (see `devices.choose`).

    Raises:
        InputError: where there is none, or its files are not complete or don't fit, or the device is not there.
    """
    folder, chosen = find_model(path), choose(device)
    config = read_model_config(folder).denoiser
    if config is None:
        raise InputError(f"{path}: holds an autoencoder and no denoiser")
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


@dataclass(frozen=True)
class StageParts:
    """What a stage is made of, as read from its folder."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    experts: tuple[Denoiser, ...]
    parts: dict[str, ModelPart]
    lora: dict[str, StageLora]

    @property
    def others(self) -> dict[str, Any]:
        """What there is beside the autoencoder and the denoiser, as keywords of a stage."""
        return {"experts": self.experts, "parts": self.parts, "lora": self.lora}


def read_stage(
    folder: Path, config: ModelConfig | LaterStageConfig, prefix: str = "", shared: Autoencoder | None = None
) -> StageParts:
    """The parts of a stage of a model folder; `prefix` is what its files' names begin with.

    An autoencoder that the stage has not itself is `shared`, that of the stage before.

    Raises:
        InputError: as `load_part`.
    """
    assert config.denoiser is not None
    if config.autoencoder is None:
        assert shared is not None
        autoencoder = shared
    else:
        autoencoder = read_part(build_autoencoder, config.autoencoder, folder, prefix + AUTOENCODER)
    denoiser = read_part(build_denoiser, config.denoiser, folder, prefix + DENOISER)
    experts = tuple(
        read_part(build_denoiser, expert.denoiser, folder, f"{prefix}expert{number}.safetensors")
        for number, expert in enumerate(config.experts)
    )
    parts = {}
    for name, part in config.parts.items():
        build = partial(build_part, denoiser=denoiser)
        parts[name] = read_part(build, part, folder, f"{prefix}part-{name}.safetensors")
    lora = {}
    for name, adapter in config.lora.items():
        lora[name] = read_lora(part_file(folder, f"{prefix}lora-{name}.safetensors"), denoiser)
        lora[name].put_on(denoiser, adapter.weight)
    return StageParts(autoencoder, denoiser, experts, parts, lora)


def build_part(config: KindConfig, denoiser: Denoiser) -> ModelPart:
    """A new part for a denoiser."""
    return PARTS.of(config)(config, denoiser)


def write_model(folder: Path, config: ModelConfig, files: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
    """Write a model folder: `files` are its modules by the names of their files, `dtype` what weights are stored in."""
    with new_set(folder, SET, manifest=MANIFEST) as room:
        for name, module in files.items():
            save_state(stored_state(module), room / f"{name}.safetensors", dtype)
        write_text(room / "model.yaml", model_yaml(config))


def save_autoencoder(
    autoencoder: Autoencoder, folder: Path, *, trained: str = "", size: tuple[int, int] | None = None
) -> None:
    """Write a model folder that holds an autoencoder alone; `size` is that of the clips that trained it."""
    from kinolab import __version__

    config = ModelConfig(version=__version__, trained=trained, autoencoder=autoencoder.config, autoencoder_size=size)
    with new_set(folder, SET, manifest=MANIFEST, replaces=(DENOISER,)) as room:
        save_weights(autoencoder, room / AUTOENCODER)
        write_text(room / "model.yaml", model_yaml(config))
