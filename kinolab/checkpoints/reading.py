"""Public weights -> modules, and back: recognise the format, guess the config, check every name, fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.autoencoders.diffusers_adapter import CLASSES
from kinolab.checkpoints.base import Format, Guess, Shapes, fill, fit
from kinolab.checkpoints.files import (
    HEADER_KEY,
    INNER_WRAPPINGS,
    TWO_FILES,
    WRAPPINGS,
    StoredWeights,
    Unwrapped,
    groups,
    own_header,
    read_weights,
    select,
    unwrap,
    weights_in,
)
from kinolab.checkpoints.formats import FORMATS, find_format, half_of, recognise, unsupported
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.runtime import sets
from kinolab.runtime.paths import visible

READ_HERE = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderKLTemporalDecoder")
"""Classes of diffusers whose folders are read into a module of Kinolab's own."""


def load(
    path: Path | str | Sequence[Path | str], *, format: str | None = None, prefix: str = "", **overrides: Any
) -> Any:
    """Public weights as a module (`Latte`, `ImageAutoencoder`, ...: see `FORMATS`), in evaluation mode, float32.

    A whole pipeline of diffusers (a folder with model_index.json), or a file with a denoiser and its autoencoder, is a
    `VideoModel`; of a file the text encoder is left out (`kinolab convert` takes it in).

    path: a `.safetensors` file, a file of torch.save (only weights are loaded from it, no code), or a folder with
    config.json; or both files, or the folder of both, of a model that comes in two. format: a name of `FORMATS`; none =
    told by the names of the tensors. prefix: only tensors whose names start with it are used, without it. overrides:
    fields of the module's config, such as `num_heads`, for what the file doesn't tell. Wrappings such as `ema`,
    `state_dict`, `module.` and `_orig_mod.` are taken off; of averaged and raw weights in one file the averaged ones
    are used (`prefix="model."` for the raw ones).

    Raises:
        InputError: for an unknown format or field, for a field that has to be given, and for tensors that do not fit:
            lists every missing and every unexpected name, and names the prefix under which a known format lies.
    """
    paths = [Path(path)] if isinstance(path, Path | str) else [Path(p) for p in path]
    alone = len(paths) == 1 and format is None and not prefix
    whole = _load_whole(paths[0], overrides) if alone else None
    if whole is not None:
        return whole
    stored = read_stored(paths)
    reading = read(stored, format, prefix, overrides)
    still = {k: why for k, why in reading.guess.unknown.items() if k not in overrides}
    if still and set(overrides) <= set(reading.format.config_class.model_fields):
        what = "; ".join(f"{k}=... ({why})" for k, why in still.items())
        raise InputError(f"{stored.path}: a {reading.format.name} file leaves part of the config open: pass {what}")
    config = load_config(reading.format.config_class, {**reading.guess.values, **overrides})
    module = reading.format.build(config)
    fitted = fit(reading.format, module, config, reading.shapes)
    if fitted.problems:
        hint = _hint(stored, prefix, reading.format)
        raise InputError(f"{stored.path}: does not fit {reading.format.title}: {fitted.problems}{hint}")
    fill(reading.format, module, fitted, reading.unwrapped.tensors)
    _set_scaling(module, stored, reading, overrides)
    return module.eval()


def _load_whole(path: Path, fields: Mapping[str, Any]) -> Any:
    """The model of a pipeline's folder, or of a file that is of no format by itself and holds all parts; or none."""
    from kinolab.checkpoints import pipelines

    if pipelines.is_pipeline(path):
        return pipelines.read_pipeline(path, **fields)
    if not path.is_file() or recognise(shapes_of(unwrap(read_weights(path).tensors).tensors)) is not None:
        return None
    return pipelines.read_checkpoint(path, **fields)


def read_stored(paths: Sequence[Path]) -> StoredWeights:
    """The weights at a path, or those that lie in two files, or in a folder of two: one's names behind the other's.

    Raises:
        InputError: as `read_weights`, and for files that are not the two halves of one model.
    """
    known = ("config.json", "model.yaml")  # of folders that are read as one
    if len(paths) == 1 and paths[0].is_dir() and not any((paths[0] / name).exists() for name in known):
        with suppress(OSError):  # a folder that can't be written is read as it stands
            sets.finish_set(paths[0], TWO_FILES)
        inside = weights_in(paths[0])
        paths = inside if len(inside) == 2 and not visible(paths[0], "*.index.json") else paths
    if len(paths) == 1:
        return read_weights(paths[0])
    halves: dict[str, StoredWeights] = {}
    for path in paths:
        stored = read_weights(path)
        tensors = unwrap(stored.tensors).tensors
        found = half_of(shapes_of(tensors))
        if found is None:
            raise InputError(f"{path}: neither an encoder nor a decoder of TAESD, whose models come in two files")
        half = found[1]
        if half in halves:
            what = "an encoder" if half == "encoder." else "a decoder"
            raise InputError(f"{path}: {what}, as is {halves[half].path}; expected an encoder and a decoder")
        named = {f"{half}{name}": value for name, value in tensors.items()}
        halves[half] = StoredWeights(path, stored.container, named, {}, stored.header)
    if len(halves) != 2:
        raise InputError(f"{', '.join(map(str, paths))}: expected two files, an encoder and a decoder")
    first, second = halves.values()
    header = first.header if first.header.get(HEADER_KEY) == second.header.get(HEADER_KEY) else {}
    return StoredWeights(first.path, f"two {first.container} files", first.tensors | second.tensors, {}, header)


