"""Recipes as forms: every field with its type, its value, and the line that its config documents it by."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from kinolab.config import Config, problems
from kinolab.contracts.table import OneOf
from kinolab.errors import InputError
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import read_text, through_json
from kinolab.runtime.text import split_lines
from kinolab.runtime.yaml_files import read_yaml, to_yaml
from kinolab.tables import JOBS
from kinolab.training.recipe import load_recipe, recipe_values, shipped_recipes

DATA = "data.yaml"
"""What is cut out of the clips; the panel of clips says what is wrong with it."""
PLAIN: dict[Any, str] = {bool: "flag", int: "int", float: "float", str: "text", Path: "path"}


def recipes(folder: str | None = None) -> list[dict[str, Any]]:
    """The recipes that ship, and those of a folder's: name, what the first comment says, and what is trained.

    One that can't be read has a `problem` instead of a kind; a YAML file of another kind (data.yaml, the settings of a
    curation, a comparison's plan, a protocol) is none.
    """
    own = {str(p.relative_to(folder)): p for p in visible(Path(folder), "*.yaml")} if folder is not None else {}
    found = []
    for name, path in {**own, **shipped_recipes()}.items():
        about, kind, problem = "", "", ""
        try:
            lines = split_lines(read_text(path))
            about = lines[0].lstrip("# ") if lines and lines[0].startswith("#") else ""
            if name in own and is_other(path):
                continue
            kind = str(recipe_values(path if name in own else name)[2].get("kind"))
        except InputError as error:
            problem = f"{str(error).replace(f'{folder}/', '')}; mend it, or take it out of the project's folder"
        except OSError as error:
            problem = f"{name}: {error.strerror or error}"
        told = {"problem": problem} if problem else {}
        found.append({"name": name, "about": about, "kind": kind, "ships": name not in own, **told})
    return found


def is_other(path: Path) -> bool:
    """Whether a YAML file that can be read is plainly something else than a recipe, and not one with a mistake.

    Raises:
        InputError: where it can't be read.
    """
    if path.name == DATA:
        return True
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, such as kind, data and training")
    kind = values.get("kind")
    return not values.keys() & {"extends", "training"} and not (isinstance(kind, str) and kind in JOBS)


def form(recipe: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a recipe with overrides on top, and what is wrong with them by field.

    Where something is wrong, the fields are those of the recipe as it stands, and the overrides' values stay the
    page's.

    Raises:
        InputError: for no such recipe, or an override that is none.
    """
    before = load_recipe(recipe)
    _, cls, values = recipe_values(recipe, settings)
    errors = problems(cls, values)
    config = before if errors else load_recipe(recipe, settings)
    known = dict(_values(before.model_dump(mode="json")))
    fields = []
    for field in _fields(config, ""):
        then = known.get(f"{field['key']}.kind" if field["type"] == "kind" else field["key"])
        fields.append({**field, "default": then, "changed": field["value"] != then})
    return {"recipe": recipe, "name": config.name, "kind": config.kind, "fields": fields, "errors": errors,
            "needs": needs(config, recipe), "yaml": to_yaml(config.model_dump(mode="json")),
            "settings": list(settings)}  # fmt: skip


def needs(config: Any, recipe: str) -> list[dict[str, Any]]:
    """What has to be there before a recipe can be trained: {key, what, path, there} of clips, latents and models.

    Of latents also `encode`: the values of `kinolab encode` that make them, as far as the recipe tells them.
    """
    found: list[dict[str, Any]] = []
    models = [("autoencoder", getattr(config, "autoencoder", None))]
    initial = getattr(config, "initial", None)
    models.append(("initial.path", getattr(initial, "path", None)))
    for key, path in models:
        if isinstance(path, str | Path):
            found.append({"key": key, "what": "model", "path": str(path), "there": _is_model(path)})
    data = config.data
    if data.kind == "folder":
        found.append({"key": "data.path", "what": "clips", "path": str(data.path), "there": _holds(data.path)})
    elif data.kind == "cache":
        found.append({"key": "data.path", "what": "latents", "path": str(data.path),
                      "there": (data.path / "cache.json").exists(), "encode": _encoding(config, recipe)})  # fmt: skip
    return found


def _holds(path: Path) -> bool:
    """Whether a file is there, or a folder with anything in it."""
    return path.is_file() or (path.is_dir() and bool(visible(path)))


