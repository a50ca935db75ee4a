"""One of everything that Kinolab stores, small and by its own writers, and what happens when a bit of it is flipped.

`python -m tests.stored [FLIPS]` prints the tables of docs/stored-state.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import nn

from kinolab.checkpoints.adapters import AdapterUse, LowRank, beside, read_adapter, write_adapter
from kinolab.data import CacheConfig, CacheSource, encode_to_cache
from kinolab.data.prompts import PromptCache
from kinolab.errors import DamagedError, InputError
from kinolab.generation.kept import read_clips, write_clips
from kinolab.generation.provenance import provenance_path, read_provenance, write_with_provenance
from kinolab.generation.request import GenerateConfig
from kinolab.metrics.features import load_tensors, save_tensors
from kinolab.models import Request, VideoModel
from kinolab.runtime.ranks import Ranks
from kinolab.runtime.reading import json_lines
from kinolab.runtime.records import read_record, write_record
from kinolab.runtime.weights import read_weights, write_weights
from kinolab.tasks import CachedDraws, TasksConfig
from kinolab.toyworld.clips import WorldConfig, load_state, make_clip, save_state
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.training.ema import Ema
from kinolab.training.log import RunLog
from kinolab.training.state import RunState, checkpoints
from kinolab.verify import verify
from tests.tiny_model import save_tiny_model, tiny_model

KINDS = ("weights", "model", "checkpoint", "cache", "log", "video", "result")


@dataclass(frozen=True)
class File:
    """A stored file, what `kinolab verify` is given, and what reads it in use (none: nothing of Kinolab's does)."""

    kind: str
    path: Path
    whole: Path
    read: Callable[[], object] | None


def make(kind: str, folder: Path) -> list[File]:
    """The files of a kind, written into a folder."""
    made: list[File] = {
        "weights": _weights, "model": _model, "checkpoint": _checkpoint, "cache": _cache, "log": _log,
        "video": _video, "result": _result,
    }[kind](folder)  # fmt: skip
    return made


def flipped(path: Path, count: int, seed: int = 0) -> Iterator[int]:
    """Flip one bit after the other, each undone again; yields which."""
    data, rng = path.read_bytes(), Random(f"{seed} {path.name}")
    for _ in range(count):
        bit = rng.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
    path.write_bytes(data)


def unnoticed(file: File, count: int) -> list[int]:
    """The flipped bits of which `kinolab verify` says nothing."""
    return [bit for bit in flipped(file.path, count) if not list(verify(file.whole))]


def unread(file: File, count: int) -> list[int]:
    """The flipped bits that its reader takes without a word."""
    return [bit for bit in flipped(file.path, count) if not _refused(file.read)]


def _refused(read: Callable[[], object] | None) -> bool:
    assert read is not None
    try:
        return bool(read())
    except (InputError, OSError):
        return True


def quietly(read: Callable[[], Any]) -> Callable[[], bool]:
    """A reader whose value says nothing of damage."""

    def run() -> bool:
        read()
        return False

    return run


def _weights(folder: Path) -> list[File]:
    path, stats, style, stage = (folder / f"{name}.safetensors" for name in ("net", "features", "style", "base"))
    tensors = {"w": torch.linspace(-1, 1, 3000).view(30, 100), "h": torch.arange(70).half(), "n": torch.arange(5)}
    write_weights(path, tensors)
    save_tensors(stats, "features", {"mean": torch.rand(40)}, {"count": 7})
    write_adapter(
        style, {"blocks.0.attn.qkv": LowRank(torch.rand(2, 30), torch.rand(90, 2), 1.0)}, "kohya", "transformer"
    )
    write_clips(stage, torch.rand(1, 3, 2, 8, 8), "0123abcd")
    return [
        File("weights", stage, stage, lambda: read_clips(stage, "0123abcd") is None),
        File("weights", path, path, quietly(lambda: read_weights(path))),
        File("weights", stats, stats, quietly(lambda: load_tensors(stats, "features"))),
        File("weights", style, style, quietly(lambda: read_adapter(style))),
    ]


def _model(folder: Path) -> list[File]:
    model, style = tiny_model(text=False), folder / "style.safetensors"
    write_adapter(style, {"blocks.0.attn.qkv": LowRank(torch.rand(1, 16), torch.rand(48, 1))}, "kohya", "transformer")
    beside(model, "style", AdapterUse(path=style)).save(folder / "m")
    style.unlink()
    read = quietly(lambda: VideoModel.load(folder / "m", device="cpu"))
    names = ("autoencoder.safetensors", "denoiser.safetensors", "lora-style.safetensors", "manifest.json")
    return [File("model", folder / "m" / name, folder / "m", read) for name in names]


def run_state(seed: int) -> RunState:
    """A part whose optimiser has stepped once, and its average."""
    torch.manual_seed(seed)
    net = nn.Linear(3, 40)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return RunState({"net": net}, {"net": optimizer}, {"net": Ema(net, 0.9)}, Ranks())


def _checkpoint(folder: Path) -> list[File]:
    at = run_state(3).save(folder / "checkpoints", 3, keep=2)
    into = run_state(0)
    return [File("checkpoint", p, folder, quietly(lambda: into.load(at))) for p in sorted(at.iterdir())]


def _cache(folder: Path) -> list[File]:
    at, model = folder / "cache", tiny_model(text=False)
    source = WorldSource(WorldSourceConfig(world=WorldConfig(size=32, frames=5), count=4), model.autoencoder.spec)
    draws = CachedDraws(TasksConfig(predict=1), 1)
    encode_to_cache(source, model.autoencoder, at, batch=2, shard_size=2, dtype="float32", draws=draws)
    prompts = PromptCache(at, "e" * 64)
    prompts.put("a ball", torch.rand(3, 8).half(), torch.rand(8).half())
    prompts.flush()

    def read() -> None:
        found = CacheSource(CacheConfig(path=at, split="all"))
        for index in range(len(found)):
            found[index]
        PromptCache(at, "e" * 64).get("a ball")

    paths = [min((at / "shards").glob("*.given.safetensors")), min(at.glob("text/*/*")), at / "cache.json"]
    paths += [next(p for p in sorted((at / "shards").iterdir()) if ".given" not in p.name), at / "index.jsonl"]
    return [File("cache", path, at, quietly(read)) for path in paths]


def _log(folder: Path) -> list[File]:
    log = RunLog(folder, 0, tensorboard=False)
    for step in range(12):
        log.write(step, "train", {"loss": 1 / (step + 3), "step_seconds": 0.25})
    log.close()

    def read() -> bool:
        said: list[str] = []
        list(json_lines(folder / "log.jsonl", constants=True, say=said.append))
        return bool(said)

    return [File("log", folder / "log.jsonl", folder, read)]


def _video(folder: Path) -> list[File]:
    save_tiny_model(folder / "m", text=False)
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[1:, 4:9] = np.random.default_rng(0).integers(0, 255, (3, 5, 16, 3))
    found = []
    for name in ("a.mp4", "b.mkv"):
        path = folder / "videos" / name
        config = GenerateConfig(model=str(folder / "m"), fps=8.0)
        write_with_provenance(path, frames, config, 0, Request(seed=3), None, lossless=name == "b.mkv")
        found += [
            File("video", path, path, None),
            File("video", provenance_path(path), path, quietly(lambda path=path: read_provenance(path))),  # type: ignore[misc]
        ]
    return found


def _result(folder: Path) -> list[File]:
    scores, clip = folder / "scores-0123abcd.json", folder / "world.json"
    write_record(scores, {"kind": "generation", "metrics": {"fvd": {"value": 12.25, "count": 8}}, "clips": []})
    save_state(make_clip(WorldConfig(size=32, frames=5), 3), clip)
    return [
        File("result", scores, scores, quietly(lambda: read_record(scores))),
        File("result", clip, clip, quietly(lambda: load_state(clip))),
    ]


def damages(count: int) -> Iterator[tuple[int, str]]:
    """Seeded numbers and ways of damaging a file."""
    rng = Random(0)
    for _ in range(count):
        yield rng.randrange(2**31), rng.choice(("flipped", "cut", "empty", "gone"))


def damage(path: Path, how: str, rng: Random) -> None:
    """Damage a file so that it is another one afterwards."""
    data = bytearray(path.read_bytes())
    if how == "flipped":
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    elif how == "cut":
        del data[rng.randrange(1, len(data)) :]
    elif how == "empty":
        data.clear()
    path.unlink() if how == "gone" else path.write_bytes(data)


def wrongly_resumed(folder: Path, count: int) -> list[str]:
    """Damages of the newest of two checkpoints after which a run doesn't go on exactly from the older one."""
    import shutil

    rows = {step: _row(run_state(step)) for step in (1, 2)}
    wrong = []
    for done in (1, 2):
        run_state(done).save(folder / "whole", done, keep=5)
    for seed, how in damages(count):
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "run")
        rng = Random(seed)
        path = rng.choice(sorted(checkpoints(folder / "run")[-1].iterdir()))
        damage(path, how, rng)
        state, said = run_state(0), list[str]()
        step: int | None
        try:
            step = state.load_newest(folder / "run", said.append)
        except DamagedError as error:
            said.append(str(error))
            step = None
        if step != 1 or not torch.equal(_row(state), rows[1]) or "is damaged" not in said[0]:
            wrong.append(f"{path.name} {how} ({seed}): step {step}, {said}")
    return wrong


def _row(state: RunState) -> torch.Tensor:
    """Weights, moments and averages in one row."""
    parts = [p.detach().flatten() for p in state.modules["net"].parameters()]
    parts += [s["exp_avg"].flatten() for s in state.optimizers["net"].state.values()]
    return torch.cat(parts + [v.flatten() for v in state.averages["net"].shadow.values()])


def main(count: int) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    print("| kind | file | noticed by `kinolab verify` | refused or said when read |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in KINDS:
            room = Path(temporary) / kind
            room.mkdir()
            for file in make(kind, room):
                seen = count - len(unnoticed(file, count))
                read = "not checked" if file.read is None else f"{count - len(unread(file, count))} of {count}"
                name = "index.jsonl" if file.path.name == "index.jsonl" else file.path.name
                print(f"| {kind} | `{name}` | {seen} of {count} | {read} |", flush=True)
        wrong = wrongly_resumed(Path(temporary) / "resume", count)
        print(f"\nresumed from the last whole checkpoint: {count - len(wrong)} of {count}")
        print("\n".join(wrong))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
