"""A side network from outside: a class and its name; trained beside a denoiser that stays as it is, by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from kinolab import VideoModel, video
from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import AS_TRAINED
from kinolab.contracts.table import KindConfig
from kinolab.denoisers import Denoiser
from kinolab.models import Inner, ModelPart, save_autoencoder
from kinolab.tables import PARTS
from tests.outside.commands import run
from tests.tiny_model import tiny_model
from tests.training.tiny import denoiser_recipe


class SideConfig(KindConfig):
    kind: str = "side"


class Side(ModelPart):
    """Adds to the prediction what a convolution makes of a control map."""

    Config = SideConfig

    def __init__(self, config: SideConfig, denoiser: Denoiser) -> None:
        super().__init__(config, denoiser)
        self.ports = (Port("control", "field", denoiser.spec.channels),)
        self.conv = nn.Conv3d(denoiser.spec.channels, denoiser.spec.channels, 1, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, inner: Inner, z: Tensor, t: Tensor, conditions: Conditions, options: Any = AS_TRAINED) -> Tensor:
        return inner(z, t, options) + self.conv(conditions["control"].value)


@pytest.mark.slow
def test_a_part_from_outside(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    PARTS.register("side")(Side)
    request.addfinalizer(lambda: PARTS.remove("side"))
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "autoencoder")
    recipe = denoiser_recipe(tmp_path / "autoencoder", steps=4)
    recipe["denoiser"] |= {"input_size": 8, "num_frames": 2}
    beside = {"initial": {"path": str(tmp_path / "before")}, "parts": {"edges": {"kind": "side"}}, "trained": "parts"}
    for name, more in {"before": {}, "run": beside}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe | more))
        run("train", tmp_path / f"{name}.yaml", "--run", tmp_path / name)
    before, after = (VideoModel.load(tmp_path / name) for name in ("before", "run"))
    pairs = zip(before.denoiser.parameters(), after.denoiser.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) and any(p.any() for p in after.parts["edges"].parameters())
    asked = ("generate", "--model", tmp_path / "run", "--label", 1, "--out")
    run(*asked, tmp_path / "untold.webp")
    said = run(*asked, tmp_path / "told.webp", "-s", f"conditions.control={tmp_path / 'untold.webp'}")
    told, untold = (video.read(tmp_path / f"{name}.webp").frames for name in ("told", "untold"))
    assert not np.array_equal(told, untold), said
    assert "identical" in run("rerun", tmp_path / "told.webp", "--out", tmp_path / "again.webp")
