"""`kinolab evaluate edits`: change what clips of the toy world show, and read what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.engines import EachGiven, EngineName, Workers, take_engine
from kinolab.cli.measuring import (
    Guidance,
    Precision,
    PromptModel,
    Protocol,
    Sampler,
    Seed,
    Setting,
    Steps,
    load_model,
    sampling,
    show_report,
    toy_protocol,
)
from kinolab.cli.options import Device, common, less, spoken_warnings, watch


@common(events=True)
def edits(
    model: PromptModel = None,
    protocol: Protocol = "toy-edits",
    count: Annotated[int | None, typer.Option(min=1, help="Held-out clips; default the protocol's.")] = None,
    first: Annotated[int | None, typer.Option(min=0, help="Number of the first clip; not those before.")] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(help="Only this of the protocol's ways, as 'noised, 0.7'; default all. Repeatable."),
    ] = None,
    fit: Annotated[
        int | None,
        typer.Option(min=1, help="Also by a model that is tuned on each clip for so many steps, as kinolab fit does."),
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    setting: Setting = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips edited at once.")] = 16,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="Write the report, every edit's result included, as JSON.")] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Change the colour, the shape or both of the object in held-out clips of the toy world, and read what came of it.

    An edit is right where the asked object shows and nothing else; beside it, how far the object is from where it is in
    the clip. Takes image models too, which edit the frames side by side.
    """
    from kinolab.evaluation.edits import edit_world, evaluate_edits, summary_lines
    from kinolab.evaluation.fitting import tuned_on
    from kinolab.evaluation.toy_protocols import EditsProtocol

    asked, ours = toy_protocol(EditsProtocol, protocol, {"count": count, "first": first, "seed": seed}, setting)
    if way:
        asked = asked.only(way)
    if fit is not None:
        asked = asked.with_fitted()
    crew = take_engine(engine, workers, each)
    chosen, loaded = load_model(model, device, precision, prompts=True)
    how = sampling(loaded.config, sampler, steps, guidance, ours)
    with watch("editing", "clips", cheaper=less("--count ", asked.count)) as events, spoken_warnings():
        tuned = None if fit is None else tuned_on(chosen, fit, edit_world(loaded, asked)[0].fps, loaded=loaded)
        report = evaluate_edits(
            loaded, asked, batch=batch, sampling=how, fit=tuned, name=chosen, engine=crew, events=events
        )
    show_report([report.table(), report.edits_table()], summary_lines(report), report.to_json(), out)
