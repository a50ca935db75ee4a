"""`python -m benchmarks.refine MODEL CLIP`: seams, time and memory of a clip that is refined window by window.

MODEL is a super-resolution model, CLIP a clip that it refines. For every share of windows and tiles that overlaps, and
for windows that end without one, it says

    seam   how much more of what the model adds (made less enlarged bilinearly) changes from one frame to the next where
           shown frames go over from a window to the next one, than elsewhere (`kinolab.metrics.temporal.seam_ratio`);
           of tiles the same from row to row and from column to column. 1 = no seam
    s      seconds for a frame that is made

and, for clips of several lengths (CLIP again and again), the most memory of a process that refines one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinolab import video
from kinolab.contracts.events import Silent
from kinolab.generation.flow import Flow, Refinement
from kinolab.generation.generate import Request
from kinolab.generation.request import GenerateConfig, load_asked, make_requests, request_of, settle
from kinolab.generation.sweep import Windows
from kinolab.layers.resizing import enlarge
from kinolab.metrics.temporal import seam_ratio

CHILD = (
    "import sys; from kinolab.cli import main; from kinolab.runtime.memory import peak_memory\n"
    "try: main(sys.argv[1:])\n"
    "except SystemExit as stop: print(stop.code or 0, peak_memory())"
)


def borders(windows: Windows, count: int) -> list[int]:
    """Where what is shown goes over from one window to the next: in the middle of what they share."""
    starts = windows.starts(count)
    return [(after + min(before + windows.length, count)) // 2 for before, after in pairwise(starts)]


def seams(added: Tensor, windows: Windows, tiles: tuple[Windows, Windows] | None) -> dict[str, float]:
    """The seam ratios of what a model added, (3, T, H, W), along each dimension that has borders."""
    found: dict[str, float] = {}
    across = {"time": (1, windows)}
    if tiles is not None:
        across |= {"rows": (2, tiles[0]), "columns": (3, tiles[1])}
    for name, (dim, covered) in across.items():
        places = borders(covered, added.shape[dim])
        if places:
            found[name] = float(seam_ratio(added.transpose(1, dim)[None], places)[0])
    return found


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Print a table of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refine", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--task", choices=["upscale", "interpolate"], default="upscale")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--window", type=int)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.25, 1 / 3, 0.5])
    parser.add_argument("--lengths", type=int, nargs="*", default=[])
    told = parser.parse_args(arguments)
    say("| share that overlaps | seam in time | rows | columns | s per frame |\n|---|---|---|---|---|")
    for share in told.shares:
        flow = flow_of(told, share)
        began = time.perf_counter()
        made = torch.cat(list(flow.frames()), 1)
        seconds = (time.perf_counter() - began) / made.shape[1]
        clip = video.to_tensor(video.read(told.clip).frames)
        n = flow.refined.frames_factor
        low = enlarge(clip[None], flow.how.size)[0].repeat_interleave(n, 1)[:, : made.shape[1]]
        found = seams(made - low, flow.windows, flow.tiles)
        cells = [f"{found[name]:.2f}" if name in found else "-" for name in ("time", "rows", "columns")]
        say(f"| {share:.2f} | {' | '.join(cells)} | {seconds:.2f} |")
    if told.lengths:
        say("\n| frames of the clip | most memory, MB |\n|---|---|")
    for length in told.lengths:
        say(f"| {length} | {memory(told, length) / 1e6:.0f} |")


def flow_of(told: argparse.Namespace, share: float) -> Flow:
    """A refinement in which windows and tiles share so much of their length with the next ones."""
    refine = {"task": told.task, "video": told.clip, "window": told.window, "tile": told.tile}
    values = {"model": told.model, "sampler": {"steps": told.steps}, "refine": refine}
    config: GenerateConfig = request_of(values)
    model = load_asked(config, Silent())
    config = settle(config, model)
    assert config.refine is not None and config.size is not None
    assert config.sampler is not None and config.guidance is not None and config.refine.window is not None
    own = config.refine.model_copy(update={"overlap": int(share * config.refine.window)})
    how = Refinement(model, own, config.size, config.sampler, config.guidance, config.wrappers, config.frames)
    request: Request = make_requests(config)[0]
    flow = Flow(how, request, Silent())
    if flow.tiles is not None:
        length = flow.tiles[0].length
        flow.tiles = (Windows(length, int(share * length)), Windows(length, int(share * length)))
    return flow


def memory(told: argparse.Namespace, length: int) -> int:
    """The most bytes of a process that refines so many frames, the clip again and again."""
    images = video.read(told.clip).frames

    def repeated() -> Iterator[np.ndarray]:
        for number in range(length):
            yield images[number % len(images)]

    with tempfile.TemporaryDirectory() as room:
        video.write(Path(room) / "long.mkv", repeated(), fps=16, lossless=True)
        words = [told.task, str(Path(room) / "long.mkv"), "--model", told.model, "--steps", str(told.steps)]
        words += ["--out", str(Path(room) / "made.mkv")]
        words += [] if told.window is None else ["-s", f"refine.window={told.window}"]
        words += [] if told.tile is None else ["-s", f"refine.tile={told.tile}"]
        command = [sys.executable, "-c", CHILD, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    status, peak = done.stdout.split()[-2:]
    if status != "0":
        raise RuntimeError(done.stderr)
    return int(peak)


if __name__ == "__main__":
    main(sys.argv[1:])
