"""Commands of the program, in this process."""

from __future__ import annotations

import contextlib
import io

from kinolab.cli import main


def run(*words: object) -> str:
    """What a command prints, in one line; of one that fails, its error too."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main([str(word) for word in words])
    return " ".join(out.getvalue().split())
