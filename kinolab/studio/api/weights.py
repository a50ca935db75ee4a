"""Models: those of the project and those that ship, what they are, and what they take of the disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files, locks
from kinolab.runtime.headers import peek
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import read_json
from kinolab.runtime.yaml_files import read_yaml
from kinolab.studio import commands
from kinolab.studio.api.asked import Asked, NotThereError, Studio
from kinolab.studio.faults import tried
from kinolab.studio.project import Project

PRETRAINED = Path(__file__).parents[2] / "pretrained"
LOADING = 120.0
FOLDERS = ("clips", "cut", "runs", "models", "samples", "scores", "queue")
"""Folders of a project whose room is told."""


def models(studio: Studio, asked: Asked) -> Any:
    """GET /api/models -> {models, adapters, folders, used, free}: the project's, its runs' and shipped ones.

    adapters: {path, bytes} of those that a model may be given; folders: {path, bytes} of what takes room. A model or an
    adapter that can't be read has a `problem`.
    """
    project = studio.project
    own, trained = visible(project.models, "*/model.yaml"), visible(project.runs, "*/model/model.yaml")
    found = [facts(project, path.parent, project.shown(path.parent), "project") for path in own]
    found += [facts(project, path.parent, project.shown(path.parent.parent), "run") for path in trained]
    shipped = [facts(project, path.parent, path.parent.name, "shipped") for path in visible(PRETRAINED, "*/model.yaml")]
    folders = [{"path": name, "bytes": taken} for name in FOLDERS if (taken := size(project.folder / name))]
    return {"models": [*found, *shipped], "adapters": adapters(project), "folders": folders,
            "used": sum(folder["bytes"] for folder in folders), "free": files.free_space(project.folder)}  # fmt: skip


def adapters(project: Project) -> list[dict[str, Any]]:
    """The adapters of a project: those that its runs wrote, and files and folders of models/ that are no models."""
    found = [path for path in visible(project.runs, "*/adapter") if path.is_dir()]
    found += visible(project.models, "*.safetensors")
    found += sorted({path.parent for path in visible(project.models, "*/adapter_config.json")})
    return [{"path": project.shown(path), "bytes": size(path), **header(project, path)} for path in found]


def header(project: Project, path: Path) -> dict[str, str]:
    """What is wrong with the headers of an adapter's weights and with its settings, as {problem}."""
    inner = [path] if path.is_file() else [*visible(path, "*.safetensors"), *visible(path, "*.json")]
    if path.is_dir() and not any(each.suffix == ".safetensors" for each in inner):
        return {"problem": f"{project.shown(path)}: no weights (.safetensors) in it"}
    for each in inner:
        read: Callable[[Path], Any] = peek if each.suffix == ".safetensors" else read_json
        problem = tried(project, partial(read, each))[1]
        if problem:
            return {"problem": problem}
    return {}


def inspect(studio: Studio, asked: Asked) -> Any:
    """POST /api/models/inspect {path} -> {title, parameters, lines}: what `kinolab inspect` says of it."""
    path = asked.body.text("path")
    commands.check_path(studio.project, path, "path")
    return studio.recipes.ask("inspect", {"path": path}, LOADING)


def remove(studio: Studio, asked: Asked) -> Any:
    """DELETE /api/models/{path} -> {}: remove a folder of `models/`, or a run's model; shipped ones stay."""
    name = asked.path["path"]
    path = studio.project.path(name)
    parts = Path(name).parts
    if parts[:1] == ("runs",) and len(parts) == 2:
        run, path = path, path / "model"
        if locks.is_held(run / ".lock"):
            raise InputError(f"{name}: is being trained; stop it first")
    elif not (parts[:1] == ("models",) and len(parts) == 2):
        raise InputError(f"{name}: only what lies in models/ and runs/ is removed from here")
    if not path.exists():
        raise NotThereError(f"{name}: no such model")
    files.discard(path)
    return {}


def facts(project: Project, folder: Path, name: str, where: str) -> dict[str, Any]:
    """What the page shows of a model: `name` is what commands call it."""
    values: Any
    values, problem = tried(project, partial(read_yaml, folder / "model.yaml"))
    if problem:
        return {"name": name, "where": where, "bytes": size(folder), "problem": problem.replace(str(folder), name)}
    if not isinstance(values, dict):
        problem = f"{name}/model.yaml: expected a mapping of keys to values, as Kinolab writes it"
        return {"name": name, "where": where, "bytes": size(folder), "problem": problem}
    denoiser = values.get("denoiser")
    autoencoder = values.get("autoencoder")
    kind = denoiser.get("kind") if isinstance(denoiser, dict) else None
    text = values.get("text_encoder", "none")
    return {
        "name": name, "where": where, "bytes": size(folder),
        "denoiser": kind, "autoencoder": autoencoder.get("kind") if isinstance(autoencoder, dict) else autoencoder,
        "frames": values.get("frames"), "size": values.get("size"), "fps": values.get("fps"),
        "text": text.get("kind") if isinstance(text, dict) else text,
        "classes": values.get("class_names") or [], "trained": values.get("trained", ""),
        "tasks": sorted(values["tasks"]) if isinstance(values.get("tasks"), dict) else [],
        "sampler": values.get("sampler"), "guidance": values.get("guidance"),
    }  # fmt: skip


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in visible(path, "**/*") if each.is_file())
