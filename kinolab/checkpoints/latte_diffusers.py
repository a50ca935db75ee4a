"""Latte in the layout of diffusers (LatteTransformer3DModel, as in the text-to-video Latte-1): a folder or its weights.

The same network as the official one with one modulation for all blocks and a prompt in cross-attention. diffusers
keeps spatial and temporal blocks in two lists and queries, keys and values apart. It has no learned null prompt: its
pipeline encodes an empty prompt instead, and so should `Conditions.text` for the unconditional branch of guidance. A
null prompt trained here is written beside the public names, where diffusers leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_folder
from kinolab.checkpoints.transformers import HEADS
from kinolab.denoisers.latte import Latte, LatteConfig
from kinolab.errors import InputError

OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "text_embedder.fc1": "caption_projection.linear_1",
    "text_embedder.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer": "",
}
"""Module -> the public one, outside the blocks."""
INNER: dict[str, tuple[str, ...]] = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "": ("",),
}
"""Module -> the public ones whose tensors it joins, inside a block."""
PUBLIC: dict[str, Any] = {
    "variant": "interleaved",
    "patch_embedding": "uniform",
    "injection": "adaln",
    "adaln": "single",
    "temporal_position": "absolute",
    "num_classes": 0,
    "pooled_dim": 0,
    "qk_norm": False,
    "reach": "own",
}
"""What diffusers' class has no choice of."""
SETTINGS: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "attention_bias": True,
}
"""Arguments of diffusers' class that make it Latte; its own defaults are others."""
LARGEST = 127
"""From latents of 128 on, diffusers squeezes the position embedding, which no field here says."""


class LatteDiffusersFormat(Format):
    """Blocks in two lists, `transformer_blocks` and `temporal_transformer_blocks`."""

    name = "latte_diffusers"
    title = "Latte, layout of diffusers"
    module_class = Latte
    config_class = LatteConfig
    folder = True
    ignored = ("pos_embed.pos_embed", "temp_pos_embed")
    absent = ("text_embedder.null",)

    def matches(self, shapes: Shapes) -> bool:
        return "temporal_transformer_blocks.0.attn1.to_q.weight" in shapes and "adaln_single.linear.weight" in shapes

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        other = {k: settings[k] for k, v in SETTINGS.items() if settings.get(k, v) != v}
        if other:
            raise InputError(f"config.json: {other} is not supported, expected { {k: SETTINGS[k] for k in other} }")
        width, channels, _, patch = shapes["pos_embed.proj.weight"]
        guess = Guess(dict(PUBLIC))
        guess.values |= {
            "hidden_size": width,
            "depth": 2 * count(shapes, "transformer_blocks."),
            "in_channels": channels,
            "patch_size": patch,
            "learned_variance": shapes["proj_out.weight"][0] == 2 * channels * patch**2,
            "text_dim": shapes["caption_projection.linear_1.weight"][1],
            "mlp_ratio": shapes["transformer_blocks.0.ff.net.0.proj.weight"][0] / width,
        }
        self._guess_sizes(guess, width, settings)
        return guess

    def _guess_sizes(self, guess: Guess, width: int, settings: Mapping[str, Any]) -> None:
        """Heads, side and frames, which shapes don't tell: from config.json, or open."""
        if "num_attention_heads" in settings:
            guess.values["num_heads"] = settings["num_attention_heads"]
        elif width in HEADS:
            guess.values["num_heads"] = HEADS[width]
            guess.assumed["num_heads"] = f"{HEADS[width]}, as the published size of width {width} has"
        else:
            guess.unknown["num_heads"] = f"the file does not tell how many heads share the width {width}"
        for field, key, what in (
            ("input_size", "sample_size", "side of the latents"),
            ("num_frames", "video_length", "latent frames"),
        ):
            if key in settings:
                guess.values[field] = settings[key]
            else:
                guess.unknown[field] = f"no config.json tells its {key}; pass the {what} in training"
        if settings.get("sample_size", 0) > LARGEST:
            raise InputError(f"config.json: sample_size {settings['sample_size']} is not supported, only to {LARGEST}")

    def file_names(self, name: str, config: LatteConfig) -> tuple[str, ...]:
        module, _, kind = name.rpartition(".")
        if module in OUTER:
            return (f"{OUTER[module]}.{kind}".removeprefix("."),)
        return self.parts(name, config)[:1] or (name,)

    def parts(self, name: str, config: LatteConfig) -> tuple[str, ...]:
        module, _, kind = name.rpartition(".")
        if not module.startswith("blocks."):
            return ()
        _, index, *inner = module.split(".")
        block = f"{'temporal_' * (int(index) % 2)}transformer_blocks.{int(index) // 2}"
        return tuple(f"{block}.{part}.{kind}".replace("..", ".") for part in INNER.get(".".join(inner), ()))

    def check_writable(self, module: Latte) -> None:
        """Raises InputError where diffusers' class has no such variant."""
        config = module.config
        differing = [f"{k}={getattr(config, k)}" for k, v in PUBLIC.items() if getattr(config, k) != v]
        if config.latent_size[0] != config.latent_size[1] or config.latent_size[0] > LARGEST:
            differing.append(f"input_size={config.input_size}")
        if config.mlp_ratio != 4.0:
            differing.append(f"mlp_ratio={config.mlp_ratio}")
        if not config.text_dim:
            differing.append("text_dim=0")
        if differing:
            raise InputError(
                f"diffusers' class of Latte has no {', '.join(differing)}: its layout can't hold this model"
            )

    def write(self, module: Latte, path: Path) -> None:
        """Write a folder that diffusers' `LatteTransformer3DModel.from_pretrained` loads: config.json and weights."""
        tensors = {k: v for k, v in public_tensors(self, module).items() if k not in ("pos_embed", "temp_embed")}
        write_folder(path, tensors, header_of(self, module), diffusers_config(module.config))


def diffusers_config(config: LatteConfig) -> dict[str, Any]:
    """The arguments of diffusers' LatteTransformer3DModel for a config that it can hold."""
    return {
        "_class_name": "LatteTransformer3DModel",
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "in_channels": config.in_channels,
        "out_channels": config.in_channels * (2 if config.learned_variance else 1),
        "num_layers": config.depth // 2,
        "cross_attention_dim": config.hidden_size,
        "caption_channels": config.text_dim,
        "sample_size": config.latent_size[0],
        "patch_size": config.patch_size,
        "video_length": config.num_frames,
        **SETTINGS,
    }
