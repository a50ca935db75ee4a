"""Embeddings of positions, times, labels and prompts.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.runtime.devices import in_float64


def sincos_1d(positions: Tensor, dim: int) -> Tensor:
    """Fixed sine-cosine embedding of real positions: (L,) -> (L, dim), all sines first (MAE's and DiT's table)."""
    omega = torch.arange(dim // 2, dtype=torch.float64) / (dim / 2)  # on the CPU: not every device has float64
    angles = in_float64(positions)[:, None] * (10000.0**-omega)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float().to(positions.device)


def sincos_2d(rows: Tensor, columns: Tensor, dim: int) -> Tensor:
    """Embedding of a grid in row-major order: (h,), (w,) -> (h * w, dim); the first half tells the column."""
    of_row = sincos_1d(rows, dim // 2)[:, None].expand(-1, len(columns), -1)
    of_column = sincos_1d(columns, dim // 2)[None].expand(len(rows), -1, -1)
    return torch.cat([of_column, of_row], dim=-1).flatten(0, 1)  # (h, w, dim) -> (h * w, dim)


def spread_positions(count: int, trained: int) -> Tensor:
    """`count` positions for a table trained on 0 .. trained - 1, spread evenly over the trained range.

    Equal counts give 0, 1, 2, ...; others are scaled by trained / count (linear position interpolation).
    """
    return torch.arange(count, dtype=torch.float64) * (trained / max(count, 1))


def place_embedding(table: Tensor, trained: tuple[int, int], grid: tuple[int, int], patch: int) -> Tensor:
    """The fixed embedding (1, S, D) of a frame's tokens: `table` itself for the grid of tokens (rows, columns) that it
    was made for, else one with interpolated positions, and a warning that says so in latent pixels."""
    if grid == trained:
        return table
    warnings.warn(
        f"trained on latents of {trained[0] * patch} x {trained[1] * patch}, got {grid[0] * patch} x "
        f"{grid[1] * patch}: position embeddings are interpolated",
        stacklevel=4,
    )
    rows, columns = (spread_positions(n, length) for n, length in zip(grid, trained, strict=True))
    return sincos_2d(rows, columns, table.shape[-1])[None].to(table)


def frame_positions(frames: int, trained: int, tubelet: int = 1) -> Tensor:
    """Positions (L,) of `frames` frames of tokens; another length than trained is spread over the trained range, with a
    warning that says so in latent frames, `tubelet` of which make a frame of tokens."""
    if frames not in (0, trained):
        warnings.warn(
            f"trained on {trained * tubelet} latent frames, got {frames * tubelet}: frame positions are interpolated",
            stacklevel=4,
        )
    return spread_positions(frames, trained)


def rotary_table(positions: Tensor, dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, dim) for `apply_rotary` at real positions (L,) (RoFormer, section 3.2)."""
    inverse = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = (in_float64(positions)[:, None] * inverse).repeat(1, 2)  # entries i and i + dim / 2 are one pair
    return angles.cos().float().to(positions.device), angles.sin().float().to(positions.device)


