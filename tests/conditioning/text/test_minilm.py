"""The text encoder: parity with the reference BERT, and prompts that do not feel the batch they come in."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from torch import Tensor

from kinolab.conditioning.text import TEXT_ENCODERS, MiniLm, MiniLmConfig, build
from kinolab.errors import InputError
from tests.closeness import NETWORK, assert_close

PROMPTS = ["A red ball falls and bounces.", "", "two blue boxes slide down the ramp, then collide with the left wall"]


@pytest.fixture(scope="module")
def encoder() -> MiniLm:
    return MiniLm()


def test_states_are_the_stored_ones(encoder: MiniLm) -> None:
    """Numbers from transformers' BertModel with the same weights."""
    text = encoder.encode(PROMPTS[:1])
    first, last = [0.3995850, 0.0972376, 0.4944671, 0.1183642], [0.0022139, -0.2046595, 0.3661257, 0.4371814]
    assert int(text.mask.sum()) == 10
    assert_close(text.states[0, 0, :4], torch.tensor(first), within=NETWORK)
    assert_close(text.states[0, 9, -4:], torch.tensor(last))
    assert_close(text.states.sum(), torch.tensor(7.3020687), within=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_equals_transformers(encoder: MiniLm) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer, BertModel

        folder = str(encoder.folder)
        bert = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
        tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected: Tensor = bert(**tokens).last_hidden_state
    text, length = encoder.encode(PROMPTS), expected.shape[1]
    mask = tokens["attention_mask"].bool()
    assert torch.equal(text.mask[:, :length], mask) and not text.mask[:, length:].any()
    assert_close(text.states[:, :length][mask], expected[mask], within=NETWORK)
    mean = (expected * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert_close(text.pooled, torch.nn.functional.normalize(mean), within=NETWORK)


@pytest.mark.slow
def test_a_prompt_does_not_feel_its_batch() -> None:
    together = MiniLm().encode(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone = MiniLm().encode([prompt])
        assert torch.equal(alone.states[0], together.states[i])
        assert torch.equal(alone.pooled[0], together.pooled[i])


def test_a_prompt_does_not_feel_the_precision_around_it(encoder: MiniLm) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        inside = MiniLm().encode(PROMPTS[:1])
    assert torch.equal(inside.states, encoder.encode(PROMPTS[:1]).states)


def test_an_empty_prompt_has_its_two_marks(encoder: MiniLm) -> None:
    text = encoder.encode([""])
    assert text.mask.sum() == 2 and text.states.shape == (1, 32, 384)
    assert_close(text.pooled.norm(), torch.tensor(1.0))
    assert not text.states[~text.mask].any()


def test_like_prompts_are_near_each_other(encoder: MiniLm) -> None:
    a, b, c = encoder.encode(["a red ball falls", "a crimson ball drops down", "stock prices rose on Monday"]).pooled
    assert a @ b > 0.6 > 0.2 > a @ c


def test_a_long_prompt_is_cut_with_a_warning() -> None:
    encoder, words = build(MiniLmConfig(max_tokens=8)), "one two three four five six seven eight"
    assert encoder is not None
    with pytest.warns(UserWarning, match="prompt of 10 tokens is cut to 8, 2 left out: 'one two"):
        cut = encoder.encode([words])
    assert cut.states.shape == (1, 8, 384) and cut.mask.all()
    short = MiniLm().encode(["one two three four five six"])
    assert_close(cut.states, short.states[:, :8])


def test_repeated_prompts_are_remembered(encoder: MiniLm, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder.encode(["a green ball"])
    monkeypatch.setattr(encoder, "bert", lambda ids: pytest.fail("encoded twice"))
    again = encoder.encode(["a green ball", "a green ball"])
    assert torch.equal(again.states, first.states.repeat(2, 1, 1))


def test_the_memory_of_prompts_is_bounded() -> None:
    encoder = MiniLm(MiniLmConfig(cache_size=2))
    encoder.encode(["a", "b", "a", "c"])
    assert list(encoder.cache) == ["a", "c"]


def test_changing_a_result_does_not_change_the_memory(encoder: MiniLm) -> None:
    before = encoder.encode(["a white box"])
    kept = before.pooled.clone()
    before.pooled.zero_()
    before.states.zero_()
    assert torch.equal(encoder.encode(["a white box"]).pooled, kept)


def test_building_reads_nothing() -> None:
    encoder = TEXT_ENCODERS["minilm"](MiniLmConfig())  # type: ignore[arg-type]
    assert "bert" not in vars(encoder) and "folder" not in vars(encoder)


@pytest.mark.parametrize("prompts", ["a red ball", [], [None]])
def test_only_lists_of_strings_are_prompts(encoder: MiniLm, prompts: list[str]) -> None:
    with pytest.raises(InputError, match="list of prompts"):
        encoder.encode(prompts)


def test_prompts_of_which_no_token_is_known_are_warned_about() -> None:
    """Emoji and what BERT's vocabulary lacks are one and the same token; a blank prompt asks for nothing."""
    encoder = MiniLm()
    known = ["a red ball", "", "  ", "\U0001f408 a cat", "Кот", "...", "é"]
    unknown = ["\U0001f408", "\U0001f680 \U0001f408", "ᏣᎳᎩ", "\ufe0f\u200d"]
    assert [encoder.knows(prompt) for prompt in known + unknown] == [True] * len(known) + [False] * len(unknown)
    assert torch.equal(*encoder.encode(["\U0001f408", "\U0001f680"]).states), "which is why"
    with pytest.warns(UserWarning, match=r"minilm knows no token of the prompt '🚀 🐈', and can't tell it") as said:
        encoder.warn_unknown([*known, unknown[1], unknown[1]])
    assert len(said) == 1
