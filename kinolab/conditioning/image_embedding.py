"""The embedding of a picture as a vector: what is seen, without a word for it (Make-A-Video, section 3.1).

In training it is that of one of the clip's own frames, so that clips need no captions. A request gives a picture, or a
prompt, of which the image encoder's prior makes an embedding. Its null is zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, Setting, VectorCondition, alone
from kinolab.conditioning.clips import request_picture
from kinolab.conditioning.prompt import dropped as without_words
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.errors import InputError


class ImageEmbeddingConfig(ConditionConfig):
    """Of which frame it is in training, and what a prompt becomes in sampling."""

    frame: Literal["first", "any"] = "any"
    """The frame of a training clip: always the first, or one drawn anew each time."""
    prompt: Literal["prior", "both", "words"] = "prior"
    """What a model is told of a prompt: the prior's embedding alone, as it was trained on clips without captions; its
    words too; or its words alone."""


class ImageEmbedding(VectorCondition):
    """What a picture shows, as an image encoder sees it."""

    name = "image_embedding"
    Config = ImageEmbeddingConfig

    @property
    def called(self) -> str:
        """What an error calls it."""
        return "a picture to show (image_embedding)"

    def files(self, value: Any) -> list[Path]:
        """The picture's file."""
        return [Path(value)] if isinstance(value, str | Path) else []

    def asked(self, request: Request, setting: Setting) -> Tensor | str | None:
        """The picture (3, H, W) that a request names for it, or else its prompt.

        Raises:
            InputError: for a negative prompt, where prompts are not told in words.
        """
        picture = request_picture(self.name, request, setting)
        if picture is not None or request.prompt is None or setting.imagine is None or self.config.prompt == "words":
            return picture
        if request.negative is not None and self.config.prompt == "prior":
            raise InputError(
                "a negative prompt is told in words, and this model is told none of a prompt: leave it out, or set "
                "conditions.image_embedding.prompt: both in its model.yaml"
            )
        return request.prompt

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Tensor]:
        """Frames of the examples' own clips; of latents each by itself they are decoded.

        Raises:
            InputError: for latents that stand for several frames.
        """
        counts, sources = [e.clip.shape[1] for e in examples], draws(f"{self.name} frame")
        picks = [0 if self.config.frame == "first" else int(torch.randint(n, (1,), generator=g))
                 for n, g in zip(counts, sources, strict=True)]  # fmt: skip
        frames = [e.clip[:, k : k + 1] for e, k in zip(examples, picks, strict=True)]
        pictures = torch.stack(frames).float().to(setting.device)  # (B, C or 3, 1, H, W)
        if examples[0].encoded:
            if setting.autoencoder.spec.temporal_ratio > 1:
                raise InputError(
                    f"{self.name} is of single frames, and a latent of this cache stands for several: train on the "
                    "clips, or on latents of an image autoencoder"
                )
            with torch.no_grad():
                pictures = setting.autoencoder.decode(pictures).float().clamp(-1, 1)
        return list(pictures[:, :, 0])

    def tell(
        self, told: Sequence[Tensor | str | None], setting: Setting, before: Conditions, draws: Draws
    ) -> Conditions:
        """Embeddings (B, D), null and 0 of rows without; where a prompt's is told alone, the words of those rows fall.

        Raises:
            InputError: for a model without an image encoder, or of another width.
        """
        if setting.look is None:
            raise InputError(f"the denoiser is told {self.name} and nothing makes it: set image_encoder")
        rows: list[Any] = list(told)
        seen = [k for k, thing in enumerate(told) if isinstance(thing, Tensor)]
        prompts = {k: thing for k, thing in enumerate(told) if isinstance(thing, str)}
        if seen:
            found = setting.look(torch.stack([rows[k] for k in seen]))[:, 0]
            rows = _placed(rows, seen, found)
        if prompts and setting.imagine is not None:
            sources = draws(f"{self.name} prior")
            imagined = setting.imagine(list(prompts.values()), [sources[k] for k in prompts])
            rows = _placed(rows, list(prompts), imagined)
        width = setting.spec.ports[self.name].width or 0
        made = next((row for row in rows if row is not None), torch.zeros(width))
        if made.shape != (width,):
            raise InputError(f"{self.name}: the denoiser takes {width} numbers and the image encoder gives {len(made)}")
        value = torch.stack([torch.zeros_like(made) if row is None else row for row in rows]).to(setting.device)
        conditions = alone(self.name, Value("vector", value), told)
        if not prompts or self.config.prompt != "prior":
            return conditions
        silent = torch.tensor([k in prompts for k in range(len(told))])
        return without_words(before, silent, setting).told(conditions)


def _placed(rows: list[Any], at: Sequence[int], found: Tensor) -> list[Any]:
    """Rows with those found in their places."""
    places = dict(zip(at, found.float(), strict=True))
    return [places.get(k, row) for k, row in enumerate(rows)]
