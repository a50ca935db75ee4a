"""Part 4: a shipped recipe on the toy world: latents made here (or carried), training, checks of what comes out.

The recipe is `toy-mmdit`, which goes on from the shipped `world-text` on clips that nothing was trained on yet, so that
the weights that come back are to be compared with the shipped ones on the same held-out requests.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu.fitting import ModelDenoiserJob, fit
from benchmarks.gpu.packing import carried_back, write_clips
from benchmarks.gpu.running import FAILED, Item, OutOfTimeError, Place, Record
from benchmarks.gpu.text import CarriedText
from kinolab import data, video
from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.contracts.examples import Example
from kinolab.models import Request, VideoModel, load_autoencoder
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.training.initial import first_denoiser
from kinolab.training.prompts import CaptionEmbedder
from kinolab.training.recipe import DenoiserRecipe, load_recipe

SHIPPED = "world-text"
SEED = 20_000_000
"""Of the first clip: far from those of the shipped models' training and from the held-out ones."""
CLIPS, SMALL_CLIPS = 12_800, 6
REQUESTS, SMALL_REQUESTS = 128, 2


class PooledWorld(data.WorldSource):
    """The toy world, its clips made by the processes of a pool ahead of who walks through them."""

    def __init__(self, config: data.WorldSourceConfig, spec: AutoencoderSpec, pool: Any) -> None:
        """pool: of `multiprocessing`, or whatever has its `imap`."""
        super().__init__(config, spec)
        self.pool = pool

    def walk(self, indices: Sequence[int]) -> Iterator[tuple[int, Example]]:
        """The clips of `indices`, in that order."""
        made = self.pool.imap(_clip, [(self.world, self.seed(index)) for index in indices], chunksize=8)
        for index, (frames, fps, caption, label) in zip(indices, made, strict=True):
            r = self.record(index)
            yield index, Example(video.to_tensor(frames), fps, caption, label, r.source, r.time_range)


@contextmanager
def world_source(place: Place, count: int, spec: AutoencoderSpec) -> Iterator[data.WorldSource]:
    """Clips of the toy world; where there are processors for it, made by many at once."""
    config = data.WorldSourceConfig(world=WorldConfig(frames=5 if place.small else 17), count=count, seed=SEED)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if place.small or workers < 4:
        yield data.WorldSource(config, spec)
        return
    # Started anew and not forked: a fork of a process that uses a card and many threads may hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield PooledWorld(config, spec, pool)


def _clip(task: tuple[WorldConfig, int]) -> tuple[Any, float, str, int]:
    clip = make_clip(*task)
    return clip.frames, clip.fps, clip.caption, clip.label


def world_can_be_made() -> str:
    """Empty where the toy world's simulator and renderer are there; else what is missing."""
    missing = [name for name in ("pymunk", "aggdraw") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} missing" if missing else ""


def latents_of(place: Place) -> Path:
    """The folder of latents: made here, or carried where the world can't be made."""
    if world_can_be_made() and (place.carry / "toy-latents" / "cache.json").exists():
        return place.carry / "toy-latents"
    return place.state / "toy-latents"


def make_latents(place: Place) -> Record:
    """Encode clips of the toy world by the shipped autoencoder; an interrupted encoding goes on."""
    missing, out = world_can_be_made(), latents_of(place)
    if missing:
        if out.parent != place.carry:
            raise RuntimeError(f"the toy world can't be made here ({missing}) and no latents were carried")
        return {
            "made": "carried",
            "why": missing,
            "clips": len(data.CacheSource(data.CacheConfig(path=out, split="all"))),
        }
    autoencoder = load_autoencoder(SHIPPED).to(place.device)

    def progress(done: int, total: int) -> None:
        if place.clock.left() <= 0:
            raise OutOfTimeError(f"encoding stopped at {done} of {total} clips; the next call goes on there")

    count = SMALL_CLIPS if place.small else CLIPS
    batch, shard = (2, 2) if place.small else (64, 256)
    with world_source(place, count, autoencoder.spec) as source:
        summary = data.encode_to_cache(
            source, autoencoder, out, batch=batch, shard_size=shard, precision="auto", device=place.device,
            events=progress,
        )  # fmt: skip
    return {"made": "here", "clips": summary.items, "bytes": summary.bytes}


