"""A process for what reads people's files, and for what needs torch: the server opens no video and imports no network.

`Helper` is the server's side: it begins `python -m kinolab.studio.helper`, asks one thing after the other
(`asks.ASKS`), and begins another where one died or took too long. A file that crashes a decoder ends the helper, not
the server. What takes long tells how far it is: a function with an argument `told` is given one, `told(done, total)`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.processes import safe_environment
from kinolab.runtime.reading import parse_json

IDLE = 600.0
"""Seconds without a question after which a helper ends and gives its memory back."""
PATIENCE = 60.0
"""Seconds that an answer may take, or the next word of how far it is, where the caller names no other."""
CHANNEL = "kinolab-answer "
"""What a line of the helper's that is an answer begins with; a library may print others."""
REACHED = "kinolab-reached "
"""What a line that says how far it is begins with; `done total` follow."""
OFTEN = 0.2
"""Seconds between two of these lines."""


@dataclass
class Doing:
    """A question that has no answer yet: `of` = what it is about, `began` = when it was put, in seconds since 1970, or
    None while it waits; so many of so many pieces are done, 0 of 0 where it doesn't say."""

    what: str
    of: str
    began: float | None = None
    done: int = 0
    total: int = 0


class Helper:
    """A process that answers questions, one at a time; begun when it is asked, and again when it died.

    Args:
        folder: of the project, in which it works.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.doing: tuple[Doing, ...] = ()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._used = 0.0

    def ask(
        self, what: str, values: Mapping[str, Any] | None = None, patience: float = PATIENCE, *, of: str = ""
    ) -> Any:
        """The answer to a question of `asks.ASKS`; of: what it is about, for who looks at what is done.

        Raises:
            InputError: what it says is wrong, or that it died over the question or said nothing for `patience` seconds.
        """
        mine = Doing(what, of)
        self.doing = (*self.doing, mine)
        try:
            with self._lock:
                line = self._asked(mine, values or {}, patience)
        finally:
            self.doing = tuple(each for each in self.doing if each is not mine)
        found = parse_json(line.removeprefix(CHANNEL), what, constants=True)
        if "error" in found:
            raise InputError(str(found["error"]))
        return found["answer"]

    def _asked(self, doing: Doing, values: Mapping[str, Any], patience: float) -> str:
        """The line that answers a question."""
        process = self._begun()
        assert process.stdin is not None and process.stdout is not None
        doing.began, heard, line = time.time(), time.monotonic(), ""
        watch = threading.Timer(patience, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps({"ask": doing.what, "values": dict(values)}) + "\n")
            process.stdin.flush()
            while (line := process.stdout.readline()) and not line.startswith(CHANNEL):
                if line.startswith(REACHED):
                    doing.done, doing.total = (int(word) for word in line.removeprefix(REACHED).split())
                    watch.cancel()
                    watch, heard = threading.Timer(patience, process.kill), time.monotonic()
                    watch.start()
        except (BrokenPipeError, ValueError):
            line = ""
        finally:
            watch.cancel()
        self._used = time.monotonic()
        if not line:
            self._end()
            late = time.monotonic() - heard >= patience
            raise InputError(
                f"{doing.what}: took longer than {patience:g} s" if late
                else f"{doing.what}: the process that reads it died"
            )  # fmt: skip
        return line

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


def telling() -> Callable[[int, int], None]:
    """A function that tells whoever asked how far the work is, now and then."""
    last = 0.0

    def told(done: int, total: int) -> None:
        nonlocal last
        if total > 0 and (time.monotonic() - last >= OFTEN or done >= total):
            last = time.monotonic()
            print(f"{REACHED}{min(done, total)} {total}", flush=True)

    return told


def main() -> None:
    """Answer the questions that come, a line each, until no more do."""
    from kinolab.runtime.lines import one_line
    from kinolab.studio.asks import ASKS

    for line in sys.stdin:
        asked = parse_json(line, "a question")
        try:
            module, _, name = ASKS[asked["ask"]].partition(":")
            function = getattr(importlib.import_module(module), name)
            more = {"told": telling()} if "told" in inspect.signature(function).parameters else {}
            answer = {"answer": function(**asked["values"], **more)}
        except (InputError, OSError) as error:
            answer = {"error": one_line(error)}
        except Exception as error:  # of a library, over a file that nobody thought of
            answer = {"error": one_line(f"{type(error).__name__}: {error}")}
        print(CHANNEL + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
