"""`kinolab data`: a verdict per clip before anything is spent, and small copies of large clips."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kinolab.cli.data_caption import caption
from kinolab.cli.data_curate import curate
from kinolab.cli.data_maps import maps
from kinolab.cli.engines import EachGiven, EngineOrRecipe, Workers, ends_with, take_engine
from kinolab.cli.options import common, parse_size, print_json, show, tell, watch, whole_number
from kinolab.errors import InputError

if TYPE_CHECKING:
    from kinolab.autoencoders.base import AutoencoderSpec
    from kinolab.contracts.work import WorkConfig
    from kinolab.data import FolderConfig, FolderSource, SourceConfig, Verdict

Config = TypeVar("Config", bound="SourceConfig")
app = typer.Typer(help="Look at training data.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at training data."""


app.command()(maps)
app.command()(curate)
app.command()(caption)


@app.command()
@common(events=True, json=False)
def check(
    folder: Annotated[Path | None, typer.Argument(help="Folder of clips; the recipe's own folder if left out.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="Recipe that will be trained.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.")] = None,
    size: Annotated[str | None, typer.Option(help="Side of a square, or HEIGHTxWIDTH.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate that clips are re-timed to.")] = None,
    ratio: Annotated[
        str | None, typer.Option(help="The autoencoder's ratio where no recipe says it: 4, or 4x8 (time x space).")
    ] = None,
    override: Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value of the recipe.")] = None,
    engine: EngineOrRecipe = None,
    workers: Workers = None,
    each: EachGiven = None,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object per clip.")] = False,
) -> None:
    """Print a verdict per clip: the windows it gives, what is dropped and why, and what happens to the picture.

    Reads every file and changes none. Options override the recipe. With a recipe that trains a denoiser, captions and
    labels are checked against what it takes.
    """
    from kinolab.data import FolderSource, summarise

    config, spec, work = plan(folder, recipe, frames, size, fps, ratio, override or [])
    crew, config = take_engine(engine, workers, each, work), config.model_copy(update={"split": "all"})
    near = a_part_at_a_time(config)
    with watch("reading", "clips") as events:
        source = FolderSource(near, spec, events, allow_empty=True, signals=True, engine=crew)
    say_parts(near, config)
    if json_lines:
        for verdict in source.verdicts():
            print_json(verdict, indent=None)
    else:
        for line in describe(source.verdicts(), source.classes):
            typer.echo(line)
        typer.echo("")
        for note in source.notes():
            typer.echo(note)
        for line in conclusion(source, spec):
            typer.echo(line)
    if not summarise(source.verdicts()).windows:
        raise InputError(f"{config.path}: no clip is usable with these settings")
    if recipe is not None:
        for note in check_told(recipe, override or [], source):
            typer.echo(note, err=json_lines)
    ends_with(source.poison)


@app.command()
@common(events=True)
def shrink(
    folder: Annotated[Path, typer.Argument(help="Folder of clips.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the small copies.")],
    size: Annotated[int, typer.Option(min=8, help="Shorter side, about twice the side that is trained on.")] = 256,
    fps: Annotated[float | None, typer.Option(help="Frame rate to re-time to; default the frames as stored.")] = None,
) -> None:
    """Write small copies of clips, so that training does not decode large ones again and again.

    Names, captions and labels stay; run it again to go on after an interruption.
    """
    from kinolab.data.shrink import shrink as run

    with watch("shrinking", "clips") as events:
        summary = run(folder, out, size, fps=fps, events=events)
    for cause in summary.failed:
        typer.echo(f"left out: {cause}", err=True)
    for cause in summary.partial:
        typer.echo(f"copied in part: {cause}", err=True)
    again = f" ({summary.renewed} again: made with other settings or of other content)" if summary.renewed else ""
    line = f"{out}: {summary.written} clips written{again}, {summary.present} there already"
    show({"folder": out} | vars(summary), [line])
    if not summary.written + summary.present:
        raise InputError(f"{folder}: no clip could be read")


@app.command()
@common(events=True)
def cut(
    folder: Annotated[Path, typer.Argument(help="Folder of clips.")],
    edits: Annotated[Path, typer.Argument(help="A YAML file that says what of each clip, as the studio's data.yaml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the cut copies.")],
) -> None:
    """Write what a file says of each clip to another folder: parts of it, cropped, or nothing.

    The clips stay as they are; captions go along. Run it again to go on after an interruption, or after an edit: what
    it wrote before and is no longer wanted goes.
    """
    from kinolab.data.cutting import cut as run

    with watch("cutting", "clips") as events:
        summary = run(folder, edits, out, events=events)
    for cause in summary.failed:
        typer.echo(f"left out: {cause}", err=True)
    gone = f", {summary.removed} removed that are no longer wanted" if summary.removed else ""
    line = f"{out}: {summary.written} clips written, {summary.present} there already, {summary.left_out} left out{gone}"
    show({"folder": out} | vars(summary), [line])
    if not summary.written + summary.present:
        raise InputError(f"{folder}: nothing of any clip is left to train on")


def plan(
    folder: Path | None,
    recipe: str | None,
    frames: int | None,
    size: str | None,
    fps: float | None,
    ratio: str | None,
    overrides: list[str],
) -> tuple[FolderConfig, AutoencoderSpec | None, WorkConfig | None]:
    """What to check, the autoencoder's shape rules, and who does it: from the recipe, with the options on top.

    Raises:
        InputError: where neither a folder nor a recipe with one is given, or an option can't be read.
    """
    from kinolab.config import load_config
    from kinolab.data import FolderConfig

    values: dict[str, Any] = {}
    spec, work = None, None
    if recipe is not None:
        from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe

        loaded = load_recipe(recipe, overrides)
        if not isinstance(loaded, AutoencoderRecipe | DenoiserRecipe):
            raise InputError(f"{recipe}: trains on several sources of clips; name the folder of one of them instead")
        values = loaded.data.model_dump() if isinstance(loaded.data, FolderConfig) else {}
        spec, work = spec_of(loaded.autoencoder) if ratio is None else None, loaded.work
    elif overrides:
        values = data_overrides(values, overrides)
    if folder is not None:
        values["path"] = folder
    if "path" not in values:
        raise InputError("expected a folder of clips, or a recipe whose data is one")
    given = {"frames": frames, "size": parse_size(size), "fps": fps}
    values |= {key: value for key, value in given.items() if value is not None}
    return load_config(FolderConfig, values), spec if ratio is None else parse_ratio(ratio), work


def a_part_at_a_time(config: Config) -> Config:
    """Of clips in a store, which a command looks at once: so many GB at a time on this disk, unless it is said."""
    from kinolab.data import FolderConfig
    from kinolab.data.places import DISK_GB
    from kinolab.runtime.remote import is_remote

    if not isinstance(config, FolderConfig) or not is_remote(config.path) or config.disk_gb is not None:
        return config
    return config.model_copy(update={"disk_gb": DISK_GB})


def say_parts(near: SourceConfig, config: SourceConfig) -> None:
    """Say that the clips of a store were taken a part at a time, where nobody asked for it."""
    from kinolab.data import FolderConfig
    from kinolab.runtime.remote import address

    if near is not config and isinstance(near, FolderConfig):
        tell()
        typer.echo(
            f"{address(near.path)}: each clip is fetched when it is read, at most {near.disk_gb:g} GB of them are on "
            "this disk at once (-s data.disk_gb)", err=True,
        )  # fmt: skip


def data_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The fields of a source with `data.key=value` overrides on top; other keys need a recipe to belong to."""
    from kinolab.config import apply_overrides

    merged = apply_overrides({"data": values}, overrides)
    other = next((key for key in merged if key != "data"), None)
    if other is not None:
        raise InputError(f"-s {other}=...: without a recipe only data.KEY=VALUE can be set, such as data.stride=8")
    return dict(merged["data"])


def spec_of(autoencoder: Any) -> AutoencoderSpec:
    """The shape rules of a recipe's autoencoder: a config, or the folder of a trained one."""
    if isinstance(autoencoder, Path):
        from kinolab.models import autoencoder_config

        autoencoder = autoencoder_config(autoencoder)
    from kinolab.autoencoders import build
    from kinolab.runtime.modules import without_memory

    with without_memory():  # the shape rules need no weights
        return build(autoencoder).spec


MOST_RATIO = 64
"""Of an autoencoder, in time and in space."""


def parse_ratio(text: str) -> AutoencoderSpec:
    """`4` or `4x8`: temporal ratio, or temporal x spatial."""
    from kinolab.autoencoders.base import AutoencoderSpec

    try:
        parts = [whole_number(part) for part in text.lower().split("x")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or not all(1 <= part <= MOST_RATIO for part in parts):
        raise InputError(f"--ratio {text!r}: expected the ratio in time such as 4, or in time x space such as 4x8")
    spatial = parts[1] if len(parts) == 2 else 1
    return AutoencoderSpec(latent_channels=4, temporal_ratio=parts[0], spatial_ratio=spatial, causal=True)


def describe(verdicts: Iterable[Verdict], classes: tuple[str, ...]) -> Iterator[str]:
    """The verdicts as lines of text: one per clip, and below it what was dropped and what to know."""
    verdicts = list(verdicts)
    width = min(max((len(v.source) for v in verdicts), default=0), 60)
    for v in verdicts:
        word = "keep" if v.kept else "drop"
        stored = f"{v.size[1]}x{v.size[0]}" if v.size else "-"
        length = f"{v.frames} frames" if v.frames else "-"
        rate = f"{v.fps:.4g} fps" if v.fps else "-"
        side = ("held out" if v.split == "heldout" else "train") if v.kept else ""
        count = f"{v.kept} window{'' if v.kept == 1 else 's'}"
        line = f"{word}  {v.source:<{width}}  {stored:>9}  {length:>11}  {rate:>9}  {count:>11}  {side:<8}"
        label = f"  [{classes[v.label]}]" if v.label is not None else ""
        more = f" and {len(v.alternatives)} more" if v.alternatives else ""
        caption = f"  {v.caption[:60]!r}{more}" if v.caption else ""
        yield (line + label + caption).rstrip()
        for text in v.dropped:
            yield f"      dropped: {text}"
        for text in v.notes:
            yield f"      note: {text}"


def conclusion(source: Any, spec: AutoencoderSpec | None) -> Iterator[str]:
    """The totals, and what the latents will take on disk."""
    from kinolab.data import summarise

    yield from told_lines(source.verdicts(), source.classes)
    totals = summarise(source.verdicts())
    height, width = source.size
    shape = f" of {source.frames} frames at {width}x{height}" if not source.config.buckets else ""
    yield (
        f"{totals.used} of {totals.files} clips give {totals.windows} windows{shape}: {totals.train} to train on, "
        f"{totals.heldout} held out"
    )
    if source.config.buckets:
        yield from bucket_lines(source, spec)
        return
    if spec is not None and spec.spatial_ratio > 1 and totals.windows:
        c, t, h, w = spec.latent_shape(source.frames, height, width)
        megabytes = totals.windows * c * t * h * w * 2 / 1e6
        yield f"latents of {c} x {t} x {h} x {w}: {megabytes:.1f} MB in bfloat16"


def told_lines(verdicts: Iterable[Verdict], classes: tuple[str, ...]) -> Iterator[str]:
    """How many of the clips that are used have a caption, and how many are of each class."""
    used = [v for v in verdicts if v.kept]
    captioned = sum(v.caption is not None for v in used)
    if captioned:
        yield f"captions: {captioned} of {len(used)} clips"
    counts = Counter(v.label for v in used if v.label is not None)
    if counts:
        names = [str(k) if classes[k] == str(k) else f"{k} = {classes[k]}" for k in sorted(counts)]
        shown = [f"{name}: {counts[k]}" for name, k in zip(names, sorted(counts), strict=True)]
        rest = ", ..." if len(shown) > 20 else ""
        yield f"labels: {counts.total()} of {len(used)} clips ({', '.join(shown[:20])}{rest})"


def check_told(recipe: str, overrides: list[str], source: FolderSource) -> list[str]:
    """What should be known of the captions and labels of a folder before a recipe is trained on it.

    Raises:
        InputError: where the recipe's denoiser can't be trained on them.
    """
    from kinolab.conditioning.text import build as build_text_encoder
    from kinolab.denoisers import build as build_denoiser
    from kinolab.runtime.modules import without_memory
    from kinolab.training.annotated import check_annotations
    from kinolab.training.recipe import DenoiserRecipe, load_recipe

    loaded = load_recipe(recipe, overrides)
    if not isinstance(loaded, DenoiserRecipe):
        return []
    with without_memory():  # what it takes needs no weights
        spec = build_denoiser(loaded.denoiser).spec
    return list(check_annotations(loaded, spec, (source,), build_text_encoder(loaded.text_encoder)).notes)


def bucket_lines(source: Any, spec: AutoencoderSpec | None) -> Iterator[str]:
    """The windows in each bucket, and what their latents will take on disk."""
    total = 0
    for group in source.groups():
        record = source.record(group[0])
        yield f"{len(group)} windows of {record.frames} frames at {record.size[1]}x{record.size[0]}"
        if spec is not None:
            total += len(group) * math.prod(spec.latent_shape(record.frames, *record.size))
    if spec is not None and spec.spatial_ratio > 1:
        yield f"latents of all: {total * 2 / 1e6:.1f} MB in bfloat16"
