"""`kinolab generate`: a video from a prompt, a label, or nothing but noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from kinolab.cli.engines import EACH_HELP, ENGINE_HELP, WORKERS_HELP, ends_with, kept_in, take_engine
from kinolab.cli.fields import about, names_of, settable
from kinolab.cli.options import (
    Device,
    common,
    less,
    on_error,
    pairs_of,
    parse_size,
    real_number,
    show,
    spoken_warnings,
    take_device,
    watch,
)  # fmt: skip

if TYPE_CHECKING:
    from kinolab.generation.request import GenerateConfig

Setting = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", help="Any field of the run, named below: -s reach=first. Repeatable."),
]
TOGETHER_HELP = "Prompts of --prompts that are sampled at once: each such group is a request of its own."
Lora = Annotated[list[str] | None, typer.Option(metavar="FILE:WEIGHT", help=f"{about('lora')} Repeatable.")]

Motion = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y", help="A clip by an image model (Text2Video-Zero) that moves X pixels right and Y down per frame."
    ),
]

Stage = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FOLDER", hidden=True, help="Another model as this stage of a cascade, base the first. Repeatable."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command, with a help that ends with what -s sets."""
    app.command("generate", cls=Listing)(generate)


class Listing(TyperCommand):
    """A command whose help ends with the fields of the run, and knows the samplers and methods that have joined."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """With the names of all samplers."""
        for parameter in self.params:
            if parameter.name == "sampler":
                parameter.help = about("sampler.name", table="SAMPLERS")  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """What has joined is asked for when the help is shown."""
        lines = [settable(given=self.name != "generate")]
        joined = names_of("METHODS")
        if joined:
            lines.append(f"Methods, for -s methods.NAME.field=value: {', '.join(joined)}.")
        for line in lines:
            formatter.write_paragraph()
            formatter.write_text(line)


@common(events=True)
def generate(
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")] = None,
    model: Annotated[
        str | None, typer.Option(help=f"{about('model')} Default: the shipped one for prompts or labels.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help=".mp4, .webm, .gif, ...; several videos get -0, -1, ...")
    ] = Path("out.mp4"),
    negative: Annotated[str | None, typer.Option(help=about("negative"))] = None,
    label: Annotated[str | None, typer.Option(help=about("label"))] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file of prompts, one per line, in place of those on the command line.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help=about("seed"))] = 0,
    count: Annotated[int, typer.Option(min=1, help=about("count"))] = 1,
    frames: Annotated[int | None, typer.Option(help=about("frames"))] = None,
    size: Annotated[str | None, typer.Option(help="Pixels: 64, or 64x96 (height x width); none = as trained.")] = None,
    fps: Annotated[float | None, typer.Option(help=about("fps"))] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; none = the model's own.")] = None,
    sampler: Annotated[str | None, typer.Option(help=about("sampler.name"))] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 = off; none = the model's own.")
    ] = None,
    motion: Motion = None,
    stream: Annotated[bool, typer.Option("--stream", help=about("stream"))] = False,
    prompt_at: Annotated[
        list[str] | None,
        typer.Option(metavar="SECOND:PROMPT", help="Of a stream another prompt from then on: 5:'a ball'. Repeatable."),
    ] = None,
    lora: Lora = None,
    stage: Stage = None,
    setting: Setting = None,
    eta: Annotated[float | None, typer.Option(hidden=True, help=about("sampler.eta"))] = None,
    guidance_interval: Annotated[str | None, typer.Option(hidden=True, help=about("guidance.interval"))] = None,
    guidance_rescale: Annotated[float | None, typer.Option(hidden=True, help=about("guidance.rescale"))] = None,
    cache: Annotated[float | None, typer.Option(min=0, hidden=True, help=about("cache.threshold"))] = None,
    cache_every: Annotated[int | None, typer.Option(min=1, hidden=True, help=about("cache.every"))] = None,
    guidance_every: Annotated[int | None, typer.Option(min=1, hidden=True, help=about("cache.guidance_every"))] = None,
    precision: Annotated[str | None, typer.Option(hidden=True, help=about("precision", listed=True))] = None,
    compile: Annotated[bool, typer.Option("--compile", hidden=True, help=about("compile"))] = False,
    device: Device = "auto",
    together: Annotated[int | None, typer.Option(min=1, hidden=True, help=TOGETHER_HELP)] = None,
    engine: Annotated[str, typer.Option("--engine", hidden=True, help=ENGINE_HELP)] = "embedded",
    workers: Annotated[int | None, typer.Option(min=1, hidden=True, help=WORKERS_HELP)] = None,
    each: Annotated[str | None, typer.Option("--each", hidden=True, help=EACH_HELP)] = None,
) -> None:
    """Generate videos. Beside each stands a .json with everything that made it; `kinolab rerun` makes it again.

    A handful of options for what is set often; -s sets every other field of the run. Of a cascade that is -s
    stages.sr.sampler.steps=10, and --stage sr=FOLDER puts another model in a stage's place.
    """
    options = dict(locals())
    alone = together is None and engine == "embedded" and workers is None and each is None
    (run_request if alone else run_prompts)(out, options)


def run_prompts(out: Path, options: dict[str, Any]) -> None:
    """Generate the videos of a file of prompts in groups, by an engine's workers, and print the files."""
    from kinolab.contracts.events import Several
    from kinolab.errors import InputError
    from kinolab.generation.many import TOGETHER, generate_many

    if options["prompts"] is None:
        raise InputError("--engine, --workers, --each and --together are for --prompts FILE, which is shared out")
    crew, config = take_engine(options["engine"], options["workers"], options["each"]), asked_request(options)
    with (
        spoken_warnings(),
        watch("sampling", "videos") as told,
        kept_in(out.parent, "sampling", "videos", crew) as kept,
    ):
        made = generate_many(
            config, out, together=options["together"] or TOGETHER, engine=crew, events=Several(told, kept)
        )
        kept.left_out(made.poison)
    show(made, made.files)
    ends_with(made.poison)


