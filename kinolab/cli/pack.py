"""`kinolab pack`: one small model folder from a trained denoiser and, if wanted, a better decoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinolab.cli.options import common, show, watch

if TYPE_CHECKING:
    from kinolab.models import VideoModel


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
    expert: Annotated[
        list[str] | None,
        typer.Option(metavar="UNTIL=FOLDER", help="A model whose denoiser takes over below this fraction of time."),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A model that refines what this one makes, as a stage of this name."),
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE:WEIGHT", help="Add a LoRA adapter to the weights. Repeatable.")
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="PORT=FILE", help="Put a control network beside it, which reads canny, depth, ... maps."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE:WEIGHT", help="Keep a LoRA adapter beside the weights, as a file of its own."),
    ] = None,
) -> None:
    """Write a model folder in half precision or 8 bits, to share or ship; the weights are float32 again when loaded.

    With --autoencoder, the decoder may have been trained on after the denoiser's latents were made (a recipe with
    `trained: decoder`). A different encoder or latent scale is refused, as the denoiser would not fit it.

    --expert and --stage make one model of several: a denoiser trained on the cleaner times only (`interval: [0, 0.5]`
    in its recipe, then --expert 0.5=runs/clean), or a super-resolution model after it (--stage sr=runs/sr).

    --lora adds adapters to the weights, and those that the model has beside them too; --beside keeps one as it is, on
    which `--lora NAME:WEIGHT` of the commands that make videos sets another weight.

    --control puts ControlNets beside it: files or folders of public weights, or runs that trained one. Each reads the
    maps of a condition: `--control depth=control_v11f1p_sd15_depth.safetensors`, then
    `kinolab generate -s conditions.depth=CLIP`.
    """
    import torch

    from kinolab.checkpoints.adapters import beside as keep_beside
    from kinolab.checkpoints.adapters import folded, parse_use
    from kinolab.checkpoints.control import with_control
    from kinolab.models.packing import pack as run

    experts = {_fraction(until): folder for until, folder in _pairs("--expert", expert)}
    stages = dict(_pairs("--stage", stage))
    uses, kept = [parse_use(text) for text in lora or []], _pairs("--beside", beside)
    controls = _pairs("--control", control)
    with watch("packing") as events:

        def adapt(whole: VideoModel) -> VideoModel:
            whole = folded(whole, uses, events) if uses else whole
            for name, text in kept:
                whole = keep_beside(whole, name, parse_use(text), events)
            for port, path in controls:
                whole = with_control(whole, port, Path(path))
            return whole

        packed = run(
            model, out, autoencoder=autoencoder, dtype=getattr(torch, stored), experts=experts, stages=stages,
            adapt=adapt,
        )  # fmt: skip
        events.wrote(packed.folder, "model")
    where = f", in {packed.tensor}" if packed.tensor else ""
    lines = [
        f"{packed.folder}: {packed.after / 1e6:.1f} MB in {stored}, from {packed.before / 1e6:.1f} MB",
        f"largest relative error of a tensor: {packed.error:.2g}{where}",
    ]
    show(vars(packed) | {"stored": stored}, lines)


def _pairs(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """`name=folder` of each use of an option."""
    from kinolab.errors import InputError

    found = [text.partition("=") for text in texts or []]
    for (name, sign, folder), text in zip(found, texts or [], strict=True):
        if not (name and sign and folder):
            raise InputError(f"{option} {text}: expected two things around a =, such as sr=runs/sr or 0.5=runs/clean")
    return [(name, folder) for name, _, folder in found]


def _fraction(text: str) -> float:
    """A fraction of time between 0 and 1."""
    from kinolab.errors import InputError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise InputError(f"--expert {text}=...: expected a fraction of time between 0 (clean) and 1 (noise)")
    return value
