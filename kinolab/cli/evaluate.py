"""`kinolab evaluate`: measure a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from kinolab.cli.engines import EachGiven, EngineName, Workers, take_engine
from kinolab.cli.measuring import (
    Batch,
    First,
    Guidance,
    Lora,
    Precision,
    PromptModel,
    Protocol,
    ReportFile,
    Sampler,
    Seed,
    Setting,
    Steps,
    load_model,
    sampling,
    settings_listed,
    show_report,
    steering,
    toy_protocol,
)
from kinolab.cli.options import Device, common, less, spoken_warnings, watch, whole_numbers


def register(app: typer.Typer) -> None:
    """Add `evaluate` with `reconstruction`, `generation`, `sensitivity` and those on the toy world."""
    from kinolab.cli.evaluate_control import control
    from kinolab.cli.evaluate_edits import edits
    from kinolab.cli.evaluate_scores import generation, reconstruction
    from kinolab.cli.evaluate_sensitivity import sensitivity
    from kinolab.cli.evaluate_zero import zero

    group = typer.Typer(help="Measure a model, an autoencoder or a folder of videos.", no_args_is_help=True)
    group.callback()(_evaluate)
    group.command(cls=_listing("reconstruction"))(reconstruction)
    group.command(cls=_listing("generation"))(generation)
    group.command()(sensitivity)
    toy, base = "evaluation/toy_protocols.py", "ToyProtocol"
    group.command(cls=settings_listed((toy, base, "WorldProtocol")))(world)
    group.command(cls=settings_listed((toy, base, "PhysicsProtocol")))(physics)
    group.command(cls=settings_listed((toy, base), ("evaluation/tasks.py", "TasksProtocol")))(tasks)
    group.command(cls=settings_listed((toy, base, "EditsProtocol")))(edits)
    group.command(cls=settings_listed((toy, base, "ZeroProtocol")))(zero)
    group.command(cls=settings_listed((toy, base, "ControlProtocol")))(control)
    app.add_typer(group, name="evaluate")


def _listing(kind: str) -> type[TyperCommand]:
    """A command whose help ends with the metrics of a kind of protocol, as they are when it is asked for."""

    shown: type[TyperCommand] = settings_listed() if kind == "generation" else TyperCommand

    class Listing(shown):  # type: ignore[valid-type, misc]
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from kinolab.metrics import METRICS  # the configs behind it are slow to import, and few ask for help

            super().format_epilog(ctx, formatter)
            formatter.write_paragraph()
            formatter.write_text(f"Metrics, for -s metrics=[...]: {METRICS.help(kind)}.")

    return Listing


def _evaluate() -> None:
    """Measure a model, an autoencoder or a folder of videos."""


@common(events=True)
def world(
    model: PromptModel = None,
    protocol: Protocol = "toy-world",
    videos: Annotated[
        Path | None,
        typer.Option(help="Judge this folder of videos instead, by the prompts in the .json or .txt beside."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Held-out requests; default the protocol's.")] = None,
    first: First = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    lora: Lora = None,
    setting: Setting = None,
    batch: Batch = 16,
    seed: Seed = None,
    label: Annotated[
        bool | None, typer.Option(help="Give the class label beside the prompt, where the model takes it.")
    ] = None,
    out: ReportFile = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Ask for held-out clips of the toy world, and count from the pixels how many show what was asked.

    The same reader judges the true clips (the ceiling) and the true clips after the autoencoder (what it costs). The
    interval behind a share is Wilson's at 95%.
    """
    from kinolab.evaluation.toy_protocols import WorldProtocol
    from kinolab.evaluation.world import evaluate_world
    from kinolab.evaluation.world_report import summary_lines

    if videos is not None:
        idle = {"--model": model is not None, "--workers": workers is not None, "--each": each is not None}
        idle |= {"--engine": engine != "embedded", f"--device {device}": device != "auto", "--lora": bool(lora)}
        judge_videos(videos, idle, out)
        return
    crew = take_engine(engine, workers, each)
    asked, ours = toy_protocol(
        WorldProtocol, protocol, {"count": count, "first": first, "seed": seed, "label": label}, setting
    )
    chosen, loaded = load_model(model, device, precision, lora=lora)
    how = sampling(loaded.config, sampler, steps, guidance, ours)
    with watch("generating", "clips", cheaper=less("--count ", asked.count)) as events:
        report = evaluate_world(loaded, asked, batch=batch, sampling=how, name=chosen, engine=crew, events=events)
    tables = [report.table(), report.scenario_table(), report.objects_table()]
    show_report(tables, summary_lines(report), report.to_json(), out)


