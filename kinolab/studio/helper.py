"""A process for what reads people's files, and for what needs torch: the server opens no video and imports no network.

`Helper` is the server's side: it begins `python -m kinolab.studio.helper`, asks one thing after the other
(`asks.ASKS`), and begins another where one died or took too long. A file that crashes a decoder ends the helper, not
the server.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.processes import safe_environment
from kinolab.runtime.reading import parse_json

IDLE = 600.0
"""Seconds without a question after which a helper ends and gives its memory back."""
PATIENCE = 60.0
"""Seconds that an answer may take where the caller names no other."""
CHANNEL = "kinolab-answer "
"""What a line of the helper's that is an answer begins with; a library may print others."""


class Helper:
    """A process that answers questions, one at a time; begun when it is asked, and again when it died.

    Args:
        folder: of the project, in which it works.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._used = 0.0

    def ask(self, what: str, values: Mapping[str, Any] | None = None, patience: float = PATIENCE) -> Any:
        """The answer to a question of `asks.ASKS`.

        Raises:
            InputError: what it says is wrong, or that it died over the question or took longer than `patience` seconds.
        """
        with self._lock:
            process = self._begun()
            assert process.stdin is not None and process.stdout is not None
            watch = threading.Timer(patience, process.kill)
            watch.start()
            began = time.monotonic()
            try:
                process.stdin.write(json.dumps({"ask": what, "values": dict(values or {})}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
                while line and not line.startswith(CHANNEL):
                    line = process.stdout.readline()
            except (BrokenPipeError, ValueError):
                line = ""
            finally:
                watch.cancel()
            self._used = time.monotonic()
            if not line:
                self._end()
                late = time.monotonic() - began >= patience
                raise InputError(
                    f"{what}: took longer than {patience:g} s" if late else f"{what}: the process that reads it died"
                )
        found = parse_json(line.removeprefix(CHANNEL), what, constants=True)
        if "error" in found:
            raise InputError(str(found["error"]))
        return found["answer"]

    def rest(self) -> None:
        """End the process where nobody has asked for long."""
        if self._process is not None and time.monotonic() - self._used > IDLE and self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process, whatever it does."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _begun(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kinolab.studio.helper"], cwd=self.folder, env=safe_environment(),
                text=True, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
            return
        process.kill()
        process.wait()


def main() -> None:
    """Answer the questions that come, a line each, until no more do."""
    from kinolab.runtime.lines import one_line
    from kinolab.studio.asks import ASKS

    for line in sys.stdin:
        asked = parse_json(line, "a question")
        try:
            module, _, name = ASKS[asked["ask"]].partition(":")
            answer = {"answer": getattr(importlib.import_module(module), name)(**asked["values"])}
        except (InputError, OSError) as error:
            answer = {"error": one_line(error)}
        except Exception as error:  # of a library, over a file that nobody thought of
            answer = {"error": one_line(f"{type(error).__name__}: {error}")}
        print(CHANNEL + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
