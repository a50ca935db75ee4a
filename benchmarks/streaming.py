"""What a long stream of a causal model shows as time passes, how fast it is made, and in how much memory.

    python -m benchmarks.streaming MODEL --clips 8 --frames 493 [--steps 4] [--out drift.json]

Streams are asked for by the captions of held-out clips of the toy world and read from the pixels, one window of the
model's clip after the other: are the asked objects there, in their colours and shapes, as many as asked, and does every
object stay itself within the window? And how far is the mean brightness from that of the first window? What they do is
asked of the first window alone, as later nothing is promised of it. `--memory` measures two lengths in a process each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinolab import video
from kinolab.generation.matching import matching_world
from kinolab.models import Request, VideoModel
from kinolab.models.streaming import stream_frames
from kinolab.runtime.files import write_text
from kinolab.runtime.memory import peak_memory
from kinolab.toyworld.clips import make_clip
from kinolab.toyworld.reader import check, read_world
from kinolab.toyworld.source import WorldSource, WorldSourceConfig

CHECKS = ("colours", "shapes", "count", "identity")


@dataclass(frozen=True)
class Window:
    """One window of one stream: what is seen in it, and its mean brightness, 0 to 255."""

    clip: int
    window: int
    colours: bool
    shapes: bool
    count: bool
    identity: bool
    brightness: float


def windows_of(frames: np.ndarray, request: Any, length: int, clip: int) -> list[Window]:
    """The windows of a stream (T, H, W, 3) uint8; what is left over at its end is not read."""
    found = []
    for number in range(len(frames) // length):
        shown = frames[number * length : (number + 1) * length]
        reading = read_world(shown)
        seen = check(request, reading)
        found.append(Window(clip, number, seen.colours, seen.shapes, seen.count, reading.steady, float(shown.mean())))
    return found


def measured(model: VideoModel, clips: int, frames: int, sampling: dict[str, Any]) -> tuple[list[Window], float]:
    """The windows of all streams, which are made as one batch, and the frames of all of them that came in a second."""
    world, _ = matching_world(model)
    source = WorldSource(WorldSourceConfig(world=world, heldout_count=clips, split="heldout"))
    asked = [make_clip(source.world, source.seed(k)) for k in range(clips)]
    requests = [Request(clip.caption, seed=k) for k, clip in enumerate(asked)]
    begun = time.perf_counter()
    stream = model.opened_stream(requests, **sampling)
    made = np.stack([video.to_uint8(f[:, :, None])[:, 0] for f in stream_frames(stream, frames)], 1)  # (B, T, H, W, 3)
    rate = clips * frames / (time.perf_counter() - begun)
    return [w for k, clip in enumerate(asked) for w in windows_of(made[k], clip.request, model.config.frames, k)], rate


def table(found: Sequence[Window], fps: float, length: int) -> list[str]:
    """A line for each window: seconds, the share of streams that pass each check, brightness against the first."""
    lines = [f"{'seconds':>9} " + " ".join(f"{name:>9}" for name in CHECKS) + "  brightness"]
    for number in sorted({w.window for w in found}):
        mine = [w for w in found if w.window == number]
        first = {w.clip: w.brightness for w in found if w.window == 0}
        shares = [sum(getattr(w, name) for w in mine) / len(mine) for name in CHECKS]
        change = sum(w.brightness - first[w.clip] for w in mine) / len(mine)
        seconds = f"{number * length / fps:.0f}-{(number + 1) * length / fps:.0f}"
        lines.append(f"{seconds:>9} " + " ".join(f"{share:9.0%}" for share in shares) + f"  {change:+.1f}")
    return lines


def memory(model: str, frames: int) -> int:
    """The peak memory, in bytes, of a process of its own that writes a stream of so many frames."""
    code = (
        "import sys, tempfile; from pathlib import Path; from kinolab.generation.generate import generate; "
        "from kinolab.runtime.memory import peak_memory; room = tempfile.mkdtemp(); "
        f"generate({{'model': {model!r}, 'prompts': ['a red ball falls'], 'stream': True, 'frames': {frames}, "
        "'sampler': {'steps': 1}}, Path(room) / 'clip.mp4'); print(peak_memory())"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=493)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--noise", type=float, help="of the past, in place of the model's own")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    if asked.memory:
        for frames in (50, asked.frames):
            print(f"{frames} frames: {memory(asked.model, frames) / 2**20:.0f} MiB at most")
        return
    model = VideoModel.load(asked.model)
    assert model.config.causal is not None
    if asked.noise is not None:
        rule = model.config.causal.model_copy(update={"noise": asked.noise})
        model.config = model.config.model_copy(update={"causal": rule})
    sampling = {"sampler": {"steps": asked.steps} if asked.steps else None, "guidance": asked.guidance}
    found, rate = measured(model, asked.clips, asked.frames, sampling)
    for line in table(found, model.config.fps, model.config.frames):
        print(line)
    peak = peak_memory()
    threads, held = torch.get_num_threads(), (peak or 0) / 2**20
    print(f"{asked.clips} streams at once: {rate:.1f} frames per second, {threads} threads; {held:.0f} MiB at most")
    if asked.out is not None:
        write_text(asked.out, json.dumps({"rate": rate, "windows": [asdict(w) for w in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
