"""`kinolab encode`: clips to a latent cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinolab.cli.data import a_part_at_a_time, data_overrides, say_parts
from kinolab.cli.engines import EachGiven, EngineOrRecipe, Workers, ends_with, kept_in, take_engine
from kinolab.cli.options import (
    Device,
    common,
    parse_size,
    real_number,
    say,
    show,
    spoken_warnings,
    take_device,
    watch,
)  # fmt: skip
from kinolab.errors import InputError

if TYPE_CHECKING:
    from kinolab.conditioning.text import TextEncoder
    from kinolab.contracts.events import Events
    from kinolab.data import ClipSource, EncodeSummary, SourceConfig
    from kinolab.runtime.remote import Mirror
    from kinolab.tasks import TasksConfig
    from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe


Data = Annotated[str, typer.Argument(help="Folder of clips (s3://... too), a recipe, or `world` for the toy world.")]
Stored = Annotated[Literal["bfloat16", "float32"], typer.Option(help="What latents are stored in.")]
Precision = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="What the autoencoder computes in.")]
Tasks = Annotated[
    str | None,
    typer.Option(help="Also draw masks for these tasks, as predict=2,interpolate=1, or a recipe with tasks."),
]
Decoders = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Threads that read and decode clips for each worker while it encodes; default 1."),
]
Text = Annotated[
    str | None,
    typer.Option(help="Also embed the captions by this text encoder: minilm, or a recipe that names one."),
]


@common(events=True)
def encode(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the cache; of a store too: s3://...")],
    autoencoder: Annotated[
        str | None, typer.Option("--autoencoder", "-a", help="Model folder, run folder or shipped model.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.")] = None,
    size: Annotated[str | None, typer.Option(help="Side of a square, or HEIGHTxWIDTH.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate that clips are re-timed to.")] = None,
    count: Annotated[int | None, typer.Option(help="Clips of the toy world.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value, such as data.stride=8.")] = None,
    batch: Annotated[int, typer.Option(help="Windows encoded at once.")] = 8,
    shard_size: Annotated[int, typer.Option(help="Windows per file of the cache.")] = 256,
    dtype: Stored = "bfloat16",
    keep_posterior: Annotated[bool, typer.Option("--keep-posterior", help="Store the variance too.")] = False,
    precision: Precision = "float32",
    device: Device = "auto",
    tasks: Tasks = None,
    draws: Annotated[int, typer.Option(min=1, help="Masks drawn for each window, with --tasks.")] = 2,
    text: Text = None,
    update: Annotated[bool, typer.Option("--update", help="Encode again what changed; drop what is gone.")] = False,
    decoders: Decoders = None,
    engine: EngineOrRecipe = None,
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Encode clips into a latent cache that `kinolab train` reads; run it again to go on after an interruption."""
    from kinolab.contracts.events import Several
    from kinolab.data import ClipSource, build, encode_to_cache
    from kinolab.models import load_autoencoder
    from kinolab.tasks import CachedDraws

    config, recipe = data_config(data, frames, size, fps, count, override or [])
    default = recipe.autoencoder if recipe is not None and isinstance(recipe.autoencoder, Path) else None
    model, work = autoencoder if autoencoder is not None else default, None if recipe is None else recipe.work
    if model is None:
        raise InputError("expected --autoencoder with the model folder that encodes")
    threads = decoders or (1 if work is None else work.decoders)
    where, crew = take_device(device), take_engine(engine, workers, each, work)
    network = load_autoencoder(model, device=where)
    # The cache is split when it is read, by the same rule; the toy world's held-out seeds stay out of it.
    near = a_part_at_a_time(config)
    source = build(near, network.spec, split="train" if config.kind == "world" else "all")
    assert isinstance(source, ClipSource), "caches are refused above"
    encoder = None if text is None else text_encoder(text)
    masks = None if tasks is None else CachedDraws(tasks_config(tasks), draws)
    say_parts(near, config)
    say_of(source, encoder)
    with in_place(out, crew is not None) as (place, store, publishing):
        check_room(place, source, network.spec, 4 if dtype == "float32" else 2, keep_posterior)
        with (
            watch("encoding", "windows", cheaper=encode_less) as told,
            kept_in(place, "encoding", "windows", crew, store) as kept,
        ):
            summary = encode_to_cache(
                source, network, place, shard_size=shard_size, batch=batch, dtype=dtype, keep_posterior=keep_posterior,
                precision=precision, device=where, update=update, draws=masks,
                events=Several(told, kept, publishing), engine=crew, store=store, decoders=threads,
            )  # fmt: skip
            kept.left_out(summary.unreadable)
        embedded = None if encoder is None else embed_captions(place, encoder.to(where))
    tell(out, summary, encoder, embedded)
    ends_with(summary.poison)


