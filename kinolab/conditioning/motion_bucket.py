"""The motion bucket: a vector of one number from 0 to 255, how much moves in a clip.

Stable Video Diffusion (Blattmann et al. 2023, appendix D) is told in which of 256 buckets the optical flow of a clip
fell; how the buckets were cut is not published, so the number is a scale without a unit. Here, in training, it is the
mean change of a pixel's brightness from one frame to the next, as a share of one that counts as the most.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, VectorCondition
from kinolab.conditioning.clips import example_clips
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request

MOST = 255


class MotionBucketConfig(ConditionConfig):
    """How motion is measured, and what a request means that names none."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of samples that are not told it."""
    full: float = Field(0.1, gt=0)
    """Mean change of brightness (which goes from -1 to 1) from frame to frame that is bucket 255."""
    constant: int | None = Field(None, ge=0, le=MOST)
    """In training tell this of every clip instead of what moves in it, as fine-tuning often does."""
    bucket: int = Field(127, ge=0, le=MOST)
    """That of a request which names none."""


class MotionBucket(VectorCondition):
    """How much moves: 0 = nothing."""

    name = "motion_bucket"
    Config = MotionBucketConfig

    @property
    def called(self) -> str:
        """What an error calls it."""
        return "a motion bucket"

    def asked(self, request: Request, setting: Setting) -> float:
        """The request's bucket, or the config's.

        Raises:
            InputError: for one outside of 0 to 255.
        """
        return self._number(request, self.config.bucket, MOST, f"0 (still) to {MOST} (the most motion)")

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        """The buckets of the examples' clips."""
        if self.config.constant is not None:
            return [float(self.config.constant)] * len(examples)
        known = [example.facts.get(self.name) for example in examples]
        if all(bucket is not None for bucket in known):  # as a source tells it
            return [float(bucket) for bucket in known if bucket is not None]
        return [bucket_of(clip, self.config.full) for clip in example_clips(self.name, examples, setting)]


def bucket_of(clip: Tensor, full: float) -> float:
    """The bucket of a clip (3, T, H, W); 0 of a single frame."""
    brightness = clip.float().mean(0)
    if len(brightness) < 2:
        return 0.0
    change = float((brightness[1:] - brightness[:-1]).abs().mean())
    return float(round(min(change / full, 1.0) * MOST))
