"""An encoder or decoder in horizontal strips: what it gives for whole pictures, in memory that their area doesn't set.

What looks at its neighbourhood only (a convolution, a resampling) runs strip by strip, with as many rows more on both
sides as it sees; those it gets wrong at a strip's inner edges are cut off again. Normalisation over whole pictures
would make that inexact, so its statistics are gathered while the layer before writes its strips, and a network is a
list of steps of one convolution each. Attention sees all rows and runs whole, at the coarsest resolution. So strips
equal the whole up to rounding, and cost the rows that are computed twice.

Between two steps a picture lies in a `Store`: in memory up to `IN_MEMORY` bytes, beyond that in a temporary file that
has no name and is gone with the process. Shapes: videos (B, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn

from kinolab.layers.causal_conv import Stream
from kinolab.layers.normalization import GroupNorm, add, fast_layout, fold_frames, silu, unfold_frames
from kinolab.layers.strip_store import Kept, Picture, Store, copied

Layer = Callable[[Tensor, Stream | None], Tensor]
Watcher = Callable[[float, bool], None]
"""Hears after every strip how many more frames' worth of a network's input is done, and whether it is an encoder's."""
_watcher: ContextVar[Watcher | None] = ContextVar("watcher of strips", default=None)

LARGE = 64 * 2**20
"""A frame is large where its finest features take more bytes than this in float32 (836 x 836 at a width of 24)."""
STRIP = 4 * 2**20
"""A strip has about so many bytes per frame in float32, and at least `LEAST_ROWS` rows."""
LEAST_ROWS = 16
"""Fewer rows would cost more in rows that are computed twice than they save."""
ON_ACCELERATORS = 16
"""How many times larger a frame has to be on a GPU, whose strips wait in the processor's memory."""


@dataclass(frozen=True)
class Step:
    """One layer of a network that runs in strips: layer(silu(norm(x))), plus `skip` of an earlier picture.

    width: channels of its output (or input, if more); halo: input rows that an output row sees on each side; scale:
    output rows per input row. norm: over whole pictures, with SiLU behind it; without one, `layer` gets its input as
    it is. keeps: the next step with a `skip` adds skip(the input of this one); `skip` sees one row and one frame.
    whole: `layer` gets all rows at once, frame by frame unless `together`.
    """

    layer: Layer
    width: int
    halo: int = 1
    scale: Fraction = Fraction(1)
    norm: GroupNorm | None = None
    keeps: bool = False
    skip: Layer | None = None
    whole: bool = False
    together: bool = False


def of_frames(layer: Callable[[Tensor], Tensor]) -> Layer:
    """A layer of images (N, C, H, W) as one of videos, every frame by itself."""
    return lambda x, stream: unfold_frames(layer(fold_frames(x)), x.shape[0])


def of_video(layer: Callable[[Tensor], Tensor]) -> Layer:
    """A layer of videos that keeps nothing between chunks."""
    return lambda x, stream: layer(x)


def steps_of(*parts: Any) -> Iterator[Step]:
    """The steps of modules that follow each other, each of which knows its own."""
    for part in parts:
        yield from part.steps()


def itself(x: Tensor, stream: Stream | None = None) -> Tensor:
    """The layer that changes nothing."""
    return x


def wanted(x: Tensor, width: int, scale: int = 1) -> bool:
    """Whether pictures (..., H, W) are taken in strips: their finest features are large, and no gradient is recorded.

    width: channels of those features; scale: how many times as high and wide as `x` they are. The number of frames
    does not count, so that all chunks of a stream are taken alike: what is kept between them is kept strip by strip.
    """
    large = LARGE if x.device.type == "cpu" else ON_ACCELERATORS * LARGE
    return not torch.is_grad_enabled() and 4 * width * scale**2 * x.shape[-2] * x.shape[-1] > large


@contextmanager
def watched(tell: Watcher) -> Iterator[None]:
    """Within it, `tell` hears how far every network is that runs in strips: a chunk of large frames takes minutes."""
    before = _watcher.set(tell)
    try:
        yield
    finally:
        _watcher.reset(before)


class _Meter:
    """How far one run of a network is, in frames of its input; a step counts as the pixels times the squared width."""

    def __init__(self, steps: Sequence[Step], frames: int) -> None:
        scales = list(accumulate((step.scale for step in steps), mul))
        work = [float(scale) ** 2 * step.width**2 for step, scale in zip(steps, scales, strict=True)]
        self.frames = [frames * part / sum(work) for part in work]
        self.encodes, self.tell = scales[-1] <= 1, _watcher.get()

    def done(self, step: int, share: float) -> None:
        """A share of a step is done."""
        if self.tell is not None:
            self.tell(share * self.frames[step], self.encodes)