def video_rotary_table(
    times: Tensor, grid: tuple[int, int], time_pairs: int, space_pairs: int, dim: int, theta: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T * h * w, dim) for `apply_rotary` of a video's tokens, frame by frame in row-major order.

    Frames stand at `times` (T,), rows and columns of the grid (h, w) at their distances from its centre. Of the dim / 2
    pairs rows and columns turn the first `space_pairs` each and time the next `time_pairs`, with the frequencies that a
    head of so many pairs would have; the others are not turned, and a token at 0 of every axis stays as it is. So at
    time 0 the table is that of an image, for which no pairs turn with time.
    """
    places = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in grid)
    time, row, column = torch.meshgrid(in_float64(times), *places, indexing="ij")  # (T, h, w) each
    angles = [
        axis.flatten()[:, None] * theta ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        for axis, pairs in ((row, space_pairs), (column, space_pairs), (time, time_pairs))
    ]
    taken = torch.cat(angles, dim=1)  # (T * h * w, 2 space_pairs + time_pairs)
    both = F.pad(taken, (0, dim // 2 - taken.shape[1])).repeat(1, 2)  # pairs left over have the angle 0
    return both.cos().float().to(times.device), both.sin().float().to(times.device)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + d/2) of x (..., L, d) by their angles; dot products then depend on distances only."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def time_features(t: Tensor, count: int) -> Tensor:
    """Sine-cosine features of real numbers (L,) -> (L, count), all cosines first (DiT's and Stable Diffusion's)."""
    half = count // 2
    omega = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half))
    angles = t.float()[:, None] * omega
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sine_features(t: Tensor, count: int) -> Tensor:
    """The same with all sines first and frequencies from 1 to 1/10000, both reached (the first diffusion models')."""
    half = count // 2
    omega = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angles = t.float()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FixedTables(nn.Module):
    """A module whose buffers may be absent from a checkpoint: they are then what its config makes them."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, table in self.named_buffers(recurse=False):
            state_dict.setdefault(prefix + name, table)
        super()._load_from_state_dict(state_dict, prefix, *args)


class TimestepEmbedder(nn.Module):
    """Times (B,) -> (B, D): sine-cosine features through a two-layer MLP (DiT, section 3.2)."""

    def __init__(self, dim: int, num_features: int = 256) -> None:
        super().__init__()
        self.num_features = num_features
        self.mlp = nn.Sequential(nn.Linear(num_features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,), real numbers of the order of 0 to 1000 -> (B, D)."""
        features = time_features(t, self.num_features)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """Class labels -> rows of a learned table; the row `num_classes` is the null class."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    def forward(self, label: Tensor, null: Tensor | None = None) -> Tensor:
        """label (...) int64 in 0 .. num_classes, null (...) bool -> (..., D)."""
        if null is not None:
            label = torch.where(null, self.num_classes, label)
        return self.embedding_table(label)


class PooledEmbedder(nn.Module):
    """A pooled prompt embedding (..., P) -> (..., D) by a two-layer MLP, with a learned embedding of no prompt.

    The embedding is brought to unit mean square first, so that encoders of any scale fit the same initialisation.
    """

    def __init__(self, pooled_dim: int, dim: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(pooled_dim))
        self.mlp = nn.Sequential(nn.Linear(pooled_dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, pooled: Tensor, null: Tensor | None = None) -> Tensor:
        """pooled (..., P), null (...) bool; where True the learned null embedding takes the prompt's place."""
        pooled = F.rms_norm(pooled.to(self.null.dtype), pooled.shape[-1:])
        if null is not None:
            pooled = torch.where(null[..., None], self.null, pooled)
        return self.mlp(pooled)


class TextEmbedder(nn.Module):
    """Token states of a prompt (..., L, P) -> (..., L, D) by a two-layer MLP (PixArt-alpha's caption projection).

    A dropped prompt becomes one learned token, so that the number of tokens of a batch does not matter to it.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(text_dim))
        self.fc1 = nn.Linear(text_dim, dim)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, text: Tensor, mask: Tensor | None, null: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """text (..., L, P), mask (..., L) bool, null (...) bool -> tokens (..., L, D) and the mask (..., L) to use.

        A prompt with no real token counts as dropped: attention over nothing has no value.
        """
        if mask is None:
            mask = torch.ones(text.shape[:-1], dtype=torch.bool, device=text.device)
        dropped = ~mask.any(-1)
        if null is not None:
            dropped = dropped | null
        first = torch.arange(text.shape[-2], device=text.device) == 0
        text = torch.where(dropped[..., None, None], self.null, text.to(self.null.dtype))
        mask = torch.where(dropped[..., None], first, mask)
        return self.fc2(self.act(self.fc1(text))), mask


class TextPooling(nn.Module):
    """Attention pooling of a prompt's token states (B, L, P) -> (B, P): a learned query weighs the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        self.value = nn.Linear(width, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, text: Tensor, mask: Tensor | None, null: Tensor | None) -> Tensor:
        """text (..., L, P), mask (..., L) bool, null (...) bool; a prompt with no token counts as null."""
        text = text.to(self.null.dtype)
        mask = torch.ones(text.shape[:-1], dtype=torch.bool, device=text.device) if mask is None else mask
        gone = ~mask.any(-1) if null is None else ~mask.any(-1) | null
        # Of a prompt without tokens all weights are alike; the null vector takes its place.
        score = self.score(text)[..., 0].masked_fill(~mask, torch.finfo(text.dtype).min)
        pooled = (score.softmax(-1)[..., None] * self.value(text)).sum(-2)
        return torch.where(gone[..., None], self.null, pooled)
