"""The text encoder inside a whole Stable Diffusion checkpoint, as a folder that transformers reads.

1.x holds CLIP under `cond_stage_model.transformer.`, in transformers' own names. 2.x holds OpenCLIP under
`cond_stage_model.model.`; its denoiser reads the states of the last layer but one, normalised, so that the last layer
is left out. No such file has a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.checkpoints.open_clip import depth, renamed, tensors_under
from kinolab.conditioning.text.public import TOKENIZER_FILES
from kinolab.errors import InputError
from kinolab.runtime.files import copy, new_folder, write_text
from kinolab.runtime.reading import read_json
from kinolab.runtime.weights import write_weights

CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
HEAD = 64
"""Size of a head in every published CLIP; no tensor tells it."""
OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
"""OpenCLIP's names -> those of transformers."""
TOKENIZER = (*TOKENIZER_FILES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""The files of a tokenizer's folder."""


@dataclass(frozen=True)
class HeldText:
    """A text encoder in a checkpoint: its tensors by transformers' names, its config.json, and what prompts are filled
    up with; none = with what the tokenizer says."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    padding: str | None = None


def held_text(tensors: Mapping[str, Tensor]) -> HeldText | None:
    """The text encoder among a checkpoint's tensors; none = there is none of a known kind."""
    clip, open_clip = tensors_under(tensors, CLIP), tensors_under(tensors, OPEN_CLIP)
    if "embeddings.token_embedding.weight" in clip:
        clip.pop("embeddings.position_ids", None)  # counts from 0 on; older versions stored it
        return HeldText(_named(clip), _settings(clip, "quick_gelu"))
    if "token_embedding.weight" in open_clip:
        # without the last layer, and the projection and the temperature of its training against pictures
        found = dict(renamed(open_clip, OUTER, depth(open_clip) - 1))
        return HeldText(_named(found), _settings(found, "gelu"), "!")
    return None


def write_text_encoder(held: HeldText, tokenizer: Path, folder: Path) -> Path:
    """Write `folder`/text_encoder and, beside it, a copy of the tokenizer; returns the former.

    Raises:
        InputError: where `tokenizer` is no tokenizer's folder.
    """
    if not is_tokenizer(tokenizer):
        raise InputError(f"{tokenizer}: no tokenizer; expected a folder with one of {', '.join(TOKENIZER_FILES)}")
    with new_folder(folder / "tokenizer") as room:
        for name in TOKENIZER:
            if (tokenizer / name).is_file():
                copy(tokenizer / name, room / name)
        if held.padding is not None:
            for name in ("tokenizer_config.json", "special_tokens_map.json"):
                said = read_json(room / name) if (room / name).is_file() else {}
                write_text(room / name, json.dumps({**said, "pad_token": held.padding}, indent=1) + "\n")
    with new_folder(folder / "text_encoder") as room:
        write_weights(room / "model.safetensors", held.tensors, {"format": "pt"})
        write_text(room / "config.json", json.dumps(held.settings, indent=1) + "\n")
    return folder / "text_encoder"


def tokenizer_beside(path: Path) -> Path | None:
    """The tokenizer's folder that lies beside a file: the file's own, or `tokenizer` in it; none = there is none."""
    return next((folder for folder in (path.parent, path.parent / "tokenizer") if is_tokenizer(folder)), None)


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"text_model.{name}": value.contiguous() for name, value in tensors.items()}


def _settings(tensors: Mapping[str, Tensor], activation: str) -> dict[str, Any]:
    """The config.json that shapes tell."""
    words, width = tensors["embeddings.token_embedding.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layers."))
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": len(tensors["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD),
        "max_position_embeddings": len(tensors["embeddings.position_embedding.weight"]),
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
