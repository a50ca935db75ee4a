"""A small video encoder that ships with Kinolab, so that every distribution metric runs offline from the first minute.

It is trained on the toy world and on real clips (`kinolab train video-encoder`, `training/jobs/encoder.py`): to tell
what a clip of the world shows, how strongly a clip is blurred, noisy, shuffled or frozen, and which two views are of
one clip. Its distances are its own: they are comparable with each other, never with those on I3D.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.config import Config, load_config, to_yaml
from kinolab.errors import InputError
from kinolab.metrics.extractors.base import Extractor, ExtractorSpec
from kinolab.runtime.files import write_text
from kinolab.runtime.hashes import file_sha256
from kinolab.runtime.sets import finish_set, new_set
from kinolab.runtime.weights import read_weights, write_weights


class VideoEncoderConfig(Config):
    """A small network of factorised space-time convolutions ((2+1)D, Tran et al. 2018)."""

    widths: tuple[int, ...] = Field((16, 32, 56, 80), min_length=1)
    """Channels of the stages; each halves height and width."""
    embedding: int = Field(128, ge=1)
    """Length of the feature vector."""
    groups: int = Field(8, ge=1)
    """Groups of the group norms."""
    size: int = Field(64, ge=16)
    """Height and width that frames are resized to."""

    @model_validator(mode="after")
    def _groups_fit(self) -> VideoEncoderConfig:
        if any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(f"expected widths that are multiples of the {self.groups} groups, got {self.widths}")
        return self


class Stage(nn.Module):
    """Halves height and width, then one residual (2+1)D block: (B, C, T, H, W) -> (B, D, T, H/2, W/2)."""

    def __init__(self, before: int, width: int, groups: int) -> None:
        super().__init__()
        self.down = nn.Conv3d(before, width, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.norm1 = nn.GroupNorm(groups, width)
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm2 = nn.GroupNorm(groups, width)
        self.time = nn.Conv3d(width, width, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, D, T, H/2, W/2)."""
        x = self.down(x)
        h = self.space(F.silu(self.norm1(x)))
        # The ends are repeated: a frozen clip then has no change in time, not even at its ends.
        h = F.pad(F.silu(self.norm2(h)), (0, 0, 0, 0, 1, 1), mode="replicate")
        return x + self.time(h)


class VideoEncoder(nn.Module):
    """Clips (B, 3, T, S, S) in [-1, 1] -> embeddings (B, embedding).

    What is pooled: the mean of every stage's activations over time and space, the mean size of their change from frame
    to frame, and the standard deviation over time of the last stage's.
    """

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        before = 3
        stages = []
        for width in config.widths:
            stages.append(Stage(before, width, config.groups))
            before = width
        self.stages = nn.ModuleList(stages)
        pooled = 2 * sum(config.widths) + config.widths[-1]
        self.norm = nn.LayerNorm(pooled)
        self.head = nn.Linear(pooled, config.embedding)

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, S, S) -> (B, embedding)."""
        x, pools = video, []
        for stage in self.stages:
            x = stage(x)
            activated = F.silu(x)
            pools += [activated.mean((2, 3, 4)), _change(activated)]
        over_time = F.silu(x).mean((3, 4))
        pools.append((over_time.var(2, unbiased=False) + 1e-6).sqrt())
        return self.head(self.norm(torch.cat(pools, 1)))


def _change(x: Tensor) -> Tensor:
    """Mean size of the change from frame to frame, (B, C, T, H, W) -> (B, C); 0 for a single frame."""
    if x.shape[2] < 2:
        return torch.zeros_like(x[:, :, 0, 0, 0])
    return (x[:, :, 1:] - x[:, :, :-1]).abs().mean((2, 3, 4))


class VideoEncoderExtractor(Extractor):
    """A trained `VideoEncoder` as a feature extractor of clips, or of single frames for `unit="frame"`."""

    def __init__(self, encoder: VideoEncoder, sha256: str, *, per_frame: bool = False) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        side = encoder.config.size
        self.spec = ExtractorSpec(
            name="encoder", sha256=sha256, unit="frame" if per_frame else "clip", width=encoder.config.embedding,
            size=(side, side),
        )  # fmt: skip

    def features(self, video: Tensor) -> Tensor:
        """(B, 3, T, S, S) -> (B, embedding), or (B * T, embedding) of the single frames, each a clip of one frame."""
        if self.spec.unit == "frame":
            video = video.transpose(1, 2).flatten(0, 1)[:, :, None]
        return self.encoder(video)


def save_encoder(encoder: VideoEncoder, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write `encoder.yaml` and `encoder.safetensors`."""
    tensors = {k: v.to(dtype).contiguous() for k, v in encoder.state_dict().items()}
    with new_set(folder, "encoder") as room:
        write_weights(room / "encoder.safetensors", tensors)
        write_text(room / "encoder.yaml", to_yaml(encoder.config))


def load_encoder(folder: Path, *, per_frame: bool = False) -> VideoEncoderExtractor:
    """The encoder of a folder, or of the run folder that trained it.

    Raises:
        InputError: where there is none, or its weights do not fit its config.
    """
    if not (folder / "encoder.yaml").is_file() and (folder / "model" / "encoder.yaml").is_file():
        folder = folder / "model"
    weights = folder / "encoder.safetensors"
    for path in (folder / "encoder.yaml", weights):
        if not path.is_file():
            raise InputError(f"{path}: missing; expected a folder that `kinolab train video-encoder` has written")
    finish_set(folder, "encoder")
    encoder = VideoEncoder(load_config(VideoEncoderConfig, folder / "encoder.yaml"))
    state, expected = read_weights(weights).tensors, encoder.state_dict()
    wrong = sorted(k for k in expected.keys() | state.keys() if k not in state or k not in expected
                   or state[k].shape != expected[k].shape)  # fmt: skip
    if wrong:
        raise InputError(f"{weights}: does not fit encoder.yaml: {', '.join(wrong)}")
    encoder.load_state_dict({k: v.float() for k, v in state.items()})
    return VideoEncoderExtractor(encoder, file_sha256(weights), per_frame=per_frame)


@cache
def shipped_encoder(*, per_frame: bool = False) -> VideoEncoderExtractor:
    """The encoder that comes with the package."""
    return load_encoder(Path(str(resources.files("kinolab") / "pretrained" / "encoder")), per_frame=per_frame)
