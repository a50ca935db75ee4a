"""How engines are named."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from kinolab.engines import ENGINES, engine_of
from kinolab.engines.ray import _begin
from kinolab.errors import InputError, MissingExtraError


def test_what_is_no_engine_is_refused() -> None:
    assert engine_of() is None and engine_of("embedded", 1) is None
    with pytest.raises(InputError, match="unknown engine 'dask'; expected one of embedded, ray"):
        engine_of("dask")
    with pytest.raises(InputError, match="runs on this machine"):
        engine_of("embedded:somewhere", 2)
    with pytest.raises(InputError, match="at least one"):
        engine_of("embedded", 0)
    assert list(ENGINES) == ["embedded", "ray"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_ray_that_is_not_installed_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'kinolab\[dist\]'"):
        engine_of("ray")


class Slow:
    """A Ray that begins at the last of so many tries."""

    def __init__(self, tries: int, said: str) -> None:
        self.tries, self.said, self.tried = tries, said, 0

    def init(self, **how: Any) -> None:
        self.tried += 1
        if self.tried < self.tries:
            raise Exception(self.said)

    def shutdown(self) -> None: ...


@pytest.mark.parametrize(("tries", "said", "place", "tried", "error"), [
    (3, "The current node timed out during startup.", "", 3, None),
    (9, "The current node timed out during startup.", "", 3, "it can't be begun here .The current node timed out"),
    (2, "no port", "", 1, "it can't be begun here .no port"),
    (2, "timed out", "10.0.0.1", 1, "no cluster answers at 10.0.0.1 .timed out"),
])  # fmt: skip
def test_a_ray_that_is_slow_to_begin_is_begun_again(
    tries: int, said: str, place: str, tried: int, error: str | None
) -> None:
    ray = Slow(tries, said)
    if error is None:
        _begin(ray, place, 2)
    else:
        with pytest.raises(InputError, match=error):
            _begin(ray, place, 2)
    assert ray.tried == tried
