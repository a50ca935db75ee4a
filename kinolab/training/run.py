"""Start or resume a run: recipe -> job -> trainer, in a run folder that records all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from kinolab import data
from kinolab.autoencoders.base import Autoencoder
from kinolab.config import differences, read_yaml, to_yaml
from kinolab.contracts.events import Events, Listener, events_of
from kinolab.contracts.examples import ClipSource, Source, Split
from kinolab.errors import InputError
from kinolab.model import load_autoencoder
from kinolab.runtime.devices import announce
from kinolab.runtime.files import write_text
from kinolab.runtime.locks import held
from kinolab.training.autoencoder import AutoencoderJob
from kinolab.training.denoiser import DenoiserJob
from kinolab.training.encoder import EncoderJob, MixedSource
from kinolab.training.initial import check_initial, first_autoencoder, first_denoiser
from kinolab.training.parallel import World, join_world, wait_for_all
from kinolab.training.recipe import AnyRecipe, AutoencoderRecipe, DenoiserRecipe, EncoderRecipe, load_recipe
from kinolab.training.state import checkpoints
from kinolab.training.trainer import Job, Trainer

Resume = bool | Literal["auto"]
"""Whether to go on with a run: yes, no, or where there is one."""
PATIENCE = 20.0
"""Seconds that `resume="auto"` waits for a folder whose last trainer was killed: its loaders' processes, which hold the
folder's lock with it, notice after some seconds."""


