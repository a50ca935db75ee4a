"""Joint images: single frames of other clips behind a clip's own, in training alone (Latte, section 3.3).

Nothing flows between them and the clip. Each has its own label and prompt, so that these are (B, 1 + N, ...), and its
own frame of every field; other vectors, such as the level of noise, are the clip's. The conditions say how many of the
last frames are images (`image_frames`). A request has none, which is the null.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.contracts.conditions import PROMPT, Conditions, Value


def joined(
    z0: Tensor, images: Tensor, conditions: Conditions, theirs: Conditions, fields: Conditions | None = None
) -> tuple[Tensor, Conditions]:
    """Latents with single images behind them, and conditions with a row for each.

    Args:
        z0: latents (B, C, T, H, W) of clips.
        images: latents (B, N, C, H, W) of single images for each of them.
        conditions: what is told of the clips; its null rows stay.
        theirs: the label and prompt that are told of B * (1 + N) things, each clip before its own images.
        fields: the fields that are told of the B * N images, of one frame each; none = of none.

    Returns:
        latents (B, C, T + N, H, W), and conditions whose values are (B, 1 + N, ...).
    """
    batch, count = images.shape[:2]
    said = theirs.map(lambda v: v.unflatten(0, (batch, 1 + count)))
    told = {name: value for name, value in said.items() if name in PROMPT}
    for name in conditions:
        if name not in PROMPT:
            told[name] = conditions[name]
    for name, field in (fields or {}).items():
        of_images = field.value.unflatten(0, (batch, count)).squeeze(3).transpose(1, 2)  # (B, C, N, H, W)
        told[name] = Value("field", torch.cat([conditions[name].value, of_images], 2))
    return torch.cat([z0, images.transpose(1, 2)], dim=2), Conditions.of(told, conditions.nulls, count)
