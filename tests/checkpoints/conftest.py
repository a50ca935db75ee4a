"""The library whose classes public layouts are compared with, and whole public models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.whole import WORDS, make_checkpoint, make_pipeline, make_text
from tests.conditioning.text.tiny_text import END, write_clip_tokenizer


@pytest.fixture(scope="session")
def diffusers() -> Any:
    """diffusers; its import warns of much that is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion as diffusers saves one."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def clip() -> Any:
    """CLIP's text encoder as Stable Diffusion 1.x has it, small, by transformers."""
    return make_text()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of CLIP's kind, which fills up with the end mark."""
    folder = tmp_path_factory.mktemp("tokenizer")
    assert write_clip_tokenizer(folder, END) == WORDS
    return folder


@pytest.fixture(scope="session")
def checkpoint(clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts of a Stable Diffusion 1.x in one file."""
    return make_checkpoint(clip, tmp_path_factory.mktemp("whole"))
