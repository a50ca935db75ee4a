"""A method from outside the package: one class, one line in the table, used by name through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kinolab import video
from kinolab.cli import main
from kinolab.config import Config
from kinolab.contracts.method import Denoise, Denoised, Method, Run
from kinolab.generation.provenance import provenance_path
from kinolab.methods import METHODS
from kinolab.models import VideoModel
from tests.tiny_model import save_tiny_model


class PinnedConfig(Config):
    """What latents are pinned to."""

    value: float = 0.25
    """The value."""


class Pinned(Method):
    """Pins the estimate of the clean sample to one value."""

    Config = PinnedConfig
    config: PinnedConfig

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        return lambda z, t: Denoised(torch.full_like(inner(z, t).sample, self.config.value))


def kinolab(*words: object) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


@pytest.mark.slow
def test_a_method_is_named_by_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    METHODS.register("pinned")(Pinned)
    folder, out = save_tiny_model(tmp_path / "model", text=False), tmp_path / "clip"  # a folder of images: without loss
    asked = ["generate", "--model", folder, "--precision", "float32"]
    assert kinolab(*asked, "--out", out, "-s", "methods.pinned.value=0.5") in (0, None)
    model = VideoModel.load(folder, precision="float32")
    expected = model.decode(torch.full((1, *model.autoencoder.spec.latent_shape(5, 32, 32)), 0.5))[0]
    shown = torch.from_numpy(video.read(out).frames).int() - torch.from_numpy(video.to_uint8(expected)).int()
    assert int(shown.abs().max()) <= 1
    assert json.loads(provenance_path(out).read_text())["request"]["methods"] == {"pinned": {"value": 0.5}}
    assert kinolab("rerun", out, "--out", tmp_path / "again") in (0, None)
    assert kinolab(*asked, "--out", tmp_path / "no", "-s", "methods.pined={}") not in (0, None)
    assert f"unknown method 'pined'; expected one of {METHODS.help('')}" in capsys.readouterr().err
    kinolab("generate", "--help")
    assert f"methods.NAME.field=value: {METHODS.help('')}." in " ".join(capsys.readouterr().out.split())
    METHODS.remove("pinned")
