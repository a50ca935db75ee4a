"""`kinolab fit`: an image model is tuned on a clip, or a few, and becomes a video model of what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinolab.cli.options import TrainingDevice, also_written, common, device_override, on_error, parse_size, show, watch

if TYPE_CHECKING:
    from kinolab.planning.cost_report import CostReport


@common(events=True)
def fit(
    clip: Annotated[
        list[Path] | None, typer.Argument(help="Clips: video files, or folders of numbered images.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to write; the model is in it.")] = Path("fit"),
    prompt: Annotated[
        list[str] | None, typer.Option(help="What the clip shows. Repeatable: one for all clips, or one for each.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Its class, for a model of classes, by number or name. Repeatable.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The image model: a model folder, as `kinolab convert` makes, or a run folder."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training; default 500.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of each clip, from its beginning; default all, at most 24.")
    ] = None,
    interval: Annotated[int, typer.Option(min=1, help="Take every n-th frame.")] = 1,
    size: Annotated[str | None, typer.Option(help="Side of a square, or HEIGHTxWIDTH; default the model's.")] = None,
    what: Annotated[
        Literal["queries", "temporal", "all"],
        typer.Option(help="What is trained: queries of all attention and layers over time, these alone, or all."),
    ] = "queries",
    lora: Annotated[
        int | None, typer.Option(min=1, help="Train low-rank changes of this rank in place of those layers.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="A field of the recipe: -s training.learning_rate=1e-4. Repeatable."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say memory and time, and stop before the first step.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of --out.")] = False,
    device: TrainingDevice = None,
) -> None:
    """Tune an image model on a clip, or a few, as Tune-A-Video does.

    The frames of the model learn to read each other, on these clips alone, in some minutes. Before it starts it says
    what memory and time it will take. Then: kinolab generate PROMPT --model OUT, with another prompt.
    """
    from kinolab.errors import InputError

    overrides = [*(setting or []), *device_override(device)]
    if resume and (out / "recipe.yaml").exists():
        if any((clip, prompt, label, model, frames, size, lora, plan)) or interval != 1 or what != "queries":
            raise InputError(
                f"--resume: {out} is tuned on what it began with: give only --steps, -s and --device beside it"
            )
        _train(out, [*overrides, *([] if steps is None else [f"training.steps={steps}"])], resume=True)
        return
    if not clip or model is None:
        raise InputError("expected a clip, and a model to tune on it: kinolab fit CLIP --prompt TEXT --model FOLDER")
    values = {"clips": clip, "prompts": prompt or [], "labels": label or [], "model": model, "frames": frames}
    values |= {"interval": interval, "what": what, "lora": lora} | ({} if steps is None else {"steps": steps})
    side = parse_size(size)
    values["size"] = (side, side) if isinstance(side, int) else side
    prepared, cost = _prepare(values, out, overrides)
    if plan:
        seconds = None if cost.seconds is None else cost.seconds[1]
        values = {"folder": out, "recipe": prepared, "seconds": seconds, "memory": cost.memory.peak}
        show(values, [f"train it with: kinolab train {prepared} --out {out}"])
        return
    _train(out, [], resume=False)


def _prepare(values: dict[str, Any], out: Path, overrides: list[str]) -> tuple[Path, CostReport]:
    """Write the latents and the recipe, and say what the training will take."""
    from kinolab.config import load_config
    from kinolab.planning.cost import measure_cost
    from kinolab.runtime.devices import choose
    from kinolab.training.fit import FitConfig, check_free, prepare

    check_free(out)
    told = next((text.partition("=")[2] for text in overrides if text.startswith("training.device=")), "auto")
    with watch("encoding", "clips", notes=on_error) as events:
        prepared = prepare(
            load_config(FitConfig, values, name="fit"), out, overrides, device=choose(told), events=events
        )
    for note in prepared.notes:
        on_error(note)
    height, width = prepared.size
    clips = f"{prepared.clips} clip{'s' * (prepared.clips > 1)} of {prepared.frames} frames, {height} x {width}"
    with watch("measuring", notes=lambda note: None) as events:
        cost = measure_cost(prepared.recipe, steps=2, run=out, events=events)
    on_error(f"{clips}: {cost_line(cost)}")
    for line in cost.warnings:
        on_error(f"warning: {line}")
    return prepared.recipe, cost


def cost_line(cost: CostReport) -> str:
    """Time and memory of a run in a line."""
    from kinolab.planning.cost_report import clock
    from kinolab.planning.cost_report import size as in_bytes

    memory = cost.memory
    time = "" if cost.seconds is None else f" about {clock(cost.seconds[1])} and"
    peak = "an unknown amount" if memory.peak is None else in_bytes(memory.peak)
    of = "" if memory.machine is None else f" of {in_bytes(memory.machine)}"
    return f"{cost.steps} steps take{time} {peak}{of} of memory, {in_bytes(cost.disk)} of disk"


def _train(out: Path, overrides: list[str], *, resume: bool) -> None:
    """Run the recipe that was prepared, or go on with the run, and say how to use the model."""
    from kinolab.cli.train import TrainingBar
    from kinolab.training.fit import RECIPE
    from kinolab.training.run import train

    with TrainingBar() as bar:
        report = train(
            None if resume else out / RECIPE, out, overrides, resume=resume,
            events=also_written(bar, "training", "steps"),
        )  # fmt: skip
    values = {"folder": out, "step": report.step, "steps": report.steps}
    if not report.finished:
        go_on = f"stopped at step {report.step} of {report.steps}; go on with: kinolab fit --resume --out {out}"
        show(values | {"model": None}, [go_on])
        return
    show(values | {"model": out / "model"}, [f"done: {out / 'model'}", f"try: kinolab generate PROMPT --model {out}"])
