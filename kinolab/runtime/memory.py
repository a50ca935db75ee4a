"""The most memory that this process has held, and its training on the device."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_memory(device: torch.device) -> int | None:
    """The most memory that a training in this process has taken, in bytes: on its GPU, or else of the process."""
    from kinolab.runtime import devices

    own = devices.peak_memory(device)
    return peak_memory() if own is None else own
