"""`kinolab evaluate control`: how well a model follows its control maps."""

from __future__ import annotations

from typing import Annotated

import typer

from kinolab.cli.engines import EachGiven, EngineName, Workers, take_engine
from kinolab.cli.measuring import (
    Batch,
    First,
    Guidance,
    Precision,
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
from kinolab.cli.options import Device, common, less, spoken_warnings, watch


@common(events=True)
def control(
    model: Annotated[str, typer.Option(help="A model folder or run with a control network.")],
    protocol: Protocol = "toy-control",
    map: Annotated[str | None, typer.Option(help="The map's condition: trajectory, depth, edges, ...")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Held-out clips; default the protocol's.")] = None,
    first: First = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip; default the model's, or 8.")] = None,
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
    """Generate held-out clips of the toy world from maps of them, and compare positions with the simulator.

    Beside the model: the same noise and caption without the map, and the true clip after the autoencoder (what it
    costs). -s reach=first lets an image model's frames look at the first one, -s methods.control_strength.scale=0.5
    weakens the control.
    """
    from kinolab.evaluation.control import ControlProtocol, evaluate_control, summary_lines

    changes = {"map": map, "count": count, "first": first, "frames": frames, "seed": seed}
    asked, ours = toy_protocol(ControlProtocol, protocol, changes, setting)
    crew = take_engine(engine, workers, each)
    chosen, loaded = load_model(model, device, precision)
    how = sampling(loaded.config, sampler, steps, guidance, ours)
    with watch("generating", "clips", cheaper=less("--count ", asked.count)) as events, spoken_warnings():
        report = evaluate_control(loaded, asked, batch=batch, sampling=how, name=chosen, engine=crew, events=events)
    show_report([report.table()], summary_lines(report), report.to_json(), out)
