"""`kinolab convert`: public weights into a model folder, and a model folder's parts into public layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    "space_time_unet": "space_time_unet",
    "mmdit": "sd3",
    "unet": "unet_ldm",
    "controlnet": "controlnet",
    "controlnet_mmdit": "controlnet_sd3",
    "modelscope": "modelscope_original",
    "animatediff": "animatediff",
    "tuneavideo": "tuneavideo",
    "motion_modules": "motion_modules",
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
    "controlnet": "controlnet_diffusers",
    "controlnet_mmdit": "controlnet_sd3",
    "modelscope": "modelscope",
    "animatediff": "animatediff_diffusers",
    "motion_modules": "motion_adapter",
}
"""`kind` of a part -> the layout of the class that diffusers has for it."""
FIXED = ("path", "format", "prefix")


def register(app: typer.Typer) -> None:
    """Add `convert`."""
    app.command()(convert)


Source = Annotated[
    list[str],
    typer.Argument(
        help="Public weights (TAESD's are two files, ENCODER DECODER), or a model folder (with --to public or "
        "diffusers)."
    ),
]
To = Annotated[
    Literal["model", "public", "diffusers"],
    typer.Option(help="model: a model folder; public: the published code's layout; diffusers: its folder."),
]
Under = Annotated[
    str | None,
    typer.Option(help="Model folder, or pipeline, of the Stable Diffusion 1.x that motion modules are put under."),
]
TextFolder = Annotated[Path | None, typer.Option(help="Folder of the text encoder whose prompts a denoiser reads.")]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="Folder of a CLIP tokenizer, for the text encoder inside a checkpoint; default: beside it."),
]
ImageFolder = Annotated[
    Path | None, typer.Option(help="Folder of the CLIP image encoder that Stable Video Diffusion reads.")
]
PartOf = Annotated[
    str | None,
    typer.Option(
        help="Which part of a whole model to write: autoencoder, denoiser, motion (AnimateDiff's motion modules "
        "alone), or the name of a control network."
    ),
]
Fields = Annotated[
    list[str] | None, typer.Option("-s", "--set", help="A field that the file doesn't tell: -s num_heads=16.")
]


@common(events=True)
def convert(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder or .safetensors file to write.")],
    to: To = "model",
    autoencoder: Annotated[
        str | None, typer.Option("--autoencoder", "-a", help="Model folder that a denoiser is put together with.")
    ] = None,
    under: Under = None,
    text_encoder: TextFolder = None,
    tokenizer: Tokenizer = None,
    image_encoder: ImageFolder = None,
    part: PartOf = None,
    format: Annotated[str | None, typer.Option(help="Format of the public weights; default: told by names.")] = None,
    prefix: Annotated[str, typer.Option(help="Use the tensors whose names start with this only.")] = "",
    setting: Fields = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
) -> None:
    """Turn public weights into a model folder, or a part of a model folder into a public layout.

    A whole pipeline of diffusers (a folder with model_index.json), and a checkpoint that holds denoiser and
    autoencoder, become a model folder at once. An autoencoder becomes one by itself; a denoiser needs the autoencoder
    whose latents it was trained on: --autoencoder; motion modules need the image model that they are put under:
    --under. For --to public and diffusers, SOURCE may also be public weights in another layout.
    """
    from kinolab.errors import InputError
    from kinolab.runtime.files import finish_folder
    from kinolab.runtime.paths import visible

    finish_folder(out)  # what a kill kept from its place
    if out.exists() and not overwrite and (out.is_file() or visible(out)):
        raise InputError(f"{out}: exists; choose another name, or --overwrite")
    encoders = {"text": text_encoder, "image": image_encoder, "tokenizer": tokenizer}
    alone = to != "model" or any((autoencoder, under, part, format, prefix))
    with watch("reading weights"):
        whole = None if alone else _read_whole(source, setting or [], encoders, out)
        if tokenizer is not None and whole is None:
            raise InputError("--tokenizer is for a whole checkpoint, whose text encoder gets it")
        module = whole.denoiser if whole else read_source(source, format, prefix, setting or [], part)
        if under is not None:
            module, whole = _put_under(module, under, _names(source), to)
    with watch("writing weights"):
        if whole is not None:
            whole.save(out)
        elif to == "model":
            _write_model(module, out, _names(source), autoencoder, encoders)
        else:
            _refuse(
                {"--autoencoder": autoencoder, **_options(encoders)}, "for --to model: public layouts hold one part"
            )
            _write_public(module, out, PUBLIC if to == "public" else DIFFUSERS, source[0], overwrite)
    return _say(out, module, "model" if to == "model" else "weights")


def _names(source: Sequence[str]) -> str:
    return " and ".join(Path(name).name for name in source)


def _options(encoders: Mapping[str, Path | None]) -> dict[str, Path | None]:
    """The folders of encoders by the options that name them."""
    return {f"--{name}" if name == "tokenizer" else f"--{name}-encoder": folder for name, folder in encoders.items()}


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Raises InputError for the first option that is given: it is `why`."""
    from kinolab.errors import InputError

    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} is {why}")


def _write_public(module: Any, out: Path, layouts: Mapping[str, str], source: str, overwrite: bool) -> None:
    """Write a module in the public layout of its kind."""
    from kinolab.checkpoints import save
    from kinolab.checkpoints.formats import find_format
    from kinolab.errors import InputError
    from kinolab.runtime.files import new_folder

    layout = layouts.get(module.config.kind)
    if layout is None:
        if module.config.kind == "diffusers":
            raise InputError(f"{source}: a class of diffusers; use the folder that it was read from")
        if module.config.kind not in PUBLIC:
            raise InputError(f"there is no public layout for kind {module.config.kind}: keep it in its model folder")
        raise InputError(f"diffusers has no class for kind {module.config.kind}; use --to public")
    writer = find_format(layout)
    writer.check_writable(module)  # before anything is replaced
    if overwrite and out.is_dir() and writer.folder:
        with new_folder(out) as room:  # the old one stands until the new one is whole
            save(module, room, layout)
    else:
        save(module, out, layout)


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


