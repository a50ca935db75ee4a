"""`kinolab inspect`: what a weights file or model folder is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinolab.cli.options import common, show
from kinolab.runtime.lines import shown

if TYPE_CHECKING:
    from kinolab.checkpoints import Inspection
    from kinolab.checkpoints.inspection import AdapterFacts

MOST = 8
"""Names, or entries of a header, that are listed."""


def register(app: typer.Typer) -> None:
    """Add `inspect`."""
    app.command()(inspect)


@common()
def inspect(
    files: Annotated[
        list[str], typer.Argument(help="Weights (.safetensors, .pt), diffusers folders, model folders, shipped models.")
    ],
    format: Annotated[str | None, typer.Option(help="Take it for this format; default: told by the names.")] = None,
    prefix: Annotated[str, typer.Option(help="Look at the tensors whose names start with this only.")] = "",
    model: Annotated[
        str | None, typer.Option(help="Say whether LoRA adapters fit this model: a folder, or a shipped one.")
    ] = None,
) -> None:
    """Say what weights are: format, config, parameters, types, wrappings, and what is missing to load them.

    Of a LoRA adapter: its form, ranks and alphas, the layers that it changes, and which models have such layers.

    Nothing in a file is run. A file that is no known format gets the first parts of its names and, where a known
    format lies deeper in it, the prefix.
    """
    from kinolab.checkpoints import inspect as look

    denoiser = None
    if model is not None:
        from kinolab.models import load_denoiser

        denoiser = load_denoiser(model, device="cpu")
    found = [look(locate(file), format=format, prefix=prefix, denoiser=denoiser) for file in files]
    lines = [line for item in found for line in ("", *describe(item))]
    show(found, lines[1:])


def locate(name: str) -> Path:
    """The file or folder of that name, the model folder in a run folder, or a shipped model's folder."""
    from kinolab.models import find_model, shipped_models

    path = Path(name)
    if not path.exists() and name in shipped_models():
        return find_model(name)
    return path / "model" if (path / "model" / "model.yaml").exists() else path


def describe(item: Inspection) -> Iterator[str]:
    """What a person wants to know about one file, line by line."""
    yield str(item.path)
    yield f"  what        {item.title}; {item.container}"
    types = _types(item)
    yield f"  size        {item.parameters:,} parameters in {item.tensors} tensors" + (f", {types}" if types else "")
    if item.wrappings:
        yield f"  wrapped in  {' '.join(item.wrappings)}"
    if item.left_out:
        yield f"  also holds  {_counts(item.left_out)}"
    for name, part in item.parts.items():
        yield f"  {name:11} {part.title}, {part.parameters:,} parameters, {_types(part)}: {_values(part.config)}"
    shown = [k for k in item.config if k not in item.assumed and (not item.parts or k in _general(item))]
    if shown:
        yield f"  config      {_values({k: item.config[k] for k in shown})}"
    if isinstance(item.config.get("distilled"), dict):
        yield f"  distilled   {_distilled(item.config['distilled'])}"
    for key, why in item.assumed.items():
        yield f"  assumed     {key}: {why}"
    for key, why in item.unknown.items():
        yield f"  to be given {key}: {why}"
    if item.adapter is not None:
        yield from _adapter(item.adapter)
    elif item.format is None and not item.parts:
        yield f"  names       {_counts(item.groups)}"
    yield from _advice(item)


def _distilled(values: Mapping[str, Any]) -> str:
    """What a model was distilled for, in words."""
    from kinolab.config import load_config
    from kinolab.models.distilled import DistilledConfig

    return str(load_config(DistilledConfig, values, name="distilled"))


def _adapter(found: AdapterFacts) -> Iterator[str]:
    """What an adapter changes and how."""
    text = f", and {len(found.text)} of text encoders" if found.text else ""
    yield f"  changes     {len(found.layers)} layers of a denoiser{text}"
    yield f"  rank        {_each(found.ranks)}"
    alphas = {"none in the file, which means the rank" if a is None else f"{a:g}": n for a, n in found.alphas.items()}
    yield f"  alpha       {_each(alphas)}"
    yield f"  inputs      {_each(found.inputs)}"
    yield f"  layers      {_some(found.layers)}"
    yield f"  named as in {'; '.join(found.like) if found.like else 'no known format'}"
    if found.unexpected:
        yield f"  unexpected  {', '.join(found.unexpected)}"
    for key, value in list(found.header.items())[:MOST]:
        yield f"  says        {key}: {shown(value)}"
    if found.fits:
        yield "  fits        the model of --model"


def _each(counts: Mapping[Any, int]) -> str:
    """What there is, and how often where there are several."""
    return ", ".join(f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items()) or "-"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _types(item: Inspection) -> str:
    """What its tensors are stored in, and how many of them where that differs."""
    return ", ".join(f"{name} ({count})" if len(item.dtypes) > 1 else name for name, count in item.dtypes.items())


def _general(item: Inspection) -> tuple[str, ...]:
    """The fields of model.yaml that are worth a line."""
    return ("trained", "frames", "size", "fps", "text_encoder") if "denoiser" in item.parts else ("trained",)


def _advice(item: Inspection) -> Iterator[str]:
    if item.problems:
        what = "fit" if item.adapter is not None and item.adapter.fits is False else "load"
        yield f"  does not {what}: {item.problems}"
    elif item.adapter is not None:
        yield f"  put it on   kinolab generate --lora {item.path}:1"
    elif item.format is not None:
        needed = f', prefix="{item.prefix}"' if item.prefix else ""
        needed += "".join(f", {key}=..." for key in item.unknown)
        yield f'  load it     kinolab.checkpoints.load("{item.path}"{needed})'
    for prefix in item.prefixes:
        yield f"  look deeper kinolab inspect {item.path} --prefix {prefix}"


def _values(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items() if key != "kind")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
