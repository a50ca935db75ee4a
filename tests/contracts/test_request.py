"""What is asked of a model is checked before anything is computed, and a mistake is named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from kinolab.conditioning.text import TextEmbedding
from kinolab.contracts.request import listed_prompts
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.models import Request, VideoModel
from tests.tiny_model import tiny_model

STEPS = SamplerConfig(name="euler", steps=1)


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return tiny_model()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (123, r"prompt: expected text or a list of texts, got 123 \(int\)"),
        (True, r"got True \(bool\)"),
        (b"a ball", r"got b'a ball' \(bytes\)"),
        ({"a": 1}, r"\(dict\)"),
        (["a", 3], r"prompt 1 of the list: expected text, got 3 \(int\)"),
        ([b"a"], r"prompt 0 of the list: expected text, got b'a' \(bytes\)"),
        ([], "expected at least one in the list, got none"),
    ],
)
def test_what_is_no_prompt_is_named(model: VideoModel, prompt: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        model.generate(prompt, sampler=STEPS)
    assert "\n" not in str(caught.value)


def test_one_prompt_several_and_none_are_lists() -> None:
    assert listed_prompts(None) == [None] and listed_prompts("a b") == ["a b"]
    assert listed_prompts(("a", "b")) == listed_prompts(iter(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"negative": 3}, r"negative: expected text, got 3 \(int\)"),
        ({"seed": "a"}, r"seed: expected a whole number of at most 63 bits, got 'a' \(str\)"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"frames": 0}, r"frames: expected a whole number of at least 1, got 0 \(int\)"),
        ({"frames": True}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"size": 64}, r"size: expected \(height, width\) in pixels, such as \(64, 96\), got 64 \(int\)"),
        ({"size": (64,)}, "size"),
        ({"size": ("a", "b")}, "size"),
        ({"size": (0, 8)}, "size"),
    ],
)
def test_fields_of_a_request_are_checked(model: VideoModel, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        model.generate(None, sampler=STEPS, **fields)


def test_numbers_of_numpy_are_numbers_and_a_rate_is_positive() -> None:
    assert Request(seed=np.int64(3), frames=np.int32(5), size=(np.int64(8), 8)).frames == 5  # type: ignore[arg-type]
    assert Request(fps=24).fps == 24 and Request(fps=23.976).fps == 23.976
    for fps in (0, -1.0, math.inf, math.nan, True, "8"):
        with pytest.raises(
            InputError, match=r"fps: expected frames per second above 0, got .* \((int|float|bool|str)\)"
        ):
            Request(fps=fps)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [3, -1, 1.0, True, "\u00b2", "no such", ""])
def test_a_label_is_a_class_by_number_or_name(model: VideoModel, label: Any) -> None:
    assert [model.label_index(known) for known in (1, "1", "throw")] == [1] * 3
    with pytest.raises(InputError, match=r"expected one of 0 \(fall\), 1 \(throw\), 2 \(float\)"):
        model.label_index(label)


@pytest.mark.parametrize("prompt", ["", "  ", "\t\n"])
def test_an_empty_prompt_is_said(model: VideoModel, monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    assert Request(prompt).blank and not Request("a").blank and not Request().blank
    told = TextEmbedding(torch.zeros(2, 2, 384), torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 0))
    monkeypatch.setattr(model, "_embed", lambda prompts: told)
    with pytest.warns(UserWarning, match=r"empty prompt \(1 of 2\): nothing is asked for there"):
        model.conditions([Request("a ball"), Request(prompt)])
