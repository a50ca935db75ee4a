"""The 3D VQGAN of TATS in the layout of its public code.

A checkpoint holds `state_dict`, with the discriminators and the perceptual network of its training beside the model.
Kernels are of the same size at every stride, so that the shapes do not tell by how much time is divided: 4, as in all
published models, unless `downsample` is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.autoencoders.tats import Tats, TatsConfig
from kinolab.checkpoints.base import Format, Guess, Shapes, count
from kinolab.errors import InputError


class TatsFormat(Format):
    """The names are the module's own, but for the codebook's."""

    name = "tats"
    title = "VQGAN of TATS (3D)"
    module_class = Tats
    config_class = TatsConfig
    ignored = ("image_discriminator.", "video_discriminator.", "perceptual_model.", "codebook.N", "codebook.z_avg")

    def matches(self, shapes: Shapes) -> bool:
        mark = shapes.get("encoder.conv_blocks.0.down.conv.weight", ())
        return len(mark) == 5 and len(shapes.get("codebook.embeddings", ())) == 2

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess, space = Guess(), 2 ** count(shapes, "encoder.conv_blocks.")
        width, channels = shapes["encoder.conv_first.conv.weight"][:2]
        codes, dim = shapes["codebook.embeddings"]
        batch = any(name.endswith(".running_mean") for name in shapes)
        guess.values = {
            "n_hiddens": width,
            "downsample": [min(4, space), space, space],
            "embedding_dim": dim,
            "n_codes": codes,
            "norm_type": "batch" if batch else "group",
            "channels": channels,
        }
        guess.assumed["downsample"] = (
            f"time by {min(4, space)}, as in all published models; shapes tell the largest only"
        )
        if batch:
            self._check_statistics(shapes)
        elif 2 * width % 32:
            guess.unknown["norm_num_groups"] = f"32 groups, the usual number, do not divide the width {2 * width}"
        else:
            guess.assumed["norm_num_groups"] = "32, as in the public code"
        return guess

    def file_names(self, name: str, config: TatsConfig) -> tuple[str, ...]:
        return ("codebook.embeddings",) if name == "codebook.embedding.weight" else (name,)

    def _check_statistics(self, shapes: Shapes) -> None:
        """Raises InputError where a batch normalisation lacks its statistics, which are buffers and else optional."""
        layers = [
            name.removesuffix(".weight")
            for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) == 1 and name.startswith(("encoder.", "decoder."))
        ]
        wanted = [f"{layer}.{statistic}" for layer in layers for statistic in ("running_mean", "running_var")]
        missing = [name for name in wanted if name not in shapes]
        if missing:
            raise InputError(f"a {self.name} file whose batch normalisation lacks {len(missing)}: {', '.join(missing)}")
