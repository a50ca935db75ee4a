"""OpenCV, for the maps that it makes."""

from __future__ import annotations

from typing import Any

from kinolab.errors import MissingExtraError


def need_opencv(what: str) -> Any:
    """OpenCV; raises MissingExtraError where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("opencv-python-headless", "maps", what) from None
    return cv2
