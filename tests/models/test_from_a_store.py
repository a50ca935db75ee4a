"""A model folder in a store is the one that was put there, and of a run folder the model alone is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinolab.errors import InputError
from kinolab.models import find_autoencoder
from kinolab.models.folder import _fetched, find_model
from tests.engines.folders import files_of
from tests.tiny_model import save_tiny_model


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Another test's models are not this one's."""
    yield
    _fetched.cache_clear()


def test_it_is_fetched_once(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(save_tiny_model(tmp_path / "model", text=False))
    for name, data in files.items():
        store.pipe_file(f"/b/run/model/{name}", data)
    store.pipe_file("/b/run/checkpoints/step-1/state.json", b"{}")
    store.pipe_file("/b/run/recipe.yaml", b"kind: denoiser\n")
    place = find_model(Path("memory://b/run"))
    assert files_of(place) == files and not (place.parent / "checkpoints").exists()
    store.store.clear()
    assert find_model("memory://b/run") == find_autoencoder(Path("memory://b/run")) == place, "once by a process"
    with pytest.raises(InputError, match=r"^memory://b/none: no such bucket or folder, or nothing in it$"):
        find_model("memory://b/none")
