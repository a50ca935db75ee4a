"""Made videos: their history with all settings, what was given for them, and masks that were painted."""

from __future__ import annotations

import base64
import os
import re
import secrets
from functools import partial
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.hashes import sha256
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import inside, visible
from kinolab.runtime.reading import read_json
from kinolab.runtime.records import Record
from kinolab.studio.api.asked import Asked, NotThereError, Studio
from kinolab.studio.api.footage import CLIPS, STEM
from kinolab.studio.faults import tried
from kinolab.studio.project import HIDDEN, Project

VIDEOS = (".mp4", ".webm", ".gif", ".webp", ".mkv", ".mov", ".avi", ".png")
GIVEN = "given"
"""In `samples`: images, clips and masks that were given or drawn for a sampling."""
KEYS = 64
"""Key frames of a mask."""
RECORDED = ("request", "prompt", "seed", "index", "frames_sha256", "kinolab")
"""What of a video's record the page shows."""
PIXELS = 2**30
"""Pixels of all frames of a mask, each of which takes a byte while it is made."""
BETWEEN = 240
"""Frames of a mask that are shown at once."""
PICTURE = 2**22
"""Bytes of a painted key frame."""


def listed(studio: Studio, asked: Asked) -> Any:
    """GET /api/samples -> {samples}: made videos, the newest first, each with the request that made it.

    problem: what is wrong with the record beside one, which then has no request.
    """
    found = [facts(studio.project, path) for path in videos(studio.project)]
    return {"samples": sorted(found, key=lambda sample: -sample["changed"])}


def remove(studio: Studio, asked: Asked) -> Any:
    """DELETE /api/samples/{name}: remove a made video and the .json beside it."""
    path = video_of(studio, asked.path["name"])
    files.remove(path.with_suffix(".json"))
    files.discard(path)
    return {}


def given(studio: Studio, asked: Asked) -> Any:
    """GET /api/given -> {given}: what was given or drawn for samplings."""
    folder = studio.project.samples / GIVEN
    found = [p for p in visible(folder) if p.is_file()] if folder.is_dir() else []
    return {"given": [{"path": studio.project.shown(p), "bytes": p.stat().st_size} for p in found]}


def give(studio: Studio, uploaded: Path, name: str) -> Any:
    """POST /api/given?name=NAME with the file as body -> {path, info}: an image or clip to sample from.

    It is read first; its name gets the beginning of its hash, so that no other takes its place.
    """
    from kinolab.runtime.hashes import file_sha256

    stem, ending = Path(name).stem, Path(name).suffix.lower()
    if ending not in CLIPS:
        raise InputError(f"{shown(name)}: expected a video or an image ({', '.join(CLIPS)})")
    info = studio.looking.ask("probe", {"path": str(uploaded)})
    clean = STEM.sub("_", stem).strip("._ ")[:80] or "given"
    target = inside(studio.project.samples / GIVEN, f"{clean}-{file_sha256(uploaded)[:8]}{ending}", new=True)
    files.place(uploaded, target)
    return {"path": studio.project.shown(target), "info": info}


def mask(studio: Studio, asked: Asked) -> Any:
    """POST /api/masks {frames, height, width, fps, keys: [{frame, png}]} -> {path, share}: a mask that moves.

    keys: painted key frames, each a PNG (base64) that is white, or opaque, where something is to be generated. Between
    two of them the painted shape moves and changes (by the distance to its edge), before the first and behind the last
    it stays. The mask is a video without loss in samples/given, for `kinolab complete --mask`.
    """
    frames, height, width, keys = _painted(asked.body)
    fps = asked.body.number("fps", 8.0)
    name = sha256(repr((frames, height, width, fps, sorted(keys))))[:12]
    out = studio.project.samples / GIVEN / f"mask-{name}.mkv"
    values = {"frames": frames, "height": height, "width": width, "fps": fps, "out": str(out)}
    return {"path": studio.project.shown(out), "share": _asked_of(studio, "mask", keys, values)}


def between(studio: Studio, asked: Asked) -> Any:
    """POST /api/masks/between {frames, height, width, first, last, keys} -> {masks}: what /api/masks makes of them.

    masks: by its number, each frame from first to last that lies between two key frames, as a PNG (base64) with a
    colour where something is generated. Nothing is written.
    """
    frames, height, width, keys = _painted(asked.body)
    first = asked.body.integer("first", at_least=0, at_most=frames - 1)
    last = asked.body.integer("last", at_least=first, at_most=min(frames - 1, first + BETWEEN - 1))
    values = {"first": first, "last": last, "height": height, "width": width}
    return {"masks": _asked_of(studio, "between", keys, values)}


