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

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from operator import mul
from typing import IO, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.layers.causal_conv import Stream
from kinolab.layers.normalization import GroupNorm, add, fast_layout, fold_frames, silu, unfold_frames

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
IN_MEMORY = 2**29
"""Bytes that a store holds in memory; what comes beyond goes to a file."""
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


class Store:
    """Tensors (B, C, T, h, W) that are put away: in memory up to a limit, then in a temporary file."""

    in_files: ClassVar[int] = 0
    """Bytes in the files of all stores, for those who say what a command takes."""

    def __init__(self) -> None:
        self.used, self.end = 0, 0
        self.free: dict[int, list[int]] = {}
        self.file: IO[bytes] | None = None

    def put(self, x: Tensor) -> Kept:
        """Put a tensor away, which belongs to the store from now on."""
        size = x.numel() * x.element_size()
        if self.used + size <= IN_MEMORY:
            self.used += size
            return Kept(self, x.shape, x.dtype, x.device, x)
        rows = x.permute(3, 0, 2, 4, 1).contiguous().cpu()  # rows outermost: some of them are one piece of the file
        places = self.free.get(size)
        place = places.pop() if places else self._longer(size)
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="kinolab-")  # noqa: SIM115  (it lives as long as the store)
            self.file.seek(place)
            self.file.write(_bytes(rows))
            self.file.flush()
        except OSError as error:  # of a file without a name
            cause = f"{error.strerror} (large pictures wait there; a smaller --size needs less)"
            raise OSError(error.errno, cause, tempfile.gettempdir()) from error
        return Kept(self, x.shape, x.dtype, x.device, None, place)

    def _longer(self, size: int) -> int:
        place = self.end
        self.end += size
        Store.in_files += size
        return place

    def __del__(self) -> None:
        Store.in_files -= self.end
        if self.file is not None:
            self.file.close()


@dataclass
class Kept:
    """A tensor (B, C, T, h, W) that is put away, or (without a store) one that is somebody else's."""

    store: Store | None
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    tensor: Tensor | None
    place: int = 0

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of its rows; not to be written to."""
        if self.tensor is not None:
            return self.tensor[:, :, :, start:stop]
        assert self.store is not None and self.store.file is not None
        B, C, T, _, W = self.shape
        out = torch.empty(stop - start, B, T, W, C, dtype=self.dtype)
        self.store.file.seek(self.place + start * B * T * W * C * self.dtype.itemsize)  # a row is (B, T, W, C)
        found = self.store.file.readinto(_bytes(out))  # type: ignore[attr-defined]
        assert found == out.numel() * out.element_size(), "the file holds what was written to it"
        return out.permute(1, 4, 2, 0, 3).to(self.device)  # (h, B, T, W, C) -> (B, C, T, h, W)

    def drop(self) -> None:
        """Let go of it."""
        size = self.shape.numel() * self.dtype.itemsize
        if self.store is not None and self.tensor is not None:
            self.store.used -= size
        elif self.store is not None:
            self.store.free.setdefault(size, []).append(self.place)
        self.tensor = None


def _copy(x: Tensor) -> Tensor:
    """A copy, in the order of memory that convolutions are fast in."""
    made = fast_layout(x)
    return made.clone() if made.data_ptr() == x.data_ptr() else made


def _bytes(x: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the processor."""
    return x.view(-1).view(torch.uint8).numpy().data


