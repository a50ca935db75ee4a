"""PyAV, imported at its first use: frames that come from elsewhere can be worked with where it isn't installed.

The other files of this folder take its names from here, and only from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kinolab.errors import InputError

__all__ = ["ColorRange", "Colorspace", "Interpolation", "VideoReformatter", "av"]

if TYPE_CHECKING:
    import av
    from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
else:

    class _Later:
        """A module, or a name in it, that is looked up when it is used."""

        def __init__(self, module: str, name: str = "") -> None:
            self._module, self._name = module, name

        def _found(self) -> Any:
            try:
                module = importlib.import_module(self._module)
            except ImportError as error:
                raise InputError(
                    f"video files need PyAV, which can't be imported here ({error}): pip install av"
                ) from None
            return getattr(module, self._name) if self._name else module

        def __getattr__(self, name: str) -> Any:
            return getattr(self._found(), name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self._found()(*args, **kwargs)

    av = _Later("av")
    ColorRange, Colorspace, Interpolation, VideoReformatter = (
        _Later("av.video.reformatter", name)
        for name in ("ColorRange", "Colorspace", "Interpolation", "VideoReformatter")
    )
