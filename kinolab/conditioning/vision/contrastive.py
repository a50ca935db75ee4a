"""A small image encoder that learned from captioned pictures what texts and pictures have in common, with its prior.

The loss is CLIP's (Radford et al. 2021): of a batch each picture should be closer to its caption than to the others',
and each caption to its picture. Captions that are the same word for word belong to each other's pictures too. It is
trained by a job of its own (`kinolab.training.jobs.prior`), which writes a folder: `embedding.yaml` and
`embedding.safetensors`.

Shapes: B pictures, D width of an embedding, P of the text encoder's pooled one. Embeddings have mean square 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.conditioning.text import TextEncoder, TextEncoderConfig
from kinolab.conditioning.text import build as build_text_encoder
from kinolab.conditioning.vision.base import ImageEncoder
from kinolab.conditioning.vision.prior import Prior, PriorConfig
from kinolab.config import Config, load_config, to_yaml
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.runtime.devices import no_autocast
from kinolab.runtime.files import write_text
from kinolab.runtime.paths import named
from kinolab.runtime.sets import finish_set, new_set
from kinolab.runtime.weights import read_weights, write_weights

SET = "embedding"
"""The set of files that a folder is."""


class TextImageConfig(Config):
    """What an embedding of pictures and texts is made by."""

    text_encoder: TextEncoderConfig = "minilm"
    """What reads the texts: its pooled embedding."""
    pooled_dim: int = Field(384, ge=1)
    """Width P of it."""
    embedding: int = Field(64, ge=2)
    """Width D of the embedding."""
    size: int = Field(64, ge=8)
    """Height and width that pictures are resized to."""
    widths: tuple[int, ...] = Field((24, 48, 72, 96), min_length=1)
    """Channels of the picture's network; each stage halves the sides."""
    groups: int = Field(8, ge=1)
    """Groups of its norms."""
    prior: PriorConfig = PriorConfig()
    """The prior."""

    @model_validator(mode="after")
    def _check(self) -> TextImageConfig:
        if any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(f"expected widths that are multiples of the {self.groups} groups, got {self.widths}")
        return self


class PictureNetwork(nn.Module):
    """Pictures (B, 3, H, W) -> embeddings (B, D): strided convolutions, then mean and maximum over all places."""

    def __init__(self, config: TextImageConfig) -> None:
        super().__init__()
        self.size = config.size
        layers: list[nn.Module] = []
        before = 3
        for width in config.widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(config.groups, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(config.groups, width), nn.SiLU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(2 * before, config.embedding)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures in [-1, 1], of any size."""
        if pictures.shape[2:] != (self.size, self.size):
            pictures = F.interpolate(pictures, (self.size, self.size), mode="bilinear", antialias=True)
        x = self.layers(pictures.contiguous(memory_format=torch.channels_last))
        return unit(self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))


def unit(x: Tensor) -> Tensor:
    """(B, D) -> the same directions with a mean square of 1."""
    return F.normalize(x.float(), dim=1) * x.shape[1] ** 0.5


class TextImage(nn.Module):
    """Pictures and texts in one space."""

    def __init__(self, config: TextImageConfig) -> None:
        super().__init__()
        self.pictures = PictureNetwork(config)
        self.texts = nn.Sequential(nn.Linear(config.pooled_dim, 256), nn.SiLU(), nn.Linear(256, config.embedding))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def of_texts(self, pooled: Tensor) -> Tensor:
        """Pooled embeddings (B, P) of texts -> (B, D)."""
        return unit(self.texts(F.rms_norm(pooled, pooled.shape[-1:])))

    def forward(self, pictures: Tensor, pooled: Tensor, same: Tensor) -> Tensor:
        """The loss of pictures (B, 3, H, W) and their captions (B, P); same (B, B) bool, captions that are equal."""
        found, told = self.pictures(pictures), self.of_texts(pooled)
        logits = self.log_scale.clamp(max=math.log(100.0)).exp() * (found @ told.T) / found.shape[1]
        wanted = same.float() / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def save_embedding(folder: Path, config: TextImageConfig, joint: TextImage, prior: Prior) -> None:
    """Write `embedding.yaml` and `embedding.safetensors`."""
    named_modules = {"joint": joint, "prior": prior}
    tensors = {f"{n}.{k}": v.float().contiguous() for n, m in named_modules.items() for k, v in m.state_dict().items()}
    with new_set(folder, SET) as room:
        write_weights(room / "embedding.safetensors", tensors)
        write_text(room / "embedding.yaml", to_yaml(config))


class ContrastiveConfig(KindConfig):
    """An image encoder with a prior, which `kinolab train toy-makeavideo-prior` and its like write."""

    kind: Literal["contrastive"] = "contrastive"
    folder: Path
    """The folder, or the run folder that trained it."""


class Contrastive(ImageEncoder):
    """The embedding of a picture as one token, and of a prompt by the prior."""

    Config = ContrastiveConfig
    config: ContrastiveConfig
    imagines = True

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__(config)
        self.device = torch.device("cpu")

    @cached_property
    def folder(self) -> Path:
        """Where the files lie.

        Raises:
            InputError: where there are none.
        """
        start = named(self.config.folder)
        for folder in (start, start / "model"):
            if folder.is_dir():
                finish_set(folder, SET)
            if (folder / "embedding.yaml").is_file():
                return folder
        raise InputError(
            f"{self.config.folder}: no embedding.yaml inside; expected the run folder of a recipe of kind prior, such "
            "as toy-makeavideo-prior"
        )

    @cached_property
    def settings(self) -> TextImageConfig:
        """What the folder says."""
        return load_config(TextImageConfig, self.folder / "embedding.yaml")

    @cached_property
    def modules(self) -> tuple[TextImage, Prior]:
        """The networks, read at first use."""
        config = self.settings
        both = nn.ModuleDict(
            {"joint": TextImage(config), "prior": Prior(config.prior, config.embedding, config.pooled_dim)}
        )
        path = self.folder / "embedding.safetensors"
        state, expected = read_weights(path).tensors, both.state_dict()
        wrong = [k for k in expected.keys() | state.keys() if k not in state or k not in expected
                 or state[k].shape != expected[k].shape]  # fmt: skip
        if wrong:
            raise InputError(f"{path}: does not fit embedding.yaml: {', '.join(sorted(wrong)[:8])}")
        both.load_state_dict(state)
        both.eval().requires_grad_(False).to(self.device)
        joint, prior = both["joint"], both["prior"]
        assert isinstance(joint, TextImage) and isinstance(prior, Prior)
        return joint, prior

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """What reads prompts for the prior."""
        encoder = build_text_encoder(self.settings.text_encoder)
        if encoder is None:
            raise InputError(f"{self.folder / 'embedding.yaml'}: expected a text_encoder, got none")
        return encoder

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return self.settings.embedding

    def to(self, device: torch.device | str) -> Self:
        """Where to compute."""
        self.device = torch.device(device)
        if "modules" in vars(self):
            for module in self.modules:
                module.to(self.device)
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> (B, 1, D)."""
        with torch.no_grad(), no_autocast():
            found: Tensor = self.modules[0].pictures(pictures.to(self.device, torch.float32))
        return found[:, None]

    def imagine(self, prompts: Sequence[str], sources: Sequence[torch.Generator]) -> Tensor:
        """Prompts -> embeddings (B, D) of pictures that they might describe, each by its own generator."""
        joint, prior = self.modules
        pooled: Any = self.text_encoder.encode(list(prompts)).pooled.to(self.device)
        with torch.no_grad(), no_autocast():
            return prior.sample(pooled, joint.of_texts(pooled), sources)
