"""What stands between two frames: their mean, their mean after both moved halfway, or what RIFE's network makes.

Shapes: frames are (N, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.flow import flow, need_flow, warp
from kinolab.video import to_uint8

if TYPE_CHECKING:
    from kinolab.layers.rife import Rife

Between = Callable[[Tensor, Tensor], Tensor]
"""between(before, after) -> the frames in the middle of them, of the same shape."""
BetweenName = Literal["mean", "flow", "rife"]


def interpolator(name: BetweenName, weights: Path | None = None) -> Between:
    """What makes the frame between two.

    weights: of rife, the released `flownet.pkl` or a .safetensors file of the same names; no code in it is run.

    Raises:
        InputError: for rife without weights, or with others, and for flow without OpenCV.
    """
    if (name == "rife") != (weights is not None):
        raise InputError("rife goes with a file of its weights: set between=rife and rife=flownet.pkl, or neither")
    if name == "flow":
        need_flow()
    if weights is None:
        return {"mean": mean, "flow": along_flow}[name]
    network = read_rife(weights)

    def between(before: Tensor, after: Tensor) -> Tensor:
        made = network.to(before.device)((before.float() + 1) / 2, (after.float() + 1) / 2) * 2 - 1
        return _kept(before, after, made.to(before.dtype))

    return between


def mean(before: Tensor, after: Tensor) -> Tensor:
    """The mean of two frames."""
    return (before + after) / 2


def along_flow(before: Tensor, after: Tensor) -> Tensor:
    """The mean of two frames that were moved halfway along the flow between them (DIS, Kroeger et al. 2016).

    With F01 from the first to the second and F10 back, the flow from the middle to either end is -F01 / 4 + F10 / 4
    and F01 / 4 - F10 / 4 (Jiang et al. 2018, Super SloMo, eq. 4 at t = 1/2).
    """
    made = torch.stack([_moved_halfway(a, b) for a, b in zip(before, after, strict=True)])
    return _kept(before, after, made)


def _moved_halfway(a: Tensor, b: Tensor) -> Tensor:
    """The frame between two (3, H, W)."""
    pair = to_uint8(torch.stack([a, b], 1))  # (2, H, W, 3)
    there, back = flow(pair), flow(pair, backward=True)  # (1, H, W, 2) each
    # What is at p in the second frame was at p + back(p) in the first: this is F10.
    to_first = torch.from_numpy((back - there) / 4).to(a.device)
    return mean(warp(a[None], to_first), warp(b[None], -to_first))[0]


def _kept(before: Tensor, after: Tensor, made: Tensor) -> Tensor:
    """What was made, but between equal frames these: the motion that is found there is not 0 to the last bit."""
    equal = (before == after).flatten(1).all(1)
    return torch.where(equal.view(-1, 1, 1, 1), before, made)


def read_rife(path: Path) -> Rife:
    """RIFE's network of a file's weights, whose names may begin with `module.`.

    Raises:
        InputError: for a file that can't be read, or of something else.
    """
    from kinolab.layers.rife import TRAINING, Rife
    from kinolab.metrics.weights import fill, read_tensors

    tensors = {name.removeprefix("module."): value for name, value in read_tensors(path).items()}
    first = tensors.get("block0.conv0.1.0.weight")
    if first is None or first.ndim != 4:
        raise InputError(f"{path}: not weights of RIFE's flownet: expected module.block0.conv0.1.0.weight among them")
    with torch.device("meta"):
        network = Rife(len(first))
    fill(network, tensors, path, TRAINING)
    return network
