"""Embeddings of captions beside latents: what is put is found again, whatever happens in between."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinolab.data import prompts
from kinolab.data.prompts import PromptCache, caption_key
from kinolab.errors import InputError


def row(seed: int, tokens: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 4, generator=generator).half(), torch.randn(2, generator=generator).half()


def test_what_is_put_is_found_before_and_after_it_is_written(tmp_path: Path) -> None:
    store = PromptCache(tmp_path, "e" * 64)
    store.put("a ball", *row(0))
    store.put("", *row(1, tokens=2))
    for reader in (store, None):
        found = (reader or PromptCache(tmp_path, "e" * 64)).get("")
        if reader is not None:
            store.flush()
        assert found is not None and all(torch.equal(a, b) for a, b in zip(found, row(1, tokens=2), strict=True))
    again = PromptCache(tmp_path, "e" * 64)
    assert len(again) == 2 and "a ball" in again and "a box" not in again and again.get("a box") is None


def test_another_encoder_finds_nothing(tmp_path: Path) -> None:
    store = PromptCache(tmp_path, "a" * 64)
    store.put("x", *row(0))
    store.flush()
    assert "x" not in PromptCache(tmp_path, "b" * 64)


def test_files_are_written_as_captions_come_and_a_kill_loses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "FILE_CAPTIONS", 4)
    store = PromptCache(tmp_path, "e" * 64)
    for k in range(10):
        store.put(f"caption {k}", *row(k))
    assert len(list(store.folder.glob("*.safetensors"))) == 2
    (store.folder / ".writing-1-x.safetensors").write_bytes(b"half")
    again = PromptCache(tmp_path, "e" * 64)
    assert [f"caption {k}" in again for k in range(10)] == [True] * 8 + [False] * 2
    monkeypatch.setattr(prompts, "FILE_BYTES", 1)
    again.put("large", *row(0))
    assert len(list(store.folder.glob("[!.]*.safetensors"))) == 3


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "OPEN_FILES", 2)
    store = PromptCache(tmp_path, "e" * 64)
    for k in range(5):
        store.put(str(k), *row(k))
        store.flush()
    for k in (0, 4, 2, 0):
        found = store.get(str(k))
        assert found is not None and torch.equal(found[0], row(k)[0])
    assert len(store._open) == 2


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = PromptCache(tmp_path, "e" * 64)
    store.put("x", *row(0))
    store.flush()
    [file] = store.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(InputError, match=f"{file.name}: damaged"):
        PromptCache(tmp_path, "e" * 64)


def test_a_folder_that_can_not_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("in the way")
    store = PromptCache(tmp_path, "e" * 64)
    store.put("x", *row(0))
    with pytest.warns(UserWarning, match="embeddings of captions can't be kept"):
        store.flush()
    store.put("y", *row(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.flush()
    assert caption_key("x") != caption_key("y")