def _read_whole(source: Sequence[str], settings: list[str], encoders: Mapping[str, Path | None], out: Path) -> Any:
    """The model of a pipeline's folder, or of a file that holds denoiser and autoencoder; none = neither."""
    from kinolab.checkpoints.pipelines import is_pipeline, read_checkpoint, read_pipeline
    from kinolab.cli.inspect import locate
    from kinolab.config import apply_overrides

    path = locate(source[0])
    if len(source) > 1 or (path / "model.yaml").exists() or not path.exists():
        return None
    fields = apply_overrides({}, settings)
    if not is_pipeline(path):
        return read_checkpoint(path, encoders, into=out, **fields)
    _refuse(_options(encoders), f"for parts by themselves: {path} holds its own; leave it out")
    return read_pipeline(path, **fields)


def _put_under(module: Any, under: str, names: str, to: str) -> tuple[Any, Any]:
    """Motion modules under the image model of a folder: the denoiser, and the whole model."""
    from kinolab.checkpoints.pipelines import animated, is_pipeline, read_pipeline
    from kinolab.cli.inspect import locate
    from kinolab.denoisers import MotionModules
    from kinolab.errors import InputError
    from kinolab.models import VideoModel

    if not isinstance(module, MotionModules):
        raise InputError(f"--under is for motion modules; {names} is a {type(module).__name__}")
    path = locate(under)
    image = read_pipeline(path) if is_pipeline(path) else VideoModel.load(path, device="cpu")
    model = animated(image, module, f"{names} under {path.name}")
    return model.denoiser, model if to == "model" else None


def _read_part(folder: Path, part: str | None) -> Any:
    from kinolab.denoisers import AnimateDiff, MotionModules
    from kinolab.errors import InputError
    from kinolab.layers.lora import fold
    from kinolab.models import VideoModel, load_autoencoder, read_model_config
    from kinolab.models.controlnet import ControlPart

    config = read_model_config(folder)
    known = ["autoencoder", "denoiser", "motion", *config.parts]
    if part is not None and part not in known:
        raise InputError(f"--part {part}: expected one of {', '.join(known)}")
    if part in config.parts:
        found = VideoModel.load(folder, device="cpu").parts[part]
        if not isinstance(found, ControlPart):
            raise InputError(f"--part {part}: there is no public layout for kind {config.parts[part].kind}")
        return found.net
    if config.denoiser is not None and part is None:
        raise InputError(f"{folder}: holds an autoencoder and a denoiser; choose one with --part")
    if part in ("denoiser", "motion"):
        denoiser = VideoModel.load(folder, device="cpu").denoiser
        fold(denoiser)
        if part == "denoiser":
            return denoiser
        if not isinstance(denoiser, AnimateDiff):
            raise InputError(f"{folder}: has no motion modules, its denoiser is a {type(denoiser).__name__}")
        return MotionModules.of(denoiser)
    return load_autoencoder(folder, device="cpu")


def _write_model(
    module: Any, out: Path, source: str, autoencoder: str | None, encoders: Mapping[str, Path | None]
) -> None:
    """Write a model folder of an autoencoder, or of a denoiser and its autoencoder."""
    from kinolab.autoencoders import Autoencoder
    from kinolab.checkpoints.pipelines import assembled
    from kinolab.denoisers import MotionModules
    from kinolab.denoisers.controlnet import ControlNet
    from kinolab.denoisers.controlnet_mmdit import ControlNetMmdit
    from kinolab.errors import InputError
    from kinolab.models import VideoModel, load_autoencoder, save_autoencoder

    trained = f"converted from {source}"
    if isinstance(module, Autoencoder):
        _refuse({"--autoencoder": autoencoder, **_options(encoders)}, "for denoisers; this is an autoencoder itself")
        save_autoencoder(module, out, trained=trained)
        return
    if isinstance(module, ControlNet | ControlNetMmdit):
        raise InputError(
            f"{source}: a control network; put it beside a model: kinolab pack MODEL --control PORT=FILE --out FOLDER"
        )
    if isinstance(module, MotionModules):
        raise InputError(f"{source}: motion modules; give the Stable Diffusion 1.x that they go under: --under FOLDER")
    if autoencoder is None:
        raise InputError(
            f"{source}: a denoiser ({module.config.kind}); give the model folder of the autoencoder whose latents it "
            "was trained on: --autoencoder FOLDER"
        )
    pixels = load_autoencoder(autoencoder, device="cpu")
    if encoders["image"] is not None and module.config.kind != "svd":
        raise InputError("--image-encoder is for Stable Video Diffusion: this denoiser reads no image")
    if module.config.kind == "svd":
        from kinolab.checkpoints.svd_pipeline import svd_model_config
        from kinolab.conditioning.vision import ClipImageConfig

        folder = encoders["image"]
        encoder = None if folder is None else ClipImageConfig(folder=folder.absolute())
        config = svd_model_config(module.config, pixels, trained, image_encoder=encoder)
        VideoModel(config, pixels, module).save(out)
        return
    assembled(module, pixels, trained, text_encoder=encoders["text"]).save(out)


def model_config(denoiser: Any, autoencoder: Any, trained: str) -> Any:
    """The config of a model of public weights (`kinolab.checkpoints.pipelines.model_config`)."""
    from kinolab.checkpoints import pipelines

    return pipelines.model_config(denoiser, autoencoder, trained)
