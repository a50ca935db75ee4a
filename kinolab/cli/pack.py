"""`kinolab pack`: one small model folder from a trained denoiser and, if wanted, a better decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kinolab.cli.options import common, show, watch


@common(events=True)
def pack(
    model: Annotated[str, typer.Argument(help="Model folder or run folder with a denoiser.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    autoencoder: Annotated[
        str | None,
        typer.Option("--autoencoder", "-a", help="Take the autoencoder from here; its encoder must be equal."),
    ] = None,
    stored: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"],
        typer.Option("--stored", "--dtype", help="What the weights are stored in; int8: large tensors in 8 bits."),
    ] = "float16",
) -> None:
    """Write a model folder in half precision or 8 bits, to share or ship; the weights are float32 again when loaded.

    With --autoencoder, the decoder may have been trained on after the denoiser's latents were made (a recipe with
    `trained: decoder`). A different encoder or latent scale is refused, as the denoiser would not fit it.
    """
    import torch

    from kinolab.models.packing import pack as run

    with watch("packing") as events:
        packed = run(model, out, autoencoder=autoencoder, dtype=getattr(torch, stored))
        events.wrote(packed.folder, "model")
    where = f", in {packed.tensor}" if packed.tensor else ""
    lines = [
        f"{packed.folder}: {packed.after / 1e6:.1f} MB in {stored}, from {packed.before / 1e6:.1f} MB",
        f"largest relative error of a tensor: {packed.error:.2g}{where}",
    ]
    show(vars(packed) | {"stored": stored}, lines)
