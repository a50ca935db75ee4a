"""The U-Net of latent diffusion and Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv:2112.10752).

An image model: every frame of a clip is an image by itself unless a run says which others its self-attention reads.
Video systems are this network with layers over time in its slots (`kinolab.layers.slots`): each is a file of its own
beside this one with a config, the layers and where they stand. Parameter names are those of the diffusers library,
which most public weights have; `kinolab.checkpoints` knows the original ones.

Shapes: B batch, C channels, T frames, E width of the time's embedding, L tokens of a prompt. Latents are
(B, C, T, H, W), inside the network frames are (B * T, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers.base import BaseDenoiserConfig, DenoiserSpec, NullPromptDenoiser, run_blocks
from kinolab.layers.embeddings import LabelEmbedder, TimestepEmbedder
from kinolab.layers.masking import told_of
from kinolab.layers.normalization import GroupNorm, NormScope, fast_layout, fold_frames, silu, unfold_frames
from kinolab.layers.null_prompt import NullPrompt
from kinolab.layers.ports import ConditionPorts, check_port_names, named_ports
from kinolab.layers.slots import Clip, Place, Slots, filled, over_frames, to_images, to_tokens
from kinolab.layers.unet_attention import SpatialTransformer
from kinolab.layers.unet_blocks import (
    DoublingConv,
    HalvingConv,
    TimedResnetBlock,
    initialize_unet,
    normalized,
    weights_like_frames,
)

SIZES: dict[str, dict[str, Any]] = {
    "sd1": {"num_heads": 8, "text_dim": 768, "linear_projection": False},
    "sd2": {"head_size": 64, "text_dim": 1024, "linear_projection": True},
}
"""What the two generations of Stable Diffusion differ in."""


class UnetFields(BaseDenoiserConfig):
    """The fields of every system that is made of this U-Net; the defaults are Stable Diffusion 1.x's."""

    published = {"diffusion": {"schedule": "scaled_linear"}, "sampler": {"spacing": "sd"}}  # noqa: RUF012

    size: Literal["sd1", "sd2"] | None = None
    """Preset: heads, prompt and projections of Stable Diffusion 1.x or 2.x; explicit values win over it."""
    in_channels: int = Field(4, ge=1)
    """Channels of the latents."""
    input_size: int | tuple[int, int] = 64
    """Height and width of the latents in training (one number: both); the network takes any."""
    block_out_channels: tuple[int, ...] = Field((320, 640, 1280, 1280), min_length=1)
    """Width of each resolution, finest first; each is half as fine as the one before."""
    layers_per_block: int = Field(2, ge=1)
    """Residual blocks per resolution on the way down; one more on the way up."""
    attention_levels: tuple[int, ...] = (0, 1, 2)
    """Resolutions, 0 the finest, whose residual blocks are each followed by a transformer, as the middle always is."""
    transformer_depth: int = Field(1, ge=1)
    """Blocks of each transformer."""
    num_heads: int | tuple[int, ...] | None = None
    """Attention heads of each resolution (one number: of all); none = as head_size says, or 8."""
    head_size: int | tuple[int, ...] | None = None
    """Width of a head instead of their number, at each resolution or at all."""
    text_dim: int = Field(0, ge=0)
    """Width of a prompt's token states (SD 1.x 768, 2.x 1024); 0 = no prompt is read."""
    linear_projection: bool = False
    """Projections into and out of a transformer as linear layers (SD 2.x) or 1x1 convolutions (1.x): the same sums."""
    norm_groups: int = Field(32, ge=1)
    """Groups of every GroupNorm; they divide all widths."""
    norm_scope: NormScope = "frame"
    """Statistics of the norms in residual blocks and before the output: of each frame, or over all frames of a clip."""
    upcast_attention: bool = False
    """Compute attention in float32 under a half-precision autocast (SD 2.1 with 768 px)."""
    learned_variance: bool = False
    """Predict 2C channels: the second half interpolates the log variance."""
    num_classes: int = Field(0, ge=0)
    """Class labels 0 .. num_classes - 1; num_classes itself is the null class; 0 = no labels."""
    pooled_dim: int = Field(0, ge=0)
    """Width of a pooled prompt embedding, added to the time's embedding; 0 = none."""
    null: Literal["learned", "prompt"] = "learned"
    """The null condition's text: learned, or the empty prompt's, which `set_null_prompt` sets (public weights)."""
    null_tokens: int = Field(1, ge=1)
    """Text tokens of the null condition."""
    fps_condition: bool = False
    """Take the frame rate, embedded like the time; its last layer starts at zero, so that it changes nothing then."""
    given: Literal["none", "channels"] = "none"
    """Take the given part of a video as more channels of the input: its latents and its mask."""
    mask_channels: int = Field(1, ge=1)
    """Channels R of the given part's mask: the autoencoder's temporal ratio."""
    concatenated: dict[str, int] = Field(default_factory=dict)
    """Conditions that are more channels of the input, by name, and their channels: zeros where they are null."""
    gradient_checkpointing: bool = False
    """Recompute residual blocks and transformers in the backward pass: less memory for about a third more time."""
    vectors: dict[str, int] = Field(default_factory=dict)
    """More conditions that join the time's embedding, by name (`kinolab.conditioning`), and their widths; 0 = one
    number, such as noise_level: 0."""
    fields: dict[str, int] = Field(default_factory=dict)
    """More conditions that lie beside the latents, by name, and their channels, such as control: 4."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("size") in SIZES:
            preset = SIZES[values["size"]]
            told = "num_heads" in values or "head_size" in values
            return {k: v for k, v in preset.items() if not (told and k in ("num_heads", "head_size"))} | values
        return values

    @model_validator(mode="after")
    def _check(self) -> UnetFields:
        check_port_names(self.vectors, {**self.fields, **self.concatenated})
        levels = len(self.block_out_channels)
        both = sorted(set(self.fields) & set(self.concatenated))
        if both:
            raise ValueError(f"concatenated: {both[0]} is among fields too; name it once")
        if self.num_heads is not None and self.head_size is not None:
            raise ValueError("num_heads and head_size say the same: leave one out")
        wrong = [level for level in self.attention_levels if not 0 <= level < levels]
        if wrong:
            raise ValueError(f"attention_levels {wrong}: expected resolutions from 0 to {levels - 1}")
        for name in ("num_heads", "head_size"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise ValueError(f"{name}: expected one number, or {levels}, one of each resolution; got {len(value)}")
        for level, width in enumerate(self.block_out_channels):
            if width % self.norm_groups:
                raise ValueError(f"block_out_channels: {width} is no multiple of norm_groups {self.norm_groups}")
            heads, size = self.heads(level)
            if heads * size != width and (level in self.attention_levels or level == levels - 1):
                what = f"{heads} heads" if self.head_size is None else f"heads of {size}"
                raise ValueError(f"block_out_channels: {width} can't be cut into {what}")
        return self

    def heads(self, level: int) -> tuple[int, int]:
        """Number and size of the attention heads at a resolution."""
        width = self.block_out_channels[level]
        if self.head_size is not None:
            size = self.head_size if isinstance(self.head_size, int) else self.head_size[level]
            return width // size, size
        told = 8 if self.num_heads is None else self.num_heads
        heads = told if isinstance(told, int) else told[level]
        return heads, width // heads

    def place(self, part: Literal["input", "down", "middle", "up"], level: int, layer: int = 0) -> Place:
        """A place in the network."""
        attends = part != "input" and (part == "middle" or level in self.attention_levels)
        return Place(part, level, layer, self.block_out_channels[level], *self.heads(level), attends)


class UnetConfig(UnetFields):
    """The image model's fields, which are those of every system made of it."""

    kind: Literal["unet"] = "unet"


