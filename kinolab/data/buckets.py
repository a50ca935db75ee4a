"""Buckets: the shapes (frames, height, width) that windows of one source may have, images among them (one frame).

A clip's length chooses the frames, the aspect of its picture the size. Batches hold windows of one bucket, so nothing
is padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from kinolab.config import Config
from kinolab.contracts.examples import ShapeRules


def _positive(value: int | tuple[int, int]) -> int | tuple[int, int]:
    if min(value if isinstance(value, tuple) else (value,)) < 1:
        raise ValueError("expected sides of at least one pixel")
    return value


Size = Annotated[int | tuple[int, int], AfterValidator(_positive)]
"""Side of a square, or (height, width), in pixels."""
BucketShape = tuple[int, int, int]
"""Frames, height and width in pixels."""
TOLERANCE = 1.01
"""A request this much beyond the trained aspects or areas still counts as inside."""


class BucketConfig(Config):
    """One shape that windows may have."""

    frames: int = Field(ge=1)
    """Frames of a window, 1 for still images; the autoencoder's rule may lower it."""
    size: Size
    """Side of a square, or [height, width], in pixels."""

    @property
    def shape(self) -> BucketShape:
        """Frames, height, width."""
        return self.frames, *(self.size if isinstance(self.size, tuple) else (self.size, self.size))


@dataclass(frozen=True)
class Buckets:
    """The shapes of a source's windows, without repetition."""

    shapes: tuple[BucketShape, ...]

    @property
    def lengths(self) -> list[int]:
        """The frame counts, longest first."""
        return sorted({frames for frames, _, _ in self.shapes}, reverse=True)

    @property
    def largest(self) -> BucketShape:
        """The longest shape, and the largest picture of that length."""
        return max(self.shapes, key=lambda shape: (shape[0], shape[1] * shape[2]))

    def longest(self, frames: int) -> int | None:
        """The longest length that a clip of that many frames fills; None = none.

        One frame is for pictures and first frames; clips fill it only where there is no other length.
        """
        moving = [n for n in self.lengths if n > 1] or self.lengths
        return next((n for n in moving if n <= frames), None)

    def size(self, frames: int, picture: tuple[int, int]) -> tuple[int, int]:
        """The size for windows of `frames` (any size where that length has none) of a picture (height, width).

        It is the one of the nearest aspect; of several, the largest one that does not enlarge the picture.
        """
        sizes = {(h, w) for n, h, w in self.shapes if n == frames} or {(h, w) for _, h, w in self.shapes}
        aspect = math.log(picture[0] / picture[1])
        off = {size: round(abs(math.log(size[0] / size[1]) - aspect), 3) for size in sizes}
        near = sorted((s for s in sizes if off[s] == min(off.values())), key=math.prod)
        fits = [s for s in near if s[0] <= picture[0] and s[1] <= picture[1]]
        return fits[-1] if fits else near[0]


def snapped(configs: Sequence[BucketConfig], spec: ShapeRules | None) -> tuple[Buckets, list[str]]:
    """The buckets that an autoencoder takes, and a note for each that was lowered to its rule.

    Raises:
        InputError: where a size breaks the rule.
    """
    shapes, notes = [], []
    for frames, height, width in (config.shape for config in configs):
        taken = frames if spec is None else spec.snap_frames(frames)
        if taken != frames:
            assert spec is not None
            notes.append(
                f"windows of {taken} frames instead of {frames}: the autoencoder takes {spec.frame_rule} frames"
            )
        if spec is not None:
            spec.check(taken, height, width)
        shapes.append((taken, height, width))
    return Buckets(tuple(dict.fromkeys(shapes))), notes


def bucket_name(shape: BucketShape) -> str:
    """`17x64x96`: frames, height, width."""
    return "x".join(map(str, shape))


def outside_buckets(buckets: Sequence[BucketShape], frames: int, size: tuple[int, int]) -> str | None:
    """What of a request lies outside the lengths, aspects and areas of the trained buckets; None = nothing does."""
    if not buckets:
        return None
    shortest, longest = min(b[0] for b in buckets), max(b[0] for b in buckets)
    if not shortest <= frames <= longest:
        return f"trained on {shortest} to {longest} frames, asked for {frames}"
    aspects, areas = [b[1] / b[2] for b in buckets], [b[1] * b[2] for b in buckets]
    aspect, area = size[0] / size[1], size[0] * size[1]
    asked = f"asked for {size[0]}x{size[1]}"
    if not min(aspects) / TOLERANCE <= aspect <= max(aspects) * TOLERANCE:
        return f"trained on pictures of height / width {min(aspects):.3g} to {max(aspects):.3g}, {asked} ({aspect:.3g})"
    if not min(areas) / TOLERANCE <= area <= max(areas) * TOLERANCE:
        return f"trained on pictures of {min(areas)} to {max(areas)} pixels, {asked} ({area})"
    return None
