"""A source of clips from outside: named in a recipe, trained on and encoded."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from kinolab.contracts.examples import ClipRecord, ClipSource, Example, ShapeRules, SourceConfig, Split
from kinolab.data import CacheConfig, CacheSource
from kinolab.tables import SOURCES
from tests.outside.commands import run
from tests.training.tiny import autoencoder_recipe


class GreysConfig(SourceConfig):
    kind: Literal["greys"] = "greys"
    count: int = 6
    split: Split = "train"


class Greys(ClipSource):
    """Clips of one grey each."""

    Config = GreysConfig
    frames, size = 3, (32, 32)

    def __init__(self, config: GreysConfig, rules: ShapeRules | None) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.count

    def record(self, index: int) -> ClipRecord:
        return ClipRecord(f"grey/{index}", f"{index:064d}", (0.0, 0.4), 3, 8.0, None, None)

    def __getitem__(self, index: int) -> Example:
        r = self.record(index)
        return Example(torch.full((3, 3, 32, 32), index / 10 - 0.5), r.fps, None, None, r.source, r.time_range)

    def shape(self, index: int) -> tuple[int, int, int]:
        return self.frames, *self.size

    def transform(self) -> dict[str, Any]:
        return {"kind": "greys"}


@pytest.mark.slow
def test_a_recipe_names_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    SOURCES.register("greys")(Greys)
    request.addfinalizer(lambda: SOURCES.remove("greys"))
    recipe = autoencoder_recipe(steps=2) | {"data": {"kind": "greys"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    said = run("encode", tmp_path / "r.yaml", "-a", tmp_path / "run", "--out", tmp_path / "cache", "-s", "data.count=5")
    cached = CacheSource(CacheConfig(path=tmp_path / "cache", split="all"))
    assert "5 windows" in said and [cached.record(i).source for i in range(5)] == [f"grey/{i}" for i in range(5)]
    wrong = run("train", tmp_path / "r.yaml", "--run", tmp_path / "x", "-s", "data.kind=grey")
    assert "unknown data source 'grey'; expected one of folder, world, cache, greys" in wrong
