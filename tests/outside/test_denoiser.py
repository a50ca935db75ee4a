"""A denoiser from outside: a recipe names it; trained and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from torch import Tensor, nn

from kinolab import video
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import BaseDenoiserConfig, Conditions, Denoiser, DenoiserSpec
from kinolab.models import VideoModel, save_autoencoder
from kinolab.tables import DENOISERS
from tests.outside.commands import run
from tests.tiny_model import tiny_model
from tests.training.tiny import denoiser_recipe


class LineConfig(BaseDenoiserConfig):
    kind: Literal["line"] = "line"
    in_channels: int = 4
    input_size: int = 8


class Line(Denoiser):
    """One matrix for all places and times."""

    Config = LineConfig

    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config, self.spec = config, DenoiserSpec(config.in_channels, learned_variance=False)
        self.mix = nn.Conv3d(config.in_channels, config.in_channels, 1)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        return self.mix(z)


@pytest.mark.slow
def test_a_recipe_names_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    DENOISERS.register("line")(Line)
    request.addfinalizer(lambda: DENOISERS.remove("line"))
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "autoencoder")
    recipe = denoiser_recipe(tmp_path / "autoencoder", steps=4)
    recipe |= {"denoiser": {"kind": "line"}, "samples": {"count": 1, "sampler": {"steps": 2}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    run("generate", "--model", tmp_path / "run", "--steps", 3, "--seed", 5, "--out", tmp_path / "o.webp")
    model = VideoModel.load(tmp_path / "run")
    weight = model.denoiser.mix.weight  # type: ignore[union-attr]
    assert isinstance(model.denoiser, Line) and not torch.equal(weight, Line(LineConfig()).mix.weight)  # type: ignore[arg-type]
    assert video.read(tmp_path / "o.webp").frames.shape == (5, 32, 32, 3)
    wrong = run("train", tmp_path / "r.yaml", "--run", tmp_path / "x", "-s", "denoiser.kind=lines")
    assert f"unknown denoiser 'lines'; expected one of {DENOISERS.help()}" in wrong and DENOISERS.help().endswith(
        ", line"
    )
