"""Autoencoders that exist as public classes of the diffusers library, behind Kinolab's interface.

One adapter for all of `CLASSES`, so that they can be measured beside the native ones; it needs `kinolab[interop]` and
reads folders in diffusers' own layout (config.json and diffusion_pytorch_model.safetensors), never the network. What a
class leaves to its pipeline is done here: latents are normalised as the class's own pipeline does it, whole clips go
through without tiles in space or time, and clips that the class would give back with other frame counts are refused.

- SVD's temporal decoder and AutoencoderKL encode every frame by itself; SVD decodes all frames of a clip together.
- CogVideoX decodes two latents at a time after the first, so that it takes 1 + 8*k frames.
- LTX's later decoders are told a timestep and add noise: the timestep is 0, as in its pipeline, the noise is seeded.
- Allegro's class offers nothing but tiles of 24 frames at its training size; here its encoder and decoder see the clip
  whole, which is the same for a clip of one tile. Its first frame has no latent of its own: 4*k frames.
- TAESD (AutoencoderTiny) has no posterior: its latents come with next to no deviation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError, MissingExtraError
from kinolab.layers.image_coder import per_frame
from kinolab.layers.latent_scaling import ScaledLatents
from kinolab.layers.normalization import fold_frames, unfold_frames
from kinolab.runtime.devices import seeded
from kinolab.runtime.reading import read_json
from kinolab.runtime.text import first_line

ClassName = Literal[
    "AutoencoderKL",
    "AutoencoderKLTemporalDecoder",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLWan",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLAllegro",
    "AutoencoderTiny",
]
CLASSES: tuple[str, ...] = get_args(ClassName)
"""The classes that the adapter knows the rules of."""
INDEPENDENT_FRAMES = ("AutoencoderKL", "AutoencoderTiny")
"""Classes that encode and decode every frame by itself."""
CONFIG_FILE = "config.json"
PIXELS_AT_ONCE = 2**20
"""Without gradients, frames that are independent go through in chunks of about this many pixels."""


class DiffusersConfig(KindConfig):
    """An autoencoder that is a public class of diffusers: a folder of it, or a class and its arguments."""

    kind: Literal["diffusers"] = "diffusers"
    path: Path | None = None
    """A folder in diffusers' own layout: config.json and diffusion_pytorch_model.safetensors."""
    class_name: ClassName | None = None
    """The class, where there is no folder: weights are then random, or come with a model folder."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The arguments of the class, as in its config.json."""

    @model_validator(mode="after")
    def _check(self) -> DiffusersConfig:
        if (self.path is None) == (self.class_name is None):
            raise ValueError("expected a path or a class_name, one of them")
        if self.path is not None and self.settings:
            raise ValueError("expected no settings beside path: the folder's config.json has them")
        return self


def is_diffusers_folder(path: Path) -> bool:
    """Whether `path` is a folder with a config.json that names a class, which is how diffusers stores one part."""
    return (path / CONFIG_FILE).is_file() and "_class_name" in _read_settings(path)


def folder_config(path: Path) -> DiffusersConfig:
    """The class and its arguments that a folder of diffusers names, without its weights.

    Raises:
        InputError: where the folder has no config.json, or names a class that the adapter does not know.
    """
    if not (path / CONFIG_FILE).is_file():
        if (path / "model_index.json").is_file():
            raise InputError(f"{path}: a whole diffusers pipeline; name the folder of its autoencoder, {path / 'vae'}")
        raise InputError(f"{path}: no {CONFIG_FILE} inside; expected a folder that diffusers' save_pretrained wrote")
    settings = _read_settings(path)
    name = settings.get("_class_name")
    if name not in CLASSES:
        raise InputError(f"{path}: {CONFIG_FILE} names the class {name}; expected one of {', '.join(CLASSES)}")
    known = _arguments(_class_of(name))
    return DiffusersConfig(class_name=name, settings={k: v for k, v in settings.items() if k in known})


