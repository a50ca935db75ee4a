"""How a clip is put through an autoencoder, and what came of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from kinolab import __version__
from kinolab.config import Config
from kinolab.generation.key_frames import listed
from kinolab.generation.provenance import model_hash
from kinolab.layers.key_frames import KeyFrameConfig
from kinolab.metrics.base import MetricValue
from kinolab.runtime.precision import PrecisionPolicy
from kinolab.runtime.summed import summed

Mode = Literal["stream", "tiled", "whole", "groups"]


class ReconstructConfig(Config):
    """How a clip is put through an autoencoder."""

    autoencoder: str
    """A model folder, or the name of a shipped model."""
    size: int | tuple[int, int] | None = None
    """Shorter side, or height and width (the rest is cut off evenly); none = the clip's own."""
    frames: int | None = Field(None, ge=1)
    """At most so many frames; none = all."""
    fps: float | None = Field(None, gt=0)
    """Frame rate that the clip is re-timed to; none = its own."""
    mode: Literal["auto", "stream", "tiled", "whole"] = "auto"
    """stream: exact, in bounded memory; tiled: groups that overlap by one frame, in bounded memory, with seams;
    whole: all frames at once; auto: stream where the autoencoder can, else tiled (and the groups of its key frames
    where their rule is another than first)."""
    key_frames: KeyFrameConfig | None = None
    """How a dpvae is to cut the clip into groups and choose their key frames; none = as its own config says."""
    tile: int | None = Field(None, ge=2)
    """Frames of a group, by the autoencoder's rule (1 + r*k, or r*k); setting it means tiled."""
    deinterlace: bool = False
    """Make whole pictures of frames that are marked as interlaced."""
    amplify: float = Field(4.0, gt=0)
    """What the absolute difference is multiplied with in the picture of the error."""
    upscale: int = Field(1, ge=1, le=16)
    """Every pixel is shown this many pixels wide and high in the file."""
    precision: PrecisionPolicy = "auto"
    """What the autoencoder computes in."""


@dataclass(frozen=True)
class ReconstructReport:
    """What came out. Times in seconds without reading and writing files; `peak_memory` in bytes, of the process."""

    clip: str
    out: str
    mode: Mode
    frames: int
    size: tuple[int, int]
    fps: float
    psnr: MetricValue
    ssim: MetricValue | None
    latent_shape: tuple[int, int, int, int]
    encode_seconds: float
    decode_seconds: float
    peak_memory: int | None
    precision: str
    notes: tuple[str, ...]
    bits_per_latent: float | None = None
    """Bits of one latent position where latents are codes of a codebook; none = continuous."""
    groups: tuple[int, ...] = ()
    """First frames of the groups, where key frames were chosen by a rule."""
    key_frames: tuple[int, ...] = ()
    """Their key frames."""
    ended: bool = False
    """Whether it was ended before the clip's end, and `out` is a part."""

    @property
    def pixel_values(self) -> int:
        return 3 * self.frames * self.size[0] * self.size[1]

    @property
    def latent_values(self) -> int:
        return math.prod(self.latent_shape)

    @property
    def ratio(self) -> float:
        """Pixel values per latent value."""
        return self.pixel_values / self.latent_values

    @property
    def bits_per_pixel(self) -> float | None:
        """Bits of codes per pixel; none where latents are continuous."""
        if self.bits_per_latent is None:
            return None
        return self.bits_per_latent * math.prod(self.latent_shape[1:]) / (self.frames * math.prod(self.size))

    def lines(self) -> list[str]:
        """The report in words."""
        h, w = self.size
        shapes = f"3 x {self.frames} x {h} x {w} pixels : {' x '.join(map(str, self.latent_shape))} latents"
        speeds = [
            f"{name} {s:.2f} s ({self.frames / s:.1f} frames/s)"
            for name, s in (("encode", self.encode_seconds), ("decode", self.decode_seconds))
        ]
        memory = "" if self.peak_memory is None else f"{self.peak_memory / 1e6:.0f} MB, of the whole process"
        return [
            *(f"note: {note}" for note in self.notes),
            f"PSNR       {self.psnr.value:.2f} dB (mean over {self.psnr.count} frames)",
            f"SSIM       {'-' if self.ssim is None else f'{self.ssim.value:.4f}'}",
            f"ratio      {self.ratio:.1f} : 1 ({shapes})",
            *([] if not self.groups else [f"groups     {len(self.groups)}; key frames {listed(self.key_frames)}"]),
            *([] if self.bits_per_pixel is None else [f"codes      {self.bits_per_pixel:.4f} bits per pixel"]),
            f"time       {', '.join(speeds)}",
            f"memory     peak {memory or 'not known on this system'}",
            f"precision  {self.precision}; {self.mode}",
            f"{self.out}: original, reconstruction, error, side by side",
        ]

    def to_json(self, config: ReconstructConfig) -> str:
        """Everything, and the config that makes it again."""
        record: dict[str, Any] = {"kinolab": __version__, "torch": torch.__version__}
        record |= {"reconstruct": config.model_dump(mode="json"), "model_sha256": model_hash(config.autoencoder)}
        record |= dataclasses.asdict(self)
        record |= {"ratio": self.ratio, "pixel_values": self.pixel_values, "latent_values": self.latent_values}
        record |= {"bits_per_pixel": self.bits_per_pixel}
        return summed(record | {"threads": torch.get_num_threads()}, indent=1) + "\n"
