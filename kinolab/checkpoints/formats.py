"""The table of public formats. A new one is a file here and a line in `FORMATS`."""

from __future__ import annotations

from kinolab.checkpoints.autoencoder_kl import AutoencoderKLFormat
from kinolab.checkpoints.base import Format, Shapes
from kinolab.checkpoints.causal_vae import CausalVaeFormat
from kinolab.checkpoints.dit import DiTFormat
from kinolab.checkpoints.latte import LatteFormat
from kinolab.checkpoints.latte_diffusers import LatteDiffusersFormat
from kinolab.checkpoints.ldm_autoencoder import LdmAutoencoderFormat
from kinolab.checkpoints.sd3 import Sd3Format
from kinolab.checkpoints.sd3_diffusers import Sd3DiffusersFormat
from kinolab.checkpoints.tats import TatsFormat
from kinolab.checkpoints.vdt import VdtFormat
from kinolab.checkpoints.vqgan import VqganFormat
from kinolab.errors import InputError

FORMATS: dict[str, Format] = {
    "latte": LatteFormat(),
    "dit": DiTFormat(),
    "vdt": VdtFormat(),
    "autoencoder_kl": AutoencoderKLFormat(),
    "ldm_autoencoder": LdmAutoencoderFormat(),
    "causal_vae": CausalVaeFormat(),
    "vqgan": VqganFormat(),
    "tats": TatsFormat(),
    "latte_diffusers": LatteDiffusersFormat(),
    "sd3": Sd3Format(),
    "sd3_diffusers": Sd3DiffusersFormat(),
}
"""Every format that is read and written, by name."""


def find_format(name: str) -> Format:
    """The format of a name; raises InputError listing all names."""
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def recognise(shapes: Shapes) -> Format | None:
    """The format that these names and shapes are of, or None."""
    return next((format for format in FORMATS.values() if format.matches(shapes)), None)


def unsupported(shapes: Shapes) -> str | None:
    """The name of a well-known layout that is not read, or None."""
    if "transformer_blocks.0.attn1.to_q.weight" in shapes:
        return "a transformer in the layout of diffusers"
    if "quantize.embed.weight" in shapes and "quantize.proj.weight" in shapes:
        return "a VQGAN with Gumbel quantisation"
    return None
