"""What a frame-by-frame score does not see: flicker, motion that tears, seams between chunks, grids of a decoder.

All pixels here are on the scale [0, 1]: clips are float (B, 3, T, H, W) in [-1, 1], which is clamped and rescaled, or
uint8. Scores are means over clips, one score per clip in `per_clip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kinolab import video as video_files
from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.metrics.base import MetricValue, Need, NotOnSuchClipsError, Setup, Shown
from kinolab.metrics.clips import ClipScores, Protocol, unit_pair, unit_pixels
from kinolab.metrics.flow import PROTOCOL, VISIBLE, flow, visible, warp

FLOOR = 0.01 / 255
"""A hundredth of a grey level: added above and below in every ratio, so that nothing over nothing is 1."""
RINGS = 32
"""Rings of equal width that the frequencies from 0 to 0.5 cycles per pixel fall into."""
DETAIL = 0.25
"""Cycles per pixel from which on a frequency counts as detail: structures of less than four pixels."""
NEIGHBOURS = 2
"""Frequencies on each side that a frequency of the decoder's grid is compared with, along each axis."""

SeamKind = Literal["difference", "error"]


class Flicker(ClipScores):
    """Temporal difference error: mean |(y_{t+1} - y_t) - (x_{t+1} - x_t)|; 0 where the original x changes as y does.

    Mean over pixels, channels and pairs of neighbouring frames. An error that stays the same does not count.
    """

    name = "flicker"
    better = "lower"
    needs = frozenset[Need]({"pairs"})

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W) of at least two frames."""
        x, y = unit_pair(original, reconstruction, frames=2)
        self._add((y - x).diff(dim=2).abs().mean((1, 2, 3, 4), dtype=torch.float64).tolist(), original)

    def _settings(self) -> Protocol:
        return {"pixels": "0..1"}


class FrameDifference(ClipScores):
    """Mean |y_{t+1} - y_t| over pixels, channels and pairs of frames: flicker and motion alike, without an original."""

    name = "frame_difference"

    def update(self, video: Tensor) -> None:
        """Add clips (B, 3, T, H, W) of at least two frames."""
        y = unit_pixels(video, frames=2)
        self._add(y.diff(dim=2).abs().mean((1, 2, 3, 4), dtype=torch.float64).tolist(), video)

    def _settings(self) -> Protocol:
        return {"pixels": "0..1"}


class _Warp(ClipScores):
    """Shared by the warp errors. A clip of which nothing is visible in two frames has no score: see `left_out`."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out = 0

    def _nothing(self) -> str:
        if self.left_out:
            return f"{self.name}: in none of {self.left_out} clips could any motion be followed from frame to frame"
        return super()._nothing()

    def _settings(self) -> Protocol:
        return {"pixels": "0..1", "error": "squared"} | PROTOCOL | VISIBLE


