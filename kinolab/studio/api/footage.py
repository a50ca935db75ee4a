"""Clips: listed, taken in, looked at, captioned, and what is cut out of them."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.hashes import sha256
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import inside
from kinolab.runtime.records import Record, read_record, write_record
from kinolab.runtime.yaml_files import read_yaml, to_yaml
from kinolab.studio.api.asked import Asked, Studio
from kinolab.studio.api.captions import Told
from kinolab.studio.faults import tried
from kinolab.studio.listing import CLIPS, digest, names, outside, size
from kinolab.studio.project import HIDDEN, Project, changing
from kinolab.video.names import IMAGE_SUFFIXES

LONG = 600.0
"""Seconds that a data check or a copy for the browser may take to its next word of how far it is."""
STEM = re.compile(r"[^\w.()\-]+")
"""What is left out of a file's name: anything but letters of any language, digits, and a few signs."""


def listed(studio: Studio, asked: Asked) -> Any:
    """GET /api/clips -> {clips, endings, problems}: every clip with its caption, what it holds where that is known, and
    its edits; problems: what is wrong with data.yaml or a table of captions, and links that are no clips."""
    edits, problem = tried(studio.project, partial(read_edits, studio.project))
    told = Told(studio)
    found, problems = list[Any](), [problem, studio.project.said(told.problem), *outside(studio.project)]
    for name in names(studio.project):
        clip, problem = tried(studio.project, partial(facts, studio, name, edits or {}, told))
        if clip is not None:
            found.append(clip)
        elif (studio.project.clips / name).exists():  # not gone since it was listed
            problems.append(problem)
    return {"clips": found, "endings": list(CLIPS), "problems": [each for each in (*problems, *told.wrong) if each]}


def look(studio: Studio, asked: Asked) -> Any:
    """POST /api/clips/look {name} -> the clip: read what it holds, hash it, and draw its poster."""
    name = asked.body.text("name")
    learn(studio, name)
    return facts(studio, name, read_edits(studio.project))


def take(studio: Studio, uploaded: Path, name: str) -> Any:
    """POST /api/clips?name=NAME with the file as body -> {clip, duplicate}: a clip that is dropped in.

    It is read from under a temporary name first; only what is a video or an image is given one in `clips`. The same
    content is not kept twice: then `duplicate` names the clip that is there. An image may be named FOLDER/NAME: images
    of one folder are the frames of a clip.
    """
    folder, _, bare = name.rpartition("/")
    stem, ending = Path(bare).stem, Path(bare).suffix.lower()
    if ending not in CLIPS:
        raise InputError(f"{shown(name)}: expected a video or an image ({', '.join(CLIPS)})")
    info = studio.looking.ask("probe", {"path": str(uploaded)})
    project = studio.project
    if folder:
        return {"clip": _take_frame(studio, uploaded, folder, f"{stem}{ending}"), "duplicate": None}
    found = digest(uploaded)
    with changing(project):
        for known in names(project):
            there = stored(project, known)
            if there is not None and there.text("sha256") == found:
                return {"clip": facts(studio, known, read_edits(project)), "duplicate": known}
        clean = STEM.sub("_", stem).strip("._ ")[:80] or found[:12]
        target = inside(project.clips, f"{clean}{ending}", new=True)
        if target.exists():
            target = inside(project.clips, f"{clean}-{found[:8]}{ending}", new=True)
        files.place(uploaded, target)
        keep(project, target.name, info, found)
    return {"clip": facts(studio, target.name, read_edits(project)), "duplicate": None}


