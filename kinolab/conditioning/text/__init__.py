"""Text encoders: prompts -> the embeddings that denoisers take. One file per family, one line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from kinolab.conditioning.text.base import TextEmbedding, TextEncoder, check_widths
from kinolab.conditioning.text.clip import ClipText, ClipTextConfig
from kinolab.conditioning.text.minilm import MiniLm, MiniLmConfig
from kinolab.conditioning.text.sd3 import Sd3Text, Sd3TextConfig
from kinolab.conditioning.text.t5 import T5Text, T5TextConfig

TEXT_ENCODERS: dict[str, type[MiniLm] | type[ClipText] | type[T5Text] | type[Sd3Text]] = {
    "minilm": MiniLm,
    "clip": ClipText,
    "t5": T5Text,
    "sd3": Sd3Text,
}
"""Name (a config's `kind`) -> class."""

AnyTextEncoderConfig = MiniLmConfig | ClipTextConfig | T5TextConfig | Sd3TextConfig


def _which(value: Any) -> str | None:
    """The branch of the union below that a value belongs to."""
    if isinstance(value, str):
        return "name"
    return value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)


def _named(value: Any) -> Any:
    if value in TEXT_ENCODERS and value != "minilm":
        raise ValueError(f"{value} needs to know its folder: write {{kind: {value}, folder: ...}}")
    return value


TextEncoderConfig = Annotated[
    Annotated[Literal["none", "minilm"], BeforeValidator(_named), Tag("name")]
    | Annotated[MiniLmConfig, Tag("minilm")]
    | Annotated[ClipTextConfig, Tag("clip")]
    | Annotated[T5TextConfig, Tag("t5")]
    | Annotated[Sd3TextConfig, Tag("sd3")],
    Discriminator(
        _which,
        custom_error_type="text_encoder",
        custom_error_message="expected none, minilm, or a group of keys with kind: minilm, clip, t5 or sd3",
    ),
]
"""A model's text encoder: `none`, `minilm` as it comes, or the config of any of them, told apart by `kind`."""


def build(config: Literal["none", "minilm"] | AnyTextEncoderConfig) -> TextEncoder | None:
    """The text encoder for its config, or none; its weights are read at the first prompt."""
    if config == "none":
        return None
    if config == "minilm":
        return MiniLm()
    assert not isinstance(config, str)
    return TEXT_ENCODERS[config.kind](config)  # type: ignore[arg-type]


__all__ = [
    "TEXT_ENCODERS",
    "AnyTextEncoderConfig",
    "ClipText",
    "ClipTextConfig",
    "MiniLm",
    "MiniLmConfig",
    "Sd3Text",
    "Sd3TextConfig",
    "T5Text",
    "T5TextConfig",
    "TextEmbedding",
    "TextEncoder",
    "TextEncoderConfig",
    "build",
    "check_widths",
]
