"""What all text encoders share: configs by name or kind, widths, finite numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.conditioning.text import (
    ClipTextConfig,
    MiniLm,
    MiniLmConfig,
    Sd3TextConfig,
    TextEncoderConfig,
    build,
    check_widths,
)
from kinolab.config import Config, load_config, to_yaml
from kinolab.errors import InputError


class Holder(Config):
    """A config with a text encoder."""

    text_encoder: TextEncoderConfig = "none"
    """The encoder."""


@pytest.mark.parametrize(
    "value",
    [
        "none",
        "minilm",
        {"kind": "minilm", "max_tokens": 16},
        {"kind": "clip", "folder": "/models/clip"},
        {"kind": "t5", "folder": "/models/t5", "max_tokens": 64},
        {"kind": "sd3", "folder": "/models/sd3", "dtype": "bfloat16"},
    ],
)
def test_names_and_groups_of_keys_are_read_and_written_back(value: Any, tmp_path: Path) -> None:
    config = load_config(Holder, {"text_encoder": value})
    (tmp_path / "x.yaml").write_text(to_yaml(config))
    assert load_config(Holder, tmp_path / "x.yaml") == config
    if isinstance(value, str):
        assert config.text_encoder == value and f"text_encoder: {value}\n" in to_yaml(config)
    else:
        assert {k: str(getattr(config.text_encoder, k)) for k in value} == {k: str(v) for k, v in value.items()}


def test_build_takes_names_and_configs() -> None:
    assert build("none") is None
    named, configured = build("minilm"), build(MiniLmConfig())
    assert isinstance(named, MiniLm) and isinstance(configured, MiniLm) and named.config == configured.config
    clip = build(ClipTextConfig(folder=Path("/nowhere")))
    assert clip is not None and clip.name == "clip"
    with pytest.raises(InputError, match=r"/nowhere: no config\.json"):
        clip.encode(["a"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("clip", r"text_encoder: clip needs to know its folder: write \{kind: clip, folder: ...\}"),
        ("bert", "text_encoder: Input should be 'none' or 'minilm'"),
        ({"kind": "bert"}, "text_encoder: expected none, minilm, or a group of keys with kind"),
        ({"kind": "clip"}, r"missing key 'text_encoder\.folder'"),
        ({"kind": "clip", "foldr": "x"}, r"unknown key 'text_encoder\.foldr', did you mean 'folder'"),
        ({"kind": "sd3", "folder": "x", "t5_tokens": 0}, r"text_encoder\.t5_tokens: "),
    ],
)
def test_wrong_values_name_the_key(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(Holder, {"text_encoder": value})


def test_widths_of_encoder_and_denoiser_are_compared() -> None:
    check_widths(MiniLm(), 384, 0)
    check_widths(MiniLm(), 0, 384)
    with pytest.raises(InputError, match=r"denoiser\.text_dim=4096: the text encoder minilm gives 384; set 384"):
        check_widths(MiniLm(), 4096, 0)


def test_numbers_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: MiniLm, prompt: str) -> tuple[Tensor, Tensor]:
        return torch.full((2, 384), float("nan")), torch.zeros(384)

    monkeypatch.setattr(MiniLm, "_compute", broken)
    encoder = MiniLm()
    with pytest.raises(InputError, match="minilm gave NaN or infinity for 'a'"):
        encoder.encode(["a"])
    assert not encoder.cache


def test_sd3_takes_no_field_of_another_kind() -> None:
    with pytest.raises(InputError, match="unknown key 'max_tokens'"):
        load_config(Sd3TextConfig, {"folder": "x", "max_tokens": 3})
