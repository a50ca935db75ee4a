"""VQGAN in the layout of its public code (taming-transformers; the VQ autoencoders of latent-diffusion have it too).

A checkpoint holds `state_dict`, with the loss of its training beside the model. Which resolutions have attention, all
widths and the codebook follow from names and shapes; the number of groups is 32 in all published models. Models with
Gumbel quantisation (`quantize.embed`, `quantize.proj`) are another network and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinolab.autoencoders.inflate import odvae_name
from kinolab.autoencoders.vqgan import Vqgan, VqganConfig
from kinolab.checkpoints.base import Format, Guess, Shapes, count, header_of, public_tensors
from kinolab.checkpoints.files import write_safetensors
from kinolab.checkpoints.image_layouts import assume_groups
from kinolab.errors import InputError

RENAMED = (
    (".attentions.", ".attn."),
    (".group_norm.", ".norm."),
    (".to_out.0.", ".proj_out."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
)
"""Attention at a resolution: the module's names and the file's."""


class VqganFormat(Format):
    """The names are those of latent-diffusion's autoencoder, with a codebook and attention at resolutions."""

    name = "vqgan"
    title = "VQGAN, layout of taming-transformers"
    module_class = Vqgan
    config_class = VqganConfig
    ignored = (
        *("loss.", "model_ema.decay", "model_ema.num_updates"),
        *("quantize.embedding.cluster_size", "quantize.embedding.embed_avg"),
    )

    def matches(self, shapes: Shapes) -> bool:
        return (
            len(shapes.get("encoder.down.0.block.0.conv1.weight", ())) == 4
            and len(shapes.get("quantize.embedding.weight", ())) == 2
        )

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        guess, before = Guess(), "encoder.down."
        levels = range(count(shapes, before))
        widths = [shapes[f"{before}{i}.block.0.conv1.weight"][0] for i in levels]
        ch, resolution = shapes["encoder.conv_in.weight"][0], 256
        guess.values = {
            "ch": ch,
            "ch_mult": [width // ch for width in widths],
            "num_res_blocks": count(shapes, f"{before}0.block."),
            "resolution": resolution,
            "attn_resolutions": [resolution >> i for i in levels if f"{before}{i}.attn.0.q.weight" in shapes],
            "mid_block_attention": "encoder.mid.attn_1.q.weight" in shapes,
            "z_channels": shapes["encoder.conv_out.weight"][0],
            "embed_dim": shapes["quantize.embedding.weight"][1],
            "n_embed": shapes["quantize.embedding.weight"][0],
            "channels": shapes["decoder.conv_out.weight"][0],
        }
        assume_groups(guess, widths)
        return guess

    def file_names(self, name: str, config: VqganConfig) -> tuple[str, ...]:
        name = odvae_name(name, levels=len(config.ch_mult))
        for ours, theirs in RENAMED:
            name = name.replace(ours, theirs)
        return (name,)

    def write(self, module: Vqgan, path: Path) -> None:
        """Write a .safetensors file; the linear layers of attention are convolutions of kernel 1 in this layout."""
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: format {self.name} is written to a .safetensors file")
        tensors = {
            name: value[..., None, None] if ".attn" in name and value.ndim == 2 else value
            for name, value in public_tensors(self, module).items()
        }
        write_safetensors(path, tensors, header_of(self, module))
