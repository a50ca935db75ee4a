"""The one way tests compare floating point numbers: relative to the spread of what is compared.

A bare tolerance such as 1e-5 means nothing without the size of the numbers, and float32 sums differ between processors
by an amount that grows with that size. So a largest difference is held against the standard deviation of the expected
values, as the reference numbers are judged, and what is allowed follows from the precision of the numbers.

Where bits must agree: `assert_same`. Where a tolerance has a unit of its own (pixels, decibels, grey levels, seconds):
`assert_within`, which makes the test say it. Plain numbers in an equation of float64: `pytest.approx(..., rel=...)`.
`tests/test_closeness.py` refuses every other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

ALLOWED = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""What two ways of computing the same result may differ by, as a share of its spread, by the less precise of the two.

It is a few hundred roundings: what the sums of a few layers gather, in whatever order a processor takes them. Any
mistake worth the name is larger by orders of magnitude.
"""
FLOAT32 = ALLOWED[torch.float32]
NETWORK = 2e-4
"""The same for a whole network in float32: tens of layers whose norms and random weights make roundings grow. The worst
that was measured between AVX-512 and SSE4, with and without oneDNN's convolutions, is 5.4e-5."""
STORED = 1e-4
"""What a stored output of a public class may differ by: it was computed elsewhere, by other operations."""
SIZE_SHARE = 1 / 20
"""Where values lie close together far from zero, the scale is at least this share of their size: they are rounded in
proportion to their size, not to their spread."""


def spread(expected: Tensor) -> float:
    """The standard deviation over all values; the largest size where all are alike (then there is no deviation)."""
    values = expected.detach().double().flatten()
    deviation = float(values.std(correction=0)) if values.numel() > 1 else 0.0
    size = float(values.abs().max()) if values.numel() else 0.0
    # Values that are equal but for rounding have a deviation of rounding's size, which is no scale to compare with.
    return max(deviation, SIZE_SHARE * size) if deviation > 1e-6 * size else size


def difference(actual: Any, expected: Any) -> float:
    """The largest difference over the expected values' spread; 0 where both are equal."""
    a, e = _doubles(actual), _doubles(expected)
    assert a.shape == e.shape, f"expected shape {tuple(e.shape)}, got {tuple(a.shape)}"
    if torch.equal(a, e) or not e.numel():
        return 0.0
    worst = float((a - e).abs().max())
    scale = spread(e)
    return worst / scale if scale else float("inf")


def differs(actual: Tensor, expected: Tensor, beyond: float = FLOAT32) -> Tensor:
    """Where two results of one shape differ by more than rounding: bool, of their shape."""
    return (actual.detach() - expected.detach()).abs() > beyond * spread(expected)


def assert_close(actual: Any, expected: Any, within: float | None = None, what: str = "") -> None:
    """Fail unless `actual` has the shape and type of `expected` and differs from it by at most `within` of its spread.

    Takes tensors, arrays, numbers and sequences of numbers; a plain number is taken to be of float32, whole numbers
    must be equal. Without `within`, what `ALLOWED` says of the less precise of the two. NaN is never close. For values
    that ought to be equal bit for bit use `assert_same`; for a result that should vanish, say beside what it should
    vanish: `assert_small`.
    """
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype, f"{_of(what)}expected {expected.dtype}, got {actual.dtype}"
    _judge(difference(actual, expected), _allowed(within, actual, expected), what, "differs by {} of the spread")


def assert_small(actual: Any, beside: Any, within: float | None = None, what: str = "") -> None:
    """Fail unless every value of `actual` is at most `within` of the spread of `beside`, of any shape."""
    found = float(_doubles(actual).abs().max()) / spread(_doubles(beside))
    _judge(found, _allowed(within, actual, beside), what, "is {} of what it stands beside")


def assert_within(actual: Any, expected: Any, tolerance: float, unit: str) -> None:
    """Fail unless every value of `actual` is within `tolerance` of `expected` (broadcast), both in `unit`."""
    assert unit, "say the unit of the tolerance"
    a, e = _doubles(actual), _doubles(expected)
    assert a.numel() and torch.broadcast_shapes(a.shape, e.shape) == a.shape, (
        f"expected shape {tuple(e.shape)}, got {tuple(a.shape)}"
    )
    worst = float((a - e).abs().max())
    assert worst <= tolerance, f"differs by {worst:.4g} {unit}, expected at most {tolerance:g} {unit}"


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Fail unless both are equal bit for bit: tensors or arrays of one shape and type, or named ones of the same names.

    NaN equals NaN: what was written must come back.
    """
    if isinstance(expected, Mapping):
        assert isinstance(actual, Mapping) and set(actual) == set(expected), f"{_of(what)}other names"
        for name in expected:
            assert_same(actual[name], expected[name], str(name))
        return
    a, e = torch.as_tensor(actual), torch.as_tensor(expected)
    assert (a.dtype, a.shape) == (e.dtype, e.shape), f"{_of(what)}expected {e.dtype} {e.shape}, got {a.dtype} {a.shape}"
    other = (a != e) & ~((a != a) & (e != e))  # NaN alone is unequal to itself
    assert not other.any(), f"{_of(what)}{int(other.sum())} of {other.numel()} values differ"


def _judge(found: float, within: float, what: str, sentence: str) -> None:
    assert found <= within, f"{_of(what)}{sentence.format(f'{found:.3g}')}, expected at most {within:.3g}"


def _of(what: str) -> str:
    return f"{what}: " if what else ""


def _allowed(within: float | None, *values: Any) -> float:
    """The share of the spread that the least precise of the values allows."""
    if within is not None:
        return within
    kinds = [k for k in map(_kind, values) if k is not None]
    return max((ALLOWED.get(k, 0.0) for k in kinds), default=FLOAT32)


def _kind(value: Any) -> torch.dtype | None:
    """The type of a tensor's or an array's numbers; None for plain numbers, of which it isn't known."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.empty(0, value.dtype)).dtype
    return value.dtype if isinstance(value, Tensor) else None


def _doubles(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().double().cpu()
    return torch.from_numpy(np.array(value, dtype=np.float64))
