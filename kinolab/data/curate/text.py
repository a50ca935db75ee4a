"""How much of a clip is text: titles, subtitles, logos, watermarks.

Two ways, which are two protocols: `edges` needs nothing and estimates it from where strong edges of both directions
stand close together, as strokes do, so fences and foliage count too; `rapidocr` finds boxes by the text detector of the
package rapidocr-onnxruntime, whose weights come with it. Stable Video Diffusion uses CRAFT's boxes on three frames.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from kinolab.data.curate.frames import EachFrame, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.errors import InputError

STROKE = 48.0
"""Grey values from pixel to pixel of a stroke's edge."""
LONG_SIDE = 1280
"""Pixels of the longer side that the detector looks at, as CRAFT is used."""


class TextConfig(FrameConfig):
    """How text is found."""

    rate: float | None = Field(1.0, gt=0, le=1000)
    """Frames per second that are looked at; none = all."""
    by: Literal["edges", "rapidocr"] = "edges"
    """edges = an estimate by the density of edges; rapidocr = boxes of a text detector (rapidocr-onnxruntime)."""
    side: int = Field(360, ge=64)
    """With edges: pixels of the shorter side that is looked at; a smaller frame as it is."""
    dense: float = Field(0.16, gt=0, le=1)
    """With edges: the share of rising edges, and of falling ones, that a place of text has at least."""


def edge_text(grey: np.ndarray, dense: float) -> float:
    """The share of a grey picture (H, W) where rising and falling strong edges along the rows are dense.

    Places are as wide as a few letters and as high as a line: a twelfth and a twenty-fourth of the shorter side.
    """
    steps = np.diff(grey.astype(np.float32), axis=1)
    short = min(grey.shape)
    high, wide = max(3, short // 24), max(6, short // 12)
    rising, falling = (_density(mask, high, wide) for mask in (steps > STROKE, steps < -STROKE))
    return float(((rising >= dense / 2) & (falling >= dense / 2)).mean())


def _density(mask: np.ndarray, high: int, wide: int) -> np.ndarray:
    """The share of marked pixels in a box around each pixel; the picture ends at its border."""
    up, left = high // 2, wide // 2
    padded = np.pad(mask.astype(np.float32), ((up, high - 1 - up), (left, wide - 1 - left)))
    sums = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    return np.asarray(boxes / (high * wide))


class Text(FrameSignal):
    """Text in a clip."""

    Config = TextConfig
    scores: ClassVar[dict[str, Score]] = {
        "text": Score("share", "of the picture that is text, in the frame that has most of it")
    }

    def check(self) -> None:
        """The detector's package is there."""
        if self.config.by == "rapidocr":
            _detector()

    def watch(self) -> Watcher:
        """Begin a file."""
        return EachFrame(["text"], self._numbers)

    def _numbers(self, view: View) -> tuple[float]:
        if self.config.by == "edges":
            return (edge_text(view.grey(self.config.side), self.config.dense),)
        return (box_text(view.image),)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """The largest share of the frames looked at."""
        found = inside(trace, part)["text"]
        return {"text": float(found.max()) if len(found) else None}


def box_text(image: np.ndarray) -> float:
    """The share of a picture (H, W, 3) in the boxes of the text detector; where boxes overlap, both count."""
    height, width = image.shape[:2]
    step = max(1, -(-max(height, width) // LONG_SIDE))
    small = np.ascontiguousarray(image[::step, ::step, ::-1])
    boxes, _ = _detector().auto_text_det(small)
    if boxes is None or not len(boxes):
        return 0.0
    x, y = (np.asarray(boxes, np.float64)[..., k] for k in range(2))  # (N, 4) corners in order
    areas = 0.5 * np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1))
    return min(1.0, float(areas.sum()) / (small.shape[0] * small.shape[1]))


_loaded: list[Any] = []


def _detector() -> Any:
    """The detector, read once in a process. Raises InputError without its package."""
    if not _loaded:
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ImportError:
            raise InputError(
                "signals.text.by: rapidocr needs the package rapidocr-onnxruntime: pip install rapidocr-onnxruntime; "
                "or leave it at edges, an estimate"
            ) from None
        _loaded.append(RapidOCR())
    return _loaded[0]
