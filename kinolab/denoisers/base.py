"""What every denoiser takes and gives: noisy latents (B, C, T, H, W), times (B,), conditions -> prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.layers.masking import Given


@dataclass(frozen=True)
class Conditions:
    """All that a denoiser may be told beside the noisy latents; a field left None is not given.

    label: (B,) int64 class labels; the value `num_classes` is the null class.
    text: (B, L, D) token states of the prompt; text_mask: (B, L) bool, True = a real token.
    pooled: (B, D) pooled prompt embedding.
    null: (B,) bool; where True, label and text are replaced by the denoiser's learned null condition.
    fps: (B,) frames per second of the clips; 0 = a still image. `null` leaves it as it is.
    given: (B, C, T, H, W) latents of the given part of the video, 0 where nothing is given; mask: (B, R, T, H, W), the
    share to be generated (`kinolab.layers.masking`). Both or neither; `null` leaves them as they are.
    image_frames: how many of the last frames are single images beside the video, the same in every clip.
    """

    label: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None
    pooled: Tensor | None = None
    null: Tensor | None = None
    given: Tensor | None = None
    mask: Tensor | None = None
    fps: Tensor | None = None
    image_frames: int = 0

    @property
    def rows(self) -> int | None:
        """B; none where nothing is told."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return next((len(v) for v in values if isinstance(v, Tensor)), None)

    def tensor(self, name: str) -> Tensor | None:
        """The condition of a name; None where it is not given."""
        value = getattr(self, name, None)
        return value if isinstance(value, Tensor) else None

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        """Apply a tensor function to every tensor that is given."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Conditions(**{k: function(v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        return self.map(lambda v: v.to(device))

    def with_null(self, null: Tensor) -> Conditions:
        """The same conditions with the rows where `null` (B,) is True replaced by the null condition."""
        return dataclasses.replace(self, null=null if self.null is None else self.null | null)

    def all_null(
        self, batch: int, device: torch.device | str = "cpu", names: Sequence[str] | None = None
    ) -> Conditions:
        """The unconditional counterpart, used by classifier-free guidance: what is asked null, or what is named.

        Raises:
            InputError: for names that have no null of their own: label, text and pooled are null together.
        """
        prompt = {name for name in ("label", "text", "pooled") if self.tensor(name) is not None}
        named = prompt if names is None else {*names} - {"label", "text", "pooled"} | prompt & {*names}
        if named - prompt - {"given"} or named & prompt not in (prompt, set()):
            raise InputError(f"{', '.join(sorted(named))}: expected prompt (label and text together) or given")
        result = self
        if "given" in named and self.given is not None and self.mask is not None:
            nothing = torch.zeros_like(self.given), torch.ones_like(self.mask)
            result = dataclasses.replace(self, given=nothing[0], mask=nothing[1])
        if names is not None and not named & prompt:
            return result
        return result.with_null(torch.ones(batch, dtype=torch.bool, device=device))

    @staticmethod
    def cat(first: Conditions, second: Conditions) -> Conditions:
        """Stack two batches of conditions; a field given in one must be given in the other."""
        if first.image_frames != second.image_frames:
            raise ValueError(f"image_frames: {first.image_frames} in one batch and {second.image_frames} in the other")
        merged: dict[str, Any] = {"image_frames": first.image_frames}
        for f in dataclasses.fields(Conditions):
            if f.name in merged:
                continue
            a, b = getattr(first, f.name), getattr(second, f.name)
            if f.name == "null" and (a is None) != (b is None):
                a = a if a is not None else b.new_zeros(first.rows or len(b))
                b = b if b is not None else a.new_zeros(second.rows or len(a))
            if (a is None) != (b is None):
                raise ValueError(f"conditions.{f.name} is given in one batch and not in the other")
            merged[f.name] = None if a is None else torch.cat([a, b])
        return Conditions(**merged)


@dataclass(frozen=True)
class DenoiserSpec:
    """What a denoiser takes: latent channels, whether it also predicts a variance, and the conditions it accepts.

    `given` says how it takes the given part of a video, `mask_channels` the channels R of that part's mask; `fps`
    whether it takes the frame rate, `joint_images` whether its last frames may be single images.
    """

    channels: int
    learned_variance: bool
    num_classes: int = 0
    text_dim: int = 0
    pooled_dim: int = 0
    given: Given = "none"
    mask_channels: int = 1
    fps: bool = False
    joint_images: bool = False

    @property
    def unlabelled(self) -> int:
        """The label of a sample that has none: the only class of a model that takes nothing else (the released VDT
        is told of that class always), and the null class otherwise."""
        only = self.num_classes == 1 and not (self.text_dim or self.pooled_dim)
        return 0 if only else self.num_classes


def run_blocks(
    x: Tensor, options: ForwardOptions | None, blocks: Callable[[Tensor], Tensor], modulated: Callable[[Tensor], Tensor]
) -> Tensor:
    """blocks(x), or what the run's cache makes of it (`kinolab.contracts.options.BlockCache.run`)."""
    if options is None or options.cache is None:
        return blocks(x)
    return options.cache.run(x, blocks, modulated)


