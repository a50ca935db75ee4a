"""`kinolab lora`: LoRA adapters from two models, and from one form into another."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinolab.cli.options import common, show, watch

if TYPE_CHECKING:
    from kinolab.checkpoints.adapters import Extracted
    from kinolab.denoisers import Denoiser

app = typer.Typer(help="LoRA adapters: extract, convert.", no_args_is_help=True)

Form = Annotated[
    Literal["peft", "diffusers", "kohya"],
    typer.Option("--to", help="peft: a folder; diffusers and kohya: a .safetensors file."),
]
LayoutName = Annotated[
    str | None,
    typer.Option(
        "--layout", help="Whose names the layers get, by format; kinolab: the model's own. Default: what programs read."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder or .safetensors file to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]


@app.callback()
def _lora() -> None:
    """LoRA adapters: extract, convert."""


@app.command()
@common(events=True)
def extract(
    base: Annotated[str, typer.Argument(help="The model that was trained on: public weights, or a model folder.")],
    tuned: Annotated[str, typer.Argument(help="What became of it.")],
    out: Out,
    rank: Annotated[int, typer.Option(min=1, help="Of every layer's change, at most.")] = 16,
    to: Form = "peft",
    layers: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Take these layers only: '*attn*'. Repeatable.")
    ] = None,
    layout: LayoutName = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="A field that public weights don't tell: -s num_heads=16.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the difference of two models as an adapter, by the first singular values of every layer's.

    What it keeps of each layer's difference is printed, as the share of its squares; at full rank it is all of it.
    """
    from kinolab.checkpoints.adapters import extract as run
    from kinolab.checkpoints.adapters import write_adapter

    _refuse(out, to, overwrite)
    with watch("reading weights"):
        first, second = (_denoiser(source, setting or []) for source in (base, tuned))
    names = _layout(first, layout, to)
    patterns = layers or ["*"]
    with watch("singular values", "layers") as events:
        found = run(
            first, second, names, rank, wanted=lambda n: any(fnmatchcase(n, p) for p in patterns), events=events
        )
        write_adapter(out, found.layers, to, _part(first), f"extracted at rank {rank}")
        events.wrote(out, "adapter")
    values = {"out": out, "form": to, "layout": names.name, "layers": {n: vars(k) for n, k in found.kept.items()}}
    show(values | {"left": found.left}, [f"{out}: {to}, layers named as in {names.name}", *_lines(found)])


def _lines(found: Extracted) -> list[str]:
    """What each layer kept, from the least on, and what is in no change."""
    width = max(len(name) for name in found.kept)
    rows = sorted(found.kept.items(), key=lambda item: item[1].share)
    lines = [
        f"  {name:{width}}  rank {k.rank:3}, keeps {k.share:7.2%} of a change of {k.size:.2%} of the weight"
        for name, k in rows
    ]
    left = f"{len(found.left)} tensors differ and are in no change: {', '.join(found.left)}"
    return [*lines, *([left] if found.left else [])]


@app.command()
@common(events=True)
def convert(
    adapter: Annotated[Path, typer.Argument(help="An adapter in any form.")],
    model: Annotated[str, typer.Option(help="The model that it is for: a folder, or a shipped one.")],
    out: Out,
    to: Form = "peft",
    layout: LayoutName = None,
    overwrite: Overwrite = False,
) -> None:
    """Write an adapter in another form, with the layers' names of another layout; what it changes is the same."""
    from kinolab.checkpoints.adapters import native_changes, public_changes, read_adapter, write_adapter
    from kinolab.models import load_denoiser

    _refuse(out, to, overwrite)
    with watch("reading weights"):
        found, denoiser = read_adapter(adapter), load_denoiser(model, device="cpu")
    names = _layout(denoiser, layout, to)
    changes = public_changes(names, native_changes(denoiser, found))
    write_adapter(out, changes, to, _part(denoiser), f"converted from {found.form}")
    lines = [f"{out}: {to}, {len(changes)} layers named as in {names.name}"]
    left = [name for layers in found.text.values() for name in layers]
    if left:
        lines.append(f"left out: {len(left)} changes of text encoders")
    show({"out": out, "form": to, "layout": names.name, "layers": list(changes), "left": left}, lines)


def _refuse(out: Path, form: Any, overwrite: bool) -> None:
    """Raises InputError where something is that is not to be replaced, and for a name that the form can't have."""
    from kinolab.checkpoints.adapters import check_target
    from kinolab.errors import InputError
    from kinolab.runtime.paths import visible

    if out.exists() and not overwrite and (out.is_file() or visible(out)):
        raise InputError(f"{out}: exists; choose another name, or --overwrite")
    check_target(out, form)


def _denoiser(source: str, settings: list[str]) -> Denoiser:
    """The denoiser of a model folder or of public weights."""
    from kinolab.cli.convert import read_source
    from kinolab.cli.inspect import locate
    from kinolab.denoisers import Denoiser
    from kinolab.errors import InputError

    whole = (locate(source) / "model.yaml").exists()
    module = read_source([source], None, "", [] if whole else settings, "denoiser" if whole else None)
    if not isinstance(module, Denoiser):
        raise InputError(f"{source}: a {type(module).__name__}; adapters are of denoisers")
    return module


def _layout(denoiser: Denoiser, name: str | None, form: Any) -> Any:
    from kinolab.checkpoints.adapters import layout_of, usual_layout

    return layout_of(denoiser, name) if name is not None else usual_layout(denoiser, form)


def _part(denoiser: Denoiser) -> str:
    from kinolab.checkpoints.adapters import part_of

    return part_of(denoiser)
