"""What the two public layouts of the image autoencoder (AutoencoderKL) share: the scale of its latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kinolab.checkpoints.base import Guess
from kinolab.errors import InputError

SCALING = {4: (0.18215, 0.0, "SD 1.x and 2.x"), 16: (1.5305, 0.0609, "SD 3")}
"""Latent channels -> scale, shift and the models that have them. SDXL (4: 0.13025) and Flux (16: 0.3611, 0.1159)
differ, which no file of weights tells: their folders' config.json does."""


def assume_scaling(guess: Guess, channels: int) -> None:
    """Set the scale and shift of the best-known model with so many latent channels."""
    scale, shift, models = SCALING.get(channels, (1.0, 0.0, ""))
    guess.values |= {"latent_scale": scale, "latent_shift": shift}
    why = f"{scale} and shift {shift}, " + (f"as in {models}" if models else "as no known model tells another")
    guess.assumed["latent_scale"] = f"{why}; a folder with config.json would say"


def assume_groups(guess: Guess, widths: Sequence[int]) -> None:
    """Set 32 groups where they divide every width, which is what the public models have."""
    if any(width % 32 for width in widths):
        guess.unknown["norm_num_groups"] = f"32 groups, the usual number, do not divide the widths {list(widths)}"
    else:
        guess.values["norm_num_groups"] = 32
        guess.assumed["norm_num_groups"] = "32, as in all published models"


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields from the `config.json` of a diffusers AutoencoderKL.

    Raises:
        InputError: for a setting that the image autoencoder has no counterpart of.
    """
    expected = {
        "act_fn": ("silu", "swish"),
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
    }
    for key, known in expected.items():
        values = settings.get(key, known[0])
        other = [v for v in ([values] if isinstance(values, str) else values) if v not in known]
        if other:
            raise InputError(f"config.json: {key} {other[0]!r} is not supported, expected {known[0]!r}")
    shift = settings.get("shift_factor")
    return {
        "norm_num_groups": settings.get("norm_num_groups", 32),
        "latent_scale": settings.get("scaling_factor", 0.18215),
        "latent_shift": 0.0 if shift is None else shift,
    }