@contextmanager
def in_place(out: Path, by_workers: bool) -> Iterator[tuple[Path, Mirror | None, Events]]:
    """Where the cache is written on this machine, the store that it is put into, if any, and what puts it there."""
    from kinolab.contracts.events import Silent
    from kinolab.data.publishing import published
    from kinolab.runtime.remote import Mirror, is_remote

    if not is_remote(out):
        yield out, None, Silent()
        return
    mirror = Mirror(out)
    with published(mirror, by_workers) as publishing:
        yield mirror.path, mirror, publishing


def tell(out: Path, summary: EncodeSummary, encoder: TextEncoder | None, embedded: tuple[int, int] | None) -> None:
    """Print what was encoded, and what of it was left out."""
    from kinolab.runtime.remote import address, is_remote

    poison = tuple(name.rpartition(" (")[0] for name in summary.poison)
    for window in (name for name in summary.unreadable if name not in poison):
        typer.echo(f"left out, can't be read any more: {window}", err=True)
    folder = address(out) if is_remote(out) else out
    values: dict[str, Any] = {"folder": folder} | vars(summary) | {"captions": None}
    lines = [f"{folder}: {summary.line}"]
    if encoder is not None and embedded is not None:
        count, new = embedded
        values["captions"] = {"encoder": encoder.name, "count": count, "embedded": new}
        lines.append(f"{folder}: {count} captions by {encoder.name} ({new} embedded now, {count - new} there already)")
    show(values, lines)


def say_of(source: ClipSource, encoder: TextEncoder | None) -> None:
    """Say what is to be known of a source, and which captions the encoder, if any, does not know.

    Raises:
        InputError: where no clip has a caption, so that there is nothing to embed.
    """
    from kinolab.training.annotated import unknown_captions

    for note in source.notes():
        say(note)
    if encoder is None:
        return
    records = [source.record(index) for index in range(len(source))]
    records = [record for record in records if record.annotated]
    captions = [caption for r in records for caption in (r.caption, *r.alternatives) if caption]
    if records and not captions:
        raise InputError(
            "--text embeds captions, and no clip has one; `kinolab data check` says what was read, or leave --text out"
        )
    for note in unknown_captions(encoder, captions):
        say(note)


def encode_less(seconds: float) -> str:
    """What takes less than encoding all of it does."""
    return "a smaller --size takes less, and so do fewer windows (-s data.stride=...); Ctrl-C keeps what is encoded"


def check_room(out: Path, source: Any, spec: Any, width: int, posterior: bool) -> None:
    """Say what a large cache will take; refuse one that the disk has no room for before anything is encoded.

    width: bytes of a value.
    """
    from kinolab.runtime.machine import disk_left, folder_size
    from kinolab.runtime.progress import size

    shapes = [(len(group), source.record(group[0])) for group in source.groups()]
    values = sum(n * math.prod(spec.latent_shape(r.frames, *(r.size or source.size))) for n, r in shapes)
    needed, free = values * width * (1 + posterior), disk_left(out)
    missing = needed - (folder_size(out) if out.is_dir() else 0)
    if missing > free:
        raise InputError(f"{out}: the latents take {size(needed)}, and {size(free)} are free there; give another --out")
    if needed >= 1e9:
        typer.echo(f"encoding: the latents will take {size(needed)} of disk, of {size(free)} that are free", err=True)