def _is_model(path: str | Path) -> bool:
    """Whether weights are there: a model folder, a run's, one that ships, or any file or folder of that name."""
    from kinolab.models import find_autoencoder

    try:
        find_autoencoder(path)
    except (InputError, OSError):
        return Path(path).is_file() or bool(visible(Path(path), "*.safetensors"))
    return True


def _encoding(config: Any, recipe: str) -> dict[str, Any]:
    """What `kinolab encode` is told to make the latents that a recipe reads."""
    from kinolab.cli.data import spec_of
    from kinolab.models.folder import autoencoder_config

    values: dict[str, Any] = {"out": str(config.data.path), "autoencoder": str(config.autoencoder)}
    if config.tasks is not None:
        values["tasks"] = recipe
    if config.text_encoder != "none":
        values["text"] = recipe
    try:
        spec = spec_of(autoencoder_config(config.autoencoder))
    except (InputError, OSError):
        return values
    before = Path(config.autoencoder) / "recipe.yaml"
    trained = read_yaml(before) if before.is_file() else None  # the run that made it: latents at the rate of its clips
    if isinstance(trained, dict) and isinstance(trained.get("data"), dict) and trained["data"].get("fps"):
        values["fps"] = trained["data"]["fps"]
    frames, size = getattr(config.denoiser, "num_frames", None), getattr(config.denoiser, "input_size", None)
    if isinstance(frames, int):
        values["frames"] = spec.pixel_frames(frames)
    if isinstance(size, int | tuple | list):
        sides = (size, size) if isinstance(size, int) else tuple(size)
        values["size"] = "x".join(str(side * spec.spatial_ratio) for side in sides)
    return values


def _values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted key, and every mapping itself."""
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{key}.")


def _fields(config: BaseModel, prefix: str) -> Iterator[dict[str, Any]]:
    """The fields of a config, those of configs inside behind their own."""
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, key = getattr(config, name), f"{prefix}{name}"
        table = next((m for m in _marks(field) if isinstance(m, OneOf)), None)
        about = " ".join((field.description or "").split())
        if isinstance(value, Config):
            choices = list(table.table.names()) if table is not None else []
            if table is not None:
                yield {"key": key, "type": "kind", "value": plain[name].get(table.key), "about": about,
                       "choices": choices, "optional": False}  # fmt: skip
            for inner in _fields(value, f"{key}."):
                if table is None or inner["key"] != f"{key}.{table.key}":
                    yield inner
            continue
        kind, choices, optional = _kind(field.annotation)
        if table is not None and not isinstance(value, dict):
            kind, choices, optional = "kind", [*table.table.names()], True
        fixed = name == "kind" and kind == "choice"
        bounds = {
            k: v for m in field.metadata for k in ("ge", "gt", "le", "lt") if (v := getattr(m, k, None)) is not None
        }
        yield {"key": key, "type": "fixed" if fixed else kind, "value": through_json(plain[name], str), "about": about,
               "choices": choices, "optional": optional, **({"bounds": bounds} if bounds else {})}  # fmt: skip


def _marks(field: Any) -> list[Any]:
    """What stands beside a field's type, also within a union or a mapping's."""
    found, waiting = list(field.metadata), [field.annotation]
    while waiting:
        kind = waiting.pop()
        if typing.get_origin(kind) is Annotated:
            found += typing.get_args(kind)[1:]
        waiting += [a for a in typing.get_args(kind) if not isinstance(a, str | int | float)]
    return found


def _kind(annotation: Any) -> tuple[str, list[Any], bool]:
    """What a field takes: flag, int, float, text, path, choice or yaml; its choices; whether it may be left empty."""
    members = [annotation]
    while any(typing.get_origin(m) in (typing.Union, types.UnionType, Annotated) for m in members):
        members = [
            a for m in members
            for a in (
                typing.get_args(m)[:1] if typing.get_origin(m) is Annotated
                else typing.get_args(m) if typing.get_origin(m) in (typing.Union, types.UnionType) else (m,)
            )
        ]  # fmt: skip
    optional = type(None) in members
    rest = [m for m in members if m is not type(None)]
    if len(rest) == 1 and typing.get_origin(rest[0]) is Literal:
        return "choice", list(typing.get_args(rest[0])), optional
    if len(rest) == 1 and rest[0] in PLAIN:
        return PLAIN[rest[0]], [], optional
    return "yaml", [], optional
