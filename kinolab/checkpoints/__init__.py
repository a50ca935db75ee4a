"""Public weights in and out: one file per format, each a line in `FORMATS` (formats.py).

>>> model = load("DiT-XL-2-256x256.pt")                                # a DiT, its config from the names and shapes
>>> model = load("latte.pt", num_heads=3)                              # fields that no file tells are given
>>> vae = load("stable-diffusion/vae")                                 # a folder with config.json
>>> vae = load("v1-5-pruned.safetensors", prefix="first_stage_model.")  # the part of a file under a prefix
"""

from __future__ import annotations

from kinolab.checkpoints.base import Format
from kinolab.checkpoints.formats import FORMATS
from kinolab.checkpoints.inspection import Inspection, inspect
from kinolab.checkpoints.reading import load, save

__all__ = ["FORMATS", "Format", "Inspection", "inspect", "load", "save"]