class WarpError(_Warp):
    """Warped-frame error of reconstructions (Lai et al. 2018), by the flow of the original.

    Mean over pairs of frames of: mean over pixels visible in both, and channels, of |y_t - warp(y_{t+1})|^2. Not 0 for
    the original itself, where light changes and the flow errs: `floor` says what it has.
    """

    name = "warp_error"
    better = "lower"
    digits = 5
    needs = frozenset[Need]({"pairs", "flow"})

    def __init__(self) -> None:
        super().__init__()
        self._floor = _Floor()

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W) of at least two frames of at least 16 x 16 pixels."""
        for x, y in zip(*unit_pair(original, reconstruction, frames=2), strict=True):
            forward, seen = _follow(x)
            errors = warp_error(y, forward, seen), warp_error(x, forward, seen)
            if errors[0] is None or errors[1] is None:
                self.left_out += 1
                continue
            self._add([errors[0]], original)
            self._floor._add([errors[1]], original)

    def notes(self) -> list[str]:
        """What the originals have."""
        return [f"warp: the originals themselves have {self.floor.value:.5f}"]

    @property
    def floor(self) -> MetricValue:
        """The same error of the originals: what is left when the reconstruction is perfect."""
        return self._floor.compute()


class _Floor(_Warp):
    name = "warp_error of the originals"


class OwnWarpError(_Warp):
    """Warped-frame error of generated videos, as `WarpError`, by their own flow.

    Low for still and for smooth videos alike: read it beside the dynamic degree.
    """

    name = "own_warp_error"

    def update(self, video: Tensor) -> None:
        """Add clips (B, 3, T, H, W) of at least two frames of at least 16 x 16 pixels."""
        for y in unit_pixels(video, frames=2):
            error = warp_error(y, *_follow(y))
            if error is None:
                self.left_out += 1
            else:
                self._add([error], video)


def warp_error(video: Tensor, forward: Tensor, seen: Tensor) -> float | None:
    """A clip (3, T, H, W) on [0, 1], forward flows (T - 1, H, W, 2), visible pixels (T - 1, H, W) -> the error.

    Pairs of frames of which nothing is visible in both are left out; None where that is all of them.
    """
    frames = video.transpose(0, 1)
    error = (warp(frames[1:], forward) - frames[:-1]).square().mean(1, dtype=torch.float64)  # (T - 1, H, W)
    count = seen.sum((1, 2))
    known = count > 0
    if not bool(known.any()):
        return None
    return float(((error * seen).sum((1, 2))[known] / count[known]).mean())


def _follow(video: Tensor) -> tuple[Tensor, Tensor]:
    """A clip (3, T, H, W) on [0, 1] -> its forward flow and the pixels visible in both frames."""
    frames = frames_of(video)
    forward, backward = torch.from_numpy(flow(frames)), torch.from_numpy(flow(frames, backward=True))
    return forward, visible(forward, backward)


def frames_of(video: Tensor) -> np.ndarray:
    """A clip (3, T, H, W) on [0, 1] -> frames (T, H, W, 3) uint8."""
    return video_files.to_uint8(video * 2.0 - 1.0)


class SeamConfig(Config):
    """Which jump of the error is looked at."""

    kind: SeamKind = "difference"
    """difference: of the error itself; error: of its mean size."""


class SeamError(ClipScores):
    """How much more the reconstruction's error jumps at the borders of chunks than elsewhere; 1 = no seam.

    With r = y - x and a step into frame t, t = 1 .. T - 1, the jump is

        difference:  d_t = mean |r_t - r_{t-1}|            the temporal difference error, of which `Flicker` is the mean
        error:       d_t = |mean |r_t| - mean |r_{t-1}||   the change of the mean absolute error

    (means over pixels and channels), and the score of a clip is (mean of d_t over borders + c) / (mean of d_t over the
    other steps + c) with c a hundredth of a grey level. "difference" sees every seam; "error" only those at which the
    quality changes, so that a clip without seams is less steady around 1.

    Where the reconstruction of the whole clip in one piece is known too, the score is divided by its own: what happens
    in a clip just at a border (a bounce is harder to rebuild) then does not count, and an exact stream has 1.
    """

    name = "seam_error"
    better = "one"
    digits = 3
    needs = frozenset[Need]({"pairs", "chunks"})
    Config = SeamConfig

    def __init__(self, kind: SeamKind = "difference") -> None:
        super().__init__()
        self.kind = kind
        self._relative: bool | None = None

    @classmethod
    def build(cls, setup: Setup) -> SeamError:
        """With the protocol's kind of jump."""
        return cls(setup.settings.kind)

    def see(self, shown: Shown) -> None:
        """The batches that were put through in chunks."""
        if shown.chunked is not None and shown.original is not None:
            self.update(shown.original, shown.chunked, shown.borders, whole=shown.whole)

    def update(
        self, original: Tensor, reconstruction: Tensor, borders: Sequence[int], whole: Tensor | None = None
    ) -> None:
        """Add clips (B, 3, T, H, W).

        borders: the first frame of every chunk but the first one (`chunk_borders`), 1 .. T - 1; not all of them.
        whole: the reconstruction in one piece; for all clips or for none.
        """
        x, y = unit_pair(original, reconstruction, frames=3)
        scores = seam_ratio(y - x, borders, self.kind)
        if self._relative not in (None, whole is not None):
            raise InputError("seam_error: the reconstruction in one piece is wanted for all clips or for none")
        self._relative = whole is not None
        if whole is not None:
            scores = scores / seam_ratio(unit_pair(original, whole, frames=3)[1] - x, borders, self.kind)
        self._add(scores.tolist(), original)

    def _settings(self) -> Protocol:
        relative = "the reconstruction in one piece" if self._relative else "nothing"
        return {"pixels": "0..1", "jump": self.kind, "floor": FLOOR, "relative_to": relative}