class UnetBlock(nn.Module):
    """Residual blocks at one resolution, each with its transformer if it has one, and what stands in their slots.

    Args:
        places: of each residual block. widths_in: channels that each is given.
    """

    def __init__(self, config: UnetFields, slots: Slots, places: list[Place], widths_in: list[int]) -> None:
        super().__init__()
        E, groups = 4 * config.block_out_channels[0], config.norm_groups
        self.resnets = nn.ModuleList(
            TimedResnetBlock(width, at.width, E, groups, eps=slots.norm_eps(at), scope=config.norm_scope, slots=slots)
            for width, at in zip(widths_in, places, strict=True)
        )
        self.after_resnet = nn.ModuleList(filled(slots.after_resnet(at)) for at in places)
        middle = places[0].part == "middle"
        attending = [at for at in (places[:-1] if middle else places) if at.attends]
        self.attentions = nn.ModuleList(_transformer(config, slots, at) for at in attending)
        after = attending if middle else places
        self.after_attention = nn.ModuleList(filled(slots.after_attention(at)) for at in after)
        self.recompute = config.gradient_checkpointing

    def layer(self, index: int, x: Tensor, clip: Clip) -> Tensor:
        """The residual block of a number, its transformer and their slots: frames -> frames."""
        return self.attend(index, self.resnet(index, x, clip), clip)

    def resnet(self, index: int, x: Tensor, clip: Clip) -> Tensor:
        """A residual block and its slot."""
        return over_frames(self.after_resnet[index], self._run(self.resnets[index], x, clip), clip)

    def attend(self, index: int, x: Tensor, clip: Clip) -> Tensor:
        """The transformer of a residual block, if it has one, and its slot."""
        if index < len(self.attentions):
            x = self._run(self.attentions[index], x, clip)
        return over_frames(self.after_attention[index], x, clip)

    def _run(self, module: nn.Module, x: Tensor, clip: Clip) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(module, x, clip, use_reentrant=False)
        return module(x, clip)


