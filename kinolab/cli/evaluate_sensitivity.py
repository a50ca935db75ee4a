"""`kinolab evaluate sensitivity`: which metric sees which distortion, and which is blind to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import Device, check_out, common, less, take_device, watch, written


@common(events=True)
def sensitivity(
    data: Annotated[str, typer.Argument(help="A folder of clips or frames, or `world`.")] = "world",
    count: Annotated[
        int, typer.Option(min=2, help="Clips that are distorted; as many again are the real ones of distributions.")
    ] = 64,
    reconstruction: Annotated[
        str, typer.Option(help="Protocol of the reconstruction metrics: a YAML file, or a name that ships.")
    ] = "toy-reconstruction",
    generation: Annotated[
        str, typer.Option(help="Protocol of the generation metrics: a YAML file, or a name that ships.")
    ] = "toy-generation",
    batch: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the report as a Markdown page.")] = None,
    device: Device = "auto",
) -> None:
    """Blur clips, add noise, shuffle and freeze their frames, each at three strengths, and watch every metric.

    A metric sees a distortion where it gets worse with every step and beyond noise; it is blind to one where nothing
    changes, and misled by one that it rewards.
    """
    from kinolab.cli.measuring import show_report
    from kinolab.errors import InputError
    from kinolab.evaluation.protocol import load_protocol
    from kinolab.evaluation.sensitivity import evaluate_sensitivity
    from kinolab.runtime.files import write_text

    chosen = (
        load_protocol(reconstruction, kind="reconstruction"),
        load_protocol(generation, kind="generation"),
    )
    check_out(out)
    if markdown is not None and markdown.is_dir():
        raise InputError(f"{markdown}: is a folder; expected the name of a Markdown file")
    where = take_device(device)
    with watch("measuring", cheaper=less("--count ", count)) as events:
        report = evaluate_sensitivity(data, *chosen, count=count, batch=batch, device=where, events=events)
    show_report([report.table()], report.lines(), report.to_json(), out)
    if markdown is not None:
        parts = ["kinolab evaluate sensitivity", data, f"--count {count}"]
        parts += [f"--reconstruction {reconstruction}"] * (reconstruction != "toy-reconstruction")
        parts += [f"--generation {generation}"] * (generation != "toy-generation")
        write_text(markdown, report.markdown(" ".join([*parts, f"--markdown {markdown}"])))
        written(markdown)
