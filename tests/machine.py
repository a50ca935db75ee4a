"""What tests may not know of the machine: its owner, terminal, speed, accelerators, and the job that it runs in."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from kinolab.runtime import precision

MEASURED = precision.measure
"""The real measurement of the processor, for the tests of it."""
STEADY = precision.Measurement(1.0, 1.0, 1.0, 1.0, onednn_error=1.0)
"""A processor on which bfloat16 gains nothing and oneDNN isn't wanted: `auto` is float32 everywhere, and two processes
of one test compute alike whatever else the machine does meanwhile."""

REMOVED = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",  # of a cluster's job
    "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "NO_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "TTY_INTERACTIVE",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "TORCH_HOME",
)  # fmt: skip
SET = {
    "COLUMNS": "80", "LINES": "25", "TERM": "dumb", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "UTC",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip
NO_ACCELERATOR = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}

settings.register_profile("any machine", deadline=None, derandomize=True, database=None)


def steady() -> None:
    """Hold still what is measured and found while a program runs; for this process and those that fork from it."""
    os.environ.update(NO_ACCELERATOR)  # before anybody asks, as torch remembers how many there are
    for kind in (torch.xpu, torch.backends.mps):
        kind.is_available = lambda: False  # type: ignore[attr-defined]
    precision.measure = lambda: STEADY
    settings.load_profile("any machine")
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background


@contextmanager
def somebodys(home: Path) -> Iterator[None]:
    """An environment that has nothing of the person's who runs the tests; `home` is empty."""
    with pytest.MonkeyPatch.context() as patch:
        for name in REMOVED:
            patch.delenv(name, raising=False)
        for name, value in {**SET, "HOME": str(home), "USERPROFILE": str(home)}.items():
            patch.setenv(name, value)
        yield
