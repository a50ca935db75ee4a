"""How each kind of input is read: the functions that commands call, on a folder whose files have been changed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

FRAMES = 200
"""Frames that are read of a video; a file may say that it has any number."""
SIZE = (32, 32)


class ReachedError(Exception):
    """The request of a record was read and checked, up to the model that it names."""


def video(folder: Path) -> None:
    """Probe and read every video, image and folder of images."""
    from kinolab import video

    for path in _clips(folder):
        video.probe(path)
        _all(islice(video.iter_frames(path, size=SIZE, fps=8.0, threads=1), FRAMES))
        video.probe(path, exact=True)
        _all(islice(video.iter_frames(path, start=0.0, end=0.3, threads=1, deinterlace=True), FRAMES))


def mask(folder: Path) -> None:
    """Read every image and video as a mask."""
    from kinolab import video

    for path in _clips(folder):
        video.read_mask(path, SIZE)


def _clips(folder: Path) -> list[Path]:
    return [folder] if not any(folder.glob("clip*")) else sorted(folder.glob("clip*"))


def folder_of_clips(folder: Path) -> None:
    """Scan a folder of clips with its table, as `data check` and a training do."""
    from kinolab.data import FolderConfig, FolderSource

    source = FolderSource(FolderConfig(path=folder, frames=2, size=16, index="none"))
    source[0]


def recipe(folder: Path) -> None:
    """Read a recipe."""
    from kinolab.training.recipe import load_recipe

    load_recipe(folder / "recipe.yaml")


def protocol(folder: Path) -> None:
    """Read a protocol."""
    from kinolab.evaluation.protocol import load_protocol

    load_protocol(folder / "protocol.yaml").hash()


def model_config(folder: Path) -> None:
    """Read a model.yaml."""
    from kinolab.models import read_model_config

    read_model_config(folder)


def plan(folder: Path) -> None:
    """List a plan's cells, as `compare --list` does; cells are counted, so that no number of seeds is listed."""
    from kinolab.comparison.plan import load_plan
    from kinolab.comparison.run import states

    states(load_plan(folder / "plan.yaml"), folder / "out")


def compared(folder: Path) -> None:
    """Write the tables and the page of a plan whose cells are measured, as `compare --table` does."""
    from kinolab.comparison.pages import write_tables
    from kinolab.comparison.plan import load_plan

    write_tables(load_plan(folder / "plan.yaml", [f"data.clips.path={folder / 'clips'}"]), folder / "out")


def report(folder: Path) -> None:
    """Write a page from everything that lies there: results, runs, logs."""
    from kinolab.reports import build_report, write_report

    inputs = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jsonl") or p.name.startswith("run"))
    page, media = build_report(inputs)
    media.write(folder / "page")
    write_report(page, folder / "page" / "report.html")


def provenance(folder: Path) -> None:
    """Read the record beside a video and check it, as `rerun` does before it samples."""
    from unittest.mock import patch

    from kinolab.generation import generate

    def reached(*_: Any, **__: Any) -> None:
        raise ReachedError

    no_hash = patch.object(generate, "model_hash", lambda _: HASH)
    with patch.object(generate.VideoModel, "load", reached), no_hash, suppress(ReachedError):
        generate.rerun(folder / "clip.json", folder / "again.mkv", device="cpu")


HASH = "0" * 64
"""Of the model that made records name."""


def table(folder: Path) -> None:
    """Read a table of captions and what it says of the clips beside it."""
    from kinolab.data.annotations import annotate

    files = sorted(p.name for p in folder.glob("*.mp4"))
    annotate(folder, files, "auto", "auto")
    annotate(folder, files, "auto", "auto", "drop")


def prompts(folder: Path) -> None:
    """Read lists of prompts."""
    from kinolab.generation.vbench import check_names, read_prompts

    for path in sorted(folder.iterdir()):
        for listed in read_prompts(path).values():
            check_names(listed)


def weights(folder: Path) -> None:
    """Say what files of weights are and read their tensors, own and foreign."""
    from kinolab.checkpoints import inspect
    from kinolab.metrics.weights import read_tensors

    for path in sorted(folder.iterdir()):
        inspect(path)
        if path.is_file() and path.suffix != ".ckpt":  # those are nested
            read_tensors(path)


def adapter(folder: Path) -> None:
    """Read LoRA adapters and put them on a small denoiser."""
    from fuzz.made import small_denoiser
    from kinolab.checkpoints.adapters import native_changes, read_adapter
    from kinolab.layers.lora import change_layers

    for path in [folder, *sorted(folder.glob("*.safetensors"))]:
        denoiser = small_denoiser()
        change_layers(denoiser, native_changes(denoiser, read_adapter(path)))


def model(folder: Path) -> None:
    """Load a model folder's autoencoder."""
    from kinolab.checkpoints import inspect
    from kinolab.models import load_autoencoder

    inspect(folder)
    load_autoencoder(folder, device="cpu")


def checkpoint(folder: Path) -> None:
    """Load the newest whole checkpoint of a run into its state."""
    from fuzz.made import run_state
    from kinolab.runtime import sharded
    from kinolab.runtime.records import read_record

    for path in sorted(folder.iterdir()):
        record = read_record(path / "state.json")
        record.integer("step", at_least=0)
        record.texts("optimizers")
        sharded.problems(path)
        sharded.load(run_state(), path, alone=True)


def run_state(folder: Path) -> None:
    """Load the newest whole checkpoint into modules, optimisers and averages, as `train --resume` does."""
    from fuzz.made import small_run

    small_run().load_newest(folder / "checkpoints", lambda text: None)


def cache(folder: Path) -> None:
    """Read every window of a latent cache."""
    from kinolab.data import CacheConfig, CacheSource

    source = CacheSource(CacheConfig(path=folder, split="all"))
    for k in range(len(source)):
        source[k]


def embeddings(folder: Path) -> None:
    """Read the embeddings of captions in a cache."""
    from fuzz.made import CAPTIONS
    from kinolab.data.prompts import PromptCache

    for encoder in sorted((folder / "text").iterdir()):
        found = PromptCache(folder, encoder.name)
        for caption in CAPTIONS:
            found.get(caption)


def _all(items: Iterable[Any]) -> None:
    for _ in items:
        pass
