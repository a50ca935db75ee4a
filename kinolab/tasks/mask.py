"""The one mask of every task: made in pixels and frames, carried over to latents by the autoencoder's own rule.

A mask of a video is (B, 1, T, H, W) with 1 where pixels are to be generated and 0 where they are given. What is given
reaches a model as latents of the *filled* video, in which pixels that are not given are taken from a frame that gives
them, and as the mask folded to the latents' grid. Latents that hold nothing given are zero. With a causal autoencoder
the latents of given first frames so are exactly those of the whole video; a lone frame in the middle of a latent is
told by the filled video and by its own channel of the folded mask.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.layers.masking import partly_given


class LatentRules(Protocol):
    """What folding needs of an autoencoder's `spec`."""

    @property
    def temporal_ratio(self) -> int:
        """Frames per latent frame, after the first."""
        ...

    @property
    def first_frame(self) -> bool:
        """Whether the first frame has a latent of its own."""
        ...

    @property
    def group_frames(self) -> int | None:
        """After how many frames the rule begins again; none = never."""
        ...

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent along each side."""
        ...

    def check(self, frames: int, height: int, width: int) -> None:
        """Raises InputError where the shape breaks a rule."""
        ...


class Encoder(Protocol):
    """What `encode_given` needs of an autoencoder."""

    @property
    def spec(self) -> LatentRules: ...

    def encode(self, video: Tensor) -> Any:
        """(B, 3, T, H, W) in [-1, 1] -> posterior with `.mean`."""
        ...


def check_mask(video: Tensor, mask: Tensor) -> None:
    """Raises InputError unless mask (B, 1, T, H, W) fits video (B, 3, T, H, W), holds 0 and 1 only, and every clip has
    something given and something to generate."""
    if video.ndim != 5 or mask.shape != (video.shape[0], 1, *video.shape[2:]):
        raise InputError(f"expected a mask (B, 1, T, H, W) for the video {tuple(video.shape)}, got {tuple(mask.shape)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("expected a mask of 0 (given) and 1 (generate), got other values")
    share = mask.flatten(1).float().mean(1)
    if bool((share == 0).any()):
        raise InputError("the mask is empty: everything is given and nothing is left to generate")
    if bool((share == 1).any()):
        raise InputError("the mask is full: nothing is given; use kinolab generate, or give at least one pixel")


def fold(mask: Tensor, spec: LatentRules) -> Tensor:
    """A video's mask (B, 1, T, H, W) on the latents' grid: (B, R, T', H', W'), with R the temporal ratio.

    Channel r of a latent frame is the r-th frame it stands for; the first latent of a causal autoencoder stands for one
    frame, which fills all its channels. Values are the share of the latent's pixels to be generated.

    Raises:
        InputError: where the mask's shape breaks the rule, or the first frame has no latent of its own.
    """
    r, s = spec.temporal_ratio, spec.spatial_ratio
    if r > 1 and not spec.first_frame:
        raise InputError(
            f"tasks need an autoencoder whose first frame has a latent of its own; in this one every latent holds {r} "
            "frames; use it for generation, or another autoencoder"
        )
    spec.check(*mask.shape[2:])
    B, _, T, H, W = mask.shape
    share = mask.float().reshape(B, T, H // s, s, W // s, s).mean((3, 5))
    groups = [torch.cat([g[:, :1].expand(-1, r - 1, -1, -1), g], 1) for g in share.split(spec.group_frames or T, dim=1)]
    return torch.cat(groups, 1).unflatten(1, (-1, r)).transpose(1, 2)


def fill(video: Tensor, mask: Tensor, temporal_ratio: int = 1, group_frames: int | None = None) -> Tensor:
    """Video (B, 3, T, H, W) whose pixels to be generated are replaced; nothing of what they were remains.

    A pixel takes the value it has in the nearest frame that gives it within its own latent, so that a latent with one
    given frame stands for a still picture of it; else in the next frame that gives it, so that nothing jumps inside a
    latent; else in the last one; and mid-grey (0) where no frame gives it.
    """
    T = mask.shape[2]
    given = (mask == 0).expand(-1, 1, -1, -1, -1)
    time = torch.arange(T, device=mask.device)
    group = group_frames or T
    latent = time // group * group + (time % group + temporal_ratio - 1) // temporal_ratio
    shape = (1, 1, T, 1, 1)
    last = torch.where(given, time.view(shape), -1).cummax(2).values
    following = torch.where(given, time.view(shape), T).flip(2).cummin(2).values.flip(2)
    source = torch.where(following < T, following, last)
    for distance in range(temporal_ratio - 1, -1, -1):  # the nearest is written last
        for other in (time - distance, time + distance):
            inside = (other >= 0) & (other < T)
            near = other.clamp(0, T - 1)
            inside &= latent[near] == latent
            source = torch.where(inside.view(shape) & given[:, :, near], near.view(shape), source)
    held = video.gather(2, source.clamp(0, T - 1).expand(-1, video.shape[1], -1, -1, -1))
    return torch.where(source >= 0, held, torch.zeros_like(held))


def encode_given(autoencoder: Encoder, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What a denoiser is told of a video and its mask: latents (B, C, T', H', W') and folded mask (B, R, T', H', W').

    Training and sampling both come through here. Pixels under the mask have no influence, whatever they hold.
    """
    folded = fold(mask, autoencoder.spec).to(video.device)
    filled = fill(video, mask, autoencoder.spec.temporal_ratio, autoencoder.spec.group_frames)
    latents = autoencoder.encode(filled).mean.float()
    return torch.where(partly_given(folded), latents, torch.zeros_like(latents)), folded


def keep_exact(generated: Tensor, video: Tensor, mask: Tensor) -> Tensor:
    """The generated video (B, 3, T, H, W) with the given pixels put back as they were given."""
    return torch.where(mask == 0, video.to(generated.dtype), generated)
