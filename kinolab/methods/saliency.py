"""What stands out in pictures, without a trained model: what differs from the picture's border.

That the border shows background is the oldest prior of salient object detection (Wei et al. 2012, Geodesic Saliency
Using Background Priors). The distance to the border's median colour is cut by Otsu's threshold (1979).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.errors import InputError

LEVELS = 256
"""Of the histogram that the threshold is found in."""
LEAST = 1e-3
"""A distance from the border below which nothing stands out, in the pictures' units."""


def salient(pictures: Tensor) -> Tensor:
    """Masks (B, 1, T, H, W) of 0 and 1 for pictures (B, C, T, H, W).

    Raises:
        InputError: for a picture in which nothing stands out.
    """
    B, _, T, H, W = pictures.shape
    frames = pictures.transpose(1, 2).flatten(0, 1).float()  # (B * T, C, H, W)
    edge = torch.cat([frames[:, :, 0], frames[:, :, -1], frames[:, :, :, 0], frames[:, :, :, -1]], 2)
    far = (frames - edge.median(2).values[:, :, None, None]).square().sum(1).sqrt()  # (B * T, H, W)
    masks = []
    for number, distance in enumerate(far):
        if float(distance.max()) < LEAST:
            raise InputError(
                f"nothing stands out from the border of frame {number % T}, so that its background can't be told: give "
                "a mask (-s saliency=FILE), or leave smooth out"
            )
        masks.append((distance > otsu(distance)).to(pictures.dtype))
    return torch.stack(masks).view(B, 1, T, H, W)


def otsu(values: Tensor) -> float:
    """The threshold that parts values of at least 0 into two classes of the largest variance between them."""
    top = float(values.max())
    counts = torch.histc(values.float().cpu(), LEVELS, 0, top).double()
    centres = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) * top / LEVELS
    below, sums = counts.cumsum(0)[:-1], (counts * centres).cumsum(0)
    above = counts.sum() - below
    apart = (sums[:-1] / below.clamp(min=1) - (sums[-1] - sums[:-1]) / above.clamp(min=1)).square() * below * above
    return float((int(apart.argmax()) + 1) * top / LEVELS)
