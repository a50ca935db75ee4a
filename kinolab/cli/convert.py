"""`kinolab convert`: public weights into a model folder, and a model folder's parts into public layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinolab.cli.options import common, show, watch, wrote

PUBLIC = {
    "image": "autoencoder_kl",
    "temporal_decoder": "svd_autoencoder_sgm",
    "odvae": "causal_vae",
    "vqgan": "vqgan",
    "tats": "tats",
    "taesd": "taesd",
    "latte": "latte",
    "dit": "dit",
    "vdt": "vdt",
    "vdm": "vdm",
    "mmdit": "sd3",
    "unet": "unet_ldm",
    "modelscope": "modelscope",
    "animatediff": "animatediff",
    "svd": "svd_sgm",
}
"""`kind` of a part -> the public layout that it is written in."""
DIFFUSERS = {
    "image": "autoencoder_kl",
    "temporal_decoder": "svd_autoencoder",
    "latte": "latte_diffusers",
    "mmdit": "sd3_diffusers",
    "svd": "svd_diffusers",
    "taesd": "taesd_diffusers",
    "unet": "unet_diffusers",
    "modelscope": "modelscope",
    "animatediff": "animatediff_diffusers",
}
"""`kind` of a part -> the layout of the class that diffusers has for it."""
FIXED = ("path", "format", "prefix")


def register(app: typer.Typer) -> None:
    """Add `convert`."""
    app.command()(convert)


@common(events=True)
def convert(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Public weights (TAESD's are two files, ENCODER DECODER), or a model folder (with --to public or "
            "diffusers)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder or .safetensors file to write.")],
    to: Annotated[
        Literal["model", "public", "diffusers"],
        typer.Option(help="model: a model folder; public: the published code's layout; diffusers: its folder."),
    ] = "model",
    autoencoder: Annotated[
        str | None, typer.Option("--autoencoder", "-a", help="Model folder that a denoiser is put together with.")
    ] = None,
    image_encoder: Annotated[
        Path | None, typer.Option(help="Folder of the CLIP image encoder that Stable Video Diffusion reads.")
    ] = None,
    part: Annotated[
        Literal["autoencoder", "denoiser"] | None, typer.Option(help="Which part of a whole model to write.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Format of the public weights; default: told by names.")] = None,
    prefix: Annotated[str, typer.Option(help="Use the tensors whose names start with this only.")] = "",
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="A field that the file doesn't tell: -s num_heads=16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
) -> None:
    """Turn public weights into a model folder, or a part of a model folder into a public layout.

    An autoencoder becomes a model folder by itself; a denoiser (Latte, DiT, VDT, MMDiT, VDM) needs the autoencoder
    whose latents it was trained on: --autoencoder. For --to public and diffusers, SOURCE may also be public weights in
    another layout. A whole pipeline of Stable Video Diffusion in diffusers' layout becomes a model at once.
    """
    from kinolab.errors import InputError
    from kinolab.runtime.files import finish_folder, new_folder
    from kinolab.runtime.paths import visible

    finish_folder(out)  # what a kill kept from its place
    if out.exists() and not overwrite and (out.is_file() or visible(out)):
        raise InputError(f"{out}: exists; choose another name, or --overwrite")
    if to == "model" and is_pipeline(source):
        with watch("reading weights"):
            model = read_pipeline(source, setting or [])
        with watch("writing weights"):
            model.save(out)
        return _say(out, model.denoiser, "model")
    with watch("reading weights"):
        module = read_source(source, format, prefix, setting or [], part)
    if to == "model":
        with watch("writing weights"):
            _write_model(module, out, " and ".join(Path(name).name for name in source), autoencoder, image_encoder)
    else:
        from kinolab.checkpoints import save
        from kinolab.checkpoints.formats import find_format

        if autoencoder is not None:
            raise InputError("--autoencoder is for --to model: public layouts hold one part each")
        layouts = PUBLIC if to == "public" else DIFFUSERS
        layout = layouts.get(module.config.kind)
        if layout is None:
            if module.config.kind == "diffusers":
                raise InputError(f"{source[0]}: a class of diffusers; use the folder that it was read from")
            raise InputError(f"diffusers has no class for kind {module.config.kind}; use --to public")
        writer = find_format(layout)
        writer.check_writable(module)  # before anything is replaced
        with watch("writing weights"):
            if overwrite and out.is_dir() and writer.folder:
                with new_folder(out) as room:  # the old one stands until the new one is whole
                    save(module, room, layout)
            else:
                save(module, out, layout)
    return _say(out, module, "model" if to == "model" else "weights")


def is_pipeline(source: Sequence[str]) -> bool:
    """Whether one folder is named that holds a whole pipeline."""
    from kinolab.checkpoints.svd_pipeline import is_svd_pipeline

    return len(source) == 1 and is_svd_pipeline(Path(source[0]))


def read_pipeline(source: Sequence[str], settings: list[str]) -> Any:
    """The model of a pipeline's folder."""
    from kinolab.checkpoints.svd_pipeline import read_svd_pipeline
    from kinolab.config import apply_overrides

    return read_svd_pipeline(Path(source[0]), **apply_overrides({}, settings))


