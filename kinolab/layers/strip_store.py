"""Where pictures wait that run through a network in strips, with the statistics of the norms over them.

Shapes: videos (B, C, T, H, W); a strip (B, C, T, h, W) has some of their rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.layers.normalization import GroupNorm, fast_layout, fold_frames, unfold_frames

IN_MEMORY = 2**29
"""Bytes that a store holds in memory; what comes beyond goes to a file."""


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


def copied(x: Tensor) -> Tensor:
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
        strip = copied(strip)  # without the rows that were cut off
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
        return copied(found[0]) if len(found) == 1 else fast_layout(torch.cat(found, dim=3))

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