def run_request(
    out: Path,
    options: dict[str, Any],
    more: dict[str, Any] | None = None,
    make: Callable[[Any, Path, Any], list[Path]] | None = None,
    doing: tuple[str, str] = ("sampling", "steps"),
    keeps: str = "",
) -> None:
    """Generate what the options of `generate` (and `more` fields of the request) ask for, and print the files.

    make: makes the files of a request, told of events, where it is not `kinolab.generation.generate`. doing: what is
    done, and what its progress counts. keeps: what the first Ctrl-C leaves.
    """
    from kinolab.generation.generate import generate as run

    config = asked_request(options, more)
    assert config.sampler is not None
    if config.stream:
        doing = (doing[0], "frames")
    count = config.frames or 1 if config.stream else config.sampler.steps
    cheaper = less("--frames " if config.stream else "--steps ", count)
    with spoken_warnings(), watch(*doing, cheaper=cheaper, keeps=keeps) as events:
        files = run(config, out, events=events) if make is None else make(config, out, events)
    show({"files": files}, files)


def asked_request(options: dict[str, Any], more: dict[str, Any] | None = None) -> GenerateConfig:
    """The request of the options of `generate`, and of `more` fields, with a model and a device that are there."""
    from kinolab.generation.request import request_of

    asked = asked_values(options) | (more or {})
    if "model" in asked:
        asked["model"] = ready(asked["model"])
    config = request_of(asked, options.get("setting") or [])
    return config.model_copy(update={"device": str(take_device(config.device))})


def ready(model: str) -> str:
    """The model folder of a public model, converted where that has not been done before; others as they are."""
    from kinolab.generation.request import is_public
    from kinolab.generation.request import ready as run

    if not is_public(model):
        return model
    with watch("converting", notes=on_error) as events:
        return run(model, events)


def asked_values(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the run that options ask for; what is not asked for is left out."""
    from kinolab.errors import InputError
    from kinolab.runtime.text import read_prompts

    prompts, size = options["prompt"] or [], parse_size(options["size"])
    if options.get("prompts") is not None:
        if prompts:
            raise InputError("prompts come from the command line or from the file of --prompts: give one of them")
        prompts = read_prompts(options["prompts"])
    same = ("model", "negative", "label", "count", "seed", "frames", "fps", "precision", "device")
    values = {name: options.get(name) for name in same}
    values |= {"prompts": prompts, "size": (size, size) if isinstance(size, int) else size}
    values["compile"] = options["compile"] or None
    values["lora"] = adapters_of(options["lora"])
    values["exchange"] = dict(pairs_of("--stage", options.get("stage"))) or None
    values["stream"] = options.get("stream") or None
    values["prompts_at"] = prompts_at(options.get("prompt_at"))
    groups: dict[str, dict[str, Any]] = {
        "sampler": {"name": options["sampler"], "steps": options["steps"], "eta": options["eta"]},
        "guidance": {
            "scale": options["guidance"],
            "interval": numbers_of(options["guidance_interval"]),
            "rescale": options["guidance_rescale"],
        },
        "cache": {
            "threshold": options["cache"],
            "every": options["cache_every"],
            "guidance_every": options["guidance_every"],
        },
    }
    if options["cache"] is not None and options["cache_every"] is not None:
        raise InputError("--cache and --cache-every are two ways to say when the blocks run: give one of them")
    if options.get("motion") is not None:
        values["methods"] = {"text2video_zero": {"motion": motion_of(options["motion"])}}
    for group, fields in groups.items():
        values[group] = {name: value for name, value in fields.items() if value is not None} or None
    return {name: value for name, value in values.items() if value is not None}


def adapters_of(texts: list[str] | None) -> list[dict[str, Any]] | None:
    """`FILE:WEIGHT` of each use of --lora."""
    from kinolab.contracts.adapters import parse_use

    return [parse_use(text).model_dump() for text in texts] if texts else None


def prompts_at(texts: list[str] | None) -> dict[float, str] | None:
    """`5:a ball falls` of each use of --prompt-at -> {5: a ball falls}; `5s:` is the same."""
    from kinolab.errors import InputError

    found: dict[float, str] = {}
    for text in texts or ():
        moment, colon, prompt = text.partition(":")
        try:
            found[real_number(moment.strip().removesuffix("s"))] = prompt.strip()
        except ValueError:
            colon = ""
        if not colon or not prompt.strip():
            raise InputError(f"--prompt-at {text!r}: expected SECOND:PROMPT, such as 5:'a blue ball bounces'")
    return found or None


def motion_of(text: str) -> list[float]:
    """`3,0` -> [3, 0]."""
    from kinolab.errors import InputError

    try:
        x, y = (real_number(p) for p in text.split(","))
    except ValueError:
        raise InputError(f"--motion {text}: expected X,Y, pixels right and down from frame to frame: 3,0") from None
    return [x, y]


def numbers_of(text: str | None) -> list[float] | None:
    """`0.2,0.8` -> [0.2, 0.8]."""
    from kinolab.errors import InputError

    try:
        return None if text is None else [real_number(p) for p in text.split(",")]
    except ValueError:
        raise InputError(f"--guidance-interval {text!r}: expected LOW,HIGH such as 0.2,0.8") from None
