"""Stable Video Diffusion's pipeline in the layout of diffusers (StableVideoDiffusionPipeline): a folder -> a model.

Its U-Net and its autoencoder are read. The image encoder stays where it is and is named, as it is a person's own
folder. The scheduler's settings become the noise levels; what the pipeline does by default becomes the model's own:
25 of Euler's steps, guidance that rises from 1 at the first frame to 3 at the last one, 7 frames per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab import __version__
from kinolab.autoencoders import Autoencoder
from kinolab.checkpoints.reading import load
from kinolab.conditioning.vision import ClipImage, ClipImageConfig
from kinolab.denoisers import Svd, SvdConfig
from kinolab.denoisers.svd import IMAGE, IMAGE_TOKENS
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.diffusion.edm import EdmConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.runtime.reading import read_json

INDEX = "model_index.json"
PIPELINE = "StableVideoDiffusionPipeline"
PARTS = ("unet", "vae", "image_encoder", "scheduler")
"""Folders that a pipeline has to have."""
SCHEDULER = {"prediction_type": "v_prediction", "use_karras_sigmas": True}
"""What the scheduler has to say: other settings are of models that were trained otherwise."""
FPS = 7.0


def is_svd_pipeline(folder: Path) -> bool:
    """Whether a folder holds this pipeline."""
    return (folder / INDEX).is_file() and read_json(folder / INDEX).get("_class_name") == PIPELINE


def read_svd_pipeline(folder: Path, **fields: Any) -> VideoModel:
    """The model of a pipeline's folder; `fields` are of the U-Net's config, for what no file tells.

    Raises:
        InputError: where a part is missing or doesn't fit, or the scheduler says what this model doesn't do.
    """
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(f"{folder}: lacks {', '.join(missing)}; expected the folders {', '.join(PARTS)} of {PIPELINE}")
    denoiser, autoencoder = load(folder / "unet", **fields), load(folder / "vae")
    if not isinstance(denoiser, Svd) or not isinstance(autoencoder, Autoencoder):
        kinds = f"{type(denoiser).__name__} and {type(autoencoder).__name__}"
        raise InputError(f"{folder}: expected Stable Video Diffusion's U-Net and an autoencoder, got {kinds}")
    edm = noise_levels(read_json(folder / "scheduler" / "scheduler_config.json"), folder)
    encoder = ClipImageConfig(folder=(folder / "image_encoder").absolute())
    trained = f"converted from {folder.name}"
    config = svd_model_config(denoiser.config, autoencoder, trained, image_encoder=encoder, edm=edm)
    return VideoModel(config, autoencoder, denoiser)


def noise_levels(settings: Mapping[str, Any], folder: Path) -> EdmConfig:
    """The noise levels of a scheduler's settings.

    Raises:
        InputError: where it is another kind of scheduler.
    """
    wrong = {key: settings.get(key) for key, value in SCHEDULER.items() if settings.get(key) != value}
    if wrong:
        raise InputError(f"{folder / 'scheduler'}: expected {SCHEDULER}, got {wrong}")
    known = {key: settings[key] for key in ("sigma_min", "sigma_max") if settings.get(key) is not None}
    return EdmConfig(**known)


def svd_model_config(
    denoiser: SvdConfig,
    autoencoder: Autoencoder,
    trained: str,
    *,
    image_encoder: ClipImageConfig | None = None,
    edm: EdmConfig | None = None,
) -> ModelConfig:
    """The config of a model of public weights, sampled as its pipeline does.

    Raises:
        InputError: where the parts don't fit each other, or the denoiser reads an image and nothing encodes it.
    """
    spec = autoencoder.spec
    if spec.latent_channels != denoiser.in_channels:
        raise InputError(
            f"the denoiser takes {denoiser.in_channels} latent channels and the autoencoder makes "
            f"{spec.latent_channels}: it was trained on the latents of another one"
        )
    reads = denoiser.context == "image" and denoiser.text_dim > 0
    if reads and image_encoder is None:
        raise InputError(
            "Stable Video Diffusion reads an image: give its encoder's folder, --image-encoder FOLDER (`kinolab "
            "convert` takes that of a whole svd.safetensors from the file itself)"
        )
    if reads and image_encoder is not None and ClipImage(image_encoder).dim != denoiser.text_dim:
        width = ClipImage(image_encoder).dim
        raise InputError(f"the denoiser reads tokens of width {denoiser.text_dim}, and {image_encoder.folder} {width}")
    height, width = (side * spec.spatial_ratio for side in denoiser.latent_size)
    away = tuple(name for name in (IMAGE, IMAGE_TOKENS) if name in (*denoiser.concatenated, IMAGE_TOKENS * reads))
    return ModelConfig(
        version=__version__,
        trained=trained,
        autoencoder=autoencoder.config,
        denoiser=denoiser,
        diffusion=DiffusionConfig(schedule="edm", prediction="v", edm=edm),
        image_encoder=image_encoder if reads else None,
        sampler=SamplerConfig(name="euler", steps=25),
        guidance=GuidanceConfig(frames=(1.0, 3.0), of=away) if away else GuidanceConfig(),
        frames=denoiser.num_frames,
        size=(height, width),
        fps=FPS,
    )
