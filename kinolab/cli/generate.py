"""`kinolab generate`: a video from a prompt, a label, or nothing but noise."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kinolab.cli.options import Device, parse_size, real_number, take_device


def register(app: typer.Typer) -> None:
    """Add the command, with a help that ends with the methods that have joined."""
    app.command("generate", cls=_Listing)(generate)


class _Listing(TyperCommand):
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        # A method joins the table from a module that has imported it; without one there is nothing to load it for.
        methods = sys.modules.get("kinolab.methods")
        if methods is not None and methods.METHODS.names(""):
            formatter.write_paragraph()
            formatter.write_text(f"Methods, for -s methods.NAME.field=value: {methods.METHODS.help('')}.")


def generate(
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model folder, or a shipped model; default: the one for prompts or labels.")
    ] = None,
    out: Annotated[Path, typer.Option(help=".mp4, .webm, .gif, ...; several videos get -0, -1, ...")] = Path("out.mp4"),
    negative: Annotated[str | None, typer.Option(help="A prompt that guidance moves away from.")] = None,
    label: Annotated[str | None, typer.Option(help="Class label, by number or name.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file of prompts, one per line, in place of those on the command line.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first video.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Videos for each prompt, from consecutive seeds.")] = 1,
    frames: Annotated[int | None, typer.Option(help="Frames; default as trained.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels, as 64 or 64x96 (height x width).")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate of the file; default that of the training.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; default the model's own.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim, dpmpp_2m, euler or heun.")] = None,
    eta: Annotated[float | None, typer.Option(help="Noise of the ddim sampler, 0 to 1.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance; 1 = off.")] = None,
    guidance_interval: Annotated[
        str | None, typer.Option(help="Times with guidance as LOW,HIGH: fractions from clean (0) to noise (1).")
    ] = None,
    guidance_rescale: Annotated[float | None, typer.Option(help="Rescaling of guided predictions, 0 to 1.")] = None,
    cache: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Reuse features between steps until their input has changed by this much, as 0.1: faster, not exact.",
        ),
    ] = None,
    cache_every: Annotated[
        int | None, typer.Option(min=1, help="Instead of --cache: run the denoiser's blocks in every n-th step only.")
    ] = None,
    guidance_every: Annotated[
        int | None, typer.Option(min=1, help="Run guidance's unconditional branch in every n-th step only.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile first: pays off over many videos.")] = False,
    device: Device = "auto",
    override: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="A field of the request: -s reach=first, -s conditions.control=clip.mp4."),
    ] = None,
) -> None:
    """Generate videos. Beside each stands a .json with everything that made it; `kinolab rerun` makes it again."""
    options = dict(locals())
    run_request(out, options)


def run_request(out: Path, options: dict[str, Any], given: dict[str, Any] | None = None) -> None:
    """Generate what the options of `generate` (and of a task, as `given`) ask for, and print the files."""
    from kinolab.cli.data import less, progress_bar
    from kinolab.config import load_config
    from kinolab.errors import InputError
    from kinolab.generate import GenerateConfig, default_model
    from kinolab.generate import generate as run
    from kinolab.model import find_model, read_model_config
    from kinolab.runtime.text import read_prompts

    model, guidance, asked = options["model"], options["guidance"], options["prompt"] or []
    if options.get("prompts") is not None:
        if asked:
            raise InputError("prompts come from the command line or from the file of --prompts: give one of them")
        asked = read_prompts(options["prompts"])
    chosen = model if model is not None else default_model(prompts=given is None and options["label"] is None)
    trained = read_model_config(find_model(chosen))
    same = ("label", "count", "seed", "frames", "fps", "precision", "compile")
    values: dict[str, Any] = {"model": chosen, "prompts": asked, "given": given}
    values["negative"] = options.get("negative")
    size = parse_size(options["size"])
    values |= {name: options[name] for name in same} | {"size": (size, size) if isinstance(size, int) else size}
    values["device"] = str(take_device(options["device"]))
    changes: dict[str, Any] = {"name": options["sampler"], "steps": options["steps"], "eta": options["eta"]}
    own = trained.sampler.model_dump()
    if options["sampler"] not in (None, own["name"]):
        own = {k: own[k] for k in ("steps", "spacing")}  # eta and variance are one sampler's
    values["sampler"] = own | {k: v for k, v in changes.items() if v is not None}
    text = options["guidance_interval"]
    interval = None if text is None else _numbers(text)
    changes = {"scale": guidance, "interval": interval, "rescale": options["guidance_rescale"]}
    values["guidance"] = trained.guidance.model_dump() | {k: v for k, v in changes.items() if v is not None}
    nothing = not asked and options["label"] is None and values["negative"] is None
    override = options.get("override") or []
    # Scales by frame or by condition take the place of the model's own one.
    others = any(item.startswith(("guidance.frames=", "guidance.scales=")) for item in override)
    if guidance is None and (nothing or others):
        values["guidance"]["scale"] = 1.0
    values["cache"] = cache_values(options["cache"], options["cache_every"], options["guidance_every"])
    config = load_config(GenerateConfig, values, override)
    with (
        spoken_warnings(),
        progress_bar("sampling", "steps", cheaper=less("--steps ", values["sampler"]["steps"])) as bar,
    ):
        files = run(config, out, progress=bar, say=bar.note)
    for path in files:
        typer.echo(path)


def cache_values(threshold: float | None, every: int | None, guidance_every: int | None) -> dict[str, Any] | None:
    """The values of a `StepCacheConfig` that the options ask for; none = no cache.

    `--guidance-every` alone reuses no features.
    """
    from kinolab.errors import InputError

    if threshold is not None and every is not None:
        raise InputError("--cache and --cache-every are two ways to say when the blocks run: give one of them")
    if threshold is None and every is None and guidance_every is None:
        return None
    blocks = {"method": "interval", "every": every} if every is not None else {"threshold": threshold or 0.0}
    return blocks | {"guidance_every": guidance_every or 1}


@contextmanager
def spoken_warnings() -> Iterator[None]:
    """Says each different warning in one line at the end, without the line of code that it comes from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for note in dict.fromkeys(str(w.message) for w in caught):
        typer.echo(f"warning: {note}", err=True)


def _numbers(text: str) -> list[float]:
    from kinolab.errors import InputError

    try:
        return [real_number(p) for p in text.split(",")]
    except ValueError:
        raise InputError(f"--guidance-interval {text!r}: expected LOW,HIGH such as 0.2,0.8") from None
