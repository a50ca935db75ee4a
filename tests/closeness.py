"""The one way tests compare floating point numbers: relative to the spread of what is compared.

A bare tolerance such as 1e-5 means nothing without the size of the numbers, and float32 sums differ between processors
by an amount that grows with that size. So a largest difference is held against the standard deviation of the expected
values, as the reference numbers are judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT32 = 1e-5
"""What two ways of computing the same float32 result may differ by, as a share of the result's spread."""


def spread(expected: Tensor) -> float:
    """The standard deviation over all values; the largest size where all are alike (then there is no deviation)."""
    values = expected.detach().double().flatten()
    deviation = float(values.std(correction=0)) if values.numel() > 1 else 0.0
    size = float(values.abs().max()) if values.numel() else 0.0
    # Values that are equal but for rounding have a deviation of rounding's size, which is no scale to compare with.
    return deviation if deviation > 1e-6 * size else size


def difference(actual: Any, expected: Any) -> float:
    """The largest difference over the expected values' spread; 0 where both are equal."""
    a, e = _tensor(actual), _tensor(expected)
    assert a.shape == e.shape, f"expected shape {tuple(e.shape)}, got {tuple(a.shape)}"
    if torch.equal(a, e) or not e.numel():
        return 0.0
    worst = float((a - e).abs().max())
    scale = spread(e)
    return worst / scale if scale else float("inf")


def assert_close(actual: Any, expected: Any, within: float = FLOAT32, what: str = "") -> None:
    """Fail unless `actual` has the shape of `expected` and differs from it by at most `within` of its spread.

    Takes tensors, arrays, numbers and sequences of numbers. NaN is never close. For values that ought to be equal bit
    for bit use torch.equal; for a result that should vanish, say beside what it should vanish: `assert_small`.
    """
    found = difference(actual, expected)
    assert found <= within, f"{what + ': ' if what else ''}differs by {found:.3g} of the spread, expected {within:.3g}"


def assert_small(actual: Any, beside: Any, within: float = FLOAT32, what: str = "") -> None:
    """Fail unless every value of `actual` is at most `within` of the spread of `beside`, of any shape."""
    found = float(_tensor(actual).abs().max()) / spread(_tensor(beside))
    assert found <= within, (
        f"{what + ': ' if what else ''}is {found:.3g} of what it stands beside, expected {within:.3g}"
    )


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().double().cpu()
    return torch.from_numpy(np.asarray(value, dtype=np.float64))
