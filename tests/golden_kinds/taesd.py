"""TAESD for FLUX.2: released weights, which the golden file does not hold."""

from __future__ import annotations

import pytest
from torch import Tensor

from kinolab import checkpoints
from tests import golden_kinds
from tests.golden_kinds import Golden, runs


@runs("TaesdFlux2")
def flux2(golden: Golden) -> dict[str, Tensor]:
    """`taef2_encoder.pth` and `taef2_decoder.pth` of `--released FOLDER`; pictures in [0, 1]."""
    if golden_kinds.released is None:
        pytest.skip("needs released weights: --released FOLDER with taef2_encoder.pth and taef2_decoder.pth")
    model = checkpoints.load([golden_kinds.released / f"taef2_{part}.pth" for part in ("encoder", "decoder")])
    assert (model.config.latent_channels, model.config.global_part) == (32, True)
    clip = (2 * golden["x"] - 1).transpose(0, 1)[None]  # pictures as frames: (B, 3, H, W) -> (1, 3, B, H, W)
    latents = model.encode(clip).mean
    decoded = model.decode(golden["latents"].transpose(0, 1)[None])
    return {"latents": latents[0].transpose(0, 1), "decoded": (decoded[0].transpose(0, 1) + 1) / 2}
