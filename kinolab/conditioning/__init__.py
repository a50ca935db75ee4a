"""Text encoders: prompts -> the embeddings that denoisers take. One file per family, one line in the table."""

from __future__ import annotations

from kinolab.conditioning.text import MiniLm, MiniLmConfig, TextEmbedding

TEXT_ENCODERS: dict[str, type[MiniLm]] = {"minilm": MiniLm}
"""Name (a config's `kind`) -> class."""

TextEncoderConfig = MiniLmConfig
"""The config of any text encoder, told apart by `kind`."""


def build(config: TextEncoderConfig) -> MiniLm:
    """A text encoder for its config; its weights are read at the first prompt."""
    return TEXT_ENCODERS[config.kind](config)


__all__ = ["TEXT_ENCODERS", "MiniLm", "MiniLmConfig", "TextEmbedding", "TextEncoderConfig", "build"]
