"""Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127): the U-Net of Stable Diffusion 2.1 with layers over
time, trained as a whole on images and then on video.

Behind every residual block stands one with kernels 3 x 1 x 1, and inside every transformer, behind its block, one that
attends over the frames at each place and reads the context too. Each is mixed with what the image layers gave by a
learned share alpha; where a frame is an image by itself alpha is 1, and the network the image model. Its videos begin
with an image, which it is told thrice: as latents beside the noisy ones, as the one token of an image encoder in place
of a prompt, and by how much noise was put into the former. Noise levels are EDM's, the prediction is v.

Parameter names are those of `kinolab.denoisers.unet`; `kinolab.checkpoints` knows the public ones. Shapes: B batch,
T frames, S places of a frame, C channels of a place, E width of the time's embedding, L tokens of the context.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions, Port
from kinolab.denoisers.base import BaseDenoiserConfig, DenoiserSpec
from kinolab.denoisers.image_init import ImageInit
from kinolab.denoisers.unet import Unet, UnetFields
from kinolab.errors import InputError
from kinolab.layers.embeddings import time_features
from kinolab.layers.normalization import add
from kinolab.layers.slots import Clip, Place, Slots, TimeLayer
from kinolab.layers.temporal_mixing import Mixer, TimeConvolution
from kinolab.layers.unet_attention import GatedMlp, QkvAttention, read_prompt

Number = Literal["fps", "motion_bucket", "noise_augmentation"]
NUMBERS: tuple[Number, ...] = ("fps", "motion_bucket", "noise_augmentation")
USUAL_FPS = (5.0, 30.0)
"""Frames per second that the public models were trained on."""
IMAGE, IMAGE_TOKENS = "image", "image_tokens"
"""The conditions that hold the first frame: its latents at every frame, and an image encoder's tokens of it."""


class SvdConfig(UnetFields):
    """The U-Net of Stable Diffusion 2.1 with layers over time; the defaults are those of the public image-to-video
    models."""

    kind: Literal["svd"] = "svd"
    head_size: int | tuple[int, ...] | None = 64
    """Width of a head instead of their number, at each resolution or at all."""
    text_dim: int = Field(1024, ge=0)
    """Width of the context's tokens: of an image, or of a prompt."""
    linear_projection: bool = True
    """Projections into and out of a transformer as linear layers."""
    null: Literal["learned", "prompt"] = "prompt"
    """What stands for no context: learned, or zeros, as in the public models (`set_null_prompt` sets another)."""
    concatenated: dict[str, int] = Field(default_factory=lambda: {IMAGE: 4})
    """Conditions that are more channels of the input, by name, and their channels: zeros where they are null. The
    latents of the first frame, for image to video."""
    context: Literal["image", "text"] = "image"
    """What the attention to a context reads: an image encoder's tokens of the first frame, or a prompt."""
    numbers: tuple[Number, ...] = NUMBERS
    """What is told of a clip by numbers, embedded and joined in this order: frames per second, how much moves, and the
    noise in the image's latents."""
    number_features: int = Field(256, ge=2, multiple_of=2)
    """Sine-cosine features of each number."""
    eps: Literal["original", "diffusers"] = "diffusers"
    """What the norms of residual blocks add to the variance: 1e-5 everywhere in the original code; in diffusers 1e-6 on
    the way up, and on the way down where a transformer follows."""
    num_frames: int = Field(14, ge=1)
    """Frames of a training clip; the network takes any number."""

    @model_validator(mode="before")
    @classmethod
    def _heads_by_number(cls, values: Any) -> Any:
        # A number of heads that is told takes the place of the default size.
        return {**values, "head_size": None} if _told(values, "num_heads") and "head_size" not in values else values

    @model_validator(mode="after")
    def _check_svd(self) -> SvdConfig:
        if self.fps_condition or self.given != "none":
            field = "fps_condition" if self.fps_condition else "given"
            raise ValueError(f"{field}: svd is told the frame rate by numbers, and the first frame by concatenated")
        if len(set(self.numbers)) < len(self.numbers):
            raise ValueError(f"numbers: expected each once, got {', '.join(self.numbers)}")
        if set(self.vectors) & set(NUMBERS):
            raise ValueError(f"vectors: {', '.join(NUMBERS)} are told by numbers")
        return self