def seam_ratio(residual: Tensor, borders: Sequence[int], kind: SeamKind = "difference") -> Tensor:
    """Residuals (B, 3, T, H, W) -> (B,): the formula of `SeamError`."""
    T = residual.shape[2]
    if not borders or not all(1 <= b < T for b in borders) or len(set(borders)) >= T - 1:
        raise InputError(
            f"expected borders between 1 and {T - 1}, at least one and not every frame of {T}, got {list(borders)}"
        )
    if kind == "difference":
        jumps = residual.diff(dim=2).abs().mean((1, 3, 4), dtype=torch.float64)  # (B, T - 1)
    else:
        jumps = residual.abs().mean((1, 3, 4), dtype=torch.float64).diff(dim=1).abs()
    at = torch.zeros(T - 1, dtype=torch.bool)
    at[[b - 1 for b in borders]] = True  # the step into frame b is number b - 1
    return (jumps[:, at].mean(1) + FLOOR) / (jumps[:, ~at].mean(1) + FLOOR)


def chunk_borders(frames: int, first: int, step: int) -> list[int]:
    """The first frame of every chunk but the first one: `first` frames, then `step` each."""
    return list(range(first, frames, step))


def power_spectrum(video: Tensor) -> Tensor:
    """Clips (B, 3, T, H, W) on [0, 1] -> (B, H, W) float64: |F|^2 / (H W), mean over frames and channels.

    F is the discrete Fourier transform of a frame less its mean, without a window, so that a grid that divides the
    frame falls on single frequencies. White noise of variance v has power v at every frequency.
    """
    power = []
    for clip in video.double():
        frames = clip - clip.mean((2, 3), keepdim=True)
        power.append(torch.fft.fft2(frames, norm="ortho").abs().square().mean((0, 1)))
    return torch.stack(power)


def radius(height: int, width: int) -> Tensor:
    """(H, W) float64: the frequency of every coefficient in cycles per pixel, whatever its direction."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    return torch.hypot(rows, torch.fft.fftfreq(width, dtype=torch.float64))


@dataclass(frozen=True)
class Profile:
    """Radially averaged power (RINGS,) of originals and reconstructions, over the middle of each ring in cycles per
    pixel; NaN in rings that no frequency of the frames falls into."""

    frequency: np.ndarray
    original: np.ndarray
    reconstruction: np.ndarray


class FrequencyProfile(ClipScores):
    """Which frequencies a reconstruction keeps: `profile`, and as the score the share of detail that is left.

    The score of a clip is (P_y + c^2) / (P_x + c^2) with P the mean power of the frequencies of at least 0.25 cycles
    per pixel in the reconstruction y and the original x: 1 = as much detail (not the same detail), below 1 = blurred,
    above 1 = noise or invented detail.
    """

    name = "detail_power"
    better = "one"
    needs = frozenset[Need]({"pairs"})

    def __init__(self) -> None:
        super().__init__()
        self._power = torch.zeros(2, RINGS, dtype=torch.float64)
        self._seen_in = torch.zeros(RINGS, dtype=torch.float64)

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W)."""
        x, y = (power_spectrum(v) for v in unit_pair(original, reconstruction))
        frequency = radius(*x.shape[1:])
        fine = frequency >= DETAIL
        ratio = (y[:, fine].mean(1) + FLOOR**2) / (x[:, fine].mean(1) + FLOOR**2)
        inside = (frequency > 0) & (frequency <= 0.5)
        ring = (frequency[inside] * (2 * RINGS)).long().clamp(max=RINGS - 1)
        count = torch.bincount(ring, minlength=RINGS)
        sums = [torch.bincount(ring, v.sum(0)[inside], minlength=RINGS) for v in (x, y)]
        self._power += torch.stack(sums) / count.clamp(min=1)
        self._seen_in += len(x) * (count > 0)
        self._add(ratio.tolist(), original)

    @property
    def profile(self) -> Profile:
        """Mean over the clips so far."""
        middle = (np.arange(RINGS) + 0.5) / (2 * RINGS)
        original, reconstruction = torch.where(self._seen_in > 0, self._power / self._seen_in, torch.nan).numpy()
        return Profile(middle, original, reconstruction)

    def _settings(self) -> Protocol:
        return {"pixels": "0..1", "detail": DETAIL, "floor": FLOOR, "window": "none"}