def run(steps: Sequence[Step], x: Tensor, stream: Stream | None = None) -> Tensor:
    """The steps' result on pictures (B, C, T, H, W): that of running them on the whole, up to rounding.

    A chunk of a stream that is too short for a frame ends with the step that gives none (T = 0).

    Raises:
        OSError: where the disk of the temporary file is full; names its folder.
    """
    memory = None if stream is None else _strip_stream(stream)
    store, picture, kept = Store(), Picture.of(x), list[Picture]()
    meter = _Meter(steps, x.shape[2])
    for number, (step, after) in enumerate(zip(steps, [*steps[1:], None], strict=True)):
        if step.keeps:
            kept.append(picture)
        if step.whole:
            made = _whole(step, picture, store)
            meter.done(number, 1.0)
        else:
            skipped = None if step.skip is None else kept.pop()
            # While strips are at hand, the statistics that the next step's norm needs are gathered.
            groups = None if after is None or after.norm is None else after.norm.num_groups
            made = _in_strips(step, picture, skipped, store, groups, memory, partial(meter.done, number))
            if skipped is not None:
                skipped.drop()
        if picture not in kept:
            picture.drop()
        picture = made
        if picture.frames == 0:
            break
    return picture.rows(0, picture.height)


def _in_strips(
    step: Step,
    picture: Picture,
    skipped: Picture | None,
    store: Store,
    groups: int | None,
    stream: StripStream | None,
    tell: Callable[[float], None],
) -> Picture:
    """One step, strip by strip of what it gives; `groups` are those of the norm that follows."""
    moments = None if step.norm is None else picture.moments(step.norm.num_groups)
    s, halo = step.scale, step.halo
    made = Picture(_bounds(int(picture.height * s), int(picture.width * s), step.width), groups)
    for index, (first, last) in enumerate(pairwise(made.bounds)):
        # Strips begin at even rows, so that those of half the resolution begin at a row too.
        above = min(halo, int(first / s))
        start, stop = int(first / s) - above, min(int(last / s) + halo, picture.height)  # rows of the input
        x = picture.rows(start, stop)
        if moments is not None:
            assert step.norm is not None
            x = silu(moments.normalise(step.norm, x))
        if stream is not None:
            stream.strip = index
        y = step.layer(x, stream)
        cut = int(above * s)  # output rows of the halo above
        y = y[:, :, :, cut : cut + last - first]
        if step.skip is not None:
            assert skipped is not None
            y = add(y, step.skip(skipped.rows(first, last), None))
        made.append(store, y)
        tell((last - first) / made.height)
    return made


def _whole(step: Step, picture: Picture, store: Store) -> Picture:
    """One step that sees all rows at once, without a norm of its own before it."""
    x, made = picture.rows(0, picture.height), Picture((0, picture.height))
    frames = [x] if step.together else x.split(1, dim=2)
    made.append(store, torch.cat([step.layer(frame, None) for frame in frames], dim=2))
    return made


def _bounds(height: int, width: int, channels: int) -> Sequence[int]:
    """Where strips of a picture begin and end; even, and the same whatever the number of frames."""
    rows = max(LEAST_ROWS, STRIP // (4 * width * channels))
    count = max(1, round(height / rows))
    step = -(-height // count)
    return [*range(0, height, step + step % 2), height]


class StripStream(Stream):
    """What the layers keep between the chunks of a stream, of each strip by itself; `strip` is the one at work."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.strip = Store(), 0
        self._of_strips: dict[tuple[nn.Module, int], Kept] = {}

    def get(self, layer: nn.Module) -> Tensor | None:
        """The frames that `layer` kept of this strip, or None at the start of the clip."""
        kept = self._of_strips.get((layer, self.strip))
        return None if kept is None else fast_layout(kept.rows(0, kept.shape[3]))

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        """Remember `frames` of this strip for `layer`."""
        old = self._of_strips.get((layer, self.strip))
        if old is not None:
            old.drop()
        self._of_strips[layer, self.strip] = self.store.put(copied(frames))

    def elements(self) -> int:
        """How many numbers are kept in all."""
        return sum(kept.shape.numel() for kept in self._of_strips.values())


def _strip_stream(stream: Stream) -> StripStream:
    """What a stream keeps of strips, made with its first chunk."""
    if stream.strips is None:
        stream.strips = StripStream()
    assert isinstance(stream.strips, StripStream)
    stream.strips.last = stream.last
    return stream.strips
