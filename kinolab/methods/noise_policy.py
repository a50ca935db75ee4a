"""What noise the frames of a run begin with: the same, one of its own each, or in part the same.

Frames of one video share more than frames of different ones, so noise that they share leaves less to be undone: one
noise for all keeps an image model's frames alike (ControlVideo, Zhang et al. 2023, arXiv:2305.13077), and mixed or
progressive noise suits a video model that was made of an image model (Ge et al. 2023, PYoCo, arXiv:2305.10474,
section 4.1). Every frame's noise by itself stays unit Gaussian; frames i and j are correlated by

    same          1
    mixed         a                with a = alpha^2 / (1 + alpha^2), the share of the variance that all frames have
    progressive   a^(|i - j| / 2)

Frames here are those of the latents. Samplers that add noise between steps add it to each frame by itself.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Method, Run

NoiseKind = Literal["independent", "same", "mixed", "progressive"]


class NoiseConfig(BaseConfig):
    """How much noise the frames share."""

    kind: NoiseKind
    """independent: each frame its own; same: all frames that of the first; mixed: each a part of one that all share
    and a part of its own; progressive: each a part of the frame before's and a part of its own."""
    alpha: float | None = Field(default=None, gt=0)
    """Of mixed and progressive: the shared part's standard deviation over the own part's; none = 1."""

    @model_validator(mode="after")
    def _check(self) -> NoiseConfig:
        if self.alpha is not None and self.kind not in ("mixed", "progressive"):
            raise ValueError(f"alpha is for kind mixed or progressive, not {self.kind}: leave it out")
        return self

    @property
    def shared(self) -> float:
        """The share of a frame's variance that it does not have by itself."""
        square = 1.0 if self.alpha is None else self.alpha**2
        return square / (1.0 + square)


class NoisePolicy(Method):
    """Makes the noise of a run's frames of independent draws; no draw is added, so each clip keeps to its own seed."""

    Config: ClassVar[type[BaseConfig]] = NoiseConfig
    decides = ("start",)
    config: NoiseConfig

    def started(self, z: Tensor, run: Run) -> Tensor:
        """Noise of the same shape (B, C, T, H, W), of unit variance everywhere."""
        kind, shared = self.config.kind, self.config.shared
        if kind == "same":
            return z[:, :, :1].expand_as(z).clone()
        if kind == "mixed":
            # The symmetric root of the frames' covariance (1 - a) I + a 11^T, which favours none of them: along 1 the
            # eigenvalue is 1 + a (T - 1), across it 1 - a.
            frames, own = z.shape[2], (1.0 - shared) ** 0.5
            along = (1.0 + shared * (frames - 1)) ** 0.5
            return own * z + (along - own) * z.mean(2, keepdim=True)
        if kind == "progressive":
            made = [z[:, :, 0]]
            for frame in z[:, :, 1:].unbind(2):
                made.append(shared**0.5 * made[-1] + (1.0 - shared) ** 0.5 * frame)
            return torch.stack(made, 2)
        return z
