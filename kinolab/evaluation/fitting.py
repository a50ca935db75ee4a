"""A model tuned on each clip that it edits (Wu et al. 2023, Tune-A-Video), for `kinolab evaluate edits --fit STEPS`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from kinolab import video
from kinolab.contracts.events import Stopped
from kinolab.evaluation.edits import Fit
from kinolab.models import VideoModel
from kinolab.training.fit import FitConfig, prepare
from kinolab.training.run import train

ALONE = tuple(f"training.{name}={10**9}" for name in ("save_every", "evaluate_every", "sample_every"))
"""Settings of a run of which nothing but the tuned model is kept; they decide none of its bits."""


@contextmanager
def prepared_on(
    model: str, steps: int, fps: float, clip: Tensor, caption: str, *, loaded: VideoModel, settings: Sequence[str] = ()
) -> Iterator[tuple[Path, Path]]:
    """The recipe by which a model is tuned on a clip (3, T, H, W), and the folder of its run; both are temporary."""
    with tempfile.TemporaryDirectory() as room:
        path, folder = Path(room) / "clip.mkv", Path(room) / "run"
        video.write(path, video.to_uint8(clip[None])[0], fps=fps, lossless=True)
        config = FitConfig(clips=(path,), prompts=(caption,), model=model, steps=steps)
        own = [*ALONE, "training.evaluate_first=false", f"training.device={loaded.device}"]
        yield prepare(config, folder, [*own, *settings], device=loaded.device).recipe, folder


def tuned_on(model: str, steps: int, fps: float, *, loaded: VideoModel, settings: Sequence[str] = ()) -> Fit:
    """What tunes a model on a clip as `kinolab fit` does, in a temporary folder, and gives the tuned model.

    Args:
        model: the folder of the image or video model, or its shipped name.
        steps: of training, for each clip.
        fps: of the clips.
        loaded: the same model: the tuned one goes to its device, with its precision.
        settings: fields of the recipe, as for `kinolab fit -s`.
    """

    def fit(clip: Tensor, caption: str) -> VideoModel:
        made = prepared_on(model, steps, fps, clip, caption, loaded=loaded, settings=settings)
        with made as (recipe, folder), torch.enable_grad():
            if not train(recipe, folder).finished:
                raise Stopped
            return VideoModel.load(folder, device=loaded.device, precision=loaded.precision)

    return fit
