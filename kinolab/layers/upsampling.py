"""Nearest-neighbour doubling followed by a 3-tap convolution, as one transposed convolution.

Doubling repeats every input, so two of the three taps of each output always read the same input. Adding these taps
up first gives a transposed convolution of stride 2 with 4 taps per axis: the doubled tensor is never made, and the
work falls from 9 to 4 products per output in 2D and from 27 to 8 in space-time. Results agree up to rounding.

With taps (a, b, c) and u the doubled signal, y[p] = a u[p-1] + b u[p] + c u[p+1] and u[2i] = u[2i+1] = x[i], input i
reaches outputs 2i-1, 2i, 2i+1, 2i+2 with weights c, b+c, a+b, a. Causal time, y[t] = a u[t-2] + b u[t-1] + c u[t] where
the first frame is not doubled (u[0] = x[0], u[2i-1] = u[2i] = x[i]), gives the same four weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def double_space(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Images (N, I, H, W), weight (O, I, 3, 3) -> (N, O, 2H, 2W): nearest doubling, then a convolution, padding 1."""
    return F.conv_transpose2d(x, _four_taps(weight, (2, 3)), bias, stride=2, padding=1)


def double_space_time(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest doubling in space and causal time, then a causal convolution with weight (O, I, 3, 3, 3).

    `x` (B, I, 1 + T, H, W) is the frame before the first one, then T frames; the result is (B, O, 2T, 2H, 2W). At the
    start of a clip the frame before is the first one again, and the first output is to be dropped.
    """
    # Cropping the first frame here, with padding 3, would be up to five times slower in bfloat16 on a CPU.
    # Lengths: 2T + 4 - 2 * 2 = 2T in time, 2 (H - 1) + 4 - 2 * 1 = 2H in space.
    return F.conv_transpose3d(x, _four_taps(weight, (2, 3, 4)), bias, stride=2, padding=(2, 1, 1))


def _four_taps(weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(O, I, 3, ...) -> (I, O, 4, ...), the weights of the transposed convolution along each of `dims`."""
    for dim in dims:
        a, b, c = weight.unbind(dim)
        weight = torch.stack([c, b + c, a + b, a], dim)
    return weight.transpose(0, 1)  # transposed convolutions have the input's channels first
