"""`kinolab evaluate reconstruction` and `kinolab evaluate generation`: scores under a named protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinolab.cli.engines import EachGiven, EngineName, Workers, take_engine
from kinolab.cli.generate import ready
from kinolab.cli.measuring import Guidance, Lora, Sampler, Steps, load_model, sampling, show_report, split
from kinolab.cli.options import Device, check_out, common, less, spoken_warnings, take_device, watch

if TYPE_CHECKING:
    from kinolab.contracts.engine import Engine
    from kinolab.evaluation.scores import ScoreReport

Changes = Annotated[
    list[str] | None, typer.Option("-s", "--set", help="Change a field of the protocol: -s samples=512. Repeatable.")
]
Out = Annotated[Path | None, typer.Option(help="Write the scores, every clip's own included, as JSON.")]
Videos = Annotated[Path | None, typer.Option(help="Folder for some of the clips, as videos.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="What the model's networks compute in.")
]


@common(events=True)
def reconstruction(
    subject: Annotated[
        str,
        typer.Argument(
            help="An autoencoder (model or run folder, shipped model, diffusers folder), or a folder "
            "of reconstructed videos."
        ),
    ],
    data: Annotated[str, typer.Argument(help="A folder of clips or frames, or `world`.")],
    protocol: Annotated[str, typer.Option(help="A YAML file, or the name of one that ships.")] = "toy-reconstruction",
    setting: Changes = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 4,
    out: Out = None,
    videos: Videos = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Measure how much of a clip comes back from an autoencoder, with compression and speed beside it.

    A folder of reconstructed videos is compared with the originals of the same names.
    """
    from kinolab.evaluation.clips import ProtocolClips
    from kinolab.evaluation.protocol import file_hash, load_protocol
    from kinolab.evaluation.reconstruction import evaluate_autoencoder, evaluate_folders
    from kinolab.models import find_autoencoder, load_autoencoder

    chosen = load_protocol(protocol, setting, kind="reconstruction")
    check_out(out, videos)
    folder, where = video_folder(subject), take_device(device)
    crew = engine_for(folder, engine, workers, each)
    fewer = "fewer clips take less: -s samples=16"
    with watch("measuring", "clips", cheaper=lambda seconds: fewer) as events, spoken_warnings():
        if folder is not None:
            report = evaluate_folders(
                Path(data), folder, chosen, batch=batch, videos=videos, device=where, events=events
            )
        else:
            autoencoder = load_autoencoder(subject, device=where)
            clips = ProtocolClips(data, chosen, autoencoder.spec)
            made_by = {"name": subject, "kind": "autoencoder", "sha256": file_hash(find_autoencoder(subject))}
            report = evaluate_autoencoder(
                autoencoder, clips, chosen, subject=made_by, batch=batch, precision=precision, device=where,
                videos=videos, engine=crew, events=events,
            )  # fmt: skip
    show(report, out)


@common(events=True)
def generation(
    subject: Annotated[str, typer.Argument(help="A model (folder, run folder, shipped), or a folder of videos.")],
    data: Annotated[str, typer.Argument(help="The real ones: a folder of clips or frames, or `world`.")],
    protocol: Annotated[str, typer.Option(help="A YAML file, or the name of one that ships.")] = "toy-generation",
    setting: Changes = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    lora: Lora = None,
    given_frames: Annotated[int, typer.Option(min=0, help="First frames of each real clip that are given.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 8,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the real clips' features; default ~/.cache/kinolab/features.")
    ] = None,
    out: Out = None,
    videos: Videos = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: EngineName = "embedded",
    workers: Workers = None,
    each: EachGiven = None,
) -> None:
    """Measure generated videos against real ones: distances of distributions, and how steady each video is.

    A model is asked for one clip per real one, by its caption or label where it takes them.
    """
    from kinolab.errors import InputError
    from kinolab.evaluation.clips import GeneratedClips, ProtocolClips
    from kinolab.evaluation.features import default_cache
    from kinolab.evaluation.generation import ModelClips, evaluate_generated
    from kinolab.evaluation.protocol import load_protocol
    from kinolab.evaluation.records import subject_of
    from kinolab.generation.provenance import adapters_made_by, model_hash

    ours, changes = split(setting)
    chosen = load_protocol(protocol, changes, kind="generation")
    check_out(out, videos)
    subject = ready(subject)
    folder = video_folder(subject)
    idle = {"--steps": steps, "--guidance": guidance, "--sampler": sampler, "--given-frames": given_frames or None}
    idle |= {"--lora": lora[0] if lora else None, **{f"-s {text}": text for text in ours}}
    for option, value in idle.items():
        if folder is not None and value is not None:
            raise InputError(f"{option} is for a model; {subject} is a folder of videos that are generated already")
    crew = engine_for(folder, engine, workers, each)
    real, where = ProtocolClips(data, chosen), take_device(device)
    made: ModelClips | GeneratedClips
    if folder is not None:
        made = GeneratedClips(folder, chosen)
        made_by = {"name": subject, "kind": "folder", "sha256": made.content_hash()}
    else:
        name, model = load_model(subject, where, precision, lora=lora)
        how = sampling(model.config, sampler, steps, guidance, ours)
        made = ModelClips(model, name, real, chosen, sampling=how, given_frames=given_frames)
        made_by = subject_of({"model": subject, "model_sha256": model_hash(name), **adapters_made_by(model)})
    with watch("measuring", "clips", cheaper=less("-s samples=", len(real))) as events, spoken_warnings():
        report = evaluate_generated(
            made, real, chosen, subject=made_by, batch=batch, cache=cache or default_cache(), videos=videos,
            device=where, engine=crew, events=events,
        )  # fmt: skip
    show(report, out)


def engine_for(folder: Path | None, engine: str, workers: int | None, each: str | None) -> Engine | None:
    """The engine that options name, for a model.

    Raises:
        InputError: for options of workers where a folder of videos is measured, in which they would have nothing to do.
    """
    from kinolab.errors import InputError

    if folder is not None and (engine != "embedded" or workers is not None or each is not None):
        raise InputError(
            f"--engine, --workers and --each are for a model; {folder} is a folder of videos that are made"
        )
    return take_engine(engine, workers, each)


def video_folder(subject: str) -> Path | None:
    """The folder of videos that is meant; None where the name is a model's."""
    from kinolab.errors import InputError
    from kinolab.models import find_autoencoder, shipped_models

    path = Path(subject)
    if subject in shipped_models():
        return None
    if not path.is_dir():
        raise InputError(f"{subject}: expected a model folder, a shipped model or a folder of videos; there is none")
    try:
        find_autoencoder(path)
    except InputError:
        if (path / "recipe.yaml").is_file() or (path / "model_index.json").is_file():
            raise  # an unfinished run and a pipeline hold videos or weights too, but not the ones that are meant
        return path
    return None


def show(report: ScoreReport, out: Path | None) -> None:
    """Print a report; write it where a file is named."""
    show_report([report.table()], report.lines(), report.to_json(None if out is None else out.parent), out)
