"""What the finished stages of a cascade made, kept beside the video until it is written.

A cascade that is cut off between two stages, or in one, goes on behind the last one that is whole when the same request
is made again: the clips that a stage is told are kept bit for bit. What is kept says by a hash what it was made by: the
model, the request and the files that it reads, the versions, the device and the number of threads, as far as they count
up to that stage. So other settings of a later stage leave the earlier ones as they are, and nothing else fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab import __version__
from kinolab.contracts.events import Events
from kinolab.errors import InputError
from kinolab.generation.provenance import model_hash
from kinolab.generation.request import GenerateConfig
from kinolab.models import VideoModel
from kinolab.models.cascade import frame_steps, stage_frames, stage_name, stage_size
from kinolab.models.stage import Stage
from kinolab.runtime.files import make_folder, remove
from kinolab.runtime.hashes import json_sha256
from kinolab.runtime.paths import named, visible
from kinolab.runtime.weights import read_weights, write_weights

ENDING = ".stages"
"""What the folder of a video's finished stages is called behind the video's name."""
MADE_BY = "kinolab.made_by"
"""The entry of a kept file's header that holds the hash of what it was made by."""


class KeptStages:
    """The finished stages of one request for a cascade, in a folder beside its videos.

    Args:
        out: where the request's video is written.
        config: the settled request.
        model: its model.
        inputs: hashes of the files that the request reads.
    """

    def __init__(
        self, out: Path, config: GenerateConfig, model: VideoModel, inputs: Mapping[str, str], events: Events
    ) -> None:
        out = named(out)
        self.folder, self.events = out.with_name(out.name + ENDING), events
        self.shapes = stage_shapes(model.cascade, config)
        self.hashes = stage_hashes(config, self.shapes, inputs)

    def kept(self, stage: str) -> Tensor | None:
        """The clips (B, 3, T, H, W) that a stage made by the same request before; none = it is to be run."""
        path = self._path(stage)
        clips = read_clips(path, self.hashes[stage])
        if clips is None or tuple(clips.shape[2:]) != self.shapes[stage][:3]:
            return None
        self.events.note(f"goes on behind stage {stage}, which was finished before ({path})")
        return clips

    def keep(self, stage: str, clips: Tensor) -> None:
        """Write what a stage has made."""
        make_folder(self.folder)
        write_clips(self._path(stage), clips, self.hashes[stage])

    def done(self) -> None:
        """The videos are written: nothing is kept any longer."""
        for stage in self.hashes:
            remove(self._path(stage))
        if self.folder.is_dir() and not visible(self.folder):  # what is not ours stays
            remove(self.folder)

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"


def write_clips(path: Path, clips: Tensor, made_by: str) -> None:
    """Write clips (B, 3, T, H, W) bit for bit, and the hash of what they were made by."""
    write_weights(path, {"clips": clips.cpu().contiguous()}, {MADE_BY: made_by})


def read_clips(path: Path, made_by: str) -> Tensor | None:
    """The clips of a file, where it is whole and they were made by the same; none otherwise."""
    if not path.is_file():
        return None
    try:
        found = read_weights(path)
    except InputError:  # cut off or damaged: as if it were not there
        return None
    if found.metadata.get(MADE_BY) != made_by or set(found.tensors) != {"clips"}:
        return None
    return found.tensors["clips"].clone()  # not mapped: the file goes when the video is written


def stage_shapes(stages: Sequence[Stage], config: GenerateConfig) -> dict[str, tuple[int, int, int, int]]:
    """By the name of each stage, its clips' frames, height and width, and the frames of the video from one to the next.

    These follow from the later stages, whatever their settings.
    """
    frames, steps = stage_frames(stages, config.frames), frame_steps(stages)
    return {
        stage_name(stage): (frames[number], *stage_size(stages, number, config.size), steps[number])
        for number, stage in enumerate(stages)
    }


def stage_hashes(
    config: GenerateConfig, shapes: Mapping[str, tuple[int, int, int, int]], inputs: Mapping[str, str]
) -> dict[str, str]:
    """By the name of each stage, the hash of all that decides what it makes.

    shapes: of every stage, in order (`stage_shapes`).
    """
    names = list(shapes)
    asked = config.model_dump(mode="json")
    settings, exchanged = asked.pop("stages"), asked.pop("exchange")
    common: dict[str, Any] = {
        "kinolab": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model_sha256": model_hash(config.model),
        "request": asked,
        "inputs_sha256": dict(inputs),
    }
    found = {}
    for number, name in enumerate(names):
        until = names[: number + 1]
        found[name] = json_sha256(common | {
            "stages": [[n, shapes[n], settings.get(n), None if n not in exchanged else model_hash(exchanged[n])]
                       for n in until],
        })  # fmt: skip
    return found
