"""Crops of training clips, which remember the clip that they are of.

A spatial super-resolution model is trained on crops and sampled on whole frames (Ho et al. 2022, Imagen Video, section
2.2). What it is told beside a crop is made of the whole clip and cut at the same place: at the border of a crop made
smaller by itself, other pixels would be mixed than in the middle of a whole frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kinolab.contracts.examples import Example
from kinolab.errors import InputError

FACT = "crop"
"""The name under which an example knows what it is a crop of."""


@dataclass(frozen=True)
class Crop:
    """Where a clip was cut from: the clip (3, T, H, W), the first row and column, and the height and width."""

    whole: Tensor
    corner: tuple[int, int]
    size: tuple[int, int]

    def cut(self, clip: Tensor) -> Tensor:
        """The same place of another clip (C, T, H, W)."""
        (y, x), (height, width) = self.corner, self.size
        return clip[:, :, y : y + height, x : x + width]


def crop_of(example: Example) -> Crop | None:
    """What an example is a crop of; none = of nothing."""
    crop = example.facts.get(FACT)
    return crop if isinstance(crop, Crop) else None


def cropped(example: Example, size: tuple[int, int], step: int, source: torch.Generator) -> Example:
    """A crop of an example's pixels at a random place, of rows and columns in multiples of `step`.

    So low-resolution pixels of `step` on a side lie in a crop as they lie in whole frames.
    """
    height, width = example.video.shape[2:]
    places = [(side - own) // step + 1 for side, own in zip((height, width), size, strict=True)]
    y, x = (step * int(torch.randint(count, (), generator=source)) for count in places)
    crop = Crop(example.video, (y, x), size)
    return replace(example, clip=crop.cut(example.video), facts={**example.facts, FACT: crop})


def first_frame(example: Example) -> Example:
    """An example's first frame (C, 1, H, W) alone, and what that is a crop of."""
    crop, clip = crop_of(example), example.clip[:, :1]
    if crop is None:
        return replace(example, clip=clip)
    return replace(example, clip=clip, facts={**example.facts, FACT: replace(crop, whole=crop.whole[:, :1])})


def crop_step(ratio: int, factor: int) -> int:
    """What the places of crops are multiples of: latents of so many pixels, and low-resolution pixels of so many."""
    return math.lcm(ratio, factor)


def check_crop(size: tuple[int, int], whole: tuple[int, int], step: int) -> None:
    """Raises InputError for a crop that is larger than a clip or doesn't consist of whole low-resolution pixels."""
    if size[0] > whole[0] or size[1] > whole[1]:
        raise InputError(f"crop: {size[0]} x {size[1]} is larger than the clips, which are {whole[0]} x {whole[1]}")
    if size[0] % step or size[1] % step:
        raise InputError(f"crop: expected a height and width in multiples of {step}, got {size[0]} x {size[1]}")
