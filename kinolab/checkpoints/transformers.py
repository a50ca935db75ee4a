"""What the layouts of DiT, Latte and VDT share: the config that names and shapes of an image transformer tell."""

from __future__ import annotations

import math

from kinolab.checkpoints.base import Guess, Shapes, count

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Width -> heads of the sizes S, B, L and XL of DiT, which Latte and others took over."""
MARKS = (
    "x_embedder.proj.weight",
    "t_embedder.mlp.0.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.adaLN_modulation.1.weight",
    "final_layer.linear.weight",
)
"""Names that all of the family have."""


def is_transformer(shapes: Shapes) -> bool:
    """Whether this is an adaLN transformer with attention over space, as in DiT, Latte and their kin."""
    return all(name in shapes for name in MARKS)


def guess_transformer(shapes: Shapes) -> Guess:
    """Width, depth, patch, channels, classes, learned variance and size; heads are assumed for known widths."""
    embed = shapes["x_embedder.proj.weight"]
    width, channels, patch = embed[0], embed[1], embed[-1]
    tubelet = embed[2] if len(embed) == 5 else 1
    guess = Guess()
    guess.values = {
        "hidden_size": width,
        "depth": count(shapes, "blocks."),
        "in_channels": channels,
        "patch_size": patch,
        "learned_variance": shapes["final_layer.linear.weight"][0] >= 2 * channels * patch**2 * tubelet,
        "num_classes": shapes.get("y_embedder.embedding_table.weight", (1,))[0] - 1,
    }
    if "blocks.0.mlp.fc1.weight" in shapes:
        guess.values["mlp_ratio"] = shapes["blocks.0.mlp.fc1.weight"][0] / width
    if width in HEADS:
        guess.values["num_heads"] = HEADS[width]
        guess.assumed["num_heads"] = f"{HEADS[width]}, as the published size of width {width} has"
    else:
        guess.unknown["num_heads"] = f"the file does not tell how many heads share the width {width}"
    places = shapes.get("pos_embed", (1, 0))[1]
    side = math.isqrt(places)
    if places and side**2 == places:
        guess.values["input_size"] = side * patch
    elif places:
        guess.unknown["input_size"] = f"{places} places are no square; pass [height, width] of the latents"
    else:
        guess.unknown["input_size"] = "the file has no pos_embed; pass the side of the latents in training"
    return guess