def _transformer(config: UnetFields, slots: Slots, at: Place) -> SpatialTransformer:
    return SpatialTransformer(
        at,
        config.transformer_depth,
        config.text_dim,
        config.norm_groups,
        slots,
        linear=config.linear_projection,
        upcast=config.upcast_attention,
    )


class DownBlock(UnetBlock):
    """One resolution on the way down, then (but for the coarsest) a strided convolution to the next."""

    def __init__(self, config: UnetFields, slots: Slots, level: int) -> None:
        widths, n = config.block_out_channels, config.layers_per_block
        places = [config.place("down", level, j) for j in range(n)]
        super().__init__(config, slots, places, [widths[max(level - 1, 0)], *[widths[level]] * (n - 1)])
        self.downsamplers = nn.ModuleList([] if level == len(widths) - 1 else [HalvingConv(widths[level])])
        self.after_conv = nn.ModuleList(filled(slots.after_conv(widths[level])) for _ in self.downsamplers)

    def forward(self, x: Tensor, clip: Clip) -> list[Tensor]:
        """Frames -> those after every layer: what the way up is given again, the last one what comes next."""
        found = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, clip)
            found.append(x)
        for downsample, slot in zip(self.downsamplers, self.after_conv, strict=True):
            found.append(over_frames(slot, downsample(x), clip))
        return found


class MiddleBlock(UnetBlock):
    """Residual block, transformer, residual block at the coarsest resolution."""

    def __init__(self, config: UnetFields, slots: Slots) -> None:
        last = len(config.block_out_channels) - 1
        places = [config.place("middle", last, j) for j in range(2)]
        super().__init__(config, slots, places, [config.block_out_channels[-1]] * 2)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """Frames -> frames."""
        return self.resnet(1, self.layer(0, x, clip), clip)


