"""How engines are named."""

from __future__ import annotations

import importlib.util

import pytest

from kinolab.engines import ENGINES, engine_of
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
