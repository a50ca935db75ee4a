"""Which of the methods holds a denoiser that was not trained for it to the given part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kinolab.config import Config
from kinolab.contracts.method import Method
from kinolab.methods.held import Held
from kinolab.methods.reconstruction import Reconstruction, ReconstructionConfig
from kinolab.methods.replacement import Replacement


class SteeringConfig(Config):
    """How a denoiser that was not trained for it is held to the given part."""

    method: Literal["reconstruction", "replacement"] = "reconstruction"
    """Guidance by the given part's reconstruction error, or putting the given part in alone."""
    weight: float = Field(4.0, ge=0)
    """Weight w_r of the gradient, for `reconstruction`; 0 is replacement. Too high makes the rest noisy."""
    error: Literal["latents", "pixels"] = "latents"
    """Where the error is measured. In latents only those count of which every pixel is given; in pixels everything that
    is given counts, such as a single frame in the middle of a latent, at the cost of a decoding per step."""

    def build(self, held: Held) -> Method:
        """The method for one given part."""
        if self.method == "replacement" or not self.weight:
            return Replacement(held=held)
        return Reconstruction(ReconstructionConfig(weight=self.weight), held=held)