class UpBlock(UnetBlock):
    """One resolution on the way up, each layer given what the way down left, then (but for the finest) a doubling."""

    def __init__(self, config: UnetFields, slots: Slots, level: int) -> None:
        widths, n = config.block_out_channels, config.layers_per_block + 1
        before = widths[min(level + 1, len(widths) - 1)]
        # The way down leaves n - 1 of this width, and before them what came from the finer resolution.
        skips = [*[widths[level]] * (n - 1), widths[max(level - 1, 0)]]
        inputs = [before, *[widths[level]] * (n - 1)]
        places = [config.place("up", level, j) for j in range(n)]
        super().__init__(config, slots, places, [a + b for a, b in zip(inputs, skips, strict=True)])
        self.upsamplers = nn.ModuleList([] if level == 0 else [DoublingConv(widths[level])])
        self.after_conv = nn.ModuleList(filled(slots.after_conv(widths[level])) for _ in self.upsamplers)

    def forward(self, x: Tensor, skips: list[Tensor], size: tuple[int, ...], clip: Clip) -> Tensor:
        """Frames -> frames, of the side `size` where they are doubled; takes one of `skips` off its end per layer."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], 1), clip)
        for upsample, slot in zip(self.upsamplers, self.after_conv, strict=True):
            x = over_frames(slot, upsample(x, size), clip)
        return x


class WayDown(NullPromptDenoiser):
    """The half of the U-Net up to its middle block, and how it reads what it is told.

    A control network is a copy of it (`controlnet.py`).
    """

    Config: ClassVar[type[BaseDenoiserConfig]] = UnetConfig
    block_lists: ClassVar[tuple[str, ...]] = ("down_blocks",)
    reach = Reach("own")

    def __init__(self, config: UnetFields) -> None:
        super().__init__()
        self.config = config
        slots, widths = self.slots(), config.block_out_channels
        E = 4 * widths[0]
        self.spec = self._spec()
        self.time_embedding = TimestepEmbedder(E, widths[0])
        if config.num_classes:
            self.label_embedder = LabelEmbedder(config.num_classes, E)
        if config.pooled_dim:
            self.pooled_projection = nn.Sequential(nn.Linear(config.pooled_dim, E), nn.SiLU(), nn.Linear(E, E))
        self.null_prompt = NullPrompt(
            config.text_dim, config.pooled_dim, config.null_tokens, learned=config.null == "learned"
        )
        if config.fps_condition:
            self.fps_embedder = TimestepEmbedder(E)
        self.vector_ports = ConditionPorts(config.vectors, {}, E, 1)
        self.field_ports = ConditionPorts({}, config.fields, widths[0], 1)
        self.conv_in = nn.Conv2d(sum(map(len, self.input_columns().values())), widths[0], 3, padding=1)
        self.after_conv_in = filled(slots.after_conv(widths[0]))
        self.at_input = filled(slots.at_input(config.place("input", 0)))
        self.down_blocks = nn.ModuleList(DownBlock(config, slots, level) for level in range(len(widths)))
        self.mid_block = MiddleBlock(config, slots)

    def slots(self) -> Slots:
        """What stands in the slots: nothing in the image model."""
        return Slots()

    def _spec(self) -> DenoiserSpec:
        c = self.config
        beside = tuple(Port(name, "field", channels) for name, channels in c.concatenated.items())
        return DenoiserSpec(
            c.in_channels,
            c.learned_variance,
            c.num_classes,
            c.text_dim,
            c.pooled_dim,
            given=c.given,
            mask_channels=c.mask_channels,
            fps=c.fps_condition,
            joint_images=c.norm_scope == "frame",
            more=(*named_ports(c.vectors, c.fields), *beside),
        )

    def input_columns(self) -> dict[str, range]:
        """The channels that the first convolution reads, by what they hold (see `_input`)."""
        c = self.config
        widths = {"the latents": c.in_channels, **c.concatenated}
        if c.given == "channels":
            widths["what is given"] = c.in_channels + c.mask_channels
        found, start = {}, 0
        for name, width in widths.items():
            found[name] = range(start, start + width)
            start += width
        return found

    def clip(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None) -> Clip:
        """What every block is told."""
        text, mask = self._prompt(conditions, len(t))
        return Clip(
            batch=len(t),
            frames=z.shape[2],
            time=F.silu(self._embedding(t, conditions, z.shape[2])),
            conditions=conditions,
            text=text,
            text_mask=mask,
            lists=self.reach_lists(z.shape[2], options),
            images=conditions.image_frames,
            image_only=None if options is None else options.image_only,
            among=self.among,
        )

    def _input(self, z: Tensor, conditions: Conditions) -> Tensor:
        """The latents and what is concatenated to them, (B, more channels, T, H, W)."""
        parts = [z]
        for name, channels in self.config.concatenated.items():
            value, null = conditions.tensor(name), conditions.null_of(name)
            if value is None:
                value = z.new_zeros(z.shape[0], channels, *z.shape[2:])
            elif null is not None:
                value = value.masked_fill(null.view(-1, 1, 1, 1, 1), 0)
            parts.append(value.to(z.dtype))
        if self.config.given == "channels":
            parts += told_of(z, conditions.given, conditions.mask, self.config.mask_channels)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _add_fields(self, x: Tensor, clip: Clip) -> Tensor:
        """Frames and what is told by fields."""
        if not self.config.fields:
            return x
        tokens = to_tokens(x).unflatten(0, (clip.batch, clip.frames))
        return to_images(self.field_ports.add_fields(tokens, clip.conditions).flatten(0, 1), (x.shape[2], x.shape[3]))

    def _down(self) -> Iterator[Any]:
        return iter(self.down_blocks)

    def _embedding(self, t: Tensor, conditions: Conditions, frames: int) -> Tensor:
        """Embedding (B, 1 or T, E) of time, class, pooled prompt, frame rate and other vectors."""
        c = self.vector_ports.add_vectors(self.time_embedding(t), conditions)[:, None]
        if self.config.num_classes:
            label = conditions.label
            if label is None:
                label = torch.full(t.shape, self.spec.unlabelled, device=t.device)
            c = c + self._per_frame(label, conditions, "label", self.label_embedder, frames)
        if self.config.pooled_dim:
            c = c + self._per_frame(conditions.pooled, conditions, "pooled", self._project_pooled, frames)
        if conditions.fps is not None:
            c = c + (self.fps_embedder(conditions.fps) * (conditions.fps > 0)[:, None])[:, None]
        return c

    def _per_frame(
        self, told: Tensor | None, conditions: Conditions, name: str, embed: Callable[..., Tensor], frames: int
    ) -> Tensor:
        """A vector's embedding (B, 1, E), or (B, T, E) where single images have their own: told (B, 1 + N, ...)."""
        null, images = conditions.null_of(name), conditions.image_frames
        # A port's own width says whether there is a row for each image.
        own = told is not None and told.ndim > (1 if name == "label" else 2)
        if not own or told is None:
            return embed(told, null)[:, None]
        rows = told.shape[1]
        many = None if null is None else null.repeat_interleave(rows)
        found = embed(told.flatten(0, 1), many).unflatten(0, (-1, rows))  # (B, 1 + N, E)
        # The clip's row for each of its frames, then a row for each image: (B, T, E).
        return torch.cat([found[:, :1].expand(-1, frames - images, -1), found[:, 1:]], 1)

    def _project_pooled(self, pooled: Tensor | None, null: Tensor | None) -> Tensor:
        batch = 1 if pooled is None else len(pooled)
        return self.pooled_projection(self.null_prompt.fill_pooled(pooled, null, batch))

    def _prompt(self, conditions: Conditions, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Token states of the prompt (B, L, P) or (B, 1 + N, L, P), and which of them are there, none = all."""
        if not self.config.text_dim:
            return None, None
        text, mask, null = conditions.text, conditions.text_mask, conditions.null_of("text")
        if text is None or text.ndim == 3:
            return self.null_prompt.fill_text(text, mask, null, batch)
        rows = text.shape[1]
        states, there = self.null_prompt.fill_text(
            text.flatten(0, 1),
            None if mask is None else mask.flatten(0, 1),
            None if null is None else null.repeat_interleave(rows),
            batch * rows,
        )
        return states.unflatten(0, (batch, rows)), None if there is None else there.unflatten(0, (batch, rows))


class Unet(WayDown):
    """The U-Net of Stable Diffusion; see `UnetFields`. A condition that is not given counts as null."""

    block_lists = ("down_blocks", "up_blocks")
    shares_places = True  # those of its transformers; convolutions are computed by every process
    starts_as_image: ClassVar[dict[str, Any]] = {}
    """Fields of the config that a system made of it needs in order to begin as the image model."""

    def __init__(self, config: UnetFields) -> None:
        super().__init__(config)
        slots, widths = self.slots(), config.block_out_channels
        self.up_blocks = nn.ModuleList(UpBlock(config, slots, level) for level in reversed(range(len(widths))))
        eps = slots.norm_eps(config.place("input", 0))
        self.conv_norm_out = GroupNorm(config.norm_groups, widths[0], eps=eps, scope=config.norm_scope)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels * (1 + config.learned_variance), 3, padding=1)
        self.after_conv_out = filled(slots.after_conv(self.conv_out.out_channels))
        self.reset_parameters()
        weights_like_frames(self)

    def reset_parameters(self) -> None:
        """Residual blocks, transformers and the frame rate begin as nothing, and the output at zero."""
        last: list[nn.Module] = [m.proj_out for m in self.modules() if isinstance(m, SpatialTransformer)]
        if self.config.fps_condition:
            last.append(self.fps_embedder.mlp[-1])
        initialize_unet(self, self.conv_out, *last)

    @property
    def block_count(self) -> int:
        """What residuals are added to: everything that the way up is given again, the middle block's output and its
        input."""
        return sum(len(b.resnets) + len(b.downsamplers) for b in self._down()) + 3

    def models_time(self, name: str) -> bool:
        """What stands in a slot, and the frame rate."""
        slots = ("after_conv", "at_input.", "after_resnet.", "after_attention.", "inside_transformer.", "fps_embedder.")
        return any(part in name for part in slots)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,), conditions -> prediction (B, C or 2C, T, H, W).

        Residuals are (B, C, T, h, w) of the features that they are added to: number 0 is the first convolution's, then
        those of every layer on the way down, then the middle block's output; the last number is the middle block's
        input, to which the paper adds nothing (see `in_place` of `kinolab.models.controlnet`).

        Raises:
            InputError: where a shape is wrong or a condition is given that the model was not built for.
        """
        self.check_inputs(z, t, conditions)
        clip, added = self.clip(z, t, conditions, options), self.residuals(options)
        x = self.conv_in(fold_frames(fast_layout(self._input(z, conditions))))
        x = self._add_fields(over_frames(self.after_conv_in, x, clip), clip)
        x = over_frames(self.at_input, x, clip)
        x = run_blocks(
            x.unflatten(0, (clip.batch, clip.frames)),  # (B, T, C, H, W), so that a cache counts clips
            options,
            lambda x: self._blocks(x.flatten(0, 1), clip, added).unflatten(0, (clip.batch, clip.frames)),
            lambda x: self._modulated(x.flatten(0, 1), clip),
        ).flatten(0, 1)
        x = self.conv_out(silu(normalized(self.conv_norm_out, x, clip.batch)))
        return unfold_frames(over_frames(self.after_conv_out, x, clip), clip.batch)

    def _blocks(self, x: Tensor, clip: Clip, added: Mapping[int, Tensor]) -> Tensor:
        skips = [x]
        for down in self._down():
            found = down(skips[-1], clip)
            skips += found
        x = self.mid_block(_with_residual(skips[-1], added.get(len(skips) + 1)), clip)
        if added:  # to what the way up is given, not to what the way down goes on with (Zhang et al. 2023, section 3.1)
            skips = [_with_residual(skip, added.get(i)) for i, skip in enumerate(skips)]
            x = _with_residual(x, added.get(len(skips)))
        blocks: Iterator[Any] = iter(self.up_blocks)
        for up in blocks:
            # A list of its own, as what shards a block hands it a copy of what it is given.
            count = self.config.layers_per_block + 1
            taken = skips[-count:]
            del skips[-count:]
            x = up(x, taken, tuple((skips or taken)[-1].shape[2:]), clip)
        return x

    def _modulated(self, x: Tensor, clip: Clip) -> Tensor:
        """The first residual block's input with the time that it is told."""
        first: Any = self.down_blocks[0]
        resnet: TimedResnetBlock = first.resnets[0]
        time = resnet.time_emb_proj(clip.time).expand(-1, clip.frames, -1)  # (B, T, width)
        h = normalized(resnet.norm1, x, clip.batch).unflatten(0, (clip.batch, clip.frames))
        return h + time[..., None, None] if time.shape[2] == h.shape[2] else h


def _with_residual(x: Tensor, residual: Tensor | None) -> Tensor:
    """Frames (B * T, C, h, w) and a residual (B, C, T, h, w), or a number for all."""
    if residual is None:
        return x
    return x + (fold_frames(residual) if residual.ndim == 5 else residual)
