"""`kinolab fit`: an image model is tuned on a clip, or a few, and becomes a video model of what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinolab.cli.options import TrainingDevice, common, device_override, on_error, parse_size, watch
from kinolab.cli.prepared import device_told, show_plan, told_cost, train_prepared

if TYPE_CHECKING:
    from kinolab.planning.cost_report import CostReport

MODEL_HELP = "The image model: a model folder, as `kinolab convert` makes, or a run folder."


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
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
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
        train_prepared("fit", None, out, [*overrides, *([] if steps is None else [f"training.steps={steps}"])])
        return
    if not clip or model is None:
        raise InputError("expected a clip, and a model to tune on it: kinolab fit CLIP --prompt TEXT --model FOLDER")
    values = {"clips": clip, "prompts": prompt or [], "labels": label or [], "model": model, "frames": frames}
    values |= {"interval": interval, "what": what, "lora": lora} | ({} if steps is None else {"steps": steps})
    side = parse_size(size)
    values["size"] = (side, side) if isinstance(side, int) else side
    prepared, cost = _prepare(values, out, overrides)
    if plan:
        show_plan(prepared, cost, out)
        return
    train_prepared("fit", prepared, out)


def _prepare(values: dict[str, Any], out: Path, overrides: list[str]) -> tuple[Path, CostReport]:
    """Write the latents and the recipe, and say what the training will take."""
    from kinolab.config import load_config
    from kinolab.runtime.devices import choose
    from kinolab.training.fit import FitConfig, check_free, prepare

    check_free(out)
    config = load_config(FitConfig, values, name="fit")
    with watch("encoding", "clips", notes=on_error) as events:
        prepared = prepare(config, out, overrides, device=choose(device_told(overrides)), events=events)
    height, width = prepared.size
    clips = f"{prepared.clips} clip{'s' * (prepared.clips > 1)} of {prepared.frames} frames, {height} x {width}"
    return prepared.recipe, told_cost(prepared.recipe, out, prepared.notes, f"{clips}: ")
