"""How much of a clip is faces, by a YuNet detector (Wu et al. 2023) in ONNX that the user names, run by OpenCV."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from kinolab.data.curate.frames import EachFrame, FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.data.curate.motion import need_opencv
from kinolab.errors import InputError
from kinolab.runtime.hashes import file_sha256
from kinolab.runtime.lines import one_line


class FacesConfig(FrameConfig):
    """Which detector, and how sure it has to be."""

    rate: float | None = 1.0
    """Frames per second that are looked at; none = all."""
    model: Path
    """An ONNX file of YuNet."""
    sure: float = Field(0.7, gt=0, lt=1)
    """Of a face, at least."""
    side: int = Field(320, ge=32)
    """Pixels of the shorter side that it looks at; a smaller frame as it is."""


class Faces(FrameSignal):
    """Faces in a clip."""

    Config = FacesConfig
    scores: ClassVar[dict[str, Score]] = {
        "faces": Score("faces", "most that are in one frame"),
        "face_area": Score("share", "of the picture, in the frame that has most"),
    }

    def check(self) -> None:
        """The detector can be read."""
        _detector(self.config.model, self.config.sure)

    def content(self) -> dict[str, str]:
        """The detector's hash, in place of where it lies."""
        return {"model": file_sha256(self.config.model)}

    def watch(self) -> Watcher:
        """Begin a file."""
        return EachFrame(self.scores, self._numbers)

    def _numbers(self, view: View) -> tuple[float, float]:
        detector = _detector(self.config.model, self.config.sure)
        small = np.ascontiguousarray(view.small(self.config.side)[..., ::-1])
        height, width = small.shape[:2]
        detector.setInputSize((width, height))
        _, found = detector.detect(small)
        if found is None:
            return 0.0, 0.0
        return float(len(found)), min(1.0, float((found[:, 2] * found[:, 3]).sum()) / (height * width))

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """The largest of the frames looked at."""
        found = inside(trace, part)
        return {name: float(found[name].max()) if len(found["time"]) else None for name in self.scores}


@lru_cache(maxsize=2)
def _detector(path: Path, sure: float) -> Any:
    """The detector, read once in a process."""
    cv2 = need_opencv("the signal faces")
    if not path.is_file():
        raise InputError(f"signals.faces.model: {path}: no such file; expected an ONNX file of YuNet")
    try:
        return cv2.FaceDetectorYN.create(str(path), "", (320, 320), sure)
    except cv2.error as error:
        raise InputError(f"signals.faces.model: {path}: no YuNet that OpenCV reads ({one_line(error, 100)})") from None
