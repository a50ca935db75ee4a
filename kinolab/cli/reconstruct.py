"""`kinolab reconstruct`: put a clip through an autoencoder and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kinolab.cli.options import Device, common, parse_size, show, take_device, watch


def register(app: typer.Typer) -> None:
    """Add `reconstruct`."""
    app.command()(reconstruct)


Tile = Annotated[int | None, typer.Option(help="Groups of so many frames that overlap by one, not a stream.")]
Streamed = Annotated[
    bool | None, typer.Option("--stream/--whole", help="Exact stream, or all frames at once; default the best.")
]
KeyFrames = Annotated[
    Literal["first", "fixed", "scene", "best"] | None, typer.Option(help="Rule for a dpvae's key frames.")
]
Cuts = Annotated[
    Literal["builtin", "scenedetect", "none"] | None, typer.Option(help="What finds cuts, for scene and best.")
]
Deinterlace = Annotated[
    bool, typer.Option("--deinterlace", help="Make whole pictures of frames that are marked as interlaced.")
]
Precision = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="What the autoencoder computes in.")]


@common(events=True)
def reconstruct(
    clip: Annotated[Path, typer.Argument(help="A video file, an animated image, or a folder of images.")],
    autoencoder: Annotated[
        str | None, typer.Option("--autoencoder", "-a", help="Model folder, run folder or shipped model.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: NAME-reconstruction.mp4, here.")] = None,
    size: Annotated[str | None, typer.Option(help="Shorter side, or HEIGHTxWIDTH; default the clip's own.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames; default all.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate that the clip is re-timed to.")] = None,
    tile: Tile = None,
    stream: Streamed = None,
    key_frames: KeyFrames = None,
    period: Annotated[int | None, typer.Option(min=1, help="Frames between key frames, for fixed.")] = None,
    cuts: Cuts = None,
    cut_threshold: Annotated[float | None, typer.Option(help="Change from 0 to 1 that builtin calls a cut.")] = None,
    deinterlace: Deinterlace = False,
    amplify: Annotated[float, typer.Option(help="What the difference is multiplied with in the picture.")] = 4.0,
    upscale: Annotated[int, typer.Option(min=1, help="Show every pixel so many pixels wide and high.")] = 1,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Write original, reconstruction and error side by side, and print what the autoencoder costs and keeps.

    The clip may have any length and size: memory depends on neither (but for --whole, and for autoencoders that look
    at whole pictures, as those of diffusers). The numbers are written as .json beside the video. Ctrl-C ends it and
    keeps the frames so far, as NAME-partial.
    """
    from kinolab.config import load_config
    from kinolab.generation.key_frames import chosen_rule
    from kinolab.generation.reconstruct import reconstruct as run
    from kinolab.generation.reconstruct_report import ReconstructConfig
    from kinolab.generation.request import default_model
    from kinolab.models import load_autoencoder, trained_size
    from kinolab.runtime.reading import parse_json

    values = {
        "autoencoder": autoencoder if autoencoder is not None else default_model("world"),
        "size": parse_size(size),
        "frames": frames,
        "fps": fps,
        "mode": "auto" if stream is None else "stream" if stream else "whole",
        "tile": tile,
        "deinterlace": deinterlace,
        "amplify": amplify,
        "upscale": upscale,
        "precision": precision,
    }
    config = load_config(ReconstructConfig, values)
    network = load_autoencoder(config.autoencoder, device=take_device(device))
    rule = {"rule": key_frames, "period": period, "cuts": cuts, "cut_threshold": cut_threshold}
    chosen = chosen_rule(network, {name: value for name, value in rule.items() if value is not None})
    config = config.model_copy(update={"key_frames": chosen})
    target = out if out is not None else Path(f"{clip.stem}-reconstruction.mp4")
    with watch("reconstructing", "frames", keeps="the frames so far") as events:
        made = run(clip, target, network, config, events, trained=trained_size(config.autoencoder))
    show(parse_json(made.to_json(config), "the report"), made.lines())
    if made.ended:
        raise typer.Exit(130)
