"""Which frame counts a video autoencoder takes, and how many latents they give.

A clip is 1 + s*k frames (s*k without a latent of the first frame's own). With groups, the rule begins again after
every whole group of G frames: G*m frames, or G*m + 1 + s*k.
"""

from __future__ import annotations


def frames_below(frames: int, step: int, *, first: bool = True, group: int | None = None) -> int:
    """The largest valid count that is not above `frames`; at least the least there is."""
    least = 1 if first else step
    if group is None:
        return max(least, (frames - first) // step * step + first)
    whole, rest = divmod(frames, group)
    return max(least, whole * group + (0 if rest == 0 else 1 + (rest - 1) // step * step))


def frames_above(frames: int, step: int, *, first: bool = True, group: int | None = None) -> int:
    """The smallest valid count that is not below `frames`."""
    below = frames_below(frames, step, first=first, group=group)
    if below >= frames:
        return below
    if group is not None and below % group == 0:
        return below + 1
    return below + step


def latents_of(frames: int, ratio: int, *, first: bool = True, group: int | None = None) -> int:
    """How many latents a valid count of frames gives."""
    if group is None:
        return (frames - first) // ratio + first
    whole, rest = divmod(frames, group)
    return whole * (1 + (group - 1) // ratio) + (0 if rest == 0 else 1 + (rest - 1) // ratio)


def frames_of(latents: int, ratio: int, *, first: bool = True, group: int | None = None) -> int:
    """How many frames so many latents decode to."""
    if group is None:
        return (latents - first) * ratio + first
    whole, rest = divmod(latents, 1 + (group - 1) // ratio)
    return whole * group + (0 if rest == 0 else 1 + (rest - 1) * ratio)