def _say(out: Path, module: Any, what: str) -> None:
    """What was written, and how large it is."""
    count = sum(p.numel() for p in module.parameters())
    wrote(out, what)
    kind = type(module).__name__
    show({"out": out, "class": kind, "parameters": count}, [f"{out}: {kind}, {count:,} parameters"])


def read_source(source: Sequence[str], format: str | None, prefix: str, settings: list[str], part: str | None) -> Any:
    """The module at `source`: a part of a model folder, or public weights, perhaps in two files."""
    from kinolab.checkpoints import load
    from kinolab.cli.inspect import locate
    from kinolab.config import apply_overrides
    from kinolab.errors import InputError

    paths = [locate(name) for name in source]
    path = paths[0]
    if (path / "model.yaml").exists():
        if len(paths) > 1:
            raise InputError(f"{paths[1]}: name one model folder; two files are for public weights")
        if format is not None or prefix or settings:
            raise InputError("--format, --prefix and -s are for public weights: a model folder says what it holds")
        return _read_part(path, part)
    if part is not None:
        raise InputError("--part is for model folders; public weights are one part (see --prefix)")
    fields = apply_overrides({}, settings)
    clash = [key for key in FIXED if key in fields]
    if clash:
        raise InputError(f"-s {clash[0]}=...: -s sets config fields; use the option --{clash[0]}")
    return load(paths, format=format, prefix=prefix, **fields)


def _read_part(folder: Path, part: str | None) -> Any:
    from kinolab.errors import InputError
    from kinolab.layers.lora import fold
    from kinolab.models import VideoModel, load_autoencoder, read_model_config

    config = read_model_config(folder)
    if config.denoiser is not None and part is None:
        raise InputError(f"{folder}: holds an autoencoder and a denoiser; choose one with --part")
    if part == "denoiser":
        denoiser = VideoModel.load(folder, device="cpu").denoiser
        fold(denoiser)
        return denoiser
    return load_autoencoder(folder, device="cpu")


def _write_model(
    module: Any, out: Path, source: str, autoencoder: str | None, image_encoder: Path | None = None
) -> None:
    """Write a model folder of an autoencoder, or of a denoiser and its autoencoder."""
    from kinolab.autoencoders import Autoencoder
    from kinolab.errors import InputError
    from kinolab.models import VideoModel, load_autoencoder, save_autoencoder

    trained = f"converted from {source}"
    if isinstance(module, Autoencoder):
        if autoencoder is not None:
            raise InputError("--autoencoder is for denoisers; this is an autoencoder itself")
        save_autoencoder(module, out, trained=trained)
        return
    if autoencoder is None:
        raise InputError(
            f"{source}: a denoiser ({module.config.kind}); give the model folder of the autoencoder whose latents it "
            "was trained on: --autoencoder FOLDER"
        )
    pixels = load_autoencoder(autoencoder, device="cpu")
    if module.config.kind == "svd":
        from kinolab.checkpoints.svd_pipeline import svd_model_config
        from kinolab.conditioning.vision import ClipImageConfig

        encoder = None if image_encoder is None else ClipImageConfig(folder=image_encoder.absolute())
        config = svd_model_config(module.config, pixels, trained, image_encoder=encoder)
    elif image_encoder is not None:
        raise InputError("--image-encoder is for Stable Video Diffusion: this denoiser reads no image")
    else:
        config = model_config(module.config, pixels, trained)
    VideoModel(config, pixels, module).save(out)


def model_config(denoiser: Any, autoencoder: Any, trained: str) -> Any:
    """The config of a model of public weights, with the diffusion process that they were trained on.

    DiT, Latte and VDT: 1000 steps with linear betas, predicting the noise and (with 2C channels) the variance. VDM: the
    same with the cosine schedule. SD3's MMDiT: rectified flow with logit-normal times, sampled with a time shift of 3
    (its section 5.3.2, at 1024 px).

    Raises:
        InputError: where the denoiser takes another number of channels than the autoencoder makes.
    """
    from kinolab import __version__
    from kinolab.diffusion import DiffusionConfig
    from kinolab.errors import InputError
    from kinolab.models import ModelConfig

    spec = autoencoder.spec
    if spec.latent_channels != denoiser.in_channels:
        raise InputError(
            f"the denoiser takes {denoiser.in_channels} latent channels and the autoencoder makes "
            f"{spec.latent_channels}: it was trained on the latents of another one"
        )
    learned = getattr(denoiser, "learned_variance", False)
    loss: Literal["mse", "mse_vb"] = "mse_vb" if learned else "mse"
    diffusion = DiffusionConfig(learned_variance=learned, loss=loss)
    if denoiser.kind == "vdm":
        diffusion = DiffusionConfig(schedule="cosine", max_beta=0.9999, learned_variance=learned, loss=loss)
    if denoiser.kind == "mmdit":
        diffusion = DiffusionConfig(schedule="flow", prediction="flow", time_sampling="logit_normal", time_shift=3.0)
    height, width = (side * spec.spatial_ratio for side in denoiser.latent_size)
    return ModelConfig(
        version=__version__,
        trained=trained,
        autoencoder=autoencoder.config,
        denoiser=denoiser,
        diffusion=diffusion,
        frames=spec.pixel_frames(getattr(denoiser, "num_frames", 1)),
        size=(height, width),
    )