class GridArtefacts(ClipScores):
    """Energy at the decoder's grid: its frequencies against their neighbours, over the same of the original; 1 = none.

    A decoder of spatial ratio s can leave a pattern that repeats every s pixels: at the frequencies (k/s, l/s). The
    grid power G of a clip is `grid_power`; the score of a clip is G(reconstruction) / G(original), so that content
    with that very period does not count.
    """

    name = "grid_artefacts"
    better = "one"
    needs = frozenset[Need]({"pairs", "grid"})
    also = ("detail",)

    def __init__(self, spatial_ratio: int) -> None:
        super().__init__()
        self.spatial_ratio = spatial_ratio

    @classmethod
    def build(cls, setup: Setup) -> GridArtefacts:
        """Of the decoder's grid, unless no frequency of such small frames lies between those of the grid."""
        ratio = setup.spatial_ratio or 1
        if min(setup.size) // ratio <= NEIGHBOURS:
            raise NotOnSuchClipsError(
                f"a decoder of spatial ratio {ratio} leaves none to be seen in frames of this size"
            )
        return cls(ratio)

    def update(self, original: Tensor, reconstruction: Tensor) -> None:
        """Add clips (B, 3, T, H, W) whose sides are multiples of the spatial ratio."""
        x, y = (grid_power(power_spectrum(v), self.spatial_ratio) for v in unit_pair(original, reconstruction))
        self._add((y / x).tolist(), original)

    def _settings(self) -> Protocol:
        return {
            "pixels": "0..1", "spatial_ratio": self.spatial_ratio, "neighbours": NEIGHBOURS, "floor": FLOOR,
            "window": "none",
        }  # fmt: skip


def grid_power(power: Tensor, spatial_ratio: int) -> Tensor:
    """Spectra (B, H, W) -> (B,): mean power at the grid's frequencies over the mean at their neighbours; noise has 1.

    The neighbours of (k/s, l/s) are the two frequencies on each side along both axes; on an axis (k or l = 0) only
    those on that axis, along which the edges of a frame that is not periodic spread their power. A pattern of period
    s and variance v on white noise of variance n has 1 + H W v / ((s^2 - 1) n).
    """
    H, W = power.shape[1:]
    s = spatial_ratio
    if s < 2 or H % s or W % s or min(H, W) // s <= NEIGHBOURS:
        raise InputError(
            f"a grid of spatial ratio {s} needs frames whose sides are multiples of {s} and at least "
            f"{(NEIGHBOURS + 1) * max(s, 2)} pixels, got {H}x{W}"
        )
    at, around = list[Tensor](), list[Tensor]()
    for k in range(s):
        for m in range(s):
            if not k and not m:
                continue
            u, v = k * H // s, m * W // s  # k/s and m/s cycles per pixel, as numbers of coefficients
            steps = [d for d in range(-NEIGHBOURS, NEIGHBOURS + 1) if d]
            along = [power[:, (u + d) % H, v] for d in steps if k] + [power[:, u, (v + d) % W] for d in steps if m]
            at.append(power[:, u, v])
            around.append(torch.stack(along).mean(0))
    return (torch.stack(at).mean(0) + FLOOR**2) / (torch.stack(around).mean(0) + FLOOR**2)
