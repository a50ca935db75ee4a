"""Commands that write, small enough to be cut off at every call they make: what is before, the act, what must hold.

`tests/test_crash.py` goes through some of the moments, `python -m fuzz crash` through all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from kinolab.config import read_yaml
from kinolab.data import CacheConfig, CacheSource, FolderConfig, FolderSource, encode_to_cache
from kinolab.errors import InputError
from kinolab.generation.generate import generate
from kinolab.generation.provenance import frames_hash, read_provenance
from kinolab.generation.request import GenerateConfig
from kinolab.models import VideoModel
from kinolab.models.packing import pack
from kinolab.runtime import sharded
from kinolab.training.run import train
from kinolab.training.state import checkpoints
from tests.data.clip_files import MeanAutoencoder, write_numbered
from tests.runtime.crashing import After
from tests.tiny_model import save_tiny_model, tiny_model
from tests.training.tiny import autoencoder_recipe


@dataclass(frozen=True)
class Command:
    """A command to be cut off.

    before: makes the state that it finds; act: the command; whole: checks what is left, and raises AssertionError;
    done: checks that it did its work, once it was run again.
    """

    name: str
    before: Callable[[Path], object]
    act: Callable[[Path], object]
    whole: Callable[[Path], object]
    done: Callable[[Path], object]


def commands(room: Path) -> Iterator[Command]:
    """All of them; what they share is made in `room`."""
    yield train_command(room / "train")
    yield encode_command(room / "encode")
    yield pack_command(room / "pack")
    yield generate_command(room / "generate")
    from tests.crash_measuring import measuring_commands

    yield from measuring_commands(room)


def check(command: Command, after: After, goes_on: bool) -> None:
    """Fail unless what is left is whole and, with `goes_on`, the command then does its work."""
    from tests.runtime.crashing import again

    try:
        command.whole(after.root)
        if goes_on:
            again(command.act, after.root)
            command.done(after.root)
    except (AssertionError, InputError, OSError) as error:
        raise AssertionError(f"{command.name}, {after}: {error}") from error


def copied(source: Path) -> Callable[[Path], object]:
    """Makes a copy of a folder's content in the root."""
    return lambda root: shutil.copytree(source, root, dirs_exist_ok=True)


def train_command(room: Path) -> Command:
    """A run that goes on by a step, ends and writes its model."""
    room.mkdir(parents=True)
    recipe = autoencoder_recipe(steps=2, save_every=1, keep=2, sample_every=2, evaluate_first=False)
    (room / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train(room / "recipe.yaml", room / "before" / "run", until=1)

    def whole(root: Path) -> None:
        run = root / "run"
        assert read_yaml(run / "recipe.yaml")["name"] == "tiny"
        found = checkpoints(run / "checkpoints")
        assert found, "no checkpoint"
        for checkpoint in found:
            assert sharded.verify(checkpoint) == []
        lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
        for line in lines[: None if not lines or lines[-1].endswith(b"\n") else -1]:
            json.loads(line)

    def act(root: Path) -> None:
        train(None, root / "run", resume=True)

    def done(root: Path) -> None:
        whole(root)
        assert [p.name for p in checkpoints(root / "run" / "checkpoints")] == ["step-00000001", "step-00000002"]
        assert (root / "run" / "model" / "model.yaml").is_file()

    return Command("train", copied(room / "before"), act, whole, done)


def encode_command(room: Path) -> Command:
    """A folder of clips into a cache that begins anew."""
    room.mkdir(parents=True)
    for mark in range(3):
        write_numbered(room / "before" / "clips" / f"{mark}.mkv", 10, mark=40 * mark)

    def act(root: Path) -> None:
        values = {"path": root / "clips", "size": 16, "frames": 5, "split": "all", "index": "none"}
        source = FolderSource(FolderConfig.model_validate(values), MeanAutoencoder().spec)
        encode_to_cache(source, MeanAutoencoder(), root / "cache", batch=2, shard_size=2, dtype="float32")

    def latents(root: Path) -> dict[str, torch.Tensor]:
        source = CacheSource(CacheConfig(path=root / "cache", split="all"))
        return {f"{e.source} {e.time_range}": e.latents for e in (source[i] for i in range(len(source)))}

    act(copy_of(room / "before", room / "done"))
    expected = latents(room / "done")

    def whole(root: Path) -> None:
        if not (root / "cache" / "cache.json").exists():
            return
        try:
            found = latents(root)
        except InputError as error:
            assert "no finished shard" in str(error), error
            return
        assert found.keys() <= expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())

    def done(root: Path) -> None:
        found = latents(root)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        assert not [p for p in (root / "cache" / "shards").iterdir() if p.name.endswith(".tmp")]

    return Command("encode", copied(room / "before"), act, whole, done)


def pack_command(room: Path) -> Command:
    """A model in 16 bits over another one."""
    save_tiny_model(room / "before" / "model", text=False)
    other = tiny_model(text=False)
    with torch.no_grad():
        for parameter in other.denoiser.parameters():
            parameter.mul_(1.5)
    other.save(room / "before" / "packed")
    old = VideoModel.load(room / "before" / "packed", device="cpu").state_dict()

    def act(root: Path) -> None:
        pack(root / "model", root / "packed", dtype=torch.float16)

    act(copy_of(room / "before", room / "done"))
    new = VideoModel.load(room / "done" / "packed", device="cpu").state_dict()

    def is_one_of(root: Path, *states: dict[str, torch.Tensor]) -> None:
        found = VideoModel.load(root / "packed", device="cpu").state_dict()
        assert any(all(torch.equal(found[k], v) for k, v in state.items()) for state in states), "parts of both"

    return Command("pack", copied(room / "before"), act, lambda r: is_one_of(r, old, new), lambda r: is_one_of(r, new))


def generate_command(room: Path) -> Command:
    """A video and its record over those of another seed."""
    model = tiny_model(text=False)
    save_tiny_model(room / "before" / "model", text=False)

    def write(root: Path, seed: int) -> None:
        config = GenerateConfig(model=str(room / "before" / "model"), seed=seed, precision="float32", device="cpu")
        generate(config, root / "clip.mkv", model=model)

    write(room / "before", 0)

    def pair(root: Path) -> Any:
        record = read_provenance(root / "clip.mkv")
        assert record["frames_sha256"] == frames_hash(root / "clip.mkv"), "a video beside another's record"
        return record["request"]["seed"]

    def whole(root: Path) -> None:
        assert pair(root) in (0, 1)

    def done(root: Path) -> None:
        assert pair(root) == 1

    return Command("generate", copied(room / "before"), lambda root: write(root, 1), whole, done)


def copy_of(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
