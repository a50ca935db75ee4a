"""A condition from outside: a class and its name in the table; trained and asked for by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from kinolab import video
from kinolab.cli import main
from kinolab.conditioning import CONDITIONS, Draws, Setting, VectorCondition
from kinolab.contracts.examples import Example
from kinolab.models import save_autoencoder
from tests.tiny_model import tiny_model
from tests.training.tiny import denoiser_recipe


class Brightness(VectorCondition):
    """How bright a clip is, from -1 to 1."""

    name = "brightness"

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[float]:
        return [float(example.video.mean()) for example in examples]


def command(*words: object) -> None:
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        assert not stop.code


@pytest.mark.slow
def test_a_condition_from_outside(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    CONDITIONS.register("brightness")(Brightness)
    request.addfinalizer(lambda: CONDITIONS.remove("brightness"))
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "autoencoder")
    recipe = denoiser_recipe(tmp_path / "autoencoder", steps=6)
    recipe["denoiser"] |= {"input_size": 8, "num_frames": 2, "num_classes": 0, "vectors": {"brightness": 0}}
    recipe |= {"samples": {"count": 1, "sampler": {"steps": 2}}, "conditions": {"brightness": {"dropout": 0.2}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("train", tmp_path / "recipe.yaml", "--run", tmp_path / "run")
    made = []
    for number, value in enumerate((-0.9, 0.9, 0.9, None)):
        asked = [] if value is None else ["-s", f"conditions.brightness={value}"]
        command("generate", "--model", tmp_path / "run", "--out", tmp_path / f"{number}.webp", *asked)
        made.append(video.read(tmp_path / f"{number}.webp").frames.astype(float))
    assert np.array_equal(made[1], made[2]), "the same is asked"
    assert not np.array_equal(made[0], made[1]) and not np.array_equal(made[1], made[3])
    with pytest.raises(SystemExit):
        main(["generate", "--model", str(tmp_path / "run"), "-s", "conditions.brightnes=1"])
    said = capsys.readouterr().err
    assert "unknown condition" in said and "low_resolution, control," in said and ", brightness" in said
