"""Tokens from outside: a condition of them, and a denoiser with a port for it, by name; trained and asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from torch import Tensor, nn

from kinolab import video
from kinolab.conditioning import CONDITIONS, Draws, Setting, TokensCondition
from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.examples import Example
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import BaseDenoiserConfig, Denoiser, DenoiserSpec
from kinolab.tables import DENOISERS
from tests.outside.commands import run
from tests.tiny_model import save_tiny_model
from tests.training.tiny import denoiser_recipe


class Colours(TokensCondition):  # the mean colour of every frame, a token each
    name = "colours"

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Tensor]:
        return [example.video.mean((2, 3)).T for example in examples]


class Painter(Denoiser):
    class Config(BaseDenoiserConfig):
        kind: Literal["painter"] = "painter"
        input_size: int = 8

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.read, port = config, nn.Linear(3, 4), Port("colours", "tokens", 3)
        self.spec = DenoiserSpec(4, False, more=(port,))

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        told = conditions.tensor("colours")
        return z if told is None else z + self.read(told).mean(1)[:, :, None, None, None]


@pytest.mark.slow
def test_tokens_from_outside(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    CONDITIONS.register("colours")(Colours)
    DENOISERS.register("painter")(Painter)
    request.addfinalizer(lambda: CONDITIONS.remove("colours"))
    request.addfinalizer(lambda: DENOISERS.remove("painter"))
    save_tiny_model(tmp_path / "tiny", text=False)
    recipe = denoiser_recipe(tmp_path / "tiny", steps=2) | {"denoiser": {"kind": "painter"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run("train", tmp_path / "r.yaml", "--run", tmp_path / "run", "-s", "samples.labels=[]")
    made: list[Any] = []
    for told in ("null", "[[9, -9, 9]]", "[[9, -9, 9], [9, -9, 9]]", "[[-9, 9, 0]]", "[1, 2]"):
        asked = ("--model", tmp_path / "run", "--out", tmp_path / "x.mkv", "-s", f"conditions.colours={told}")
        said = run("generate", *asked)
        made.append(video.read(tmp_path / "x.mkv").frames.astype(int))
    assert [abs(made[1] - other).max() > 1 for other in made[:4]] == [True, False, False, True]
    assert "expected tokens of 3 numbers each, as [[...], ...], got [1, 2]" in said
