"""Public formats by name, and which one a file is in. A new one is a file here and a line in `kinolab.tables`."""

from __future__ import annotations

from kinolab.checkpoints.base import Format, Shapes
from kinolab.tables import FORMATS

__all__ = ["FORMATS", "find_format", "half_of", "recognise", "unsupported"]


def find_format(name: str) -> Format:
    """The format of a name; raises InputError listing all names."""
    return FORMATS.get(name)()


def recognise(shapes: Shapes) -> Format | None:
    """The format that these names and shapes are of, or None."""
    return next((format for format in map(find_format, FORMATS) if format.matches(shapes)), None)


def half_of(shapes: Shapes) -> tuple[Format, str] | None:
    """The format that comes in two files, and which of them these names and shapes are (`encoder.`), or None."""
    found = ((format, format.half(shapes)) for format in map(find_format, FORMATS))
    return next(((format, half) for format, half in found if half is not None), None)


def unsupported(shapes: Shapes) -> str | None:
    """The name of a well-known layout that is not read, or None."""
    if "transformer_blocks.0.attn1.to_q.weight" in shapes:
        return "a transformer in the layout of diffusers"
    if "quantize.embed.weight" in shapes and "quantize.proj.weight" in shapes:
        return "a VQGAN with Gumbel quantisation"
    return None
