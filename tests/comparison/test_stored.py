"""What a comparison keeps is checked before tables are made of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kinolab.comparison.stored import read_costs, read_scores, same_sampling, sampling_record
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError


def scores() -> dict[str, Any]:
    metric = {"value": 1.5, "count": 4, "interval": {"low": 1.0, "high": 2}, "protocol": {}}
    return {
        "protocol": {"name": "toy", "kind": "generation", "frames": 5}, "protocol_hash": "0" * 64, "notes": ["a note"],
        "metrics": {"fvd": metric, "psnr": metric | {"value": None, "interval": None}},
        "data": {"clips": 6, "files": 6},
        "facts": {"latents": [4, 5, 8, 8], "total_compression": 12.0, "parameters": 10, "else": ["?"]},
        "clips": [{"name": "0", "scores": {"fvd": 1.0, "psnr": None}, "video": None}],
        "training": {"steps": 1, "heldout": {"loss": math.nan, "step": 1}},
    }  # fmt: skip


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(scores()))
    found = read_scores(tmp_path / "a.json")
    assert math.isnan(found["training"]["heldout"].pop("loss")) and found["facts"]["else"] == ["?"]
    expected = scores()
    del expected["training"]["heldout"]["loss"]
    assert found == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data", None), ("facts", None), ("facts.latents", "4x5"), ("facts.parameters", "10"), ("metrics", []),
        ("metrics.fvd", 1.5),
        ("metrics.fvd.interval", [1, 2]), ("metrics.fvd.value", "1.5"), ("clips", {}), ("clips", [3]), ("notes", "a"),
        ("protocol.kind", "else"), ("protocol_hash", 3), ("training", [1]), ("training.steps", "1"),
    ],
)  # fmt: skip
def test_scores_of_another_form_are_one_line(path: str, value: Any, tmp_path: Path) -> None:
    record = scores()
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[name]
    place[last] = value
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"a.json: {path}.*; delete it, and the cell is measured again"):
        read_scores(tmp_path / "a.json")


def test_scores_say_of_how_many_clips_they_are(tmp_path: Path) -> None:
    record = scores()
    record["facts"] |= {"generated_clips": 6, "real_clips": 5}
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert read_scores(tmp_path / "a.json")["facts"]["real_clips"] == 5
    del record["facts"]["real_clips"]
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="expected generated_clips and real_clips"):
        read_scores(tmp_path / "a.json")


def test_costs_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "cost.json").write_text('{"coding_memory": 5, "threads": 1}')
    assert read_costs(tmp_path / "cost.json") == {"coding_memory": 5, "threads": 1}
    for text in ('{"coding_memory": "5"}', '{"sampler": 3}', "[]", "{"):
        (tmp_path / "cost.json").write_text(text)
        with pytest.raises(InputError, match="delete it, and the costs are measured again"):
            read_costs(tmp_path / "cost.json")


def test_a_record_is_of_the_sampling_that_a_row_asks_for() -> None:
    sampler = SamplerConfig(name="euler", steps=3).model_dump(mode="json")
    plain, wanted = {"sampler": sampler}, {"sampler": sampler, "reach": "first"}
    assert same_sampling(plain, plain) and same_sampling(plain | sampling_record(wanted), wanted)
    assert not same_sampling(plain, wanted) and not same_sampling(plain | sampling_record(wanted), plain)
    assert not same_sampling(plain, {"sampler": sampler | {"steps": 4}}) and not same_sampling({}, plain)
    assert sampling_record(plain) == {}, "records of rows that ask for nothing are as they were"
    before = {name: value for name, value in sampler.items() if name in ("name", "steps")}
    assert same_sampling({"sampler": before}, plain), "a field that joined later, at what was so before"
