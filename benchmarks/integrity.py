"""What the checks of stored files cost: whole commands with them and without, in turns, each in a process of its own.

`generate` from cold, an epoch of `train` over a latent cache, and one that writes a checkpoint every fourth step are
commands as a person calls them; a checkpoint is also written and read by itself. Without checks means: no sums and
hashes are made or compared, of tensors, headers, JSON and manifests, and NaN is not looked for, which happens in the
same pass over memory.

On a busy machine two medians of seconds differ by some percent for no reason. So the processor's time is compared,
too, and the time that went by inside the checks is measured: its share of the whole says the same without that noise,
and a little more than is true, as who reads a mapped file first pays for bringing it into memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import Aim, Result

ROOT = Path(__file__).resolve().parents[1]
MOST = 0.02
"""Of a command's time."""
RECIPE = """
kind: denoiser
name: epoch
data: {{kind: cache, path: {cache}, split: all}}
autoencoder: {model}
class_names: [a, b, c, d, e, f]
denoiser:
  {{kind: latte, hidden_size: 224, depth: {depth}, num_heads: 4, in_channels: 16, input_size: 8, num_frames: 5,
    patch_size: 2, num_classes: 6}}
samples: {{labels: [1], sampler: {{steps: 1}}}}
training:
  {{steps: {steps}, batch_size: 32, device: cpu, precision: float32, tensorboard: false, save_every: {every},
    evaluate_every: 100000, sample_every: 100000, threads: 1}}
"""


@dataclass
class Spent:
    """Seconds inside the checks."""

    seconds: float = 0.0
    depth: int = 0


@dataclass(frozen=True)
class Turn:
    """Seconds by the clock, of the processor, and by the clock inside checks."""

    seconds: float
    processor: float
    inside: float


@dataclass
class Turns:
    """Each turn with checks and without."""

    on: list[Turn] = field(default_factory=list)
    off: list[Turn] = field(default_factory=list)


def _checks() -> list[tuple[Any, str, Callable[..., Any]]]:
    """(where, name, what is done instead) of every function that checks or makes what is checked."""
    from kinolab.generation import provenance
    from kinolab.models import folder
    from kinolab.runtime import reading, sets, sharded, summed, weights
    from kinolab.runtime.hashes import Scan

    return [
        (weights, "scan", lambda tensor, search=True: Scan("0" * 8, False)),
        (weights, "sum_of_rest", lambda entries, tensors: "0" * 8),
        (weights.TensorFile, "_read_sums", lambda self: None),
        (sets, "file_sha256", lambda path: ""),
        (sets, "head_sha256", lambda path: ""),
        (sets, "_compare", lambda folder, name, manifest, whole: None),
        (folder, "require", lambda folder, manifest, names, advice: []),
        (sharded, "problems", lambda folder: []),
        (summed, "_sum", lambda text: "0" * 8),
        (reading, "checked", lambda value, text, name: {k: v for k, v in value.items() if k != summed.ENTRY}),
        (provenance, "file_sha256", lambda path: ""),
    ]


@contextmanager
def unchecked() -> Iterator[None]:
    """Nothing is checked inside."""
    with ExitStack() as stack:
        for where, name, instead in _checks():
            stack.enter_context(patch.object(where, name, instead))
        yield


@contextmanager
def measured() -> Iterator[Spent]:
    """All is checked inside; how long that takes."""
    spent = Spent()

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            began, spent.depth = time.perf_counter(), spent.depth + 1
            try:
                return function(*args, **kwargs)
            finally:
                spent.depth -= 1
                if not spent.depth:
                    spent.seconds += time.perf_counter() - began

        return run

    with ExitStack() as stack:
        for where, name, _ in _checks():
            stack.enter_context(patch.object(where, name, timed(getattr(where, name))))
        yield spent


def command(arguments: Sequence[str], checked: bool) -> Turn:
    """Run a command of Kinolab's in a process of its own."""
    code = f"from benchmarks import integrity; integrity.child({checked}, {list(arguments)!r})"
    before, began = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise RuntimeError(f"kinolab {' '.join(arguments)}: {done.stderr[-2000:]}")
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return Turn(seconds, used, float(json.loads(done.stdout.splitlines()[-1])))


def child(checked: bool, arguments: list[str]) -> None:
    """What that process does."""
    import torch

    torch.set_num_threads(1)
    from kinolab.cli import main

    with measured() if checked else unchecked() as spent:
        try:
            main(arguments)
        except SystemExit as stop:
            if stop.code:
                raise
    print(f"\n{json.dumps(spent.seconds if spent is not None else 0.0)}")


