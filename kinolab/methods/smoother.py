"""The interleaved-frame smoother (Zhang et al. 2023, ControlVideo, arXiv:2305.13077, section 3.3).

In a few steps every other frame of the clean estimate becomes the interpolation of its two neighbours, in pixels, and
is encoded again: in even steps the odd frames, in odd steps the even ones, so that two steps in a row take the flicker
out of a whole clip. The step's noise stays what the denoiser said,

    z_s = alpha_s x' + sigma_s e,    e = (z_t - alpha_t x) / sigma_t,

with x the estimate and x' the smoothed one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Codec, Denoise, Denoised, Method, Run
from kinolab.errors import InputError
from kinolab.layers.normalization import fold_frames, unfold_frames
from kinolab.methods.between import Between, BetweenName, interpolator


class SmootherConfig(BaseConfig):
    """When a clip is smoothed, and by what."""

    steps: tuple[int, ...] | None = None
    """The steps, counted from 0; none = the two from three fifths of the run on: 30 and 31 of 50, as published."""
    between: BetweenName = "mean"
    """What stands for a frame: the mean of its neighbours, their mean after both moved halfway along the optical flow
    between them (OpenCV), or rife: what RIFE's network makes of them, as published."""
    rife: Path | None = None
    """The weights of rife: the released flownet.pkl."""
    encode: Literal["all", "change"] = "all"
    """What is encoded: the whole smoothed clip, as published, or only what smoothing changed: the difference that it
    makes to the encoded clip is added to the estimate, which costs one encoding more and keeps what the autoencoder
    loses."""


class Smoother(Method):
    """Smooths the estimate of the clean clip in some steps."""

    Config: ClassVar[type[BaseConfig]] = SmootherConfig
    whole_clips = True
    config: SmootherConfig

    @property
    def files(self) -> tuple[Path, ...]:
        """The weights of the network that makes frames."""
        return () if self.config.rife is None else (self.config.rife,)

    def __init__(self, config: SmootherConfig | None = None) -> None:
        super().__init__(config)
        self.keeps_noise = self.config.steps != ()
        self.decides = ("smoothing",) if self.keeps_noise else ()

    def check(self, run: Run) -> None:
        """Raises InputError for a run without frames of its own, steps that it has not, and beside a given part."""
        if not self.keeps_noise:
            return
        if run.codec is None or run.codec.temporal_ratio != 1:
            ratio = "none" if run.codec is None else f"one that makes one latent of {run.codec.temporal_ratio} frames"
            raise InputError(
                f"smoother: expected an autoencoder that makes a latent of each frame, got {ratio}: leave it out"
            )
        late = next((step for step in self.config.steps or () if not 0 <= step < run.steps), None)
        if late is not None:
            raise InputError(f"smoother.steps: expected steps from 0 to {run.steps - 1}, got {late}")
        if any(method.option == "steering" for method in run.methods):
            raise InputError("smoother: frames of a given part are not to be changed: leave one of the two out")

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The same estimate, smoothed in the steps that are listed."""
        codec, steps = run.codec, smoothed_steps(self.config.steps, run.steps)
        if codec is None or not steps or run.backwards:
            return inner

        between = interpolator(self.config.between, self.config.rife)

        def denoise(z: Tensor, t: float) -> Denoised:
            found, step = inner(z, t), int((run.times > t).sum())
            if step not in steps:
                return found
            alpha, sigma = run.path.scalars(t)
            noise = (z - alpha * found.sample) / sigma if found.noise is None else found.noise
            return replace(found, sample=self._smoothed(found.sample, step, codec, between), noise=noise)

        return denoise

    @torch.no_grad()
    def _smoothed(self, x: Tensor, step: int, codec: Codec, between: Between) -> Tensor:
        """Clean latents (B, C, T, H, W) of the smoothed clip."""
        shown = codec.decode(x).clamp(-1, 1)
        made = smooth(shown, between, odd=step % 2 == 0)
        if self.config.encode == "all":
            return codec.encode(made).to(x)
        return x + (codec.encode(made) - codec.encode(shown)).to(x)


def smoothed_steps(asked: tuple[int, ...] | None, steps: int) -> frozenset[int]:
    """The steps of a run of so many in which a clip is smoothed."""
    if asked is not None:
        return frozenset(asked)
    first = 3 * steps // 5
    return frozenset(step for step in (first, first + 1) if step < steps)


def smooth(clip: Tensor, between: Between, *, odd: bool) -> Tensor:
    """A clip (B, 3, T, H, W) with its odd or its even frames, counted from 0, made of their neighbours.

    The first frame and the last one have one neighbour, and become what is between it and themselves; but of the odd
    frames an odd last one stays as it is, as published.
    """
    triples = neighbours(clip.shape[2], odd=odd)
    if not triples:
        return clip
    targets, before, after = (list(frames) for frames in zip(*triples, strict=True))
    made = between(fold_frames(clip[:, :, before]), fold_frames(clip[:, :, after]))  # (B * N, 3, H, W)
    smoothed = clip.clone()
    smoothed[:, :, targets] = unfold_frames(made, len(clip))
    return smoothed


def neighbours(frames: int, *, odd: bool) -> list[tuple[int, int, int]]:
    """(frame, the one before, the one after) for the odd or the even ones of so many frames."""
    if odd:
        return [(k, k - 1, k + 1) for k in range(1, frames - 1, 2)]
    return [(k, max(k - 1, 0), min(k + 1, frames - 1)) for k in range(0, frames, 2)]