def _take_frame(studio: Studio, uploaded: Path, folder: str, name: str) -> Any:
    """Take an image of a folder in, under its own name; the folder as a clip, where its images are one by now."""
    clean = STEM.sub("_", folder).strip("._ ")[:80]
    if not clean or Path(name).suffix.lower() not in IMAGE_SUFFIXES or STEM.search(name) or name.startswith("."):
        raise InputError(f"{shown(f'{folder}/{name}')}: expected FOLDER/NAME of an image, a frame of a clip")
    with changing(studio.project):
        target = inside(studio.project.clips, f"{clean}/{name}", new=True)
        if not target.exists():
            files.place(uploaded, target)
        elif digest(target) != digest(uploaded):
            raise InputError(f"clips/{clean}/{name}: is there and another picture; rename the folder")
    return facts(studio, clean, read_edits(studio.project)) if clean in names(studio.project) else None


def remove(studio: Studio, asked: Asked) -> Any:
    """DELETE /api/clips/{name}: remove a clip, its caption and what was made of it.

    A caption that another clip of the same stem has, too, stays.
    """
    name, project = asked.path["name"], studio.project
    with changing(project):
        path, edits, text = project.clip(name), read_edits(project), project.beside(name)
        if name not in names(project):
            raise InputError(f"{name}: no such clip")
        files.discard(path)
        if edits.pop(name, None) is not None:
            write_edits(project, edits)
        for ending in (".json", ".webp", ".mp4"):
            files.remove(hidden(project, name, ending))
        if text not in {project.beside(other) for other in names(project)}:
            files.remove(text)
    return {}


def edit(studio: Studio, asked: Asked) -> Any:
    """PUT /api/clips/edit {name, use, parts, crop}: what is cut out of a clip; the clip itself stays as it is.

    parts: [{start, end}] in seconds, [] = all of it. crop: [left, top, width, height] as shares of the picture, or
    none. use: false leaves the clip out. Kept in data.yaml.
    """
    name = asked.body.text("name")
    studio.project.clip(name)
    parts = []
    for part in asked.body.records("parts", []):
        start, end = part.number("start"), part.number("end")
        if not 0 <= start < end:
            raise part.wrong("end", "later than start", end)
        parts.append({"start": round(start, 6), "end": round(end, 6)})
    crop = asked.body.numbers("crop", [])
    if crop and not (len(crop) == 4 and all(0 <= v <= 1 for v in crop) and crop[0] + crop[2] <= 1.000001
                     and crop[1] + crop[3] <= 1.000001 and min(crop[2:]) > 0):  # fmt: skip
        raise InputError("crop: expected left, top, width and height as shares of the picture, inside it")
    found: dict[str, Any] = {}
    if not asked.body.flag("use", True):
        found["use"] = False
    if parts:
        found["parts"] = parts
    if crop:
        found["crop"] = [round(v, 6) for v in crop]
    with changing(studio.project):
        edits = read_edits(studio.project)
        edits.pop(name, None)
        edits |= {name: found} if found else {}
        write_edits(studio.project, edits)
    return facts(studio, name, edits)


def check(studio: Studio, asked: Asked) -> Any:
    """POST /api/clips/check {frames, size, fps} -> {verdicts, notes, totals, frames, size}: `kinolab data check`."""
    settings = {k: asked.body.values.get(k) for k in ("frames", "size", "fps")}
    settings = {k: v for k, v in settings.items() if v is not None}
    if not all(isinstance(v, int | float | str) for v in settings.values()):
        raise InputError("frames, size, fps: expected numbers")
    studio.project.refuse_links(studio.project.clips)
    return studio.checking.ask("check", {"path": str(studio.project.clips), "settings": settings}, LONG, of="clips")


def scenes(studio: Studio, asked: Asked) -> Any:
    """POST /api/clips/scenes {name} -> {cuts, frames, seconds}: where scenes begin (needs the extra `train`)."""
    path = studio.project.clip(asked.body.text("name"))
    return studio.checking.ask("scenes", {"path": str(path)}, LONG, of=asked.body.text("name"))