def judge_videos(folder: Path, idle: Mapping[str, bool], out: Path | None) -> None:
    """Judge videos that are generated already; `idle` options are a model's, and refused where one is given."""
    from kinolab.errors import InputError
    from kinolab.evaluation.world_report import summary_lines
    from kinolab.evaluation.world_videos import evaluate_videos

    for option, given in idle.items():
        if given:
            raise InputError(f"{option} is for a model; --videos are generated already: leave it out")
    with watch("reading", "videos") as events:
        report = evaluate_videos(folder, events)
    show_report([report.table(), report.scenario_table()], summary_lines(report), report.to_json(), out)


@common(events=True)
def physics(
    model: Annotated[str | None, typer.Option(help="A model folder, or a shipped model; default: world-text.")] = None,
    protocol: Protocol = "toy-physics",
    given: Annotated[str | None, typer.Option(help="Numbers of given frames, each measured by itself: 8,4.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Held-out clips; default the protocol's.")] = None,
    first: First = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="fall, throw, bounce, collide, ramp or float; default all, in turn.")
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    lora: Lora = None,
    setting: Setting = None,
    method: Annotated[
        Literal["auto", "reconstruction", "replacement"],
        typer.Option(help="How the given frames are taken; auto: as trained, else by reconstruction guidance."),
    ] = "auto",
    weight: Annotated[float | None, typer.Option(min=0, help="Weight of reconstruction guidance.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips predicted at once.")] = 16,
    seed: Seed = None,
    out: ReportFile = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Predict held-out clips of the toy world from their first frames, and compare with the simulator.

    Beside the model: the true clip after the autoencoder (what it costs), objects that stay where they are, and objects
    that go on with constant velocity.
    """
    from kinolab.evaluation.physics import evaluate_physics, summary_lines
    from kinolab.evaluation.toy_protocols import PhysicsProtocol

    frames = whole_numbers(given, "--given") if given is not None else None
    changes = {"given": frames, "count": count, "first": first, "seed": seed, "scenarios": scenario or None}
    asked, ours = toy_protocol(PhysicsProtocol, protocol, changes, setting)
    crew = take_engine(engine, workers, each)
    chosen, loaded = load_model(model, device, precision, lora=lora)
    how = sampling(loaded.config, sampler, steps, setting=ours)
    with watch("predicting", cheaper=less("--count ", asked.count)) as events, spoken_warnings():
        report = evaluate_physics(
            loaded,
            asked,
            batch=batch,
            sampling=how,
            steering=steering(method, weight),
            name=chosen,
            engine=crew,
            events=events,
        )
    show_report(
        [report.table(), report.matching_table(), report.scenario_table()], summary_lines(report), report.to_json(), out
    )


@common(events=True)
def tasks(
    model: Annotated[str | None, typer.Option(help="A model folder, or a shipped model; default: world-text.")] = None,
    protocol: Protocol = "toy-tasks",
    count: Annotated[int | None, typer.Option(min=1, help="Held-out clips; default the protocol's.")] = None,
    first: First = None,
    steps: Steps = None,
    sampler: Sampler = None,
    lora: Lora = None,
    setting: Setting = None,
    method: Annotated[
        Literal["auto", "reconstruction", "replacement"],
        typer.Option(help="How the given part is taken; auto: as trained, else by reconstruction guidance."),
    ] = "auto",
    weight: Annotated[float | None, typer.Option(min=0, help="Weight of reconstruction guidance.")] = None,
    error: Annotated[
        Literal["latents", "pixels"] | None, typer.Option(help="Where reconstruction guidance measures its error.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Give a part of held-out clips of the toy world, task by task, and measure the given and the generated rest.

    The PSNR of what is given says how well the task can be told to the model at all (a temporal autoencoder can't tell
    a lone frame exactly); that of the generated part, and the objects' positions in it, how well it is done.
    """
    from kinolab.evaluation.tasks import TasksProtocol, evaluate_tasks

    asked, ours = toy_protocol(TasksProtocol, protocol, {"count": count, "first": first}, setting)
    crew = take_engine(engine, workers, each)
    chosen, loaded = load_model(model, device, precision, lora=lora)
    how, held = sampling(loaded.config, sampler, steps, setting=ours), steering(method, weight, error)
    with watch("generating", cheaper=less("--count ", asked.count)) as events, spoken_warnings():
        report = evaluate_tasks(
            loaded, asked, batch=batch, sampling=how, steering=held, name=chosen, engine=crew, events=events
        )
    show_report([report.table()], [f"left out: {note}" for note in report.notes], report.to_json(), out)
