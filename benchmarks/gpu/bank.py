"""Latents of clips with what is given of them and their captions, as tensors on the card, renewed while one trains.

A batch is drawn by indices on the card; nothing of it passes through the processor. Rows are written round and round:
when the bank is full the oldest go.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.stream import TOKENS, Chunk
from benchmarks.gpu.text import CarriedText
from kinolab.autoencoders.base import Autoencoder
from kinolab.runtime.precision import autocast
from kinolab.tasks import encode_given


def to_pixels(frames: Tensor) -> Tensor:
    """Frames (N, T, H, W, 3) uint8 -> video (N, 3, T, H, W) in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)


class Words(nn.Module):
    """The carried text encoder on the card, for many captions at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.bert = CarriedText(folder, TOKENS).bert

    @torch.no_grad()
    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, 22) and their numbers (N,) on the CPU -> states (N, 22, 384), zero behind each caption, and pooled
        embeddings (N, 384). Captions of one length go through the network together, as it knows no padding."""
        device = self.bert.words.weight.device
        states = torch.zeros(len(tokens), TOKENS, self.bert.words.weight.shape[1], device=device)
        pooled = torch.zeros(len(tokens), states.shape[2], device=device)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten()
            found = self.bert(tokens[rows, :length].to(device)).float()
            states[rows.to(device), :length] = found
            pooled[rows.to(device)] = F.normalize(found.mean(1), dim=-1)
        return states, pooled


class Bank:
    """Rows of latents (C, T, h, w), given latents, folded masks (R, T, h, w), captions and labels, in half precision.

    Args:
        count: rows at most.
        words: the text encoder; none = no captions.
        given: whether masks are kept, and what they give.
    """

    def __init__(
        self, autoencoder: Autoencoder, words: Words | None, count: int, device: torch.device, *, given: bool = True
    ) -> None:
        self.autoencoder, self.words, self.count, self.device, self.given = autoencoder, words, count, device, given
        self.rows: dict[str, Tensor] = {}
        self.filled = self.at = 0

    @torch.no_grad()
    def add(self, chunk: Chunk, part: int = 64) -> None:
        """Encode a chunk's clips, `part` at once, and put them in, in place of the oldest where there is no room."""
        told: dict[str, list[Tensor]] = {}
        for rows in torch.arange(len(chunk.frames)).split(part):
            span = slice(int(rows[0]), int(rows[-1]) + 1)
            video = to_pixels(chunk.frames[span].to(self.device, non_blocking=True))
            with autocast("bfloat16", self.device):
                told.setdefault("latents", []).append(self.autoencoder.encode(video).mean)
                if self.given:
                    mask = chunk.masks[span].to(self.device, non_blocking=True)[:, None].float()
                    given, folded = encode_given(self.autoencoder, video, mask)
                    told.setdefault("given", []).append(given)
                    told.setdefault("mask", []).append(folded)
        found = {name: torch.cat(parts) for name, parts in told.items()}
        found["label"] = chunk.labels.to(self.device)
        if self.words is not None:
            found["text"], found["pooled"] = self.words(chunk.tokens, chunk.lengths)
            found["length"] = chunk.lengths.to(self.device)
        self._put(found)

    def _put(self, found: dict[str, Tensor]) -> None:
        size = len(found["label"])
        for name, value in found.items():
            dtype = torch.bfloat16 if value.is_floating_point() else value.dtype
            if name not in self.rows:
                self.rows[name] = torch.zeros(self.count, *value.shape[1:], dtype=dtype, device=self.device)
            place = (self.at + torch.arange(size, device=self.device)) % self.count
            self.rows[name][place] = value.to(dtype)
        self.at = (self.at + size) % self.count
        self.filled = min(self.count, self.filled + size)

    def draw(self, size: int) -> dict[str, Tensor]:
        """`size` random rows, in float32, `text_mask` (N, 22) among them where there are captions."""
        index = torch.randint(self.filled, (size,), device=self.device)
        rows = {name: value[index] for name, value in self.rows.items()}
        found = {name: value.float() if value.is_floating_point() else value for name, value in rows.items()}
        if "length" in found:
            found["text_mask"] = torch.arange(TOKENS, device=self.device) < found.pop("length")[:, None]
        return found
