"""`kinolab inflate`: a video model from an image model, whose answer on one frame it gives before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinolab.cli.options import common, show

AUTOENCODERS = ("odvae", "dpvae", "taesd", "temporal_decoder")
"""Targets made from an image autoencoder; the others are made from an image model's denoiser."""
Said = tuple[dict[str, Any], list[str]]
"""A result as values, and as lines."""


def register(app: typer.Typer) -> None:
    """Add `inflate`."""
    app.command()(inflate)


Kind = Literal[
    "latte",
    "vdt",
    "mmdit",
    "video_ldm",
    "svd",
    "modelscope",
    "animatediff",
    "makeavideo",
    "imagen_video",
    "tuneavideo",
    "odvae",
    "dpvae",
    "taesd",
    "temporal_decoder",
]
To = Annotated[
    Kind | None,
    typer.Option(
        help="DiT becomes latte or vdt; SD3 (MMDiT) mmdit; a U-Net (Stable Diffusion) video_ldm, svd, modelscope, "
        "animatediff, makeavideo, imagen_video or tuneavideo; AutoencoderKL odvae, dpvae or temporal_decoder; TAESD "
        "taesd, causal over time, or dpvae."
    ),
]
Onto = Annotated[
    str | None,
    typer.Option(
        help="In place of --to: the model folder of a trained video U-Net, whose image weights become SOURCE's "
        "under what it has learned of time."
    ),
]
Pixels = Annotated[
    str | None,
    typer.Option("--autoencoder", "-a", help="Model folder that a denoiser is put together with; default: SOURCE's."),
]


