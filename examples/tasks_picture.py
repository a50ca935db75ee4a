"""One picture of the videos that examples/tasks.sh makes: `python tasks_picture.py OUT CLIP` writes OUT/tasks.png.

Nine frames of each video, evenly spread; a frame that was given whole has a green edge.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from kinolab import video
from kinolab.autoencoders import build
from kinolab.generation.request import GenerateConfig
from kinolab.models.folder import autoencoder_config
from kinolab.reports.sheet import Strip, write_sheet
from kinolab.tasks.request import Shape, prepare

ROWS = {
    "predict": "predict, 8 frames given",
    "past": "predict the past, 8 frames given",
    "interpolate": "interpolate, every 4th frame given",
    "animate": "animate one image",
    "two-images": "animate from one image to another",
    "complete": "complete a box in the middle",
    "extend": "extend 17 frames to 41",
    "loop": "extend 17 frames to a loop of 33",
}
SHOWN, EDGE, GREEN = 9, 2, (30, 160, 90)


def given_frames(record: Path, frames: int) -> np.ndarray:
    """(T,) bool: the frames of a made video that were given whole."""
    config = GenerateConfig.model_validate(json.loads(record.read_text(encoding="utf-8"))["request"])
    assert config.given is not None and config.size is not None and config.fps is not None
    with torch.device("meta"):
        spec = build(autoencoder_config(config.model)).spec
    shape = Shape(17, config.size, config.fps, spec.temporal_ratio, spec.group_frames)
    prepared = prepare(config.given, shape, config.frames)
    whole: np.ndarray = (prepared.canvas.mask[0, 0] == 0).flatten(1).all(1).numpy()
    assert len(whole) == frames
    return whole


def main(out: Path, clip: Path) -> None:
    """Write the picture."""
    first = video.read(out / "predict.mkv")
    true = video.read(clip, fps=first.fps, size=(first.frames.shape[1], first.frames.shape[2])).frames[:17]
    strips = [Strip("the clip itself", true)]
    for name, title in ROWS.items():
        frames = video.read(out / f"{name}.mkv").frames.copy()
        for k, whole in enumerate(given_frames(out / f"{name}.json", len(frames))):
            if whole:
                frames[k, :EDGE] = frames[k, -EDGE:] = frames[k, :, :EDGE] = frames[k, :, -EDGE:] = GREEN
        strips.append(Strip(title, frames))
    write_sheet(strips, out / "tasks.png", columns=1, shown=SHOWN)
    print(out / "tasks.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
