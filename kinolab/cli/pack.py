"""`kinolab pack`: one small model folder from a trained denoiser and, if wanted, a better decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinolab.cli.options import common, pairs_of, show, watch

if TYPE_CHECKING:
    from kinolab.contracts.events import Events
    from kinolab.models import VideoModel


Pixels = Annotated[
    str | None,
    typer.Option("--autoencoder", "-a", help="Take the autoencoder from here; its encoder must be equal."),
]
Stored = Annotated[
    Literal["float32", "float16", "bfloat16", "int8"],
    typer.Option("--stored", "--dtype", help="What the weights are stored in; int8: large tensors in 8 bits."),
]
Experts = Annotated[
    list[str] | None,
    typer.Option(metavar="UNTIL=FOLDER", help="A model whose denoiser takes over below this fraction of time."),
]
Stages = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FOLDER", help="A model that refines what this one makes, as a stage of this name."),
]
Adapters = Annotated[
    list[str] | None, typer.Option(metavar="FILE:WEIGHT", help="Add a LoRA adapter to the weights. Repeatable.")
]
Controls = Annotated[
    list[str] | None,
    typer.Option(metavar="PORT=FILE", help="Put a control network beside it, which reads canny, depth, ... maps."),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE:WEIGHT", help="Keep a LoRA adapter beside the weights, as a file of its own."),
]


@common(events=True)
def pack(
    model: Annotated[str, typer.Argument(help="Model folder or run folder with a denoiser.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    autoencoder: Pixels = None,
    stored: Stored = "float16",
    expert: Experts = None,
    stage: Stages = None,
    lora: Adapters = None,
    control: Controls = None,
    beside: Beside = None,
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

    from kinolab.models.packing import pack as run

    experts = {_fraction(until): folder for until, folder in pairs_of("--expert", expert)}
    stages = dict(pairs_of("--stage", stage))
    kept, controls = pairs_of("--beside", beside), pairs_of("--control", control)
    with watch("packing") as events:
        packed = run(
            model, out, autoencoder=autoencoder, dtype=getattr(torch, stored), experts=experts, stages=stages,
            adapt=_adapting(lora or [], kept, controls, events),
        )  # fmt: skip
        events.wrote(packed.folder, "model")
    where = f", in {packed.tensor}" if packed.tensor else ""
    lines = [
        f"{packed.folder}: {packed.after / 1e6:.1f} MB in {stored}, from {packed.before / 1e6:.1f} MB",
        f"largest relative error of a tensor: {packed.error:.2g}{where}",
    ]
    show(vars(packed) | {"stored": stored}, lines)


def _adapting(
    lora: list[str], kept: list[tuple[str, str]], controls: list[tuple[str, str]], events: Events
) -> Callable[[VideoModel], VideoModel]:
    """What puts adapters into a model's weights and beside them by name, and control networks beside it by port."""
    from kinolab.checkpoints.adapters import beside, folded
    from kinolab.checkpoints.control import with_control
    from kinolab.contracts.adapters import parse_use

    uses = [parse_use(text) for text in lora]

    def adapt(whole: VideoModel) -> VideoModel:
        whole = folded(whole, uses, events) if uses else whole
        for name, text in kept:
            whole = beside(whole, name, parse_use(text), events)
        for port, path in controls:
            whole = with_control(whole, port, Path(path))
        return whole

    return adapt


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