class Picture:
    """Pictures (B, C, T, H, W) in strips whose rows begin and end at `bounds`.

    groups: of the norm that is taken over them; none = no norm is.
    """

    def __init__(self, bounds: Sequence[int], groups: int | None = None) -> None:
        self.bounds, self.height = bounds, bounds[-1]
        self.strips: list[Kept] = []
        self._moments = None if groups is None else Moments(groups)

    @classmethod
    def of(cls, x: Tensor) -> Picture:
        """Pictures that are in memory, which stay as they are."""
        made = cls((0, x.shape[3]))
        made.strips.append(Kept(None, x.shape, x.dtype, x.device, x))
        return made

    @property
    def frames(self) -> int:
        """T."""
        return self.strips[0].shape[2]

    @property
    def width(self) -> int:
        """W."""
        return self.strips[0].shape[4]

    def append(self, store: Store, strip: Tensor) -> None:
        """The next strip."""
        strip = _copy(strip)  # without the rows that were cut off
        if self._moments is not None and strip.shape[2]:
            self._moments.add(strip)
        self.strips.append(store.put(strip))

    def rows(self, start: int, stop: int) -> Tensor:
        """A copy of some rows, in the order of memory that convolutions are fast in."""
        parts = zip(pairwise(self.bounds), self.strips, strict=True)
        found = [
            kept.rows(max(start, first) - first, min(stop, last) - first)
            for (first, last), kept in parts
            if first < stop and start < last
        ]
        return _copy(found[0]) if len(found) == 1 else fast_layout(torch.cat(found, dim=3))

    def moments(self, groups: int) -> Moments:
        """The statistics of a norm: gathered as the strips came, or now for pictures that came whole."""
        if self._moments is None:
            self._moments = Moments(groups)
            for kept in self.strips:
                self._moments.add(fast_layout(kept.rows(0, kept.shape[3])))
        return self._moments

    def drop(self) -> None:
        """Let go of the strips."""
        for strip in self.strips:
            strip.drop()


class Moments:
    """Mean and variance of every group of channels in every frame, (B*T, groups) in float64, over all rows."""

    def __init__(self, groups: int) -> None:
        self.groups, self.count = groups, 0
        self.mean, self.variance = torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """More rows of the same pictures; parts are joined as by Chan, Golub and LeVeque (1983)."""
        frames = fold_frames(x if x.device.type == "cpu" else x.float())
        N, C, h, W = frames.shape
        if x.device.type == "cpu":  # the kernel reads the order of memory from strides, those of a single frame too
            frames = frames.contiguous(memory_format=torch.channels_last).as_strided(
                (N, C, h, W), (C * h * W, 1, W * C, C)
            )
        else:
            frames = frames.contiguous()
        kind = torch.promote_types(x.dtype, torch.float32)
        # No weight and bias: they are applied with the statistics of all rows, in `normalise`.
        one, zero = torch.ones(C, dtype=kind, device=x.device), torch.zeros(C, dtype=kind, device=x.device)
        # The kernel of the norm itself, for its statistics: nothing else here is nearly as fast on channels last.
        _, mean, inverse = torch.native_group_norm(frames, one, zero, N, C, h * W, self.groups, 0.0)
        # (N, groups) each; with an eps of 0 `inverse` is 1 / standard deviation
        mean, inverse, count = mean.double(), inverse.double(), h * W
        variance = torch.where(inverse.isfinite(), inverse.square().reciprocal(), 0.0)  # rows that are all alike
        if self.count:
            apart, share = mean - self.mean, count / (self.count + count)
            variance = torch.lerp(self.variance, variance, share) + apart.square() * (share * (1 - share))
            mean = self.mean + apart * share
        self.count, self.mean, self.variance = self.count + count, mean, variance

    def normalise(self, norm: GroupNorm, x: Tensor) -> Tensor:
        """norm(x) for some rows (B, C, T, h, W) of the pictures."""
        mean, variance, B = self.mean, self.variance, x.shape[0]
        if norm.scope == "clip":  # all frames of a clip have as many values: their variances and that of their means
            means = mean.unflatten(0, (B, -1))  # (B, T, groups)
            mean = means.mean(1, keepdim=True)
            variance = (variance.unflatten(0, (B, -1)) + (means - mean).square()).mean(1, keepdim=True)
            # (B, 1, groups) -> (B * T, groups)
            mean, variance = (v.expand_as(means).flatten(0, 1) for v in (mean, variance))
        each = x.shape[1] // norm.num_groups
        kind = norm.weight.dtype
        # (B * T, C): every channel has its group's
        mean, variance = (v.to(kind).repeat_interleave(each, dim=1) for v in (mean, variance))
        # A batch norm by given statistics (C,) of one frame is a group norm by those of its groups.
        made = [
            F.batch_norm(frame[None], mean[n], variance[n], norm.weight, norm.bias, False, 0.0, norm.eps)
            for n, frame in enumerate(fold_frames(x))
        ]
        return unfold_frames(torch.cat(made), B)


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
        self._of_strips[layer, self.strip] = self.store.put(_copy(frames))

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