@common()
def inflate(
    source: Annotated[
        list[str],
        typer.Argument(help="An image model: public weights (TAESD's are two files), a model folder, or a run folder."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    to: To = None,
    onto: Onto = None,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="A field of the video model: -s attention=3d.")
    ] = None,
    autoencoder: Pixels = None,
    init: Annotated[
        Literal["tail", "average"] | None, typer.Option(help="How kernels are filled in time; default: tail.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Format of public weights; default: told by names.")] = None,
    prefix: Annotated[str, typer.Option(help="Use the tensors whose names start with this only.")] = "",
    given: Annotated[
        list[str] | None, typer.Option("--given", help="A field that SOURCE doesn't tell: --given num_heads=16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
) -> None:
    """Make a video model from an image model, or put other image weights into one.

    One frame in gives the image model's answer out. What is copied, fresh and added is counted. Train it from there
    with initial.path in a recipe; trained: temporal or lora leaves the image model's weights as they are.
    """
    from kinolab.cli.convert import read_source
    from kinolab.cli.inspect import locate
    from kinolab.config import apply_overrides
    from kinolab.errors import InputError
    from kinolab.runtime.paths import visible

    if out.exists() and not overwrite and (out.is_file() or visible(out)):
        raise InputError(f"{out}: exists; choose another name, or --overwrite")
    if (to is None) == (onto is None):
        raise InputError("expected one of --to KIND, for a new video model, and --onto VIDEO, for a trained one")
    fields = apply_overrides({}, setting or [])
    if "kind" in fields:
        raise InputError("-s kind=...: the video model's kind is --to")
    folder, names = locate(source[0]), " and ".join(Path(name).name for name in source)
    whole = (folder / "model.yaml").exists()
    part = None if not whole else "autoencoder" if to in AUTOENCODERS else "denoiser"
    image = read_source(source, format, prefix, given or [], part)
    if to in AUTOENCODERS:
        if autoencoder is not None:
            raise InputError(f"--autoencoder is for denoisers; {to} is an autoencoder itself")
        said = _autoencoder(image, to, out, names, fields, init or "tail")
    elif init is not None:
        raise InputError(f"--init is for {', '.join(AUTOENCODERS)}")
    elif onto is not None:
        if fields or autoencoder is not None:
            raise InputError("-s and --autoencoder are for --to: with --onto VIDEO's own stay as they are")
        said = _swap(image, onto, out, names)
    else:
        assert to is not None
        said = _denoiser(image, to, out, names, fields, autoencoder, folder if whole else None)
    show(*said)


def _autoencoder(image: Any, to: str, out: Path, source: str, fields: dict[str, Any], init: Any) -> Said:
    """Inflate an image autoencoder and write its folder; what to say about it."""
    from kinolab.autoencoders import Autoencoder, DpVaeConfig, ImageAutoencoder, Taesd, TemporalDecoderConfig
    from kinolab.autoencoders.inflate import inflate as inflate_odvae
    from kinolab.autoencoders.inflate import (
        inflate_dpvae,
        inflate_taesd,
        matching_odvae,
        matching_taesd,
        with_temporal_decoder,
    )
    from kinolab.config import load_config
    from kinolab.errors import InputError
    from kinolab.models import save_autoencoder

    sources: dict[str, tuple[type[Any], ...]] = {
        "odvae": (ImageAutoencoder,),
        "taesd": (Taesd,),
        "dpvae": (ImageAutoencoder, Taesd),
        "temporal_decoder": (ImageAutoencoder,),
    }
    if not isinstance(image, sources[to]):
        names = " or ".join("AutoencoderKL" if cls is ImageAutoencoder else "TAESD" for cls in sources[to])
        raise InputError(f"{source}: a {type(image).__name__}; {to} is made from an image autoencoder ({names})")
    # A further kind of video autoencoder gets its branch here, and its name in AUTOENCODERS and in --to.
    model: Autoencoder
    if to == "dpvae":
        if "image" in fields:
            raise InputError("-s image...: the image autoencoder is SOURCE's own, and so are its fields; leave it out")
        config = load_config(DpVaeConfig, fields | {"image": image.config.model_dump()}, name="-s")
        model = inflate_dpvae(image, config, init)
    elif to == "temporal_decoder":
        implied = {**image.config.model_dump(exclude={"kind"}), "middle_blocks": 2}
        model = with_temporal_decoder(image, load_config(TemporalDecoderConfig, {**implied, **fields}, name="-s"))
        init = "as nothing"
    elif isinstance(image, Taesd):
        model = inflate_taesd(image, matching_taesd(image.config, fields), init)
    else:
        model = inflate_odvae(image, matching_odvae(image.config, fields), init)
    save_autoencoder(model, out, trained=f"inflated from {source} ({init})")
    before, after = _count(image), _count(model)
    values = {"folder": out, "class": type(model).__name__, "parameters": after, "copied": before}
    return values | {"fresh": 0, "added": after - before, "dropped": []}, [
        f"{out}: {type(model).__name__}, {after:,} parameters",
        f"  copied  {before:,} parameters in {len(list(image.parameters()))} tensors, kernels over time filled: {init}",
        f"  added   {after - before:,} parameters",
    ]


def _denoiser(
    image: Any, to: str, out: Path, source: str, fields: dict[str, Any], autoencoder: str | None, folder: Path | None
) -> Said:
    """Inflate a denoiser and write it with its autoencoder; what to say about it."""
    from kinolab.denoisers import Denoiser
    from kinolab.denoisers.inflate import inflated
    from kinolab.errors import InputError
    from kinolab.models import VideoModel, load_autoencoder

    if not isinstance(image, Denoiser):
        raise InputError(f"{source}: {type(image).__name__} is an autoencoder; use --to {' or '.join(AUTOENCODERS)}")
    if autoencoder is None and folder is None:
        raise InputError(
            f"{source}: a denoiser; give the model folder of the autoencoder whose latents it works on: "
            "--autoencoder FOLDER"
        )
    model, report = inflated(image, to, fields)
    pixels = load_autoencoder(autoencoder if autoencoder is not None else str(folder), device="cpu")
    config = _model_config(model.config, pixels, f"inflated from {source}", folder)
    VideoModel(config, pixels, model).save(out)
    return _counted(out, image, model, report)


def _swap(image: Any, onto: str, out: Path, source: str) -> Said:
    """Put an image U-Net's weights under a trained one's layers over time; what to say about it."""
    from kinolab.denoisers.inflate import init_unet
    from kinolab.denoisers.unet import Unet
    from kinolab.errors import InputError
    from kinolab.models import VideoModel

    video = VideoModel.load(onto, device="cpu", precision="float32")
    model, said = video.denoiser, "--onto puts a U-Net's weights into a video U-Net"
    if not isinstance(image, Unet):
        raise InputError(f"{source}: a {type(image).__name__}; {said}")
    if not isinstance(model, Unet):
        raise InputError(f"{onto}: a {type(model).__name__}; {said}")
    report = init_unet(model, image, trained=True)
    note = f"{video.config.trained}; image layers from {source}"
    video.config = video.config.model_copy(update={"trained": note})
    video.save(out)
    return _counted(out, image, model, report)


def _counted(out: Path, image: Any, model: Any, report: Any) -> Said:
    """What became of the weights of an image model and of the video model written to a folder."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    copied = [sizes[name] for name in report.copied if name in sizes]
    before, after = _count(image), _count(model)
    values = {"folder": out, "class": type(model).__name__, "parameters": after, "copied": sum(copied)}
    return values | {"fresh": after - sum(copied), "added": after - before, "dropped": list(report.dropped)}, [
        f"{out}: {type(model).__name__}, {after:,} parameters",
        f"  copied  {sum(copied):,} parameters in {len(copied)} tensors",
        f"  fresh   {after - sum(copied):,} parameters in {len(sizes) - len(copied)} tensors",
        f"  added   {after - before:,} parameters to the image model's {before:,}",
        *([f"  dropped {', '.join(report.dropped)}"] if report.dropped else []),
    ]


def _model_config(denoiser: Any, pixels: Any, trained: str, folder: Path | None) -> Any:
    """The config of the video model: the image model's own diffusion and conditions where it has a model folder."""
    from kinolab.checkpoints.pipelines import model_config
    from kinolab.models import read_model_config

    fresh = model_config(denoiser, pixels, trained)
    if folder is None:
        return fresh
    told = ("text_encoder", "null_prompt", "image_encoder", "class_names", "conditions", "fps")
    image, kept = read_model_config(folder), ("diffusion", "guidance", "sampler", "methods", *told)
    return fresh.model_copy(update={name: getattr(image, name) for name in kept})


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
