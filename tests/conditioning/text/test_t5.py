"""T5's encoder against transformers, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.conditioning.text import T5Text, T5TextConfig
from kinolab.errors import InputError
from tests.closeness import assert_close
from tests.conditioning.text.tiny_text import make_t5, t5_ids

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("text") / "t5"
    return folder, make_t5(folder)


def test_states_are_those_of_a_padded_batch_with_its_mask(t5: tuple[Path, Any]) -> None:
    folder, model = t5
    encoder, prompts = T5Text(T5TextConfig(folder=folder, max_tokens=9)), ["ab c", "", "abcdefg"]
    text = encoder.encode(prompts)
    assert (encoder.dim, encoder.pooled_dim, encoder.length) == (20, 0, 9) and text.pooled.shape == (3, 0)
    ids = [t5_ids(p) for p in prompts]
    padded = torch.tensor([row + [0] * (9 - len(row)) for row in ids])
    mask = torch.tensor([[True] * len(row) + [False] * (9 - len(row)) for row in ids])
    with torch.no_grad():
        expected = model(padded, attention_mask=mask).last_hidden_state
    assert torch.equal(text.mask, mask)
    assert_close(text.states[mask], expected[mask])


def test_a_long_prompt_is_cut_and_keeps_its_end(t5: tuple[Path, Any]) -> None:
    encoder = T5Text(T5TextConfig(folder=t5[0], max_tokens=4))
    with pytest.warns(UserWarning, match="prompt of 8 tokens is cut to 4, 4 left out"):
        text = encoder.encode(["abcdef"])
    with torch.no_grad():
        expected = t5[1](torch.tensor([[3, 4, 5, 1]])).last_hidden_state
    assert_close(text.states, expected)


def test_bfloat16_is_near_float32(t5: tuple[Path, Any]) -> None:
    whole, half = (T5Text(T5TextConfig(folder=t5[0], max_tokens=9, dtype=d)) for d in ("float32", "bfloat16"))
    a, b = whole.encode(["abc"]).states, half.encode(["abc"]).states
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert float((a - b).norm() / a.norm()) < 0.05
    assert whole.fingerprint != half.fingerprint


def test_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="a model of type 'bert', expected a T5 encoder"):
        T5Text(T5TextConfig(folder=tmp_path)).encode(["a"])


def test_a_prompt_of_unknown_letters_is_not_known(t5: tuple[Path, Any]) -> None:
    encoder = T5Text(T5TextConfig(folder=t5[0]))
    assert [encoder.knows(p) for p in ("ab", "\U0001f408 b", "", "\U0001f408", "猫 犬")] == [
        True,
        True,
        True,
        False,
        False,
    ]
