"""Text encoders of transformers from a person's own folder: nothing is looked up elsewhere, nothing is made up.

A folder holds config.json and weights. Its tokenizer lies in it too, or beside it as in diffusers' layout: that of
`text_encoder_2` in `tokenizer_2`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch

from kinolab.conditioning.text.base import TextEncoder, cut, known_files
from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime.paths import named
from kinolab.runtime.reading import read_json
from kinolab.runtime.text import first_line

TextDtype = Literal["float32", "bfloat16"]
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")
"""One of these is in the folder of a tokenizer."""


def encoder_config(folder: Path, kinds: tuple[str, ...], what: str) -> dict[str, Any]:
    """The config.json of an encoder's folder, its text part where it has one.

    Raises:
        InputError: where there is none, or it is of a model that is not of one of `kinds` (`what` in words).
    """
    path = folder / "config.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json; expected your own folder of {what}") from None
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in kinds:
        raise InputError(f"{folder}: a model of type {kind!r}, expected {what}")
    return {**values, **values.get("text_config", {}), "architectures": values.get("architectures") or []}


def tokenizer_folder(folder: Path) -> Path:
    """Where an encoder's tokenizer lies: in its own folder, or in diffusers' one beside it.

    Raises:
        InputError: where neither holds one.
    """
    beside = named(folder).with_name(named(folder).name.replace("text_encoder", "tokenizer"))
    for place in (folder, beside):
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            return place
    raise InputError(f"{folder}: no tokenizer; expected one of {', '.join(TOKENIZER_FILES)} in it or in {beside}")


def load_encoder(folder: Path, class_name: str, dtype: TextDtype, device: torch.device) -> Any:
    """A frozen text encoder by its class of transformers.

    Raises:
        InputError: where the folder is not whole, or weights of that class are missing in it.
    """
    transformers = _transformers()
    try:
        model, info = getattr(transformers, class_name).from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds for a folder that is not whole
        raise InputError(f"{folder}: not a whole {class_name} folder ({first_line(error)})") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{folder}: {len(missing)} weights of {class_name} are missing: {', '.join(missing[:4])}")
    return model.to(device, getattr(torch, dtype)).eval().requires_grad_(False)


def load_tokenizer(folder: Path, class_name: str) -> Any:
    """The tokenizer of an encoder's folder by its class of transformers."""
    place = tokenizer_folder(folder)
    transformers = _transformers()
    try:
        return getattr(transformers, class_name).from_pretrained(place, local_files_only=True)
    except Exception as error:
        raise InputError(f"{place}: not a whole tokenizer ({first_line(error)})") from None


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "interop", "a CLIP or T5 text encoder") from None
    return transformers


class FolderText(TextEncoder):
    """A text encoder of transformers in a person's own folder; `settings` checks the folder before anything is read."""

    config: Any
    tokenizer_class: str
    """The class of transformers that reads the tokenizer."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, config.cache_size)
        self.device = torch.device("cpu")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What config.json says, once it is known to be of the right model."""
        raise NotImplementedError

    @cached_property
    def model(self) -> Any:
        """The network, read at first use."""
        raise NotImplementedError

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, read at first use."""
        _ = self.settings  # says plainly what the folder holds instead
        return load_tokenizer(self.config.folder, self.tokenizer_class)

    @property
    def length(self) -> int:
        """Tokens of an embedding."""
        return int(self.config.max_tokens)

    def to(self, device: torch.device | str) -> Self:
        """Where to compute."""
        self.device = torch.device(device)
        if "model" in vars(self):
            self.model.to(self.device)
        return self

    def tokens(self, prompt: str, reader: str = "") -> list[int]:
        """The prompt's token ids with the tokenizer's marks, cut to max_tokens."""
        return cut(self.tokenizer(prompt)["input_ids"], self.config.max_tokens, prompt, reader)

    def padded(self, prompt: str, reader: str = "") -> list[int]:
        """The prompt's tokens, filled up to the full length with the tokenizer's padding."""
        ids = self.tokens(prompt, reader)
        return ids + [int(self.tokenizer.pad_token_id)] * (self.length - len(ids))

    def _known_tokens(self, prompt: str) -> int:
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        known = [i for i in ids if i not in self.tokenizer.all_special_ids]
        # Sentencepiece writes the beginning of a word as a token of its own where the word is unknown.
        return sum(piece != "\u2581" for piece in self.tokenizer.convert_ids_to_tokens(known))

    def files(self) -> list[Path]:
        """Weights, tokenizer and configs."""
        _ = self.settings
        return known_files([self.config.folder, tokenizer_folder(self.config.folder)])
