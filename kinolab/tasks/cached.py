"""Draws of masks that are encoded once and kept in a latent cache, so that training needs no autoencoder per step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime.hashes import Sha256
from kinolab.tasks.draw import TasksConfig, draw_mask
from kinolab.tasks.mask import Encoder, encode_given


class CachedDraws:
    """`count` masks for each clip, drawn by weight from the tasks that have something given.

    Clip and number of the draw decide the mask, whatever the order of encoding.
    """

    def __init__(self, tasks: TasksConfig, count: int) -> None:
        if count < 1:
            raise InputError(f"expected at least 1 draw of a mask per clip, got {count}")
        drawn = tasks.without_unconditional()
        if drawn is None:
            raise InputError("the tasks are unconditional only: there is nothing to draw masks for")
        self.tasks, self.count = drawn, count

    def describe(self) -> dict[str, object]:
        """What the draws depend on, to be kept with them."""
        return {"count": self.count, "tasks": self.tasks.described()}

    def encode(self, autoencoder: Encoder, video: Tensor, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Clips (B, 3, T, H, W) and keys -> given latents (B, D, C, T', H', W') and masks (B, D, R, T', H', W')."""
        frames, height, width = video.shape[2:]
        pairs = []
        for draw in range(self.count):
            masks = [draw_mask(self.tasks, frames, height, width, _generator(key, draw))[1] for key in keys]
            pairs.append(encode_given(autoencoder, video, torch.stack(masks)[:, None].to(video.device)))
        return torch.stack([given for given, _ in pairs], 1), torch.stack([mask for _, mask in pairs], 1)


def _generator(key: str, draw: int) -> torch.Generator:
    digest = Sha256().text(f"{key}:{draw}").digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