def _told(values: Any, name: str) -> bool:
    return isinstance(values, dict) and values.get(name) is not None


class SvdResnet(TimeLayer):
    """A residual block over time behind one of images, mixed: alpha * images + (1 - alpha) * time."""

    def __init__(self, place: Place, time_width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.temporal_res_block = TimeConvolution(place.width, groups, eps=eps, time_width=time_width)
        self.time_mixer = Mixer(0.5)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """x (B, T, S, C) -> (B, T, S, C)."""
        return self.time_mixer(x, self.temporal_res_block.over_places(x, clip.time), _images(clip))


class SvdTransformer(TimeLayer):
    """A transformer over time behind a block of one over places: a gated MLP, attention over the frames at each place,
    to the context, a gated MLP; its input is told each frame's number. Mixed as the residual blocks are."""

    def __init__(self, place: Place, text_dim: int) -> None:
        super().__init__()
        C = place.width
        self.time_pos_embed = nn.Sequential(nn.Linear(C, 4 * C), nn.SiLU(), nn.Linear(4 * C, C))
        self.norm_in, self.ff_in = nn.LayerNorm(C), GatedMlp(C)
        self.norm1, self.attn1 = nn.LayerNorm(C), QkvAttention(C, place.heads, place.head_size)
        if text_dim:
            self.norm2, self.attn2 = nn.LayerNorm(C), QkvAttention(C, place.heads, place.head_size, text_dim)
        self.norm3, self.ff = nn.LayerNorm(C), GatedMlp(C)
        self.time_mixer = Mixer(0.5)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """x (B, T, S, C) -> (B, T, S, C)."""
        numbers = time_features(torch.arange(x.shape[1], device=x.device), x.shape[3])
        h = x + self.time_pos_embed(numbers.to(x.dtype))[:, None]  # (T, 1, C): alike at all places
        h = add(self.ff_in(self.norm_in(h)), h)
        h = add(self.attn1.over_tracks(self.norm1(h)), h)
        if clip.text is not None:
            h = add(read_prompt(self.attn2, self.norm2(h), clip), h)
        h = add(self.ff(self.norm3(h)), h)
        return self.time_mixer(x, h, _images(clip))


def _images(clip: Clip) -> Tensor | None:
    """(B, T, 1, 1) bool, the frames that are images by themselves."""
    return None if clip.image_only is None else clip.image_only[..., None, None]


class SvdSlots(Slots):
    """Where the layers over time stand."""

    def __init__(self, config: SvdConfig) -> None:
        self.config = config

    def after_resnet(self, place: Place) -> TimeLayer:
        """Behind every residual block."""
        config = self.config
        return SvdResnet(place, 4 * config.block_out_channels[0], config.norm_groups, self.norm_eps(place))

    def inside_transformer(self, place: Place) -> TimeLayer:
        """Behind every block of a transformer."""
        return SvdTransformer(place, self.config.text_dim)

    def norm_eps(self, place: Place) -> float:
        """1e-5, or what diffusers' blocks of each kind have."""
        fine = place.part == "up" or (place.part == "down" and place.attends)
        return 1e-6 if fine and self.config.eps == "diffusers" else 1e-5


class Svd(Unet):
    """Stable Video Diffusion's denoiser; see `SvdConfig`. A condition that is not given counts as null."""

    Config: ClassVar[type[BaseDenoiserConfig]] = SvdConfig
    config: SvdConfig
    starts_as_image: ClassVar[dict[str, Any]] = {"eps": "original", "context": "text"}

    def __init__(self, config: SvdConfig) -> None:
        super().__init__(config)
        E = 4 * config.block_out_channels[0]
        if config.numbers:
            width = config.number_features * len(config.numbers)
            last = nn.Linear(E, E)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.add_embedding = nn.Sequential(nn.Linear(width, E), nn.SiLU(), last)

    def slots(self) -> Slots:
        """Layers over time in two of the four kinds of slots."""
        return SvdSlots(self.config)

    def _spec(self) -> DenoiserSpec:
        spec, config = super()._spec(), self.config
        more = [Port(name, "vector", usual=USUAL_FPS if name == "fps" else None) for name in config.numbers]
        text_dim = config.text_dim
        if config.context == "image" and text_dim:
            more.append(Port(IMAGE_TOKENS, "tokens", text_dim))
            text_dim = 0
        return replace(spec, text_dim=text_dim, more=(*spec.more, *more))

    def reset_parameters(self) -> None:
        """Layers over time begin as nothing, beside all that does so in the image model."""
        super().reset_parameters()
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, TimeConvolution):
                    module.reset()
                elif isinstance(module, SvdTransformer):
                    _vanish(module)

    def models_time(self, name: str) -> bool:
        """What stands in a slot, and the numbers that are told of a clip."""
        return super().models_time(name) or name.startswith("add_embedding.")

    def _prompt(self, conditions: Conditions, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """The context's tokens (B, L, P), of a prompt or of the image, and which of them are there."""
        if self.config.context == "text" or not self.config.text_dim:
            return super()._prompt(conditions, batch)
        told = conditions.get(IMAGE_TOKENS)
        value, mask = (None, None) if told is None else (told.value, told.mask)
        return self.null_prompt.fill_text(value, mask, conditions.null_of(IMAGE_TOKENS), batch)

    def _embedding(self, t: Tensor, conditions: Conditions, frames: int) -> Tensor:
        c = super()._embedding(t, conditions.without({"fps"}), frames)
        if not self.config.numbers:
            return c
        return c + self.add_embedding(self.number_features(conditions, t).to(c.dtype))[:, None]

    def number_features(self, conditions: Conditions, t: Tensor) -> Tensor:
        """Features of all numbers side by side (B, features * numbers); zeros of those that are null or not told."""
        found = []
        for name in self.config.numbers:
            value, null = conditions.tensor(name), conditions.null_of(name)
            if value is None:
                found.append(t.new_zeros(len(t), self.config.number_features))
                continue
            if name == "fps":  # the public models were trained with the frame rate less one
                value = value - 1
            features = time_features(value, self.config.number_features)
            found.append(features if null is None else features * ~null[:, None])
        return torch.cat(found, 1)


@torch.no_grad()
def init_svd(video: Svd, earlier: Svd) -> ImageInit:
    """Set a model's weights, in place, from those of an earlier stage of its training (section 4).

    What has the same shape is copied. Inputs of the first convolution that the earlier stage has not begin at zero, so
    that they change nothing; what reads a context or numbers of another width begins afresh.

    Raises:
        InputError: where the two have other layers, or the earlier one reads inputs that this one does not.
    """
    ours, theirs = video.config, earlier.config
    for name in ("in_channels", "block_out_channels", "layers_per_block", "attention_levels", "transformer_depth"):
        if getattr(ours, name) != getattr(theirs, name):
            expected, got = getattr(theirs, name), getattr(ours, name)
            raise InputError(f"{name}: expected {expected}, as the earlier stage has it, got {got}")
    if not set(theirs.concatenated.items()) <= set(ours.concatenated.items()):
        raise InputError(f"concatenated: the earlier stage reads {theirs.concatenated}, which this one has to read too")
    old, state = video.state_dict(), earlier.state_dict()
    new = {name: value for name, value in state.items() if name in old and old[name].shape == value.shape}
    if "conv_in.weight" not in new:
        weight = torch.zeros_like(old["conv_in.weight"])
        for name, columns in input_columns(ours).items():
            if name in input_columns(theirs):
                weight[:, columns] = state["conv_in.weight"][:, input_columns(theirs)[name]]
        new["conv_in.weight"] = weight
    video.load_state_dict({**old, **new})
    return ImageInit(tuple(new), tuple(k for k in old if k not in new), tuple(k for k in state if k not in new))


def input_columns(config: SvdConfig) -> dict[str, slice]:
    """The channels of the first convolution's input that hold the latents (`latents`), and each thing beside them."""
    found, start = dict[str, slice](), 0
    for name, channels in {"latents": config.in_channels, **config.concatenated}.items():
        found[name] = slice(start, start + channels)
        start += channels
    return found


def _vanish(layer: SvdTransformer) -> None:
    """What a fresh transformer over time adds to its input: nothing, not even the frames' numbers."""
    read = [layer.attn2] if isinstance(getattr(layer, "attn2", None), QkvAttention) else []
    last = (layer.time_pos_embed[2], layer.ff_in.net[2], layer.ff.net[2])
    for linear in (*last, *(attention.to_out[0] for attention in (layer.attn1, *read))):
        assert isinstance(linear, nn.Linear)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