def commands(repeats: int, say: Callable[[str], None], quick: bool = False) -> Result:
    """`generate` from cold, and an epoch of `train` over a latent cache."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = _stored_model(folder / "model")
        windows = 64 if quick else 256
        _write_cache(folder / "cache", model, windows)
        values = {"cache": folder / "cache", "model": model, "steps": windows // 32, "depth": 2 if quick else 8}
        for name, every in (("epoch", 10**6), ("saving", 4)):
            (folder / f"{name}.yaml").write_text(RECIPE.format(**values, every=every), encoding="utf-8")
        steps = ["--steps", "2"] if quick else []
        prompt = "a red ball falls to the floor"

        def train(recipe: str, checked: bool, turn: int) -> Turn:
            out = str(folder / f"{recipe}-{turn}-{checked}")
            return command(["train", str(folder / f"{recipe}.yaml"), "--out", out], checked)

        def make(checked: bool, turn: int) -> Turn:
            out = str(folder / f"clip-{turn}-{checked}.mp4")
            return command(["generate", prompt, "--model", str(model), "--out", out, *steps], checked)

        rows = {
            "`generate` from cold": turns(make, repeats, say),
            f"`train`, an epoch over a cache of {windows} windows": turns(partial(train, "epoch"), repeats, say),
            "the same with a checkpoint every 4 steps": turns(partial(train, "saving"), repeats, say),
        }
    return result("commands", "Whole commands with and without checks", rows)


def checkpoint(repeats: int, say: Callable[[str], None], quick: bool = False) -> Result:
    """A checkpoint of a network, its optimiser and its average, written and read."""
    import torch
    from torch import nn

    from kinolab.runtime.ranks import Ranks
    from kinolab.training.ema import Ema
    from kinolab.training.state import RunState

    net = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8 if quick else 96)))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    state = RunState({"net": net}, {"net": optimizer}, {"net": Ema(net, 0.9)}, Ranks())
    size = 4 * sum(p.nbytes for p in net.parameters())

    def both(checked: bool, turn: int) -> Turn:
        with tempfile.TemporaryDirectory(dir=".") as temporary, measured() if checked else unchecked() as spent:
            began, used = time.perf_counter(), time.process_time()
            at = state.save(Path(temporary), turn, keep=1)
            state.load(at)
            seconds, used = time.perf_counter() - began, time.process_time() - used
            return Turn(seconds, used, spent.seconds if spent is not None else 0.0)

    rows = {f"a checkpoint of {size / 1e6:.0f} MB, written and read": turns(both, repeats, say)}
    return result("checkpoint", "A checkpoint with and without checks", rows)


def turns(run: Callable[[bool, int], Turn], repeats: int, say: Callable[[str], None]) -> Turns:
    """Seconds with checks and without, in turns; the first turn of both is not counted."""
    found = Turns()
    for turn in range(repeats + 1):
        say(f"  turn {turn} of {repeats}")
        pair = {}
        for checked in (True, False) if turn % 2 else (False, True):
            pair[checked] = run(checked, turn)
        if turn:
            found.on.append(pair[True])
            found.off.append(pair[False])
    return found


def result(name: str, title: str, rows: dict[str, Turns]) -> Result:
    """The table, and the aims that the checks are at most `MOST` of a command's time."""
    columns = ["", "with", "without", "ratio", "of processor time", "inside checks"]
    table, aims = [], []
    for what, found in rows.items():
        on, off = (statistics.median(t.seconds for t in side) for side in (found.on, found.off))
        used = [statistics.median(t.processor for t in side) for side in (found.on, found.off)]
        share = statistics.median(t.inside / t.seconds for t in found.on)
        ratios = f"{on / off:.3f}", f"{used[0] / used[1]:.3f}"
        table.append([what, f"{on:.3g} s", f"{off:.3g} s", *ratios, f"{share:.2%}"])
        aims.append(Aim(f"{what}: at most {MOST:.0%} of the time inside checks", share, share <= MOST))
    setup = f"{len(next(iter(rows.values())).on)} turns, one thread; {os.cpu_count()} cores"
    details = {what: asdict(found) for what, found in rows.items()}
    return Result(name, title, setup, columns, table, aims, details)


def _stored_model(folder: Path) -> Path:
    """The shipped model of prompts, written by this version, so that it has sums and a manifest."""
    from kinolab.models import VideoModel

    VideoModel.load("world-text", device="cpu").save(folder)
    return folder


def _write_cache(folder: Path, model: Path, windows: int) -> None:
    """A latent cache of random latents, as an encoding leaves it."""
    import torch

    from kinolab.contracts.examples import ClipRecord
    from kinolab.data.cache import FORMAT, CacheItem, ShardEntry, format_entry
    from kinolab.data.encode import autoencoder_hash
    from kinolab.models import load_autoencoder
    from kinolab.runtime.files import write_text
    from kinolab.runtime.records import write_record
    from kinolab.runtime.weights import write_weights

    lines, shape = [], (16, 5, 8, 8)
    for start in range(0, windows, 64):
        name, items = f"{start:024d}.safetensors", []
        for row in range(64):
            record = ClipRecord(source=f"{start + row}.mp4", source_hash=f"{start + row:064d}", time_range=(0.0, 1.0),
                                frames=17, fps=8.0, caption=None, label=row % 6)  # fmt: skip
            items.append(CacheItem(f"{start + row:064d}", row, record, shape))
        write_weights(folder / "shards" / name, {"latents": torch.randn(64, *shape).bfloat16()})
        lines.append(format_entry(ShardEntry(name, tuple(items))))
    write_text(folder / "index.jsonl", "".join(lines))
    statistics_of = {"mean": [0.0] * 16, "std": [1.0] * 16, "items": windows}
    made_by = {"autoencoder": autoencoder_hash(load_autoencoder(model, device="cpu")), "transform": {}, "encoding": {}}
    header = {"format": FORMAT, **made_by, "classes": [], "complete": True, "draws": None, "statistics": statistics_of}
    write_record(folder / "cache.json", header)
