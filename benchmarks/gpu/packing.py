"""What comes back of trained models: pictures of their clips, and their weights as one small file."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.running import Record
from kinolab.models import VideoModel
from kinolab.reports.sheet import Strip, write_sheet


def write_clips(path: Path, clips: Mapping[str, np.ndarray], *, shown: int = 6) -> None:
    """A PNG with `shown` frames of each clip (T, H, W, 3) under its name."""
    strips = [Strip(name, frames) for name, frames in clips.items()]
    write_sheet(strips, path, columns=1, shown=min(shown, *(len(s.frames) for s in strips)))


def carried_back(model: VideoModel, path: Path) -> Record:
    """Write a model folder with weights in 8 bits as one zip file: unpacked it is a model folder again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        model.save(folder, dtype=torch.int8)
        beside = path.with_name(f".writing-{path.name}")
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
        beside.replace(path)
    return {"weights": path.name, "megabytes": round(path.stat().st_size / 1e6, 2)}
