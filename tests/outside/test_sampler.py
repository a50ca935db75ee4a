"""A sampler from outside: chosen by name on the command line, recorded, listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from kinolab import video
from kinolab.diffusion.samplers import Denoise, Sampler
from kinolab.tables import SAMPLERS
from tests.outside.commands import run
from tests.tiny_model import save_tiny_model


class Leap(Sampler):
    """The first clean estimate is the sample."""

    @staticmethod
    def sample(denoise: Denoise, z: Tensor, times: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        return denoise(z, float(times[0])).sample


def test_it_is_taken_by_name_and_listed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    SAMPLERS.register("leap")(Leap)
    request.addfinalizer(lambda: SAMPLERS.remove("leap"))
    model = save_tiny_model(tmp_path / "model", text=False)
    for name, words in {"leap": ["--steps", 7], "euler": ["--steps", 1]}.items():
        run(
            "generate",
            "--model",
            model,
            "--label",
            "fall",
            "--sampler",
            name,
            *words,
            "--out",
            tmp_path / f"{name}.webp",
        )
    leap, euler = (video.read(tmp_path / f"{name}.webp").frames for name in ("leap", "euler"))
    assert np.array_equal(leap, euler), "one step of Euler's goes to the first clean estimate"
    record = json.loads((tmp_path / "leap.json").read_text())
    assert record["request"]["sampler"]["name"] == "leap"
    wrong = run("generate", "--model", model, "--sampler", "leaps", "--out", tmp_path / "x.webp")
    assert "unknown sampler 'leaps'; expected one of ddpm, ddim, dpmpp_2m, euler, heun," in wrong and ", leap" in wrong
