"""`kinolab pack`: one small model folder from a trained denoiser and, if wanted, a better decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def pack(
    model: Annotated[str, typer.Argument(help="Model folder or run folder with a denoiser.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    autoencoder: Annotated[
        str | None,
        typer.Option("--autoencoder", "-a", help="Take the autoencoder from here; its encoder must be equal."),
    ] = None,
    dtype: Annotated[Literal["float32", "float16", "bfloat16"], typer.Option(help="What is stored.")] = "float16",
) -> None:
    """Write a model folder in half precision, to share or ship; the weights are float32 again when loaded.

    With --autoencoder, the decoder may have been trained on after the denoiser's latents were made (a recipe with
    `trained: decoder`). A different encoder or latent scale is refused, as the denoiser would not fit it.
    """
    import torch

    from kinolab.model import pack as run

    folder = run(model, out, autoencoder=autoencoder, dtype=getattr(torch, dtype))
    size = sum(p.stat().st_size for p in folder.iterdir())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB")
