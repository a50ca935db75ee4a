"""A project: the folder that the studio shows. What lies where in it, and that nothing outside of it is touched.

clips/       a person's clips, as they were given, with captions beside them (.txt)
data.yaml    what is cut out of them, and which are left out
runs/        run folders
models/      model folders
samples/     made videos, each with its .json, and the masks and images that were drawn or given for them
scores/      what evaluations wrote
queue/       a folder for each job, and what is to run next
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from kinolab.errors import InputError
from kinolab.runtime import locks
from kinolab.runtime.files import make_folder
from kinolab.runtime.hashes import sha256
from kinolab.runtime.lines import one_line
from kinolab.runtime.paths import inside, real, single

FOLDERS = ("clips", "runs", "models", "samples", "scores", "queue")
"""The folders of a project; those that are missing are made."""
HIDDEN = ".studio"
"""In `clips` and `samples`: small copies and pictures of what lies there, which can always be made again."""


@dataclass(frozen=True)
class Project:
    """The folder of a project."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Project:
        """A project, its folders made where they are missing.

        Raises:
            InputError: where a file has the folder's name.
            OSError: where it can't be made.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file; expected a folder for clips, runs and samples")
        found = cls(real(folder))
        for name in FOLDERS:
            make_folder(found.folder / name)
        return found

    @property
    def clips(self) -> Path:
        """Where the clips lie."""
        return self.folder / "clips"

    @property
    def runs(self) -> Path:
        """Where trainings write."""
        return self.folder / "runs"

    @property
    def models(self) -> Path:
        """Where model folders lie that no run made."""
        return self.folder / "models"

    @property
    def samples(self) -> Path:
        """Where made videos lie."""
        return self.folder / "samples"

    @property
    def scores(self) -> Path:
        """Where evaluations write."""
        return self.folder / "scores"

    @property
    def queue(self) -> Path:
        """Where jobs lie."""
        return self.folder / "queue"

    @property
    def data(self) -> Path:
        """What is cut out of the clips."""
        return self.folder / "data.yaml"

    @property
    def name(self) -> str:
        """What the page calls it."""
        return self.folder.name

    @property
    def key(self) -> str:
        """Tells it apart from others on this machine."""
        return sha256(str(self.folder))[:16]

    def path(self, name: str, *, new: bool = False) -> Path:
        """The path of something in the project, named from its folder.

        Raises:
            InputError: for a name that leads out, also through a link.
        """
        return inside(self.folder, name, new=new)

    def refuse_links(self, folder: Path) -> None:
        """Refuse a folder in which a link leads out of the project: who reads all that lies there would follow it.

        Raises:
            InputError: where one does.
        """
        waiting = [folder] if folder.is_dir() else []
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if entry.is_symlink() and self.folder not in real(path).parents:
                        raise InputError(
                            f"{self.shown(path)}: a link that leads out of the project; copy what it leads to "
                            "into the project, or remove it"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)

    def clip(self, name: str) -> Path:
        """The path of a clip.

        Raises:
            InputError: for a name that leads out of `clips`, and for a clip that is not there.
        """
        path = inside(self.clips, name)
        if not path.exists():
            raise InputError(f"{name}: no such clip")
        return path

    def beside(self, name: str) -> Path:
        """The path of the text beside a clip, which need not be there."""
        path = self.clip(name)
        return path.parent / f"{path.name}.txt" if path.is_dir() else path.with_suffix(".txt")

    def run(self, name: str) -> Path:
        """The folder of a run, which need not be there.

        Raises:
            InputError: for what is no name of one.
        """
        return single(self.runs, name)

    def said(self, error: object) -> str:
        """An error in one line, in which what lies in the project is named from its folder."""
        text: object = error
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            text = f"{os.fsdecode(error.filename)}: {error.strerror}"
        return one_line(text).replace(f"{self.folder}/", "")

    def shown(self, path: Path) -> str:
        """A path of the project as the page names it."""
        return path.relative_to(self.folder).as_posix()


def changing(project: Project) -> AbstractContextManager[None]:
    """Held over what is read, changed and written of clips, captions and data.yaml: tabs do so one after the other."""
    return locks.held(project.queue / ".clips.lock")
