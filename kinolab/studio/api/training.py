"""Recipes as forms, and runs: their curves, samples and checkpoints."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files, locks
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import visible
from kinolab.runtime.yaml_files import read_yaml
from kinolab.studio import commands
from kinolab.studio.api.asked import Asked, NotThereError, Studio
from kinolab.studio.api.work import read_lines
from kinolab.studio.faults import tried
from kinolab.studio.project import FOLDERS, Project

STEP = re.compile(r"step-0*(\d+)|0*(\d+)")
LOADING = 120.0
"""Seconds that a first question about recipes may take: it imports torch and every component."""


def recipes(studio: Studio, asked: Asked) -> Any:
    """GET /api/recipes -> {recipes, clips, caches}: those of the project's folder, and those that ship.

    clips, caches: as /api/folders tells them.
    """
    values = {"folder": str(studio.project.folder)}
    return {"recipes": studio.recipes.ask("recipes", values, LOADING), **folders(studio, asked)}


def folders(studio: Studio, asked: Asked) -> Any:
    """GET /api/folders -> {clips, caches, captioners, settings}: folders of the project that a training may read, of
    clips and of latents; models that may caption; and YAML files that may be the settings of a curation."""
    project = studio.project
    inner = [path for path in visible(project.folder) if path.is_dir()]
    found = [*visible(project.folder, "*/cache.json"), *visible(project.runs, "*/cache.json")]
    caches = [path.parent for path in found]
    captioners = [p.parent for p in visible(project.models, "*/config.json") if not (p.parent / "model.yaml").exists()]
    known = {*FOLDERS, *(path.name for path in caches)} - {"clips"}
    return {
        "clips": [path.name for path in inner if path.name not in known],
        "caches": [project.shown(path) for path in caches],
        "captioners": [project.shown(path) for path in captioners],
        "settings": [path.name for path in visible(project.folder, "*.yaml") if path.name != project.data.name],
    }


def form(studio: Studio, asked: Asked) -> Any:
    """POST /api/recipes/form {recipe, settings} -> {fields, errors, yaml}: a recipe's fields with overrides on top.

    A field: key (dotted), type (flag, int, float, text, path, choice, kind, yaml, fixed), value, default (the
    recipe's), changed, choices, optional, bounds, about. errors: by key. An override is `key=value`, the value in YAML.
    """
    settings = asked.body.texts("settings", [])
    for text in settings:
        commands.check_setting(studio.project, text, "settings")
    recipe = asked.body.text("recipe")
    commands.check_path(studio.project, recipe, "recipe")
    return studio.recipes.ask("form", {"recipe": recipe, "settings": settings}, LOADING)


def runs(studio: Studio, asked: Asked) -> Any:
    """GET /api/runs -> {runs}: the run folders, the newest first; `running` where a process holds the run's lock."""
    folders = [path for path in visible(studio.project.runs) if path.is_dir() and not (path / "cache.json").exists()]
    found = [facts(studio.project, folder) for folder in folders]  # latents may lie beside the runs
    return {"runs": sorted(found, key=lambda run: -run["changed"])}


def run(studio: Studio, asked: Asked) -> Any:
    """GET /api/runs/{name} -> the run: with its recipe, checkpoints and sample videos by step.

    problem: what is wrong with the recipe, which is then null.
    """
    folder = _folder(studio, asked)
    recipe, problem = folder / "recipe.yaml", ""
    values: Any = None
    if recipe.is_file():
        values, problem = tried(studio.project, partial(read_yaml, recipe))
        if not problem and not isinstance(values, dict):
            values, problem = None, f"{studio.project.shown(recipe)}: expected a mapping of keys to values"
    return facts(studio.project, folder) | {
        "recipe": values, "problem": problem,
        "checkpoints": [p.name for p in visible(folder / "checkpoints") if p.is_dir()],
        "samples": samples(studio.project, folder),
    }  # fmt: skip


def log(studio: Studio, asked: Asked) -> Any:
    """GET /api/runs/{name}/log?after=N -> {rows, next, restarted, problem}: lines of the run's log behind line N.

    The log is cut where a run goes on from an earlier checkpoint: `restarted` is then true, and `rows` are all of it.
    problem: which lines can't be read, and are left out.
    """
    path, after = _folder(studio, asked) / "log.jsonl", asked.number("after", 0)
    found, last, problem = read_lines(studio.project, path, after)
    if last < after:
        return {"rows": read_lines(studio.project, path, 0)[0], "next": last, "restarted": True, "problem": problem}
    return {"rows": found, "next": last, "restarted": False, "problem": problem}


def remove(studio: Studio, asked: Asked) -> Any:
    """DELETE /api/runs/{name}: remove a run folder that nothing trains in, with its model."""
    folder = _folder(studio, asked)
    if locks.is_held(folder / ".lock"):
        raise InputError(f"{folder.name}: is being trained; stop it first")
    files.discard(folder)
    return {}


def facts(project: Project, folder: Path) -> dict[str, Any]:
    """What the page shows of a run in a list."""
    log_file = folder / "log.jsonl"
    status = (log_file if log_file.exists() else folder).stat()
    return {
        "name": folder.name,
        "path": project.shown(folder),
        "running": locks.is_held(folder / ".lock"),
        "model": project.shown(folder / "model") if (folder / "model" / "model.yaml").is_file() else None,
        "resumable": bool(visible(folder / "checkpoints")) and (folder / "recipe.yaml").is_file(),
        "changed": round(status.st_mtime, 3),
        "size": status.st_size,
    }


def samples(project: Project, folder: Path) -> list[dict[str, Any]]:
    """The sample videos of a run: `step` (None where a file tells none), `name` within the step, `path`."""
    found = []
    for path in visible(folder / "samples", "**/*"):
        if path.is_file() and path.suffix.lower() in (".mp4", ".webm", ".gif", ".webp", ".png"):
            inner = path.relative_to(folder / "samples")
            step = next((int(m[1] or m[2]) for part in inner.parts if (m := STEP.search(part))), None)
            name = "/".join(STEP.sub("", part, count=1).strip("-_") for part in inner.parts).strip("/")
            found.append({"step": step, "name": name, "path": project.shown(path)})
    return sorted(found, key=lambda sample: (sample["step"] is None, sample["step"] or 0, sample["path"]))


def _folder(studio: Studio, asked: Asked) -> Path:
    """The run folder that a path names."""
    folder = studio.project.run(asked.path["name"])
    if not folder.is_dir():
        raise NotThereError(f"{shown(asked.path['name'])}: no such run")
    return folder