class DiffusersAutoencoder(ScaledLatents, Autoencoder):
    """A class of diffusers as an `Autoencoder`; `config` names class and settings, so that a model folder can hold it.

    Raises:
        InputError: where diffusers is not installed, the folder is not complete, or settings do not fit the class.
    """

    Config = DiffusersConfig

    untrainable = "an autoencoder of diffusers is measured here, not trained; image, odvae and dpvae can be trained"

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        self.config = config if config.path is None else folder_config(config.path)
        assert self.config.class_name is not None
        self.name: str = self.config.class_name
        cls = _class_of(self.name)
        network = _random(cls, self.config.settings) if config.path is None else _loaded(cls, config.path)
        self.network: Any = network.eval()
        if self.name == "AutoencoderKLHunyuanVideo":  # else clips of more than 16 frames are cut and blended
            self.network.use_framewise_encoding = self.network.use_framewise_decoding = False
        self.spec = _spec(self.name, self.network)
        self.register_scaling(self.spec.latent_channels, 0.0, 1.0)
        self.set_scaling(*_scaling(self.network, self.spec.latent_channels))

    def encoder_parts(self) -> nn.ModuleList:
        """The modules that only encoding uses."""
        parts = (getattr(self.network, name, None) for name in ("encoder", "quant_conv"))
        return nn.ModuleList(part for part in parts if part is not None)

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> posterior over (B, C', T', H', W')."""
        self.check_video(video)
        x, net = video.to(self.network.dtype), self.network
        if self.name == "AutoencoderTiny":
            latents = per_frame(lambda x: net.encode(x).latents, x, PIXELS_AT_ONCE)
            return self._fitting(Posterior.certain(self.to_normalised(latents)), video)
        if self.spec.temporal_ratio == 1:
            moments = per_frame(lambda x: net.encode(x).latent_dist.parameters, x, PIXELS_AT_ONCE)
        elif self.name == "AutoencoderKLAllegro":
            moments = per_frame(net.quant_conv, net.encoder(x), PIXELS_AT_ONCE)
        else:
            moments = net.encode(x).latent_dist.parameters
        return self._fitting(Posterior(*self.normalise_moments(moments)), video)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T', H', W') -> (B, 3, T, H, W), about in [-1, 1]; not clamped, but for Wan."""
        self.check_latents(latents)
        t, h, w = latents.shape[2:]
        self.spec.check(self.spec.pixel_frames(t), h * self.spec.spatial_ratio, w * self.spec.spatial_ratio)
        z, net = self.to_raw(latents).to(self.network.dtype), self.network
        budget = PIXELS_AT_ONCE // self.spec.spatial_ratio**2
        if self.name in INDEPENDENT_FRAMES:
            return per_frame(lambda z: net.decode(z).sample, z, budget)
        if self.name == "AutoencoderKLTemporalDecoder":
            return unfold_frames(net.decode(fold_frames(z), num_frames=t).sample, len(z))
        if self.name == "AutoencoderKLAllegro":
            decoded: Tensor = net.decoder(per_frame(net.post_quant_conv, z, budget))
        elif self.name == "AutoencoderKLLTXVideo":
            decoded = self._decode_ltx(z)
        else:
            decoded = net.decode(z).sample
        return decoded

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """Raises InputError: these classes take whole clips."""
        raise InputError(f"{self.name} of diffusers takes whole clips and has no stream; use encode()")

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Raises InputError: these classes take whole clips."""
        raise InputError(f"{self.name} of diffusers takes whole clips and has no stream; use decode()")

    def _decode_ltx(self, z: Tensor) -> Tensor:
        settings = self.network.config
        timestep = z.new_zeros(len(z)) if settings.timestep_conditioning else None
        if not any(settings.decoder_inject_noise):
            return self.network.decode(z, timestep).sample
        with seeded(0, z.device):
            return self.network.decode(z, timestep).sample

    def _fitting(self, posterior: Posterior, video: Tensor) -> Posterior:
        """Raises InputError where the latents are of another shape than the settings promise."""
        expected, found = self.spec.latent_shape(*video.shape[2:]), tuple(posterior.mean.shape[1:])
        if found != expected:
            raise InputError(f"{self.name}: its settings promise latents of {expected}, its layers give {found}")
        return posterior


def _spec(name: str, network: Any) -> AutoencoderSpec:
    """The shape rules of a class, from its settings."""
    c = network.config
    channels, time, first_frame, group = c.get("latent_channels"), 1, True, 1
    match name:
        case "AutoencoderKLWan":
            channels, time = c.z_dim, 2 ** sum(c.temperal_downsample)
            space = 2 ** (len(c.dim_mult) - 1) * (c.patch_size or 1)
            if time != 4:  # the class cuts every clip into 1 + 4 + 4 + ... frames
                raise InputError(f"{name}: expected a temperal_downsample that halves time twice, got {time} in all")
        case "AutoencoderKLHunyuanVideo" | "AutoencoderKLLTXVideo":
            space, time = network.spatial_compression_ratio, network.temporal_compression_ratio
        case "AutoencoderTiny":
            space = 2 ** (len(c.num_encoder_blocks) - 1)
        case _:
            space, time = 2 ** (len(c.block_out_channels) - 1), int(c.get("temporal_compression_ratio", 1))
            first_frame, group = name != "AutoencoderKLAllegro", 2 if name == "AutoencoderKLCogVideoX" else 1
    # CogVideoX and Hunyuan have causal convolutions, but normalise over time; LTX decodes with frames on both sides.
    causal = name in (*INDEPENDENT_FRAMES, "AutoencoderKLWan")
    return AutoencoderSpec(channels, time, space, causal, c.in_channels, first_frame, group)


def _scaling(network: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Shift and scale by channel, (C',) each: the pipelines' (raw - latents_mean) * scaling_factor / latents_std."""
    factor, shift = network.config.get("scaling_factor", 1.0), network.config.get("shift_factor") or 0.0
    mean, deviation = (_by_channel(network, name) for name in ("latents_mean", "latents_std"))
    if mean is None or deviation is None:
        return torch.full((channels,), float(shift)), torch.full((channels,), float(factor))
    return mean, factor / deviation