def alike(studio: Studio, asked: Asked) -> Any:
    """POST /api/clips/alike -> {alike, done, total}: clips that look as an earlier one does, but for its size.

    alike: by the clip's name, {of: the earlier one, share} of the bits of a perceptual hash over time that both have,
    as `kinolab data curate` counts them. A call reads clips for some seconds; done of total say whether to ask again.
    Of more than a hundred clips the last call alone says which are alike.
    """
    project = studio.project
    project.refuse_links(project.clips)
    return studio.checking.ask("alike", {"path": str(project.clips), "names": names(project)}, LONG, of="clips")


def poster(studio: Studio, name: str) -> Path:
    """GET /posters/{name}: a small picture of a clip, made when it is first asked for."""
    path, out = studio.project.clip(name), hidden(studio.project, name, ".webp")
    if not out.exists() or out.stat().st_mtime_ns < path.stat().st_mtime_ns:
        studio.looking.ask("poster", {"path": str(path), "out": str(out)})
    return out


def played(studio: Studio, name: str) -> Path:
    """GET /play/{name}: a clip as browsers play it: itself, or a copy in H.264 made when it is first asked for."""
    path = studio.project.clip(name)
    found = stored(studio.project, name) or learn(studio, name)
    if found.record("info").flag("plays"):
        return path
    out = hidden(studio.project, name, ".mp4")
    if not out.exists() or out.stat().st_mtime_ns < path.stat().st_mtime_ns:
        studio.copying.ask("proxy", {"path": str(path), "out": str(out)}, LONG, of=name)
    return out


def facts(studio: Studio, name: str, edits: dict[str, Any], told: Told | None = None) -> dict[str, Any]:
    """What the page shows of a clip; `info` and `sha256` are None until it was looked at."""
    project = studio.project
    path, told = project.clip(name), told or Told(studio)
    found = stored(project, name)
    return {
        "name": name, "bytes": size(path), "caption": told.of(name), "table": told.tables.get(name),
        "info": found.record("info").values if found is not None else None,
        "sha256": found.text("sha256") if found is not None else None,
        "edit": edits.get(name, {}),
    }  # fmt: skip


def learn(studio: Studio, name: str) -> Record:
    """Look at a clip and keep what it holds."""
    path = studio.project.clip(name)
    status = path.stat()
    return keep(studio.project, name, studio.looking.ask("probe", {"path": str(path)}), digest(path), status)


def keep(project: Project, name: str, info: Any, digest: str, status: os.stat_result | None = None) -> Record:
    """Keep what a clip holds; status: of the file that was looked at, where it may have changed since."""
    status = status or project.clip(name).stat()
    values: dict[str, Any] = {"bytes": status.st_size, "modified": status.st_mtime_ns, "info": info, "sha256": digest}
    write_record(hidden(project, name, ".json"), values)
    return Record(values, name)


def stored(project: Project, name: str) -> Record | None:
    """What is known of a clip, where it is still that file."""
    try:
        record, status = read_record(hidden(project, name, ".json")), project.clip(name).stat()
    except (InputError, OSError):
        return None
    same = record.values.get("bytes") == status.st_size and record.values.get("modified") == status.st_mtime_ns
    return record if same else None


def hidden(project: Project, name: str, ending: str) -> Path:
    """Where something that was made of a clip is kept."""
    return project.clips / HIDDEN / f"{sha256(name)[:24]}{ending}"


def read_edits(project: Project) -> dict[str, Any]:
    """What data.yaml says of each clip."""
    if not project.data.exists():
        return {}
    values = read_yaml(project.data)
    clips = values.get("clips") if isinstance(values, dict) else None
    if not isinstance(clips, dict):
        raise InputError(f"{project.data}: expected `clips`, a mapping of names to what is cut out of them")
    for name, value in clips.items():
        if not isinstance(value, dict):
            raise InputError(
                f"{project.data}: clips: {shown(name)}: expected what is cut out of it, such as {{use: false}}"
            )
    return {str(name): value for name, value in clips.items()}


def write_edits(project: Project, edits: dict[str, Any]) -> None:
    """Write data.yaml."""
    files.write_text(project.data, to_yaml({"clips": dict(sorted(edits.items()))}))