def embed_captions(out: Path, encoder: TextEncoder) -> tuple[int, int]:
    """Embed the captions of a cache that it has no embedding of; how many captions there are, and how many are new."""
    from kinolab.data import CacheConfig, CacheSource
    from kinolab.training.prompts import CaptionEmbedder

    captions = ["", *CacheSource(CacheConfig(path=out, split="all")).captions]
    with watch("embedding", "captions") as events, spoken_warnings():
        embedded = CaptionEmbedder(encoder, out).fill(captions, events)
    return len(set(captions)), embedded


def text_encoder(text: str) -> TextEncoder:
    """The text encoder of that name, or that of a recipe.

    Raises:
        InputError: where it is neither.
    """
    from kinolab.conditioning.text import MiniLm, build
    from kinolab.training.recipe import DenoiserRecipe, load_recipe

    if text == "minilm":
        return MiniLm()
    recipe = load_recipe(text)
    encoder = build(recipe.text_encoder) if isinstance(recipe, DenoiserRecipe) else None
    if encoder is None:
        raise InputError(f"{text}: a recipe without text_encoder; expected one that has some, or minilm")
    return encoder


def tasks_config(text: str) -> TasksConfig:
    """The tasks named as NAME=WEIGHT,NAME=WEIGHT,..., or those of a recipe.

    Raises:
        InputError: for a recipe without tasks, an unknown task or a weight that is no number.
    """
    from kinolab.config import load_config
    from kinolab.tasks import TasksConfig
    from kinolab.training.recipe import DenoiserRecipe, load_recipe

    if "=" not in text:
        recipe = load_recipe(text)
        if not isinstance(recipe, DenoiserRecipe) or recipe.tasks is None:
            raise InputError(f"{text}: a recipe without tasks; expected one that has some, or NAME=WEIGHT,...")
        return recipe.tasks
    values: dict[str, Any] = {"predict": 0.0}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            values[name.strip()] = real_number(weight)
        except ValueError:
            raise InputError(f"--tasks {part}: expected NAME=WEIGHT with a number, such as predict=2") from None
    return load_config(TasksConfig, values, name="--tasks")


def data_config(
    data: str, frames: int | None, size: str | None, fps: float | None, count: int | None, overrides: list[str]
) -> tuple[SourceConfig, AutoencoderRecipe | DenoiserRecipe | None]:
    """The source named on the command line with the options on top, and the recipe where it is one.

    Raises:
        InputError: where `data` is no folder, recipe or `world`, or the recipe reads a cache.
    """
    from kinolab.config import load_config
    from kinolab.data import SOURCES, WorldSourceConfig
    from kinolab.runtime.remote import is_remote

    recipe: AutoencoderRecipe | DenoiserRecipe | None = None
    values: dict[str, Any]
    there = is_remote(data) or Path(data).exists()
    if data == "world" or (there and Path(data).suffix not in (".yaml", ".yml")):
        values = {"kind": "world"} if data == "world" else {"kind": "folder", "path": data}
        values = data_overrides(values, overrides)
    else:
        from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe, shipped_recipes

        if Path(data).suffix not in (".yaml", ".yml") and data not in shipped_recipes():
            raise InputError(f"{data}: expected a folder of clips, a recipe, or `world`; there is none of that name")
        loaded = load_recipe(data, overrides)
        if not isinstance(loaded, AutoencoderRecipe | DenoiserRecipe):
            raise InputError(f"{data}: trains on several sources of clips; name one of them instead")
        recipe = loaded
        if SOURCES.of(recipe.data).encoded:
            raise InputError(f"{data}: its data is a latent cache already; name the clips instead")
        values = recipe.data.model_dump()
    given = {"frames": frames, "size": parse_size(size), "fps": fps}
    given = {key: value for key, value in given.items() if value is not None}
    if values["kind"] == "world":
        values["world"] = dict(values.get("world") or {}) | given
        values |= {"count": count} if count is not None else {}
        return load_config(WorldSourceConfig, values), recipe
    if count is not None:
        raise InputError(f"--count is for the toy world; a {values['kind']} gives all its windows")
    return load_config(SOURCES.get(values["kind"]).Config, values | given), recipe