def recipe_of(place: Place) -> DenoiserRecipe:
    """`toy-mmdit`, going on from the shipped model's weights, on these latents."""
    small = [
        "initial=null", "denoiser.hidden_size=32", "denoiser.depth=2", "denoiser.num_heads=2", "denoiser.num_frames=2",
        "training.batch_size=2", "heldout_clips=2", "data.heldout_fraction=0.4",
    ]  # fmt: skip
    going_on = [f"initial.path={SHIPPED}", "initial.method=weights", "data.heldout_fraction=0.02"]
    places = [f"data.path={latents_of(place)}", f"autoencoder={SHIPPED}"]
    recipe = load_recipe("toy-mmdit", [*places, *(small if place.small else going_on)])
    assert isinstance(recipe, DenoiserRecipe)
    return recipe


def train(place: Place) -> Record:
    """Train for most of what is left of the part's time."""
    text = CarriedText(place.carry / "text")
    text.content  # noqa: B018  (says at once where nothing was carried)

    def job(recipe: DenoiserRecipe) -> ModelDenoiserJob:
        autoencoder = load_autoencoder(recipe.autoencoder)
        sides = [data.build(recipe.data, autoencoder.spec, split=side) for side in ("train", "heldout")]
        # With the package's encoder the job would look for its weights, which are not carried.
        untold = recipe.model_copy(
            update={"text_encoder": "none", "samples": recipe.samples.model_copy(update={"prompts": ()})}
        )
        made = ModelDenoiserJob(untold, autoencoder, first_denoiser(recipe), *sides)
        made.recipe = made.assembly.recipe = recipe
        made.assembly.text = CaptionEmbedder(text, latents_of(place))
        return made

    return fit(recipe_of(place), job, place.state / "toy-run", place, 0.75 * place.clock.left())


def trained(place: Place) -> VideoModel:
    """The trained model with the carried text encoder."""
    if not (place.state / "toy-run" / "model").exists():
        raise RuntimeError("the training has not come to its end")
    model = VideoModel.load(place.state / "toy-run" / "model", device=str(place.device))
    model.text_encoder = CarriedText(place.carry / "text")
    return model


def check(place: Place, name: str) -> Record:
    """Generate held-out requests of the toy world and read from the pixels what they show."""
    from kinolab.evaluation.world import evaluate_world

    missing = world_can_be_made()
    if missing:
        raise RuntimeError(f"the true clips can't be made here ({missing})")
    if name == SHIPPED:
        model = VideoModel.load(SHIPPED, device=str(place.device))
        model.text_encoder = CarriedText(place.carry / "text")
    else:
        model = trained(place)
    count = SMALL_REQUESTS if place.small else REQUESTS
    report = evaluate_world(model, {"count": count}, batch=min(count, 64))
    shares = {what: 100 * share.value for what, share in report.shares().items() if share.count}
    return {"requests": count, "percent": shares, "seconds_per_clip": report.seconds_per_clip}


def bring_back(place: Place) -> Record:
    """A sheet of generated clips, and the model folder in 8 bits as one file."""
    model, recipe = trained(place), recipe_of(place)
    prompts = list(recipe.samples.prompts)[: 1 if place.small else None]
    clips = model.decode(model.sample_latents([Request(prompt=p, seed=k) for k, p in enumerate(prompts)]))
    write_clips(place.out / "toy.png", dict(zip(prompts, video.to_uint8(clips), strict=True)))
    return {"figure": "toy.png", **carried_back(model, place.out / "toy-model.zip")}


def items(place: Place) -> Iterator[Item]:
    """Latents, training, checks before and after, and what comes back."""
    yield "latents", lambda: make_latents(place)
    yield "training", lambda: train(place)
    yield "figure and weights", lambda: bring_back(place)
    yield "checks of the trained model", lambda: check(place, "trained")
    yield f"checks of the shipped {SHIPPED}", lambda: check(place, SHIPPED)


def table(records: dict[str, Record]) -> tuple[list[str], list[list[str]]]:
    """What each item came to, in words."""
    return ["toy world", ""], [[name, in_words(record)] for name, record in records.items()]


def in_words(record: Record) -> str:
    """A record's plain values, without its curves."""
    if FAILED in record:
        return str(record[FAILED])
    parts = []
    for key, value in record.items():
        if key == "heldout" and value:
            value = value[-1]
        if key == "curve" or isinstance(value, list):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{k} {_short(v)}" for k, v in value.items())
        parts.append(f"{key}: {_short(value)}")
    return "; ".join(parts)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
