"""CLIP's text encoder against transformers, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.conditioning.text import ClipText, ClipTextConfig
from kinolab.errors import InputError
from tests.closeness import assert_close
from tests.conditioning.text.tiny_text import TOKENS, clip_ids, make_clip

transformers = pytest.importorskip("transformers")
PROMPTS = ["a red", "", "abc de fg"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("text") / "clip"
    return folder, make_clip(folder)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_states_and_pooled_are_transformers_own(clip: tuple[Path, Any], layer: str) -> None:
    folder, model = clip
    encoder = ClipText(ClipTextConfig(folder=folder, max_tokens=TOKENS, layer=layer))
    text = encoder.encode(PROMPTS)
    assert text.states.shape == (3, TOKENS, 8) == (3, encoder.length, encoder.dim)
    assert text.pooled.shape == (3, 6) == (3, encoder.pooled_dim)
    for k, prompt in enumerate(PROMPTS):
        ids = clip_ids(prompt)
        with torch.no_grad():
            answer = model(torch.tensor([ids]), output_hidden_states=True)
        expected = answer.last_hidden_state if layer == "last" else answer.hidden_states[-2]
        assert_close(text.states[k, : len(ids)], expected[0])
        assert_close(text.pooled[k], answer.text_embeds[0])
        assert text.mask[k].tolist() == [True] * len(ids) + [False] * (TOKENS - len(ids))
        assert not text.states[k, len(ids) :].any()


def test_without_a_projection_the_pooled_embedding_is_the_end_marks_state(tmp_path: Path) -> None:
    make_clip(tmp_path / "plain", projecting=False)
    encoder = ClipText(ClipTextConfig(folder=tmp_path / "plain", max_tokens=TOKENS))
    text = encoder.encode(["abc"])
    assert encoder.pooled_dim == 8
    assert_close(text.pooled[0], text.states[0, len(clip_ids("abc")) - 1])


def test_a_whole_clip_model_gives_its_text_part(tmp_path: Path, clip: tuple[Path, Any]) -> None:
    folder, model = clip
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=model.config.to_dict(), vision_config=vision, projection_dim=6)
    whole = transformers.CLIPModel(config).eval()
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    ours = ClipText(ClipTextConfig(folder=tmp_path, max_tokens=TOKENS)).encode(PROMPTS)
    expected = ClipText(ClipTextConfig(folder=folder, max_tokens=TOKENS)).encode(PROMPTS)
    assert_close(ours.pooled, expected.pooled)
    assert_close(ours.states, expected.states)


def test_a_long_prompt_is_cut_and_the_warning_counts(clip: tuple[Path, Any]) -> None:
    encoder = ClipText(ClipTextConfig(folder=clip[0], max_tokens=6))
    with pytest.warns(UserWarning, match=r"^prompt of 11 tokens is cut to 6, 5 left out: 'abcdefghi'$"):
        text = encoder.encode(["abcdefghi"])
    with torch.no_grad():
        kept = [*clip_ids("abcdefghi")[:5], clip_ids("")[-1]]
        expected = clip[1](torch.tensor([kept]))
    assert_close(text.pooled, expected.text_embeds)


def test_the_fingerprint_follows_weights_and_settings_but_no_place(clip: tuple[Path, Any], tmp_path: Path) -> None:
    def fingerprint(folder: Path, **settings: Any) -> str:
        return ClipText(ClipTextConfig(folder=folder, **settings)).fingerprint

    copy, other = tmp_path / "copy", tmp_path / "other"
    copy.mkdir()
    for file in clip[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    make_clip(other, seed=5)
    base = fingerprint(clip[0], max_tokens=8)
    assert fingerprint(copy, max_tokens=8, cache_size=3) == base
    assert len({base, fingerprint(other, max_tokens=8), fingerprint(copy, max_tokens=9)}) == 3
    (copy / "merges.txt").write_text("#version: 0.2\na b\n")
    assert fingerprint(copy, max_tokens=8) != base


def test_folders_that_are_not_whole_are_explained(clip: tuple[Path, Any], tmp_path: Path) -> None:
    def encode(**settings: Any) -> None:
        ClipText(ClipTextConfig.model_validate({"folder": tmp_path, "max_tokens": 8, **settings})).encode(["a"])

    with pytest.raises(InputError, match=r"no config\.json; expected your own folder of a CLIP text encoder"):
        encode()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(InputError, match="a model of type 't5', expected a CLIP text encoder"):
        encode()
    (tmp_path / "config.json").write_bytes((clip[0] / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"no tokenizer; expected one of tokenizer\.json"):
        encode()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip[0] / name).read_bytes())
    with pytest.raises(InputError, match="not a whole CLIPTextModelWithProjection folder"):
        encode()
    with pytest.raises(InputError, match="takes at most 12 tokens"):
        encode(max_tokens=13, folder=clip[0])


def test_missing_weights_are_not_made_up(clip: tuple[Path, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in clip[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights of CLIPTextModelWithProjection are missing: text_projection"):
        ClipText(ClipTextConfig(folder=tmp_path, max_tokens=8)).encode(["a"])