def save(module: nn.Module, path: Path | str, format: str) -> None:
    """Write a module in a public layout: a diffusers folder for autoencoder_kl, else a .safetensors file.

    The file's header also holds the config, so that `load` gives back the same module.

    Raises:
        InputError: for an unknown format, a module of another class, and for a model that the public code could load
            and would compute something else with.
    """
    chosen = find_format(format)
    if not isinstance(module, chosen.module_class):
        expected = chosen.module_class.__name__
        raise InputError(f"format {format} holds a {expected}, got a {type(module).__name__}")
    chosen.check_writable(module)
    chosen.write(module, Path(path))


@dataclass(frozen=True)
class Reading:
    """What a file's tensors were recognised as: the format, the tensors that belong to it, the config so far."""

    format: Format
    unwrapped: Unwrapped
    guess: Guess

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the tensors that belong to it."""
        return shapes_of(self.unwrapped.tensors)


def read(stored: StoredWeights, format: str | None, prefix: str, overrides: Mapping[str, Any]) -> Reading:
    """Recognise the tensors under `prefix` and guess their config, without building anything.

    Raises:
        InputError: where the format is unknown, or no format fits.
    """
    unwrapped = select(stored, prefix)
    shapes = shapes_of(unwrapped.tensors)
    if format is None and diffusers_class(stored) is not None:
        raise InputError(
            f"{stored.path}: {diffusers_class(stored)}, which is used through diffusers and not converted; "
            "give its folder where an autoencoder is expected"
        )
    chosen = recognise(shapes) if format is None else find_format(format)
    if chosen is None:
        raise InputError(f"{stored.path}: {_unknown(stored, shapes, prefix)}")
    header = own_header(stored)
    if header.get("format") == chosen.name:
        return Reading(chosen, unwrapped, Guess(dict(header.get("config", {}))))
    try:
        guess = chosen.guess(shapes, stored.settings)
    except (KeyError, IndexError, ZeroDivisionError):
        raise InputError(
            f"{stored.path}: lacks what every {chosen.name} file has; its names start with {_heads(shapes)}"
        ) from None
    return Reading(chosen, unwrapped, guess)


def diffusers_class(stored: StoredWeights) -> str | None:
    """The class of diffusers that a folder holds, where it is an autoencoder that is used through diffusers."""
    name = stored.settings.get("_class_name")
    return name if name in CLASSES and name not in READ_HERE else None


def fitting_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Format]:
    """Every prefix of up to three parts under which the names are of a known format; shorter prefixes only."""
    found: dict[str, Format] = {}
    names = shapes_of(tensors)
    candidates: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in names.items():
        parts = name.split(".")
        for depth in range(1, min(4, len(parts))):
            prefix = ".".join(parts[:depth]) + "."
            candidates.setdefault(prefix, {})[name.removeprefix(prefix)] = shape
    for prefix in sorted(candidates, key=lambda p: p.count(".")):
        if any(prefix.startswith(shorter) for shorter in found):
            continue
        format = recognise(candidates[prefix])
        if format is not None:
            found[prefix] = format
    return found


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _unknown(stored: StoredWeights, shapes: Shapes, prefix: str) -> str:
    """Why nothing fits: a layout that is not read, a prefix that is missing, or names that say nothing."""
    known = ", ".join(FORMATS)
    if not prefix:
        for found, format in fitting_prefixes(stored.tensors).items():
            others = [name for name in stored.tensors if not name.startswith(found)]
            return (
                f"{format.title} under the prefix {found!r}: pass prefix={found!r}; without it these "
                f"{len(others)} names are unexpected: {', '.join(others)}"
            )
    half = half_of(shapes)
    if half is not None:
        other = "decoder" if half[1] == "encoder." else "encoder"
        return f"the {half[1][:-1]} alone of a {half[0].title}; name the file of its {other} too"
    name = unsupported(shapes)
    if name is not None:
        return f"{name}, which is not supported yet; known formats: {known}"
    return f"no known format ({known}); its names start with {_heads(shapes)}"


def _heads(shapes: Shapes) -> str:
    return ", ".join(f"{head} ({n})" for head, n in list(groups(shapes).items())[:30])


def _hint(stored: StoredWeights, prefix: str, format: Format) -> str:
    """Where a whole part of the wanted format lies deeper in the file, the prefix that leads to it."""
    if prefix:
        return ""
    wrapped = (*(f"{w}." for w in WRAPPINGS), *INNER_WRAPPINGS)
    found = [p for p, f in fitting_prefixes(stored.tensors).items() if f.name == format.name and p not in wrapped]
    return f"; a {format.name} lies under prefix={found[0]!r}" if found else ""


def _set_scaling(module: Any, stored: StoredWeights, reading: Reading, overrides: Mapping[str, Any]) -> None:
    """Give an autoencoder the scaling by channel that came with it; one that the caller gave stays."""
    if not hasattr(module, "set_scaling") or {"latent_shift", "latent_scale"} & set(overrides):
        return
    header = own_header(stored)
    scaling: tuple[list[float], list[float]] | None
    if header.get("format") == reading.format.name and "latent_scale" in header:
        scaling = header["latent_shift"], header["latent_scale"]
    else:
        scaling = reading.format.scaling(stored.settings)
    if scaling is not None:
        module.set_scaling(torch.tensor(scaling[0]), torch.tensor(scaling[1]))
