"""`kinolab inspect`: what a weights file or model folder is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinolab.cli.options import common, show

if TYPE_CHECKING:
    from kinolab.checkpoints import Inspection


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
) -> None:
    """Say what weights are: format, config, parameters, types, wrappings, and what is missing to load them.

    Nothing in a file is run. A file that is no known format gets the first parts of its names and, where a known
    format lies deeper in it, the prefix.
    """
    from kinolab.checkpoints import inspect as look

    found = [look(locate(file), format=format, prefix=prefix) for file in files]
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
    for key, why in item.assumed.items():
        yield f"  assumed     {key}: {why}"
    for key, why in item.unknown.items():
        yield f"  to be given {key}: {why}"
    if item.format is None and not item.parts:
        yield f"  names       {_counts(item.groups)}"
    yield from _advice(item)


def _types(item: Inspection) -> str:
    """What its tensors are stored in, and how many of them where that differs."""
    return ", ".join(f"{name} ({count})" if len(item.dtypes) > 1 else name for name, count in item.dtypes.items())


def _general(item: Inspection) -> tuple[str, ...]:
    """The fields of model.yaml that are worth a line."""
    return ("trained", "frames", "size", "fps", "text_encoder") if "denoiser" in item.parts else ("trained",)


def _advice(item: Inspection) -> Iterator[str]:
    if item.problems:
        yield f"  does not load: {item.problems}"
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
