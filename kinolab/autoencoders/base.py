"""What every autoencoder offers: video (B, 3, T, H, W) in [-1, 1] <-> normalised latents (B, C, T', H', W')."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.layers.causal_conv import Stream, alike
from kinolab.layers.frame_rule import frames_above, frames_below, frames_of, latents_of
from kinolab.layers.latent_scaling import LOGVAR_RANGE


@dataclass(frozen=True)
class AutoencoderSpec:
    """The shape rules of an autoencoder.

    One of temporal ratio r maps 1 + r*k frames to 1 + k latent frames: the first frame has a latent of its own. With
    `first_frame=False` it has not, and r*k frames give k latents. An image autoencoder has temporal ratio 1 and maps
    every frame by itself. `latent_group`: the latents (after the one of the first frame) come in groups of so many.
    `group_frames`: after every so many frames (1 + r*n) the rule begins again, as each group has a first frame's latent
    of its own: m whole groups are m * (1 + n) latents.
    """

    latent_channels: int
    temporal_ratio: int
    spatial_ratio: int
    causal: bool
    channels: int = 3
    first_frame: bool = True
    latent_group: int = 1
    group_frames: int | None = None

    @property
    def frame_step(self) -> int:
        """By how many frames valid clips differ in length (within a group, where there are groups)."""
        return self.temporal_ratio * self.latent_group

    @property
    def least_frames(self) -> int:
        """The length of the shortest valid clip."""
        return 1 if self.first_frame else self.frame_step

    @property
    def frame_rule(self) -> str:
        """The valid frame counts in words: 1 + 4*k, or 4*k, or (with groups) 17*m or 17*m + 1 + 4*k."""
        rule = f"{'1 + ' * self.first_frame}{self.frame_step}*k"
        return rule if self.group_frames is None else f"{self.group_frames}*m or {self.group_frames}*m + {rule}"

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C', T', H', W') of the latents of a clip; raises InputError where the clip breaks a rule."""
        self.check(frames, height, width)
        t = latents_of(frames, self.temporal_ratio, first=self.first_frame, group=self.group_frames)
        return self.latent_channels, t, height // self.spatial_ratio, width // self.spatial_ratio

    def pixel_frames(self, latent_frames: int) -> int:
        """How many frames `latent_frames` latents decode to."""
        return frames_of(latent_frames, self.temporal_ratio, first=self.first_frame, group=self.group_frames)

    def snap_frames(self, frames: int) -> int:
        """The largest valid frame count that is not above `frames` (at least the least there is)."""
        return frames_below(frames, self.frame_step, first=self.first_frame, group=self.group_frames)

    def check(self, frames: int, height: int, width: int) -> None:
        """Raises InputError unless `frames` follows `frame_rule` and the sides are multiples of spatial_ratio."""
        near = self.snap_frames(frames)
        if near != frames:
            above = frames_above(near + 1, self.frame_step, first=self.first_frame, group=self.group_frames)
            raise InputError(f"expected {self.frame_rule} frames, got {frames}; use {near} or {above}")
        if height % self.spatial_ratio or width % self.spatial_ratio or min(height, width) < self.spatial_ratio:
            raise InputError(
                f"expected a height and width that are multiples of {self.spatial_ratio}, got {height} x {width}"
            )


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over normalised latents: mean and logvar, each (B, C', T', H', W')."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def certain(cls, latents: Tensor) -> Posterior:
        """The posterior of an encoder that gives one answer: `latents`, with a deviation of exp(-15)."""
        return cls(latents, torch.full_like(latents, LOGVAR_RANGE[0]))

    def mode(self) -> Tensor:
        """The most likely latents, which is the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """mean + exp(logvar / 2) * noise; the generator lives on the CPU, so that every device draws the same."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """KL(posterior || N(0, 1)) in nats, summed over all but the batch: (B,)."""
        per_element = 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
        return per_element.flatten(1).sum(1)


@dataclass(frozen=True)
class Term:
    """A term of a training loss: its weight, and its unweighted value, a scalar."""

    weight: float
    value: Tensor


class Autoencoder(nn.Module):
    """Base of the autoencoders; `spec` states the shape rules, latents are already normalised."""

    Config: ClassVar[type[KindConfig]]

    spec: AutoencoderSpec
    config: Any
    """The autoencoder's own config class."""
    latent_shift: Tensor
    """(C',): normalised latents = (raw - latent_shift) * latent_scale."""
    latent_scale: Tensor
    untrainable: ClassVar[str] = ""
    """Why Kinolab can't train it; empty where it can."""

    @property
    def bits_per_latent(self) -> float | None:
        """Bits that one latent position (t, h, w) takes where latents are codes of a codebook; None: continuous."""
        return None

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, which the adaptive weight of VQGAN is measured at."""
        conv: Any = self.get_submodule("decoder.conv_out")
        weight: Tensor = getattr(conv, "conv", conv).weight
        return weight

    @property
    def keeps_scaling(self) -> bool:
        """Whether training leaves `latent_shift` and `latent_scale` alone, as others rely on the latents' units."""
        return False

    def compression(self, frames: int, height: int, width: int) -> Fraction:
        """Pixel values per latent value of a clip, exactly; raises InputError where the clip breaks a rule."""
        latents = prod(self.spec.latent_shape(frames, height, width))
        return Fraction(self.spec.channels * frames * height * width, latents)

    def regularisation(self, video: Tensor, posterior: Posterior) -> dict[str, Term]:
        """What training adds to its loss for a batch (B, 3, T, H, W) and its posterior, by name; nothing by default."""
        return {}

    def training_clip(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """The part of a clip (3, T, H, W) that a training step takes, its draws from `generator`; all by default."""
        return video

    def encoder_parts(self) -> nn.ModuleList:
        """The modules that only encoding uses."""
        children = dict(self.named_children())
        return nn.ModuleList(children[name] for name in ("encoder", "quant_conv") if name in children)

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> posterior over (B, C', T', H', W')."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T', H', W') -> (B, 3, T, H, W), about in [-1, 1], not clamped."""
        raise NotImplementedError

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """Posteriors of a clip that arrives as consecutive chunks (B, 3, t, H, W) of any lengths.

        Raises:
            InputError: for an autoencoder that takes clips whole.
        """
        raise InputError(f"{type(self).__name__} takes clips whole, and has no stream")

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video chunks of latents that arrive as consecutive chunks (B, C', t', H', W') of any lengths.

        Raises:
            InputError: for an autoencoder that takes clips whole.
        """
        raise InputError(f"{type(self).__name__} takes clips whole, and has no stream")

    def check_video(self, video: Tensor) -> None:
        """Raises InputError unless `video` is (B, 3, T, H, W) and fits `spec`."""
        if video.ndim != 5 or video.shape[1] != self.spec.channels:
            raise InputError(f"expected video (B, {self.spec.channels}, T, H, W), got {tuple(video.shape)}")
        self.spec.check(*video.shape[2:])

    def check_latents(self, latents: Tensor) -> None:
        """Raises InputError unless `latents` is (B, C', T', H', W') with the right number of channels."""
        if latents.ndim != 5 or latents.shape[1] != self.spec.latent_channels:
            raise InputError(f"expected latents (B, {self.spec.latent_channels}, T, H, W), got {tuple(latents.shape)}")


class CausalAutoencoder(Autoencoder):
    """One whose layers never look ahead: 1 + r*k frames <-> 1 + k latents, whole or, with the same result, in chunks.

    A subclass says what it makes of a chunk, given what its layers kept of the chunks before (`stream`; none = whole).
    """

    def _encode(self, video: Tensor, stream: Stream | None) -> Posterior:
        raise NotImplementedError

    def _decode(self, latents: Tensor, stream: Stream | None) -> Tensor:
        raise NotImplementedError

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, 1 + r*k, H, W) in [-1, 1] -> posterior over (B, C', 1 + k, H/s, W/s)."""
        self.check_video(video)
        return self._encode(video, None)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', 1 + k, H', W') -> (B, 3, 1 + r*k, H'*s, W'*s)."""
        self.check_latents(latents)
        return self._decode(latents, None)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """Posteriors of consecutive chunks (B, 3, t, H, W), t >= 1 of any lengths; equal to `encode` of them joined.

        A posterior comes as soon as its frames came, so that a short chunk may give none. Memory depends on the
        longest chunk only.

        Raises:
            InputError: for chunks of wrong shape; and at the end, if the frames in all are not 1 + r*k (what could be
                encoded has been given by then).
        """
        stream, frames = Stream(), 0
        for chunk in alike(chunks):
            self.check_video(chunk[:, :, :1])
            frames += chunk.shape[2]
            posterior = self._encode(chunk, stream)
            if posterior.mean.shape[2]:
                yield posterior
        if frames:
            self.spec.check(frames, self.spec.spatial_ratio, self.spec.spatial_ratio)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video of consecutive chunks of latents (B, C', t', H', W'); equal to `decode` of them joined.

        The first latent gives one frame, each other one r frames. Memory depends on the longest chunk only.

        Raises:
            InputError: for chunks of wrong shape.
        """
        stream = Stream()
        for chunk in alike(chunks):
            self.check_latents(chunk)
            yield self._decode(chunk, stream)
