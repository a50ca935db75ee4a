"""Whether two sets of videos can be measured against each other: rate, aspect, length and names, before any number.

A frame of a video at 10 frames a second and the frame of the same number at 30 show different moments, and a picture of
another aspect is cut otherwise; a score of such pairs is of the difference in format alone, so they are refused. Sets
that are compared as distributions are measured all the same, with a note in front: models do have rates of their own,
and a person may want to know what that costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kinolab.contracts.examples import Verdict
from kinolab.errors import InputError

RATE = 0.01
"""Rates that differ by less are one: 29.97 and 30, and what counting frames over a time makes of it."""
ASPECT = 0.03
"""Aspects that differ by less are one: sizes are cut to what an autoencoder takes."""


def check_pairs(pairs: Sequence[tuple[Verdict, Verdict]], left: str, right: str) -> list[str]:
    """What a person should know of pairs (original, reconstruction) that belong together.

    Raises:
        InputError: where rates or aspects differ; names the first pair, how many there are, and what to do.
    """
    rates = [(a, b) for a, b in pairs if a.fps and b.fps and not _alike(a.fps, b.fps, RATE)]
    if rates:
        a, b = rates[0]
        assert a.fps and b.fps
        raise InputError(
            f"{right}/{b.source} has {b.fps:g} frames a second and {left}/{a.source} {a.fps:g} ({len(rates)} of "
            f"{len(pairs)} pairs differ): frames of one number would be of different moments; re-time one folder: "
            f"kinolab data shrink FOLDER --fps {min(a.fps, b.fps):g} --out COPY"
        )
    shapes = [(a, b) for a, b in pairs if a.size and b.size and not _alike(_aspect(a), _aspect(b), ASPECT)]
    if shapes:
        a, b = shapes[0]
        raise InputError(
            f"{right}/{b.source} is {_size(b)} and {left}/{a.source} {_size(a)} ({len(shapes)} of {len(pairs)} pairs "
            "differ in aspect): different parts of the picture would be compared; cut the originals as the "
            "reconstructions were"
        )
    notes = []
    sizes = [(a, b) for a, b in pairs if a.size and b.size and a.size != b.size]
    if sizes:
        a, b = sizes[0]
        notes.append(
            f"{len(sizes)} of {len(pairs)} pairs differ in size ({left}/{a.source} {_size(a)}, {right}/{b.source} "
            f"{_size(b)}): both are resized to the protocol's"
        )
    lengths = [(a, b) for a, b in pairs if a.frames and b.frames and a.frames != b.frames]
    if lengths:
        a, b = lengths[0]
        notes.append(
            f"{len(lengths)} of {len(pairs)} pairs differ in length ({left}/{a.source} {a.frames} frames, "
            f"{right}/{b.source} {b.frames}): the first frames of both are compared"
        )
    return notes


def unlike(
    real: Iterable[float], made: Iterable[float], sizes: Iterable[Sequence[int]], measured: Sequence[int]
) -> list[str]:
    """What differs in kind between real and generated clips that are compared as two distributions.

    Args:
        real, made: frames a second of the clips as they are measured.
        sizes: (height, width) of the generated videos as they are stored.
        measured: (height, width) that clips are measured at.
    """
    notes = []
    a, b = _usual(real), _usual(made)
    if a and b and not _alike(a, b, RATE):
        notes.append(
            f"the generated clips have {b:g} frames a second and the real ones {a:g}: motion of another speed is held "
            f"against the model; take the real ones at its rate with -s fps={b:g}"
        )
    stored = Counter(tuple(s) for s in sizes)
    other = {s: n for s, n in stored.items() if not _alike(s[1] / s[0], measured[1] / measured[0], ASPECT)}
    if other:
        (height, width), count = next(iter(other.items()))
        notes.append(
            f"{sum(other.values())} generated videos have another aspect than the protocol's "
            f"{measured[1]}x{measured[0]} ({count} of {width}x{height}): they are cut"
        )
    return notes


def _alike(a: float, b: float, share: float) -> bool:
    return abs(a - b) <= share * max(a, b)


def _usual(rates: Iterable[float]) -> float | None:
    found = Counter(round(rate, 3) for rate in rates)
    return found.most_common(1)[0][0] if found else None


def _aspect(verdict: Verdict) -> float:
    assert verdict.size is not None
    return verdict.size[1] / verdict.size[0]


def _size(verdict: Verdict) -> str:
    assert verdict.size is not None
    return f"{verdict.size[1]}x{verdict.size[0]}"
