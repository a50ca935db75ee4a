"""The interleaved-frame smoother (Zhang et al. 2023, ControlVideo, arXiv:2305.13077, section 3.3).

In a few steps every other frame of the clean estimate becomes the interpolation of its two neighbours, in pixels, and
is encoded again: in even steps the odd frames, in odd steps the even ones, so that two steps in a row take the flicker
out of a whole clip. The step's noise stays what the denoiser said,

    z_s = alpha_s x' + sigma_s e,    e = (z_t - alpha_t x) / sigma_t,

with x the estimate and x' the smoothed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Codec, Denoise, Denoised, Method, Run
from kinolab.errors import InputError
from kinolab.layers.normalization import fold_frames, unfold_frames
from kinolab.metrics.flow import flow, need_flow, warp
from kinolab.video import to_uint8

Between = Callable[[Tensor, Tensor], Tensor]
"""between(before, after): frames (N, 3, H, W) in [-1, 1], twice -> the frames in the middle of them."""


class SmootherConfig(BaseConfig):
    """When a clip is smoothed, and by what."""

    steps: tuple[int, ...] | None = None
    """The steps, counted from 0; none = the two from three fifths of the run on: 30 and 31 of 50, as published."""
    between: Literal["mean", "flow"] = "mean"
    """What stands for a frame: the mean of its neighbours, or their mean after both were moved halfway along the
    optical flow between them (OpenCV)."""
    encode: Literal["all", "change"] = "all"
    """What is encoded: the whole smoothed clip, as published, or only what smoothing changed: the difference that it
    makes to the encoded clip is added to the estimate, which costs one encoding more and keeps what the autoencoder
    loses."""


class Smoother(Method):
    """Smooths the estimate of the clean clip in some steps."""

    Config: ClassVar[type[BaseConfig]] = SmootherConfig
    whole_clips = True
    config: SmootherConfig

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
        if self.config.between == "flow":
            need_flow()

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The same estimate, smoothed in the steps that are listed."""
        codec, steps = run.codec, smoothed_steps(self.config.steps, run.steps)
        if codec is None or not steps or run.backwards:
            return inner

        def denoise(z: Tensor, t: float) -> Denoised:
            found, step = inner(z, t), int((run.times > t).sum())
            if step not in steps:
                return found
            alpha, sigma = run.path.scalars(t)
            noise = (z - alpha * found.sample) / sigma if found.noise is None else found.noise
            return replace(found, sample=self._smoothed(found.sample, step, codec), noise=noise)

        return denoise

    @torch.no_grad()
    def _smoothed(self, x: Tensor, step: int, codec: Codec) -> Tensor:
        """Clean latents (B, C, T, H, W) of the smoothed clip."""
        shown = codec.decode(x).clamp(-1, 1)
        made = smooth(shown, BETWEEN[self.config.between], odd=step % 2 == 0)
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


def mean(before: Tensor, after: Tensor) -> Tensor:
    """The mean of two frames."""
    return (before + after) / 2


def along_flow(before: Tensor, after: Tensor) -> Tensor:
    """The mean of two frames that were moved halfway along the flow between them (DIS, Kroeger et al. 2016).

    With F01 from the first to the second and F10 back, the flow from the middle to either end is -F01 / 4 + F10 / 4
    and F01 / 4 - F10 / 4 (Jiang et al. 2018, Super SloMo, eq. 4 at t = 1/2).
    """
    return torch.stack([_between(a, b) for a, b in zip(before, after, strict=True)])


def _between(a: Tensor, b: Tensor) -> Tensor:
    """The frame between two (3, H, W)."""
    if torch.equal(a, b):  # the flow between equal frames is 0 but for rounding
        return a
    pair = to_uint8(torch.stack([a, b], 1))  # (2, H, W, 3)
    there, back = flow(pair), flow(pair, backward=True)  # (1, H, W, 2) each
    # What is at p in the second frame was at p + back(p) in the first: this is F10.
    to_first = torch.from_numpy((back - there) / 4).to(a.device)
    return mean(warp(a[None], to_first), warp(b[None], -to_first))[0]


BETWEEN: dict[str, Between] = {"mean": mean, "flow": along_flow}
"""What makes the frame between two, by name."""
