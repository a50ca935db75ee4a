"""Kinolab trains, samples, measures and compares latent video diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kinolab.errors import InputError as InputError
    from kinolab.models import VideoModel as VideoModel

__all__ = ["InputError", "VideoModel", "__version__"]

_HOMES = {"InputError": "kinolab.errors", "VideoModel": "kinolab.models"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that the command line starts without torch."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kinolab' has no attribute {name!r}")
