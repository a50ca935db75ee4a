"""Which files and folders of a project's `clips` are clips, as `kinolab data check` takes them."""

from __future__ import annotations

from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime.hashes import file_sha256, sha256
from kinolab.runtime.paths import inside, visible
from kinolab.studio.project import Project
from kinolab.video.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, images_of, is_image, is_video, series

CLIPS = tuple(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
"""Endings of what may be dropped in."""


def names(project: Project) -> list[str]:
    """The clips of a project, by their names below `clips`; a link that leads out is none of them.

    A folder of numbered images of one series is one clip.
    """
    found = visible(project.clips, "**/*")
    within: dict[Path, list[Path]] = {}
    for path in found:
        within.setdefault(path.parent, []).append(path)
    frames = {
        folder for folder, inner in within.items()
        if folder != project.clips and not any(p.is_dir() for p in inner) and is_series([p.name for p in inner])
    }  # fmt: skip
    files = [path for path in found if path.parent not in frames and path.suffix.lower() in CLIPS and not path.is_dir()]
    shown = (path.relative_to(project.clips).as_posix() for path in (*frames, *files))
    return sorted(name for name in shown if _stays(project, name))


def outside(project: Project) -> list[str]:
    """A line for each link among the clips that leads out of `clips`, or nowhere, and is therefore no clip."""
    return [
        f"{project.shown(path)}: a link that leads out of clips/, or nowhere; put the file itself there"
        for path in visible(project.clips, "**/*")
        if path.is_symlink() and not _stays(project, path.relative_to(project.clips).as_posix())
    ]


def is_series(files: list[str]) -> bool:
    """Whether the names in a folder are the frames of one clip."""
    return not any(map(is_video, files)) and series(filter(is_image, files)) is not None


def size(path: Path) -> int:
    """Bytes of a clip."""
    if not path.is_dir():
        return path.stat().st_size
    return sum((path / name).stat().st_size for name in images_of(path))


def digest(path: Path) -> str:
    """sha256 of a clip's content; of a folder, of its images' names and contents."""
    if not path.is_dir():
        return file_sha256(path)
    return sha256("\n".join(f"{name} {file_sha256(path / name)}" for name in images_of(path)))


def _stays(project: Project, name: str) -> bool:
    """Whether a clip lies in `clips`, also where a link leads, and is a file or a folder."""
    try:
        path = inside(project.clips, name)
        return path.is_file() or path.is_dir()
    except (InputError, OSError):
        return False