def _by_channel(network: Any, name: str) -> Tensor | None:
    """A statistic of the latents: LTX keeps it among its weights, the others in their settings."""
    kept = dict(network.named_buffers()).get(name)
    values = network.config.get(name) if kept is None else kept
    return None if values is None else torch.as_tensor(values, dtype=torch.float32)


def _class_of(name: str) -> Any:
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError("diffusers", "interop", name) from None
    found = getattr(diffusers, name, None)
    if found is None:
        raise InputError(f"diffusers {diffusers.__version__} has no {name}: pip install -U 'kinolab[interop]'")
    return found


def _arguments(cls: Any) -> set[str]:
    """The names of the arguments of a class."""
    return set(inspect.signature(cls.__init__).parameters) - {"self"}


def _read_settings(path: Path) -> dict[str, Any]:
    loaded = read_json(path / CONFIG_FILE)
    if not isinstance(loaded, dict):
        raise InputError(f"{path / CONFIG_FILE}: expected a JSON object, got {type(loaded).__name__}")
    return loaded


def _random(cls: Any, settings: dict[str, Any]) -> Any:
    """An instance of a class with fresh weights."""
    unknown = sorted(set(settings) - _arguments(cls))
    if unknown:
        raise InputError(f"settings: {cls.__name__} has no argument {', '.join(unknown)}")
    try:
        return cls.from_config(settings)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"settings: {cls.__name__} does not take them: {first_line(error)[:200]}") from None


def _loaded(cls: Any, path: Path) -> Any:
    """An instance of a class with the weights of a folder, float32; nothing is fetched, no pickle is read.

    Raises:
        InputError: where weights are missing, damaged or of another model.
    """
    if not any(path.glob("diffusion_pytorch_model*.safetensors*")):
        raise InputError(f"{path}: no diffusion_pytorch_model.safetensors inside; the folder is not complete")
    try:
        network, found = cls.from_pretrained(
            path, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(f"{path}: {cls.__name__} does not load: {first_line(error)[:200]}") from None
    kinds = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "of another shape"}
    problems = [f"{len(found[k])} {what}: {', '.join(map(str, found[k]))}" for k, what in kinds.items() if found[k]]
    if problems:
        raise InputError(f"{path}: does not fit {cls.__name__}: {'; '.join(problems)}")
    return network
