"""Who does work, said by a recipe or settings, and options that win over it."""

from __future__ import annotations

from typing import Any

import pytest

from kinolab.cli.engines import take_engine
from kinolab.config import load_config
from kinolab.contracts.engine import Each
from kinolab.contracts.work import EncodingWork, WorkConfig
from kinolab.data.curation import CurateConfig
from kinolab.errors import InputError

RECIPE = {"workers": 3, "cpus": 2, "seconds": 60}


def engine(values: dict[str, Any], *options: Any) -> tuple[int, Each] | None:
    found = take_engine(*options, load_config(EncodingWork, values))
    return None if found is None else (found.workers, found.each)


def test_the_recipe_says_it_and_options_win_one_by_one() -> None:
    assert engine(RECIPE, None, None, None) == (3, Each(cpus=2, seconds=60))
    assert engine(RECIPE, None, 2, None) == (2, Each(cpus=2, seconds=60))
    assert engine(RECIPE, None, None, "cpus=1,seconds=9") == (3, Each(cpus=1, seconds=9))
    assert engine(RECIPE, "embedded", 1, None) is None, "this process is given nothing"
    assert engine({}, None, None, None) is None and engine({}, None, 2, None) == (2, Each())
    assert engine({"decoders": 4}, None, None, None) is None


@pytest.mark.parametrize(("values", "message"), [
    ({"cpus": 2}, "cpus: is for workers; expected workers of at least 2"),
    ({"workers": 0}, "workers"),
    ({"workers": 2, "gpus": 1.5}, "gpus: expected whole ones, or a share of one, got 1.5"),
    ({"decoders": 0}, "decoders"),
    ({"worker": 2}, "workers"),
])  # fmt: skip
def test_what_can_not_be_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(EncodingWork, values)


def test_options_that_can_not_be_are_told_as_without_a_recipe() -> None:
    for work in (None, WorkConfig()):
        with pytest.raises(InputError, match=r"--each cpus=2: is for workers"):
            take_engine(None, None, "cpus=2", work)
    with pytest.raises(InputError, match="spark"):
        engine({"engine": "spark"}, None, None, None)


def test_no_number_of_a_curation_depends_on_who_does_it() -> None:
    assert load_config(CurateConfig, {"work": {"workers": 2}}).work == WorkConfig(workers=2)
    assert load_config(CurateConfig, {}).work is None
    with pytest.raises(InputError, match="decoders"):
        load_config(CurateConfig, {"work": {"decoders": 2}})