class BaseDenoiserConfig(KindConfig):
    """The config of a denoiser; its field `input_size` is the side of the latents in training, or height and width."""

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents in training."""
        size: int | tuple[int, int] = self.input_size  # type: ignore[attr-defined]
        return size if isinstance(size, tuple) else (size, size)


class Denoiser(nn.Module):
    """Base of the denoisers. The output has C channels, or 2C where the variance is learned."""

    Config: ClassVar[type[BaseDenoiserConfig]]
    block_lists: ClassVar[tuple[str, ...]] = ("blocks",)
    """The names of the lists of blocks that FSDP2 shards one by one."""
    spec: DenoiserSpec
    config: Any
    """The denoiser's own config class."""
    reach: Reach | None = None
    """Which frames a frame's self-attention reads as trained; none = it can't be told to read others."""

    def token_frames(self, frames: int) -> int:
        """How many frames of tokens so many latent frames make."""
        return frames

    def reach_lists(self, frames: int, options: ForwardOptions | None) -> Lists | None:
        """Which of so many frames of tokens each one reads; none = as trained.

        Raises:
            InputError: where another reach is asked for and the denoiser has none to change, or of other frames.
        """
        if options is None or options.reach is None:
            return None
        if self.reach is None:
            raise InputError("this denoiser's frames read what they were trained to read: leave reach out")
        lists = options.reach.lists(frames)
        return None if lists == self.reach.lists(frames) else lists

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,) in the diffusion's own time units, conditions -> (B, C or 2C, T, H, W).

        `options` is what the run asks for; none = as trained.
        """
        raise NotImplementedError

    @property
    def partly_used(self) -> bool:
        """Whether clips of some lengths leave parameters out of the forward pass, so that they get no gradient."""
        return False

    def models_time(self, name: str) -> bool:
        """Whether the parameter `name` is there for time alone: an image model of the same kind has none such."""
        return False

    def check_inputs(self, z: Tensor, t: Tensor, conditions: Conditions) -> None:
        """Raises InputError where shapes are wrong or a condition is given that this denoiser can't take."""
        if conditions.image_frames and not self.spec.joint_images:
            raise InputError("this denoiser was built without joint images: leave image_frames 0")
        if z.ndim != 5 or z.shape[1] != self.spec.channels:
            raise InputError(f"expected latents (B, {self.spec.channels}, T, H, W), got {tuple(z.shape)}")
        if t.shape != z.shape[:1]:
            raise InputError(f"expected one time per sample, shape ({z.shape[0]},), got {tuple(t.shape)}")
        accepts = {"label": self.spec.num_classes, "text": self.spec.text_dim, "pooled": self.spec.pooled_dim}
        for name, width in {**accepts, "fps": self.spec.fps}.items():
            if getattr(conditions, name) is not None and not width:
                raise InputError(f"this denoiser was built without {name} conditions, but {name} was given")
        if conditions.fps is not None and conditions.fps.shape != z.shape[:1]:
            raise InputError(
                f"expected one frame rate per sample, shape ({z.shape[0]},), got {tuple(conditions.fps.shape)}"
            )
        self._check_given(z, conditions)

    def _check_given(self, z: Tensor, conditions: Conditions) -> None:
        given, mask = conditions.given, conditions.mask
        if given is None and mask is None:
            return
        if self.spec.given == "none":
            raise InputError("this denoiser was built without given latents, but some were given")
        if given is None or mask is None:
            raise InputError("given latents and their mask go together, but one of them is missing")
        expected = (z.shape[0], self.spec.mask_channels, *z.shape[2:])
        if given.shape != z.shape or mask.shape != expected:
            raise InputError(
                f"expected given latents {tuple(z.shape)} and a mask {expected}, "
                f"got {tuple(given.shape)} and {tuple(mask.shape)}"
            )
