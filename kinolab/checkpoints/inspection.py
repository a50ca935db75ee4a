"""What a weights file, a diffusers folder or a model folder of Kinolab's own is, without building its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.adapters.files import Adapter, is_adapter, read_adapter
from kinolab.checkpoints.adapters.names import likely_formats, misfits
from kinolab.checkpoints.base import fit
from kinolab.checkpoints.files import StoredWeights, groups, own_header, read_part, select
from kinolab.checkpoints.formats import half_of, recognise, unsupported
from kinolab.checkpoints.reading import diffusers_class, fitting_prefixes, read, read_stored, shapes_of
from kinolab.config import load_config, read_yaml
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.runtime.modules import without_memory
from kinolab.runtime.paths import single


@dataclass(frozen=True)
class Inspection:
    """What a file or folder holds.

    path; prefix: what was looked at; container: how it is stored; title: what it is in words.
    format: the name to load it by, or None; config: the fields of its module's config.
    assumed, unknown: fields that another value would fit as well, and those that have to be given, with the reason.
    parameters: numbers in all tensors that belong to it; tensors: how many; dtypes: type -> number of tensors.
    wrappings: what is taken off the names, outermost first; left_out: what else is in the file -> tensors.
    prefixes: prefix -> format that lies under it; groups: first part of the names -> tensors.
    problems: why it does not load as it is; empty if it does.
    parts: the parts of a model folder, by name. adapter: what a LoRA adapter holds.
    """

    path: Path
    container: str
    title: str
    prefix: str = ""
    format: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    tensors: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    wrappings: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    problems: str = ""
    parts: dict[str, Inspection] = field(default_factory=dict)
    adapter: AdapterFacts | None = None


@dataclass(frozen=True)
class AdapterFacts:
    """What a LoRA adapter holds.

    ranks, alphas: rank or alpha -> layers that have it; alpha None = the file tells none, which means the rank.
    inputs: width of a layer's input -> layers of it. like: the formats that its names are like, in words.
    fits: whether it fits the model that was asked about; None where none was.
    """

    form: str
    layers: tuple[str, ...]
    text: tuple[str, ...]
    ranks: dict[int, int]
    alphas: dict[float | None, int]
    inputs: dict[int, int]
    like: tuple[str, ...]
    unexpected: tuple[str, ...] = ()
    header: dict[str, str] = field(default_factory=dict)
    fits: bool | None = None


def inspect(
    path: Path | str, *, format: str | None = None, prefix: str = "", denoiser: Denoiser | None = None
) -> Inspection:
    """Say what is at `path`: public weights (see `load`), a LoRA adapter, or a model folder.

    denoiser: what an adapter is held against.

    Raises:
        InputError: where there is nothing, or it can't be read as weights at all.
    """
    path = Path(path)
    if (path / "model.yaml").exists():
        return _inspect_model(path)
    stored = read_stored([path])
    unwrapped = select(stored, prefix)
    shapes = shapes_of(unwrapped.tensors)
    facts = _facts(unwrapped.tensors)
    if format is None and is_adapter(shapes):
        return _inspect_adapter(stored, facts, denoiser)
    name = diffusers_class(stored)
    if format is None and name is not None:
        title = f"{name}; used through diffusers (kinolab[interop]) where its folder is given as an autoencoder"
        return Inspection(path, stored.container, title, prefix, config=stored.settings, groups=groups(shapes), **facts)
    if format is None and recognise(shapes) is None:
        prefixes = {p: f.name for p, f in fitting_prefixes(stored.tensors).items()}
        name = unsupported(shapes)
        title = "no known format" if name is None else f"{name} (known, but not supported yet)"
        half = half_of(shapes)
        if half is not None:
            title = f"the {half[1][:-1]} of a {half[0].title}; its other half is a file of its own: convert both"
        if prefixes:
            title = "tensors with " + " and ".join(f"{f} under {p!r}" for p, f in prefixes.items())
        return Inspection(
            path,
            stored.container,
            title,
            prefix,
            wrappings=unwrapped.wrappings,
            left_out=unwrapped.left_out,
            prefixes=prefixes,
            groups=groups(shapes),
            **facts,
        )
    reading = read(stored, format, prefix, {})
    return Inspection(
        path,
        stored.container,
        reading.format.title + (" (written by Kinolab)" if own_header(stored) else ""),
        prefix,
        format=reading.format.name,
        config=reading.guess.values,
        assumed=reading.guess.assumed,
        unknown=reading.guess.unknown,
        wrappings=unwrapped.wrappings,
        left_out=unwrapped.left_out,
        groups=groups(shapes),
        problems=_problems(stored, format, prefix),
        **facts,
    )


def _inspect_adapter(stored: StoredWeights, facts: dict[str, Any], denoiser: Denoiser | None) -> Inspection:
    """A LoRA adapter; one of another kind has that as its problem."""
    try:
        found = read_adapter(stored.path)
    except InputError as error:
        why = str(error).removeprefix(f"{stored.path}: ")
        return Inspection(stored.path, stored.container, "an adapter", problems=why, **facts)
    problems = [] if denoiser is None else misfits(denoiser, found)
    title = f"a LoRA adapter in the form of {found.form}"
    return Inspection(
        stored.path,
        stored.container,
        title,
        adapter=_adapter_facts(found, None if denoiser is None else not problems),
        problems="; ".join(problems),
        **facts,
    )


def _adapter_facts(found: Adapter, fits: bool | None) -> AdapterFacts:
    inputs = Counter(layer.down.shape[1] for layer in found.layers.values())
    return AdapterFacts(
        form=found.form,
        layers=tuple(found.layers),
        text=tuple(name for layers in found.text.values() for name in layers),
        ranks=found.ranks,
        alphas=found.alphas,
        inputs=dict(inputs.most_common()),
        like=tuple(format.title for format in likely_formats(found)),
        unexpected=found.unexpected,
        header={key: value for key, value in found.header.items() if key.startswith("ss_")},
        fits=fits,
    )


def _facts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """parameters, tensors and dtypes of a set of tensors."""
    dtypes: dict[str, int] = {}
    for value in tensors.values():
        name = str(value.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    return {"parameters": sum(v.numel() for v in tensors.values()), "tensors": len(tensors), "dtypes": dtypes}


def _problems(stored: StoredWeights, format: str | None, prefix: str) -> str:
    """What does not fit a module of the guessed config, found on the meta device; empty where fields are open."""
    reading = read(stored, format, prefix, {})
    if reading.guess.unknown:
        return ""
    try:
        config = load_config(reading.format.config_class, reading.guess.values)
    except InputError as error:
        return str(error)
    with without_memory():
        module = reading.format.build(config)
    return fit(reading.format, module, config, reading.shapes).problems


def _inspect_model(folder: Path) -> Inspection:
    """A model folder: model.yaml and a .safetensors file per part."""
    values = read_yaml(folder / "model.yaml")
    parts = {}
    for name in ("autoencoder", "denoiser"):
        weights = folder / f"{name}.safetensors"
        if not isinstance(values.get(name), dict):
            continue
        stored = read_part(weights)
        config = values[name]
        parts[name] = Inspection(
            weights, stored.container, str(config.get("kind")), config=config, **_facts(stored.tensors)
        )
    beside = values.get("parts")
    for name, config in beside.items() if isinstance(beside, dict) else ():
        weights = single(folder, f"part-{name}.safetensors")
        stored, told = read_part(weights), config if isinstance(config, dict) else {}
        title = f"{told.get('kind')}, beside the denoiser"
        parts[f"part-{name}"] = Inspection(weights, stored.container, title, config=told, **_facts(stored.tensors))
    adapters = values.get("lora")
    for name, config in adapters.items() if isinstance(adapters, dict) else ():
        weights = single(folder, f"lora-{name}.safetensors")
        stored = read_part(weights)
        title = f"a LoRA adapter of {len(stored.tensors) // 2} layers"
        told = config if isinstance(config, dict) else {}
        parts[f"lora-{name}"] = Inspection(weights, stored.container, title, config=told, **_facts(stored.tensors))
    general = {k: v for k, v in values.items() if k not in parts}
    tensors = sum(part.tensors for part in parts.values())
    parameters = sum(part.parameters for part in parts.values())
    title = f"model folder of Kinolab {values.get('version', '')}".strip()
    return Inspection(folder, "folder", title, config=general, parameters=parameters, tensors=tensors, parts=parts)
