"""Stable Diffusion 3's three text encoders against diffusers' own pipeline, on tiny random models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.conditioning.text import Sd3Text, Sd3TextConfig
from kinolab.config import load_config
from kinolab.errors import InputError
from tests.closeness import NETWORK, assert_close
from tests.conditioning.text.tiny_text import TOKENS, clip_ids, make_sd3, t5_ids

transformers = pytest.importorskip("transformers")
PROMPTS = ["a red", "", "abcd ef"]
SETTINGS: dict[str, Any] = {"clip_tokens": TOKENS, "t5_tokens": 15}


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("sd3")
    return folder, make_sd3(folder)


def pipeline(folder: Path, models: Any, t5: bool = True) -> Any:
    """diffusers' pipeline with text alone; the transformer only tells T5's width."""
    diffusers = pytest.importorskip("diffusers")
    clips = [transformers.CLIPTokenizer.from_pretrained(folder / f"tokenizer{k}") for k in ("", "_2")]
    letters = transformers.T5TokenizerFast.from_pretrained(folder / "tokenizer_3") if t5 else None
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=20, caption_projection_dim=8, pooled_projection_dim=13, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=None,
        text_encoder=models[0], text_encoder_2=models[1], text_encoder_3=models[2] if t5 else None,
        tokenizer=clips[0], tokenizer_2=clips[1], tokenizer_3=letters,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("t5", [True, False])
def test_equals_diffusers_pipeline(sd3: tuple[Path, Any], t5: bool) -> None:
    folder, models = sd3
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # diffusers' own
        pipe = pipeline(folder, models, t5)
        states, _, pooled, _ = pipe.encode_prompt(
            PROMPTS, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=15
        )
    encoder = Sd3Text(Sd3TextConfig(folder=folder, use_t5=t5, t5_dim=20, **SETTINGS))
    text = encoder.encode(PROMPTS)
    assert text.states.shape == (3, TOKENS + 15, 20) == (3, encoder.length, encoder.dim)
    assert text.mask.all() and encoder.pooled_dim == 13
    assert_close(text.states, states, within=NETWORK)
    assert_close(text.pooled, pooled)


def test_the_combination_by_hand(sd3: tuple[Path, Any]) -> None:
    folder, (clip_l, clip_g, t5) = sd3
    text = Sd3Text(Sd3TextConfig(folder=folder, **SETTINGS)).encode(["ab"])
    ids, letters = clip_ids("ab"), t5_ids("ab")
    with torch.no_grad():
        first, second = (
            m(torch.tensor([ids + [pad] * (TOKENS - len(ids))]), output_hidden_states=True)
            for m, pad in ((clip_l, ids[-1]), (clip_g, 0))
        )  # the second CLIP is padded with "!"
        tokens = t5(torch.tensor([letters + [0] * (15 - len(letters))])).last_hidden_state
    assert_close(text.states[:, :TOKENS, :8], first.hidden_states[-2])
    assert_close(text.states[:, :TOKENS, 8:18], second.hidden_states[-2])
    assert not text.states[:, :TOKENS, 18:].any()
    assert_close(text.states[:, TOKENS:], tokens)
    assert_close(text.pooled, torch.cat([first.text_embeds, second.text_embeds], 1))


def test_folders_may_lie_apart(sd3: tuple[Path, Any]) -> None:
    folder = sd3[0]
    apart = Sd3TextConfig(
        clip_l=folder / "text_encoder", clip_g=folder / "text_encoder_2", t5=folder / "text_encoder_3", **SETTINGS
    )
    whole = Sd3Text(Sd3TextConfig(folder=folder, **SETTINGS))
    assert Sd3Text(apart).fingerprint == whole.fingerprint
    assert torch.equal(Sd3Text(apart).encode(["a"]).states, whole.encode(["a"]).states)


def test_every_encoder_says_what_it_leaves_out(sd3: tuple[Path, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Sd3Text(Sd3TextConfig(folder=sd3[0], **SETTINGS)).encode(["abcdefghijklmn"])
    assert [str(w.message).split(":")[0] for w in caught] == [
        "prompt of 16 tokens is cut to 12 for the first CLIP, 4 left out",
        "prompt of 16 tokens is cut to 12 for the second CLIP, 4 left out",
        "prompt of 16 tokens is cut to 15 for T5, 1 left out",
    ]


def test_impossible_settings_are_explained(sd3: tuple[Path, Any]) -> None:
    with pytest.raises(InputError, match="expected folder, or all of clip_l, clip_g and t5"):
        load_config(Sd3TextConfig, {"clip_l": "x", "clip_g": "y"})
    with pytest.raises(InputError, match="t5 names a folder that use_t5=false leaves unread"):
        load_config(Sd3TextConfig, {"folder": "x", "t5": "y", "use_t5": False})
    with pytest.raises(InputError, match="18 wide together, which is more than T5's 16"):
        Sd3Text(Sd3TextConfig(folder=sd3[0], use_t5=False, t5_dim=16, **SETTINGS)).encode(["a"])


def test_one_of_the_encoders_has_to_know_a_prompt(sd3: tuple[Path, Any]) -> None:
    encoder = Sd3Text(Sd3TextConfig(folder=sd3[0], clip_tokens=12))
    assert [encoder.knows(prompt) for prompt in ("ab", "", "猫")] == [True, True, False]
