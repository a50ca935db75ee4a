"""`kinolab evaluate zero`: what clips of an image model keep, and how they move."""

from __future__ import annotations

from typing import Annotated

import typer

from kinolab.cli.engines import EachGiven, EngineName, Workers, take_engine
from kinolab.cli.measuring import (
    Batch,
    Guidance,
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
    show_report,
    toy_protocol,
)
from kinolab.cli.options import Device, common, less, watch


@common(events=True)
def zero(
    model: PromptModel = None,
    protocol: Protocol = "toy-zero",
    count: Annotated[int | None, typer.Option(min=1, help="Held-out prompts; default the protocol's.")] = None,
    first: Annotated[
        int | None, typer.Option(min=0, help="Number of the first one: choose settings on others than you report on.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Frames of a clip; default the protocol's.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    setting: Setting = None,
    batch: Batch = 8,
    seed: Seed = None,
    out: ReportFile = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Make clips of the toy world by an image model without training (Text2Video-Zero), and read them from the pixels.

    Held against each clip's first frame: colours, shapes and identity of its objects, and the distance from where the
    asked motion takes them. Fields of the method are set as -s methods.text2video_zero.t0=0.7.
    """
    from kinolab.evaluation.toy_protocols import ZeroProtocol
    from kinolab.evaluation.zero import evaluate_zero, summary_lines

    changes = {"count": count, "first": first, "seed": seed, "frames": frames}
    asked, ours = toy_protocol(ZeroProtocol, protocol, changes, setting)
    crew = take_engine(engine, workers, each)
    chosen, loaded = load_model(model, device, precision, prompts=True)
    how = sampling(loaded.config, sampler, steps, guidance, ours)
    with watch("generating", "clips", cheaper=less("--count ", asked.count)) as events:
        report = evaluate_zero(loaded, asked, batch=batch, sampling=how, name=chosen, engine=crew, events=events)
    show_report([report.table()], summary_lines(report), report.to_json(), out)
