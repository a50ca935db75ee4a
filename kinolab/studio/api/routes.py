"""The list of all that can be asked: method, path, and the function that answers.

Paths end with what stands in braces; `{name:path}` takes slashes, too. Every answer is JSON; an error is
{"error": one line} with status 400 (what was asked), 404 (not there), 403 (refused) or 413 (too large).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinolab.studio.api import captions, curations, footage, judged, made, seen, training, weights, work
from kinolab.studio.api.asked import Asked, Studio

GIB = 2**30
Answer = Callable[[Studio, Asked], Any]
Upload = Callable[[Studio, Path, str], Any]
Media = Callable[[Studio, str], Path]


def project(studio: Studio, asked: Asked) -> Any:
    """GET /api/project -> {name, folder, version, tasks, commands, jobs, paused}: what the page begins with."""
    from kinolab import __version__
    from kinolab.studio.commands import MAKING, RUNNABLE

    return {
        "name": studio.project.name, "folder": str(studio.project.folder), "version": __version__,
        "tasks": list(MAKING), "commands": list(RUNNABLE), **work.snapshot(studio.project),
    }  # fmt: skip


ROUTES: dict[tuple[str, str], Answer] = {
    ("GET", "/api/project"): project,
    ("POST", "/api/command"): work.command,
    ("GET", "/api/commands/{name:path}"): work.options,
    ("GET", "/api/jobs"): work.listed,
    ("POST", "/api/jobs"): work.add,
    ("GET", "/api/jobs/{id}"): work.one,
    ("DELETE", "/api/jobs/{id}"): work.remove,
    ("GET", "/api/jobs/{id}/events"): work.events,
    ("POST", "/api/jobs/{id}/stop"): work.stop,
    ("POST", "/api/jobs/{id}/again"): work.again,
    ("POST", "/api/jobs/{id}/ask"): work.ask,
    ("POST", "/api/jobs/{id}/move"): work.move,
    ("POST", "/api/queue"): work.queue,
    ("GET", "/api/clips"): footage.listed,
    ("POST", "/api/clips/look"): footage.look,
    ("POST", "/api/clips/check"): footage.check,
    ("POST", "/api/clips/scenes"): footage.scenes,
    ("POST", "/api/clips/alike"): footage.alike,
    ("GET", "/api/curations"): curations.listed,
    ("POST", "/api/clips/replace"): captions.replace,
    ("PUT", "/api/clips/caption"): captions.caption,
    ("PUT", "/api/clips/edit"): footage.edit,
    ("DELETE", "/api/clips/{name:path}"): footage.remove,
    ("GET", "/api/recipes"): training.recipes,
    ("GET", "/api/folders"): training.folders,
    ("POST", "/api/recipes/form"): training.form,
    ("GET", "/api/runs"): training.runs,
    ("GET", "/api/runs/{name}"): training.run,
    ("GET", "/api/runs/{name}/log"): training.log,
    ("DELETE", "/api/runs/{name}"): training.remove,
    ("GET", "/api/samples"): made.listed,
    ("POST", "/api/samples/name"): made.out_name,
    ("DELETE", "/api/samples/{name:path}"): made.remove,
    ("GET", "/api/given"): made.given,
    ("GET", "/api/seen/{path:path}"): seen.seen,
    ("POST", "/api/masks"): made.mask,
    ("POST", "/api/masks/between"): made.between,
    ("GET", "/api/scores"): judged.scores,
    ("GET", "/api/votes"): judged.votes,
    ("POST", "/api/votes"): judged.vote,
    ("GET", "/api/models"): weights.models,
    ("POST", "/api/models/inspect"): weights.inspect,
    ("DELETE", "/api/models/{path:path}"): weights.remove,
}
"""Method and path -> what answers."""

UPLOADS: dict[str, tuple[Upload, int]] = {
    "/api/clips": (footage.take, 20 * GIB),
    "/api/given": (made.give, 2 * GIB),
    "/api/samples/settings": (made.settings, 2 * GIB),
}
"""Path -> what takes a file that is sent there, and how large it may be; POST, with its name as `?name=`."""


def described() -> str:
    """The list of all that can be asked, as Markdown: what stands in docs/studio-api.md."""
    answers: list[Callable[..., Any]] = [*ROUTES.values(), *(take for take, _ in UPLOADS.values()), *MEDIA.values()]
    lines = []
    for answer in answers:
        first, _, more = inspect.cleandoc(answer.__doc__ or "").partition("\n\n")
        line = " ".join(first.split())
        # The first colon that stands in no braces: what comes before it is what is asked.
        end = next(k for k in range(len(line)) if line[k] == ":" and line[:k].count("{") == line[:k].count("}"))
        asked, about = line[:end], line[end + 1 :].strip()
        lines.append(f"- `{asked}`: {about}" + (f" {' '.join(more.split())}" if more else ""))
    return "\n".join(lines) + "\n"


LARGE = {"/api/masks": 64 * 2**20, "/api/masks/between": 64 * 2**20}
"""Bytes of other bodies that are larger than most."""

MEDIA: dict[str, Media] = {"/posters/": footage.poster, "/play/": footage.played}
"""Begin of a path -> the file that it stands for, made where it is missing; the rest of the path names a clip."""

SHOWN = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm",
    ".mkv": "video/x-matroska", ".gif": "image/gif", ".webp": "image/webp", ".png": "image/png", ".apng": "image/apng",
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".bmp": "image/bmp", ".avif": "image/avif",
}  # fmt: skip
"""Endings of files of the project that are served, and as what: pictures and videos, never pages or scripts."""
