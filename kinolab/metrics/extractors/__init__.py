"""Feature extractors: clips -> vectors that distances between distributions are computed on.

One file per network. A new one is a file here, its name in `ExtractorConfig` and a line in `EXTRACTORS`. Only the
small video encoder comes with the package; the others read public weights from the user's own file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.metrics.extractors.base import Extractor, ExtractorSpec, resize_frames
from kinolab.metrics.extractors.c3d import C3dExtractor
from kinolab.metrics.extractors.i3d import I3dExtractor, I3dTorchScript
from kinolab.metrics.extractors.inception import InceptionExtractor
from kinolab.metrics.weights import file_hash

ExtractorName = Literal["encoder", "i3d", "i3d_torchscript", "c3d", "inception", "inception_torchvision"]
Output = Literal["features", "logits", "fc6", "fc7"]
Unit = Literal["clip", "frame"]

OUTPUTS: dict[str, tuple[Output, ...]] = {
    "encoder": ("features",),
    "i3d": ("logits", "features"),
    "i3d_torchscript": ("logits",),
    "c3d": ("fc6", "fc7"),
    "inception": ("features",),
    "inception_torchvision": ("features",),
}
"""Layers that each network can be read out at, the usual one first."""


class ExtractorConfig(Config):
    """Which network describes clips, where its weights are, and what is read out of it."""

    name: ExtractorName = "encoder"
    """The network: `encoder` ships with the package; `i3d` reads rgb_imagenet.pt, `i3d_torchscript` StyleGAN-V's file,
    `c3d` c3d.pickle, `inception` pytorch-fid's file, `inception_torchvision` torchvision's."""
    path: Path | None = None
    """The user's file of weights (for `encoder`: a folder that training wrote); null = the encoder that ships."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    """Hash that the file of weights must have; null = any."""
    output: Output | None = None
    """Layer that is read out: i3d `logits` (400) or `features` (1024), c3d `fc6` or `fc7`; null = the first of them."""
    own_resize: bool | None = None
    """Only i3d_torchscript: whether the network resizes frames itself, as StyleGAN-V does; null = it does."""
    mean: tuple[float, float, float] | None = None
    """Only c3d: what is subtracted from pixels on 0..255, in BGR order; null = the means of Sports-1M."""

    @model_validator(mode="after")
    def _fits(self) -> ExtractorConfig:
        if self.output is not None and self.output not in OUTPUTS[self.name]:
            raise ValueError(f"{self.name} is read out at {' or '.join(OUTPUTS[self.name])}, not {self.output}")
        if self.own_resize is not None and self.name != "i3d_torchscript":
            raise ValueError(f"own_resize is a setting of i3d_torchscript alone, not of {self.name}")
        if self.mean is not None and self.name != "c3d":
            raise ValueError(f"mean is a setting of c3d alone, not of {self.name}")
        return self


def load_extractor(config: ExtractorConfig, unit: Unit | None = None) -> Extractor:
    """The frozen network of a config, on the CPU.

    unit: what a vector must describe, a whole "clip" or a single "frame"; None = what the network is made for. The
    shipped encoder does both, the others do one.

    Raises:
        InputError: for a network that describes the other unit, a missing path, a file that does not fit (says what
            is missing, unexpected or of another shape) or has another hash.
    """
    extractor = EXTRACTORS[config.name](config, unit)
    if unit is not None and extractor.spec.unit != unit:
        others = "encoder, inception" if unit == "frame" else "encoder, i3d, i3d_torchscript, c3d"
        raise InputError(f"{config.name} describes a {extractor.spec.unit}, expected one of a {unit}: {others}")
    return extractor


def _encoder(config: ExtractorConfig, unit: Unit | None) -> Extractor:
    from kinolab.metrics.extractors.encoder import load_encoder, shipped_encoder

    per_frame = unit == "frame"
    extractor = shipped_encoder(per_frame=per_frame) if config.path is None else load_encoder(
        config.path, per_frame=per_frame
    )  # fmt: skip
    if config.sha256 is not None and extractor.spec.sha256 != config.sha256.lower():
        raise InputError(f"encoder: expected sha256 {config.sha256.lower()}, got {extractor.spec.sha256}")
    return extractor


def _i3d(config: ExtractorConfig, unit: Unit | None) -> Extractor:
    output: Literal["logits", "features"] = "features" if config.output == "features" else "logits"
    return I3dExtractor.load(_path(config), sha256=config.sha256, output=output)


def _i3d_torchscript(config: ExtractorConfig, unit: Unit | None) -> Extractor:
    own_resize = True if config.own_resize is None else config.own_resize
    return I3dTorchScript.load(_path(config), sha256=config.sha256, own_resize=own_resize)


def _c3d(config: ExtractorConfig, unit: Unit | None) -> Extractor:
    output: Literal["fc6", "fc7"] = "fc7" if config.output == "fc7" else "fc6"
    if config.mean is None:
        return C3dExtractor.load(_path(config), sha256=config.sha256, output=output)
    return C3dExtractor.load(_path(config), sha256=config.sha256, output=output, mean=config.mean)


def _inception(config: ExtractorConfig, unit: Unit | None) -> Extractor:
    return InceptionExtractor.load(_path(config), sha256=config.sha256)


def _inception_torchvision(config: ExtractorConfig, unit: Unit | None) -> Extractor:
    return InceptionExtractor.load(_path(config), sha256=config.sha256, layout="torchvision")


def _path(config: ExtractorConfig) -> Path:
    if config.path is None:
        raise InputError(
            f"{config.name} reads public weights from your own file: give its path, fetch it with "
            f"kinolab.metrics.extractors.manifest.fetch({config.name!r}, FOLDER), or use the encoder that ships"
        )
    return config.path


EXTRACTORS: dict[ExtractorName, Callable[[ExtractorConfig, Unit | None], Extractor]] = {
    "encoder": _encoder,
    "i3d": _i3d,
    "i3d_torchscript": _i3d_torchscript,
    "c3d": _c3d,
    "inception": _inception,
    "inception_torchvision": _inception_torchvision,
}
"""Name -> reader."""

__all__ = [
    "EXTRACTORS",
    "OUTPUTS",
    "Extractor",
    "ExtractorConfig",
    "ExtractorName",
    "ExtractorSpec",
    "file_hash",
    "load_extractor",
    "resize_frames",
]
