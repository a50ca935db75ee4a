"""What the two public layouts of Stable Diffusion 3's transformer share: fields without a choice, and how sizes are
guessed.

Both hold an image model, which has no learned null condition (`kinolab.checkpoints.null_prompt`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kinolab.checkpoints.base import Guess, Shapes, count
from kinolab.denoisers.mmdit import Mmdit
from kinolab.errors import InputError

PUBLIC: dict[str, Any] = {
    "attention": "2d",
    "temporal_patch": 1,
    "temporal_position": "none",
    "spatial_position": "table",
    "num_classes": 0,
    "mlp_ratio": 4.0,
    "pooled_norm": False,
    "fps_condition": False,
    "reach": "own",
}
"""What the public classes have no choice of."""
HEAD = 64
"""Width of a head in every published SD3 model."""
SIDE = 128
"""Side of the latents that the published models end their training on (1024 px)."""


@dataclass(frozen=True)
class Landmarks:
    """What a layout calls the tensors whose shapes tell a model's sizes.

    `blocks` is the prefix of the blocks' numbers; `norm`, `dual` and `hidden` are names within a block: the norm of
    queries, a projection of the second attention, and the first layer of the MLP.
    """

    patches: str
    table: str
    pooled: str
    blocks: str
    norm: str
    dual: str
    hidden: str


def guess_sizes(shapes: Shapes, at: Landmarks) -> Guess:
    """The fields of every public model, and those that the shapes of a file's tensors tell."""
    guess, depth = Guess({**PUBLIC, "num_frames": 1, "null": "prompt"}), count(shapes, at.blocks)
    width, channels, patch, _ = shapes[at.patches]
    norm = shapes.get(f"{at.blocks}0.{at.norm}")
    guess.values |= {
        "hidden_size": width,
        "depth": depth,
        "in_channels": channels,
        "patch_size": patch,
        "text_dim": shapes["context_embedder.weight"][1],
        "pooled_dim": shapes[at.pooled][1],
        "mlp_ratio": shapes[f"{at.blocks}0.{at.hidden}"][0] / width,
        "qk_norm": norm is not None,
        "dual_attention_layers": [i for i in range(depth) if f"{at.blocks}{i}.{at.dual}" in shapes],
    }
    _heads(guess, width, norm)
    _places(guess, shapes.get(at.table), patch)
    return guess


def _heads(guess: Guess, width: int, norm: tuple[int, ...] | None) -> None:
    """Heads from the shape of a query's norm, or the published width of a head."""
    if norm is not None:
        guess.values["num_heads"] = width // norm[0]
    elif width % HEAD == 0:
        guess.values["num_heads"] = width // HEAD
        guess.assumed["num_heads"] = f"{width // HEAD}, heads of {HEAD} as in all published models"
    else:
        guess.unknown["num_heads"] = f"the file does not tell how many heads share the width {width}"


def _places(guess: Guess, table: tuple[int, ...] | None, patch: int) -> None:
    """Side of the table of places from its shape, and the side in training, which no tensor tells."""
    if table is None:
        guess.unknown["pos_embed_max_size"] = "the file has no pos_embed; pass the side of its table in patches"
        guess.unknown["input_size"] = "the file has no pos_embed; pass the side of the latents in training"
        return
    side = math.isqrt(table[1])
    guess.values["pos_embed_max_size"] = side
    guess.values["input_size"] = min(SIDE, side * patch)
    guess.assumed["input_size"] = f"{guess.values['input_size']}; any size up to {side * patch} is cut from the table"


def check_public(module: Mmdit) -> None:
    """Raises InputError where the public classes have no such model."""
    config = module.config
    differing = [f"{k}={getattr(config, k)}" for k, v in PUBLIC.items() if getattr(config, k) != v]
    if config.latent_size[0] != config.latent_size[1]:
        differing.append(f"input_size={config.input_size}")
    differing += [f"{k}={getattr(config, k)}" for k in ("text_dim", "pooled_dim") if not getattr(config, k)]
    if config.pos_embed_max_size is None:
        differing.append("pos_embed_max_size=none")
    if differing:
        raise InputError(f"SD3's public classes have no {', '.join(differing)}: their layouts can't hold this model")
