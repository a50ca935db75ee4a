"""The one error a person's mistake raises."""

from __future__ import annotations


class InputError(ValueError):
    """A person's mistake, in one line: what was expected, what came, what to do.

    The command line prints its message and exits with status 2; anything else is a bug and shows its traceback.
    """


class MissingExtraError(InputError):
    """An optional library is not installed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed: pip install 'kinolab[{extra}]'")
        self._given = library, extra, purpose

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """As it is made: a worker's goes to the process that began it."""
        return type(self), self._given


class DamagedError(InputError):
    """A stored file that is not what was written: cut off, changed by the disk, or of another set of files."""


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """Work that events asked to stop has stopped between two pieces; what is done is whole."""
