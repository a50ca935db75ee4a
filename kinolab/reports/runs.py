"""What a run folder shows: the curves of its log, its sample videos in order of steps, and its recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kinolab.errors import InputError
from kinolab.models import find_model, read_model_config
from kinolab.reports.blocks import Block, Curves, Fold, Section, SyncedVideos, Table, Text
from kinolab.reports.media import Media, clock, spread
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import MIB, json_lines, read_text

LOG = "log.jsonl"
ASIDE = ("step_seconds", "learning_rate", "t", "grad_norm", "rolled_back")
"""What is about the training itself and not about its result: folded in a report."""
SPREAD = 100.0
"""A curve above zero whose largest value is so many times its smallest gets a logarithmic scale."""
WORDS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "kl": "KL", "mse": "MSE", "lpips": "LPIPS", "t": "mean time of the noise"}
_SAMPLE = re.compile(r"step-(\d+)(?:-(\d+))?\.(?:mp4|webm)")

Series = dict[str, list[tuple[float, float]]]


def is_run(path: Path) -> bool:
    """Whether a path is a run folder."""
    return path.is_dir() and ((path / LOG).is_file() or (path / "recipe.yaml").is_file())


def curves_of_run(run: Path) -> Series:
    """Every number of a run's log by step: "train loss", "heldout psnr", ... -> [(step, value), ...] in order.

    `run` is a run folder or its log itself. A last line that is still being written is left out.

    Raises:
        InputError: where there is no log, or a line of it is not what `kinolab train` writes.
    """
    path = run / LOG if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the log of a run, as kinolab train writes it")
    series: Series = {}
    for number, row in json_lines(path, constants=True):
        try:
            step, kind = float(row["step"]), str(row["kind"])
        except (ValueError, KeyError, TypeError, OverflowError):
            raise InputError(f'{path}, line {number}: expected {{"step": ..., "kind": ..., ...}}') from None
        for name, value in row.items():
            if name not in ("step", "kind", "seconds") and isinstance(value, int | float):
                series.setdefault(f"{kind} {name}", []).append((step, float(value)))
    return {name: sorted(points) for name, points in series.items()}


def run_section(run: Path, name: str, media: Media) -> Section:
    """The section of one run: curves, samples, recipe."""
    has_log = run.is_file() or (run / LOG).is_file()
    series = curves_of_run(run) if has_log else {}
    plots = charts(series)
    blocks: list[Block] = [plot for quantity, plot in plots.items() if not _aside(quantity)]
    blocks += samples_of_run(run, name, media)
    if more := tuple(plot for quantity, plot in plots.items() if _aside(quantity)):
        blocks.append(Fold("curves of the training itself", more))
    if (made := _distilled(run)) is not None:
        blocks.insert(0, Text(f"A distilled model: {made}."))
    recipe = run / "recipe.yaml"
    if recipe.is_file():
        blocks.append(Fold("recipe", (Text(read_text(recipe, MIB), code=True),)))
    steps = max((points[-1][0] for points in series.values()), default=0)
    text = f"{steps:g} steps so far." if steps else "Nothing is logged yet."
    return Section(f"Run: {name}", text, tuple(blocks))


def _distilled(run: Path) -> str | None:
    """What the model of a finished run was distilled for; None where it is no distilled one, or not there."""
    with suppress(InputError):
        made = read_model_config(find_model(run)).distilled
        return None if made is None else str(made)
    return None


def charts(series: Series) -> dict[str, Curves]:
    """One plot per quantity; training and held-out values share it, and so do the values at several noise levels.

    The training loss and the held-out one stand in one plot as they have one unit.
    """
    by_quantity: dict[str, Series] = {}
    for name, points in series.items():
        kind, quantity = name.split(" ", 1)
        base, _, level = quantity.partition("_at_")
        key = f"{base} by noise level" if level else base
        label = f"{words(base)} at {level}" if level else {"train": "training", "heldout": "held out"}.get(kind, kind)
        by_quantity.setdefault(key, {})[label] = points
    plots: dict[str, Curves] = {}
    shown: list[list[tuple[float, float]]] = []
    for quantity, lines in sorted(by_quantity.items(), key=lambda item: _order(item[0], item[1])):
        if all(points in shown for points in lines.values()):
            continue  # a loss of one term is logged under both names
        shown += lines.values()
        plots[quantity] = Curves(words(quantity), lines, "step", words(quantity), _wants_log(lines))
    return plots


def run_comparison(runs: Mapping[str, Series]) -> Section:
    """Several runs in the same plots: what is held out, or the training loss where nothing is."""
    names = dict.fromkeys(n for series in runs.values() for n in series if n.startswith("heldout ") and "_at_" not in n)
    chosen = list(names) or ["train loss"]
    blocks: list[Block] = []
    for name in chosen:
        lines = {run: series[name] for run, series in runs.items() if name in series}
        if len(lines) > 1:
            quantity = words(name.split(" ", 1)[1])
            title = f"{quantity}, {'held out' if name.startswith('heldout') else 'training'}"
            blocks.append(Curves(title, lines, "step", quantity, _wants_log(lines)))
    last = tuple(
        (run, *(series[name][-1][1] if name in series else None for name in chosen)) for run, series in runs.items()
    )
    heads = ("run", *(words(name.split(" ", 1)[1]) for name in chosen))
    blocks.append(Table(heads, last, "the last value of each run; runs on different data can't be compared by it"))
    return Section("Runs side by side", "", tuple(blocks))


def samples_of_run(run: Path, name: str, media: Media) -> list[Block]:
    """The videos of each sample at several steps, side by side in order: the same seed as the training goes on."""
    found: dict[str, list[tuple[int, Path]]] = {}
    folder = run / "samples"
    for path in visible(folder) if folder.is_dir() else ():
        if match := _SAMPLE.fullmatch(path.name):
            found.setdefault(match[2] or "", []).append((int(match[1]), path))
    blocks: list[Block] = []
    for number, videos in sorted(found.items(), key=lambda item: int(item[0] or 0)):
        videos.sort()
        chosen = [videos[k] for k in spread(len(videos))]
        clocks = [clock(path) for _, path in chosen]
        title = f"sample {number}" if number else "held-out clips above, their reconstructions below"
        if len(chosen) < len(videos):
            title += f" ({len(chosen)} of {len(videos)} steps)"
        shown = tuple((f"step {step}", media.use(path, f"{name}-samples")) for step, path in chosen)
        blocks.append(SyncedVideos(title, shown, clocks[-1][0], max(frames for _, frames in clocks)))
    return blocks


def words(quantity: str) -> str:
    """A quantity of the log in words."""
    return WORDS.get(quantity, quantity.replace("_", " "))


def _aside(quantity: str) -> bool:
    return any(quantity == name or quantity.endswith(f"_{name}") for name in ASIDE)


def _order(quantity: str, lines: Series) -> tuple[bool, bool]:
    """Plots with held-out values first, then the loss, in the order of the log."""
    return "held out" not in lines, quantity != "loss"


def _wants_log(lines: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
    values = [y for points in lines.values() for _, y in points]
    return bool(values) and min(values) > 0 and max(values) / min(values) >= SPREAD
