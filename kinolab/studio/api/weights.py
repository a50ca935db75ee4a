"""Models: those of the project and those that ship, what they are, and what they take of the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files, locks
from kinolab.runtime.paths import visible
from kinolab.runtime.yaml_files import read_yaml
from kinolab.studio import commands
from kinolab.studio.api.asked import Asked, NotThereError, Studio

PRETRAINED = Path(__file__).parents[2] / "pretrained"
LOADING = 120.0
ADAPTERS = (".safetensors",)


def models(studio: Studio, asked: Asked) -> Any:
    """GET /api/models -> {models, adapters, used, free}: the project's, its runs' and shipped ones."""
    project = studio.project
    own, trained = visible(project.models, "*/model.yaml"), visible(project.runs, "*/model/model.yaml")
    found = [facts(path.parent, project.shown(path.parent), "project") for path in own]
    found += [facts(path.parent, project.shown(path.parent.parent), "run") for path in trained]
    shipped = [facts(path.parent, path.parent.name, "shipped") for path in visible(PRETRAINED, "*/model.yaml")]
    adapters = [
        {"path": project.shown(path), "bytes": path.stat().st_size}
        for path in [*visible(project.models, "*.safetensors"), *visible(project.runs, "*/model/adapter/*.safetensors")]
    ]
    return {"models": [*found, *shipped], "adapters": adapters, "used": sum(m["bytes"] for m in found),
            "free": files.free_space(project.folder)}  # fmt: skip


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


def facts(folder: Path, name: str, where: str) -> dict[str, Any]:
    """What the page shows of a model: `name` is what commands call it."""
    try:
        values = read_yaml(folder / "model.yaml")
    except (InputError, OSError) as error:
        return {"name": name, "where": where, "bytes": size(folder), "problem": str(error)}
    values = values if isinstance(values, dict) else {}
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


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in visible(folder, "**/*") if path.is_file())
