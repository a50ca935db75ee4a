"""The most memory that this process has held, and its training on the device."""

from __future__ import annotations

import sys


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_memory() -> int | None:
    """The most memory that a training in this process has taken, in bytes: allocated on the GPU where there is one.

    A training always takes the GPU where there is one (`kinolab.training.parallel.join_world`).
    """
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory()