def _painted(body: Record) -> tuple[int, int, int, list[tuple[int, bytes]]]:
    """Frames, height and width of a mask, and the PNG files of its key frames by their numbers."""
    frames = body.integer("frames", at_least=1, at_most=10_000)
    height, width = body.integer("height", at_least=8, at_most=4096), body.integer("width", at_least=8, at_most=4096)
    if frames * height * width > PIXELS:
        raise InputError(f"a mask of {frames} x {height} x {width}: expected at most {PIXELS:,} pixels in all")
    keys = []
    for key in body.records("keys"):
        try:
            data = base64.b64decode(key.text("png").rpartition(",")[2], validate=True)
        except ValueError:
            raise key.wrong("png", "a PNG file in base64", key.text("png")) from None
        if len(data) > PICTURE or not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise InputError(f"a key frame: expected a PNG file of at most {PICTURE:,} bytes")
        keys.append((key.integer("frame", at_least=0, at_most=frames - 1), data))
    if not 0 < len(keys) <= KEYS:
        raise InputError(f"keys: expected 1 to {KEYS} painted key frames, got {len(keys)}")
    return frames, height, width, keys


def _asked_of(studio: Studio, what: str, keys: list[tuple[int, bytes]], values: dict[str, Any]) -> Any:
    """What the helper makes of painted key frames, which lie in files meanwhile."""
    with files.scratch(studio.project.samples / HIDDEN) as room:
        painted = []
        for frame, data in keys:
            files.write_bytes(room / f"{frame:06d}.png", data)
            painted.append({"frame": frame, "path": str(room / f"{frame:06d}.png")})
        return studio.looking.ask(what, {"keys": painted, **values})


def settings(studio: Studio, uploaded: Path, name: str) -> Any:
    """POST /api/samples/settings?name=NAME with a video as body -> {request, prompt, seed, ...}: what made it.

    Read from the file itself; nothing of it is kept.
    """
    if Path(name).suffix.lower() not in (".mp4", ".mov", ".mkv", ".webm"):
        raise InputError(f"{shown(name)}: settings are written into .mp4, .mov, .mkv and .webm files")
    return studio.looking.ask("settings", {"path": str(uploaded), "name": name})


def out_name(studio: Studio, asked: Asked) -> Any:
    """POST /api/samples/name {title} -> {out}: a free name for a video to be made."""
    stem = re.sub(r"[^a-z0-9]+", "-", asked.body.text("title", "").lower()).strip("-")[:40] or "sample"
    return {"out": f"samples/{stem}-{secrets.token_hex(3)}.mp4"}


def videos(project: Project) -> list[Path]:
    """The made videos of a project; what was given for them is not among them."""
    found = (p for p in visible(project.samples, "**/*") if p.suffix.lower() in VIDEOS and p.is_file())
    return [p for p in found if p.relative_to(project.samples).parts[0] != GIVEN]


def video_of(studio: Studio, name: str) -> Path:
    """A made video by its name below `samples`."""
    path = inside(studio.project.samples, name)
    if path not in videos(studio.project):
        raise NotThereError(f"{shown(name)}: no such made video")
    return path


def facts(project: Project, path: Path) -> dict[str, Any]:
    """What the page shows of a made video."""
    record: Record | None = None
    problem = ""
    if os.path.lexists(path.with_suffix(".json")):
        record, problem = tried(project, partial(record_of, path.with_suffix(".json")))
    status = path.stat()
    found: dict[str, Any] = {
        "path": project.shown(path), "name": path.relative_to(project.samples).as_posix(), "bytes": status.st_size,
        "changed": round(status.st_mtime, 3), "request": None,
    }  # fmt: skip
    if record is not None:
        found |= {key: record.values.get(key) for key in RECORDED}
    if problem:
        found["problem"] = f"its settings can't be read: {problem}"
    return found


def record_of(path: Path) -> Record:
    """The record beside a made video.

    Raises:
        InputError: where it can't be read.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("request", {}), dict):
        raise InputError(f"{path}: expected the record of a video, as kinolab generate writes it")
    return Record(values, path.name)