@dataclass(frozen=True)
class RunReport:
    """What came of a call: the step reached, the recipe's last step, what a resumed run changed, and where it ran."""

    folder: Path
    step: int
    steps: int
    changes: list[str]
    world: World = field(default_factory=World)

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step and wrote its model folder."""
        return self.step >= self.steps


def train(
    recipe: Path | str | None,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    resume: Resume = False,
    until: int | None = None,
    events: Listener = None,
) -> RunReport:
    """Train a recipe in a run folder; with `resume`, go on from the folder's newest checkpoint.

    Without a recipe a resumed run uses the one in its folder. Every setting that differs from the recorded one is
    said. `until` stops early at that step, to be resumed, and so do `events` that ask to stop. With `resume="auto"` a
    folder without a run begins one, so that the same call starts and restarts.

    Raises:
        InputError: for a bad recipe, a folder that holds a run already (without `resume`), or none (with it), or one
            that another process is training in, or a device that is not there.
    """
    config, changes = _settle(recipe, folder, overrides, resume)
    with join_world(config.training.device) as world:
        wait_for_all(world)  # nobody writes to the folder while another still looks whether it holds a run
        told = events_of(events if world.first else None)
        for change in changes:
            told.note(f"changed since the last start: {change}")
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        several = f"; {world.size} processes" if world.size > 1 else ""
        told.note(announce(world.device, config.training.device) + several)
        torch.manual_seed(config.training.seed)
        job = make_job(config, world, told)
        with _alone_in(folder, PATIENCE if resume == "auto" else 0.0) if world.first else nullcontext():
            if world.first:
                write_text(folder / "recipe.yaml", to_yaml(_as_run(config, job)))
            step = Trainer(job, config.training, folder, world, told).run(until)
    return RunReport(folder, step, config.training.steps, changes, world)


def _as_run(config: AnyRecipe, job: Job) -> AnyRecipe:
    """The recipe with the classes' names that came from the data, so that a resumed run's labels still mean them."""
    if not isinstance(config, DenoiserRecipe) or not isinstance(job, DenoiserJob):
        return config
    return config.model_copy(update={"class_names": job.class_names})


@contextmanager
def _alone_in(folder: Path, patience: float) -> Iterator[None]:
    """Make the run folder and keep other trainers out of it: two would overwrite each other's log and checkpoints.

    Waits up to `patience` seconds for another to let go.
    """
    otherwise = f"{folder}: another process is training this run; stop it, or name another folder"
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(folder / ".lock", otherwise))
                break
            except InputError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        yield


def _settle(
    recipe: Path | str | None, folder: Path, overrides: Sequence[str], resume: Resume
) -> tuple[AnyRecipe, list[str]]:
    """The recipe to run and how it differs from the one the folder records."""
    recorded = folder / "recipe.yaml"
    if resume not in (True, False, "auto"):
        raise InputError(f"resume={resume!r}: expected True, False or auto")
    if resume == "auto":
        resume = recorded.exists()
    exists = bool(checkpoints(folder / "checkpoints"))
    if exists and not resume:
        raise InputError(f"{folder}: holds a run already; pass --resume to go on with it, or name another folder")
    if resume and not recorded.exists():
        raise InputError(f"{folder}: no run to resume here (no recipe.yaml)")
    if recipe is None and not resume:
        raise InputError("expected a recipe to train, or --resume with the folder of a run")
    config = load_recipe(recipe if recipe is not None else recorded, overrides)
    if not resume:
        return config, []
    former = load_recipe(read_yaml(recorded))
    if isinstance(config, DenoiserRecipe) and isinstance(former, DenoiserRecipe) and not config.class_names:
        config = config.model_copy(update={"class_names": former.class_names})
    before = former.model_dump(mode="json")
    changes = list(differences(before, config.model_dump(mode="json")))
    return config, changes


def make_job(config: AnyRecipe, world: World, listener: Listener = None) -> Job:
    """The job of a recipe: its sources, its model with first weights, its losses."""
    events = events_of(listener)
    if isinstance(config, EncoderRecipe):
        return EncoderJob(config, *_mixed_sources(config, events))
    if isinstance(config, AutoencoderRecipe):
        check_initial(config)
        autoencoder = first_autoencoder(config)
        return AutoencoderJob(config, autoencoder, *_sources(config, autoencoder, events, annotated=False))
    autoencoder = load_autoencoder(config.autoencoder, device="cpu")
    denoiser = first_denoiser(config, events)
    annotated = config.text_encoder != "none" or denoiser.spec.num_classes > 0
    job = DenoiserJob(config, autoencoder, denoiser, *_sources(config, autoencoder, events, annotated=annotated))
    for note in job.notes:
        events.note(note)
    if config.trained != "all":
        events.note(f"{config.trained}: {job.count}")
    return job


def _sources(
    config: AutoencoderRecipe | DenoiserRecipe, autoencoder: Autoencoder, events: Events, *, annotated: bool
) -> tuple[Source, Source]:
    """The windows to train on, and the held-out ones; a folder with one clip is measured on what it trains on."""
    source = data.build(config.data, autoencoder.spec, split="train", annotated=annotated)
    for note in source.notes():
        events.note(note)
    try:
        heldout = data.build(config.data, autoencoder.spec, split="heldout", annotated=annotated)
    except InputError as error:
        events.note(f"nothing is held out, so the held-out numbers are of training clips: {error}")
        return source, source
    events.note(f"data: {len(source)} windows to train on, {len(heldout)} held out")
    return source, heldout


def _mixed_sources(config: EncoderRecipe, events: Events) -> tuple[MixedSource, MixedSource]:
    """All sources in turn, to train on and held out."""
    sides: dict[Split, list[ClipSource]] = {"train": [], "heldout": []}
    for name, source in config.data.items():
        if data.SOURCES.of(source).encoded:
            raise InputError(f"data.{name}: the encoder learns from pixels, got a cache of latents; name its clips")
        if isinstance(source, data.FolderConfig) and source.buckets:
            raise InputError(
                f"data.{name}: the encoder learns from clips of one shape, got buckets; set frames and size"
            )
        for side, sources in sides.items():
            made = data.build(source, split=side, annotated=False)
            assert isinstance(made, ClipSource), "caches are refused above"
            sources.append(made)
            for note in sources[-1].notes():
                events.note(note)
    for shown, heldout in zip(sides["train"], sides["heldout"], strict=True):
        events.note(f"data: {shown.config.kind}, {len(shown)} windows to train on, {len(heldout)} held out")
    return MixedSource(sides["train"]), MixedSource(sides["heldout"])
