"""Joint images: single frames of other clips behind a clip's own, in training alone (Latte, section 3.3).

Nothing flows between them and the clip. Each has its own label and prompt, so that these are (B, 1 + N, ...); the
conditions say how many of the last frames are images (`image_frames`). A request has none, which is the null.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.contracts.conditions import Conditions


def joined(z0: Tensor, images: Tensor, conditions: Conditions, theirs: Conditions) -> tuple[Tensor, Conditions]:
    """Latents with single images behind them, and conditions with a row for each.

    Args:
        z0: latents (B, C, T, H, W) of clips.
        images: latents (B, N, C, H, W) of single images for each of them.
        conditions: what is told of the clips; its null rows stay.
        theirs: what is told of B * (1 + N) things, each clip before its own images.

    Returns:
        latents (B, C, T + N, H, W), and conditions whose values are (B, 1 + N, ...).
    """
    batch, count = images.shape[:2]
    told = theirs.map(lambda v: v.unflatten(0, (batch, 1 + count)))
    return torch.cat([z0, images.transpose(1, 2)], dim=2), Conditions.of(told, conditions.nulls, count)
