"""An autoencoder from outside: a recipe names it; trained, and asked to reconstruct a clip."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.table import KindConfig
from kinolab.layers.latent_scaling import ScaledLatents
from kinolab.tables import AUTOENCODERS
from tests.outside.commands import run
from tests.training.tiny import autoencoder_recipe


class PoolConfig(KindConfig):
    kind: Literal["pool"] = "pool"
    side: int = 4


class Pool(ScaledLatents, Autoencoder):
    """Means of squares of pixels; the decoder knows a gain and nothing else."""

    Config = PoolConfig

    def __init__(self, config: PoolConfig) -> None:
        super().__init__()
        self.config, self.spec = config, AutoencoderSpec(3, 1, config.side, causal=True)
        self.gain = nn.Parameter(torch.ones(()))
        self.register_scaling(3, 0.0, 1.0)

    def encode(self, video: Tensor) -> Posterior:
        return Posterior.certain(self.to_normalised(F.avg_pool3d(video, (1, self.config.side, self.config.side))))

    def decode(self, latents: Tensor) -> Tensor:
        return self.gain * F.interpolate(self.to_raw(latents), scale_factor=(1, self.config.side, self.config.side))


def test_a_recipe_names_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    AUTOENCODERS.register("pool")(Pool)
    request.addfinalizer(lambda: AUTOENCODERS.remove("pool"))
    recipe = autoencoder_recipe(steps=2) | {"autoencoder": {"kind": "pool"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    squares = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4, np.ones((4, 4, 3), np.uint8))
    video.write(tmp_path / "clip.mkv", np.stack([squares] * 3), fps=8, lossless=True)
    words = ["reconstruct", tmp_path / "clip.mkv", "-a", tmp_path / "run", "--out", tmp_path / "out.webp"]
    said = run(*words)
    made = video.read(tmp_path / "out.webp").frames[:, :, 32:64].astype(int)  # original, reconstruction, error
    assert np.abs(made - squares).max() <= 12, said
    wrong = run("train", tmp_path / "r.yaml", "--run", tmp_path / "x", "-s", "autoencoder.sides=2")
    assert "unknown key 'autoencoder.sides', did you mean 'side'" in wrong
