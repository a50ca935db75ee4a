"""The first frame as a field: an image autoencoder's latents of it at every frame, beside those that are denoised.

Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127, section 4.2) puts a little noise into the picture, of a
level that the model is told (`noise_augmentation`), and takes the mode of its latents as the encoder gives them, not
multiplied by the latents' scale. Its null is zeros.

An image model that edits by instructions (Brooks et al. 2023, InstructPix2Pix, arXiv:2211.09800) reads a picture in the
same way. For a clip each frame has a picture of its own then: `{"clip": FILE}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, FieldCondition, Setting, uniform
from kinolab.conditioning.clips import example_clips, request_clip, request_picture
from kinolab.conditioning.noise_augmentation import strengths
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError

FIRST_FRAME = "image"
"""The name of the condition; a model with this port begins its videos with an image."""


def first_frames(video: Tensor, mask: Tensor) -> list[Tensor]:
    """The pictures (3, H, W) that clips (B, 3, T, H, W) begin with, where their mask gives these and nothing else.

    Raises:
        InputError: where it gives something else; mask (B, 1, T, H, W), 0 = given.
    """
    if bool(mask[:, :, 0].any()) or not bool(mask[:, :, 1:].all()):
        raise InputError(
            "this model makes a video of its first frame: give that one whole and nothing else (kinolab animate), or "
            "use --method reconstruction"
        )
    return list(video[:, :, 0])


@dataclass(frozen=True)
class Still:
    """A picture (3, H, W) in [-1, 1], and the latent frames of the clip that begins with it; or a clip (3, T, H, W),
    each frame with its own."""

    pixels: Tensor
    frames: int


class ImageConfig(ConditionConfig):
    """How the latents of the first frame are told."""

    dropout: float = Field(0.1, ge=0, lt=1 / 3)
    """Rate p of leaving it out in training: alone in a share p of the samples, its tokens (`image_tokens`) alone in
    another, both in a third one."""
    scaled: bool = False
    """Multiply the latents by the autoencoder's scale, as those are that are denoised; the public models were trained
    without."""


class Image(FieldCondition[Still]):
    """The first frame. In a request: a picture's file, or pixels (3, H, W) in [-1, 1]; or {"clip": a clip's file, or
    pixels (3, T, H, W)} for a picture of each frame."""

    name = FIRST_FRAME
    Config = ImageConfig

    @property
    def called(self) -> str:
        """What an error calls it."""
        return "an image"

    def asked(self, request: Request, setting: Setting) -> Still | None:
        """The request's picture, or clip, at the size that is generated."""
        given = request.conditions.get(self.name)
        if isinstance(given, Mapping) and set(given) == {"clip"}:
            clip = request_clip(
                self.name, replace(request, conditions={**request.conditions, self.name: given["clip"]}), setting
            )
            return None if clip is None else Still(clip, clip.shape[1])
        pixels = request_picture(self.name, request, setting)
        if pixels is None:
            return None
        size = request.size or setting.size
        return Still(pixels, setting.autoencoder.spec.latent_shape(request.frames or setting.frames, *size)[1])

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Still]:
        """The first frames of the examples' own clips."""
        clips, spec = example_clips(self.name, examples, setting), setting.autoencoder.spec
        return [Still(clip[:, 0], spec.latent_shape(*clip.shape[1:])[1]) for clip in clips]

    def tell(self, told: Sequence[Still | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Latents (B, C, T, H, W) of pictures with the noise that was told, alike at every frame."""
        rows = zip(told, strengths(before, len(told)), draws(f"{self.name} noise"), strict=True)
        latents = [None if still is None else self._latents(still, s, source, setting) for still, s, source in rows]
        return self.stacked(latents, setting)

    def _latents(self, still: Still, strength: float, source: torch.Generator, setting: Setting) -> Tensor:
        """Latents (C, T, H, W) of one picture, encoded as a clip of one frame, or of a clip."""
        whole = still.pixels.ndim == 4
        pixels = still.pixels + strength * torch.randn(still.pixels.shape, generator=source).to(still.pixels)
        autoencoder = setting.autoencoder
        with torch.no_grad():
            mode = autoencoder.encode((pixels if whole else pixels[:, None])[None].to(setting.device)).mode().float()[0]
        if not self.config.scaled:
            scale, shift = (values.view(-1, 1, 1, 1) for values in (autoencoder.latent_scale, autoencoder.latent_shift))
            mode = mode / scale + shift
        return mode if whole else mode[:, :1].expand(-1, still.frames, -1, -1)

    def dropped(self, draws: Draws) -> Tensor:
        """Rows (B,): of the draw that it shares with its tokens, p to 3p; theirs are 0 to 2p (Brooks et al. 2023)."""
        u, p = uniform(draws("dropout image")), self.config.dropout
        return (u >= p) & (u < 3 * p)
