"""What the layouts of Stable Diffusion's U-Net and of the video systems made of it share: how a config is guessed.

No tensor tells how many heads share a width. `config.json` does; without one the heads are those of the published model
with the same prompt width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kinolab.checkpoints.base import Guess
from kinolab.denoisers.unet import UnetFields
from kinolab.errors import InputError

Find = Callable[[str], tuple[int, ...] | None]
"""The shape of a tensor in a file by our name; none = it isn't there."""
HEADS: dict[int, tuple[str, int, str]] = {768: ("num_heads", 8, "SD 1.x"), 1024: ("head_size", 64, "SD 2.x")}
"""Width of the prompt -> the heads of the published model that has it."""
SETTINGS: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
}
"""Settings of diffusers' classes without a counterpart here, and the only values that they may have."""
SIDE = 64
"""Side of the latents in training where nothing tells it (512 px)."""


def guess_unet(
    find: Find, settings: Mapping[str, Any], heads: tuple[str, str] = ("attention_head_dim", "num_heads")
) -> Guess:
    """The fields of `UnetFields` from shapes and settings.

    `heads` is what config.json calls the heads, and which field that is: in classes of images the name is that of a
    size and the value a number.

    Raises:
        InputError: for a setting without a counterpart.
    """
    check_settings(settings)
    guess, levels, layers = Guess({"null": "prompt"}), 0, 0
    while find(f"down_blocks.{levels}.resnets.0.conv1.weight"):
        levels += 1
    while find(f"down_blocks.0.resnets.{layers}.conv1.weight"):
        layers += 1
    widths = [_shape(find, f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    attends = [i for i in range(levels) if find(f"down_blocks.{i}.attentions.0.proj_in.weight")]
    depth = 0
    while find(f"mid_block.attentions.0.transformer_blocks.{depth}.attn1.to_q.weight"):
        depth += 1
    text = find("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    guess.values |= {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "attention_levels": attends,
        "transformer_depth": depth,
        "text_dim": 0 if text is None else text[1],
        "linear_projection": len(_shape(find, "mid_block.attentions.0.proj_in.weight")) == 2,
    }
    _channels(guess, _shape(find, "conv_in.weight")[1], _shape(find, "conv_out.weight")[0])
    _heads(guess, settings, heads)
    _groups(guess, widths, settings)
    if settings.get("sample_size"):
        guess.values["input_size"] = settings["sample_size"]
    else:
        guess.values["input_size"] = SIDE
        guess.assumed["input_size"] = f"{SIDE}, as no config.json tells it; the network takes any size"
    if settings.get("upcast_attention"):
        guess.values["upcast_attention"] = True
    return guess


def _shape(find: Find, name: str) -> tuple[int, ...]:
    found = find(name)
    if found is None:
        raise KeyError(name)
    return found


def _channels(guess: Guess, read: int, made: int) -> None:
    """Channels of the latents, from those of the first convolution's input and the last one's output."""
    guess.values["in_channels"] = read if made == 2 * read else made
    guess.values["learned_variance"] = made == 2 * read
    if read > made:
        guess.unknown["concatenated"] = (
            f"the input has {read - made} channels beside the {made} of the latents: name what they are, such as "
            f"concatenated.low_resolution={read - made}"
        )


def _heads(guess: Guess, settings: Mapping[str, Any], called: tuple[str, str]) -> None:
    """Heads from config.json, or of the published model."""
    key, name = called
    if settings.get(key) is not None:
        guess.values[name] = settings[key]
        return
    width = guess.values["text_dim"]
    if width in HEADS:
        field, value, model = HEADS[width]
        guess.values[field] = value
        guess.assumed[field] = f"{value}, as in {model}, whose prompts have the width {width}"
    else:
        guess.unknown[name] = "the file does not tell how many attention heads there are, or how large"


def _groups(guess: Guess, widths: list[int], settings: Mapping[str, Any]) -> None:
    if "norm_num_groups" in settings:
        guess.values["norm_groups"] = settings["norm_num_groups"]
    elif any(width % 32 for width in widths):
        guess.unknown["norm_groups"] = f"32 groups, the usual number, do not divide the widths {widths}"
    else:
        guess.values["norm_groups"] = 32
        guess.assumed["norm_groups"] = "32, as in all published models"


def check_settings(settings: Mapping[str, Any], but: tuple[str, ...] = ()) -> None:
    """Raises InputError for a setting of diffusers' classes that has no counterpart here."""
    for key, known in SETTINGS.items():
        if key not in but and settings.get(key, known) not in (known, [known] * 4):
            raise InputError(f"config.json: {key} {settings[key]!r} is not supported, expected {known!r}")


def check_holds(config: UnetFields, layout: str, more: Mapping[str, Any] | None = None) -> None:
    """Raises InputError where a public layout has no counterpart of a field.

    `more` are further fields, and the value that each has to have.
    """
    plain: dict[str, Any] = {
        "num_classes": 0,
        "pooled_dim": 0,
        "fps_condition": False,
        "given": "none",
        "norm_scope": "frame",
        "vectors": {},
        "fields": {},
        **(more or {}),
    }
    differing = [f"{k}={getattr(config, k)}" for k, v in plain.items() if getattr(config, k) != v]
    if differing:
        raise InputError(f"{layout} has no {', '.join(differing)}: it can't hold this model")


def diffusers_settings(config: UnetFields, name: str, suffix: str = "2D") -> dict[str, Any]:
    """The arguments that diffusers' U-Nets share, for the class `name` whose blocks' names end in `suffix`."""
    levels = range(len(config.block_out_channels))
    cross = ["CrossAttn" * (i in config.attention_levels) for i in levels]
    heads = [config.heads(i)[0] for i in levels]
    return {
        "_class_name": name,
        "sample_size": config.latent_size[0],
        "in_channels": config.in_channels + sum(config.concatenated.values()),
        "out_channels": config.in_channels * (1 + config.learned_variance),
        "block_out_channels": list(config.block_out_channels),
        "layers_per_block": config.layers_per_block,
        "down_block_types": [f"{c}DownBlock{suffix}" for c in cross],
        "up_block_types": [f"{c}UpBlock{suffix}" for c in reversed(cross)],
        "cross_attention_dim": config.text_dim,
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "norm_num_groups": config.norm_groups,
        "norm_eps": 1e-5,
    }
