"""`kinolab vbench`: videos in the layout that VBench's own tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.measuring import (
    Guidance,
    Lora,
    Precision,
    PromptModel,
    Sampler,
    Setting,
    Steps,
    load_model,
    sampling,
    settings_listed,
)
from kinolab.cli.options import Device, common, less, show, watch


def register(app: typer.Typer) -> None:
    """Add the command, with a help that ends with what -s sets."""
    app.command("vbench", cls=settings_listed())(vbench)


@common(events=True)
def vbench(
    prompts: Annotated[
        str,
        typer.Argument(
            help="VBench_full_info.json, a .txt with a prompt per line, a folder of those, or `world` for the captions "
            "of held-out clips of the toy world."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; run again to go on.")],
    model: PromptModel = None,
    videos: Annotated[int, typer.Option(min=1, help="Videos of each prompt; VBench asks for 5.")] = 5,
    count: Annotated[int, typer.Option(min=1, help="Prompts of the toy world, for `world`.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of each prompt's first video; the others follow.")] = 0,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames; default the model's own.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    lora: Lora = None,
    setting: Setting = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Generate VBench's prompts and name the videos as VBench finds them, to be judged by VBench itself."""
    from kinolab.generation.vbench import prompts_of_world, write_vbench

    chosen, loaded = load_model(model, device, precision, lora=lora)
    how = sampling(loaded.config, sampler, steps, guidance, setting or ())
    source = prompts_of_world(loaded, out / "prompts", count=count) if prompts == "world" else Path(prompts)
    with watch("generating", "videos", cheaper=less("--videos ", videos)) as events:
        report = write_vbench(
            loaded, source, out, name=chosen, seed=seed, videos=videos, frames=frames, sampling=how,
            events=events,
        )  # fmt: skip
    # Prompts that are not VBench's own are its custom input.
    as_what = f"--full_json_dir {source}" if source.suffix == ".json" else "--mode custom_input"
    judge = f"vbench evaluate --videos_path {report.videos} {as_what} --dimension ..."
    lines = [
        f"{report.videos}: {len(report.files)} videos, {report.made} of them made now",
        f"judge them with: {judge}",
    ]
    show({"folder": report.videos, "videos": len(report.files), "made": report.made, "judge": judge}, lines)
