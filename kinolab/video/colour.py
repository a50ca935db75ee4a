"""What a stream's colour tags ask for: the matrix from YUV to RGB, and high dynamic range (part of `kinolab.video`).

The numbers of matrices, primaries and transfer curves are those of ITU-T H.273.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinolab.errors import InputError

if TYPE_CHECKING:
    import av

BT709, BT601, BT2020 = 1, 5, 9
_BY_PRIMARIES = {1: BT709, 5: BT601, 6: BT601, 9: BT2020}
_UNSTATED = (0, 2, 3)  # RGB (which a stream of YUV can't be), unspecified, reserved
_NO_MATRIX = {
    8: "YCgCo", 10: "BT.2020 with constant luminance", 11: "SMPTE ST 2085", 13: "of constant luminance",
    14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro",
}  # fmt: skip
_DERIVED = 12  # from the primaries

_PQ, _HLG = 16, 18
_CURVES = {_PQ: "HDR (PQ)", _HLG: "HDR (HLG)"}
WHITE = 203.0
"""Brightness of paper white in HDR, in cd/m2 (BT.2408): it becomes about the brightest that SDR has."""
PEAK = 1000.0
"""Brightness of the brightest picture that is expected, in cd/m2: what most HDR is graded for, and HLG's display."""


def matrix(frame: av.VideoFrame, path: Path) -> int | None:
    """The matrix to read a frame's YUV by, where it isn't the one that its tag names; None leaves it to the tag.

    Raises:
        InputError: for colours that no matrix makes RGB of.
    """
    if name := unknown_matrix(frame):
        raise InputError(f"{path}: its colours are {name}, which can't be converted to RGB; write it anew in BT.709")
    tag = int(frame.colorspace)
    if frame.format.is_rgb:
        return None
    if tag in _UNSTATED:
        return BT709 if frame.height >= 720 or frame.width >= 1280 else BT601
    return _BY_PRIMARIES[int(frame.color_primaries)] if tag == _DERIVED else None


def unknown_matrix(frame: av.VideoFrame) -> str | None:
    """What a frame's colours are called where no matrix makes RGB of them, or None."""
    tag = int(frame.colorspace)
    derived = tag == _DERIVED and int(frame.color_primaries) in _BY_PRIMARIES
    if frame.format.is_rgb or derived or (tag < _DERIVED and tag not in _NO_MATRIX):
        return None
    return _NO_MATRIX.get(tag, f"coded by matrix {tag} of H.273")


def hdr_name(frame: av.VideoFrame) -> str | None:
    """The kind of high dynamic range that a frame is tagged with, or None."""
    return _CURVES.get(int(frame.color_trc))


def tone_mapped(image: np.ndarray, curve: int, primaries: int) -> np.ndarray:
    """HDR as a screen of today shows it: (H, W, 3) uint16 as coded -> (H, W, 3) uint8, BT.709.

    Brightness is taken from the curve (SMPTE ST 2084, or BT.2100's HLG for a display of 1000 cd/m2), rolled off above
    by the spline of BT.2390 (5.4.1) on the brightest channel, so that hues stay, and coded for a display gamma of 2.4.
    """
    light = _pq_light()[image] if curve == _PQ else _hlg_light(image)  # (H, W, 3) in cd/m2, looked up by code
    brightest = light.max(axis=2, keepdims=True)
    grid, factors = _roll_off()
    light *= np.interp(brightest, grid, factors).astype(np.float32) / WHITE
    if primaries == BT2020:
        light = light @ _to_bt709().T  # pixels are row vectors
    return (np.clip(light, 0, 1) ** (1 / 2.4) * 255 + 0.5).astype(np.uint8)


def is_hdr(frame: av.VideoFrame) -> bool:
    return int(frame.color_trc) in _CURVES


_M1, _M2 = 2610 / 16384, 2523 / 32
_C1, _C2, _C3 = 3424 / 4096, 2413 / 128, 2392 / 128


def _pq_coded(light: np.ndarray) -> np.ndarray:
    """cd/m2 -> PQ in [0, 1] (ST 2084)."""
    power = (light / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


@cache
def _pq_light() -> np.ndarray:
    """cd/m2 of every 16-bit code."""
    root = (np.arange(65536) / 65535) ** (1 / _M2)
    return (10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)).astype(np.float32)


def _hlg_light(image: np.ndarray) -> np.ndarray:
    """cd/m2 on a display of 1000 cd/m2, whose system gamma is 1.2 (BT.2100, tables 5)."""
    scene = _hlg_scene()[image]
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return PEAK * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2


@cache
def _hlg_scene() -> np.ndarray:
    """Scene light in [0, 1] of every 16-bit code, by the inverse of HLG's curve."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    code = np.arange(65536) / 65535
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@cache
def _roll_off() -> tuple[np.ndarray, np.ndarray]:
    """Brightness in cd/m2, and what it is multiplied with so that `PEAK` becomes `WHITE`: the spline of BT.2390."""
    coded = np.linspace(0, 1, 4096)
    top = float(_pq_coded(np.array(PEAK)))
    e = np.minimum(coded / top, 1)
    most = float(_pq_coded(np.array(WHITE))) / top
    knee = 1.5 * most - 0.5  # KS of BT.2390, with maxLum = most
    t = np.clip((e - knee) / (1 - knee), 0, None)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    mapped = np.where(e < knee, e, spline) * top
    light = np.interp(coded, np.linspace(0, 1, 65536), _pq_light())
    out = np.interp(mapped, np.linspace(0, 1, 65536), _pq_light())
    return light, out / np.maximum(light, 1e-6)


@cache
def _to_bt709() -> np.ndarray:
    """Linear BT.2020 to linear BT.709 (BT.2087, M2)."""
    return np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
