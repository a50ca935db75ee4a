"""Tiny random CLIP and T5 encoders with tokenizers of single letters, written to disk as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"
START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 12
"""Positions of the tiny CLIPs."""


def write_clip_tokenizer(folder: Path, pad: str = END, tokens: int = TOKENS) -> int:
    """Single letters as CLIP's vocab.json and merges.txt write them; returns the size of the vocabulary."""
    words = ["!", *LETTERS, *(f"{c}</w>" for c in LETTERS), START, END]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": pad, "model_max_length": tokens}
    marks = {"bos_token": START, "eos_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | marks))
    return len(words)


def clip_ids(prompt: str) -> list[int]:
    """Start, letters (the last of each word marked), end."""
    found = [53]
    for word in prompt.split():
        found += [1 + LETTERS.index(c) for c in word[:-1]] + [27 + LETTERS.index(word[-1])]
    return [*found, 54]


def make_clip(
    folder: Path,
    *,
    width: int = 8,
    projection: int = 6,
    seed: int = 0,
    projecting: bool = True,
    tokenizer: str = "",
    tokens: int = TOKENS,
) -> Any:
    """A CLIP text encoder in `folder`; its tokenizer in it, or in the folder of another name beside it."""
    import transformers

    folder.mkdir(parents=True)
    place = folder.with_name(tokenizer) if tokenizer else folder
    place.mkdir(exist_ok=True)
    count = write_clip_tokenizer(place, "!" if tokenizer.endswith("2") else END, tokens)
    config = transformers.CLIPTextConfig(
        vocab_size=count, hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=tokens, projection_dim=projection, bos_token_id=count - 2, eos_token_id=count - 1,
        pad_token_id=0 if tokenizer.endswith("2") else count - 1, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(seed)
    model: Any = (transformers.CLIPTextModelWithProjection if projecting else transformers.CLIPTextModel)(config)
    _perturbed(model).save_pretrained(folder)
    return model


def make_t5(folder: Path, *, width: int = 20, seed: int = 2, tokenizer: str = "") -> Any:
    """A T5 encoder in `folder`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    place = folder.with_name(tokenizer) if tokenizer else folder
    place.mkdir(exist_ok=True)
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((c, -2.0) for c in "▁" + LETTERS)]
    letters = Tokenizer(models.Unigram(words, unk_id=2))
    letters.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    letters.save(str(place / "tokenizer.json"))
    marks = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **marks}))
    config = transformers.T5Config(
        vocab_size=len(words), d_model=width, d_kv=4, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(seed)
    model = transformers.T5EncoderModel(config)
    _perturbed(model).save_pretrained(folder)
    return model


def t5_ids(prompt: str) -> list[int]:
    """A mark before every word, letters, end."""
    found = []
    for word in prompt.split():
        found += [3, *(4 + LETTERS.index(c) for c in word)]
    return [*found, 1]


def make_sd3(folder: Path, tokens: int = TOKENS) -> tuple[Any, Any, Any]:
    """Two CLIPs of different width and T5 in diffusers' layout."""
    return (
        make_clip(folder / "text_encoder", tokenizer="tokenizer", tokens=tokens),
        make_clip(folder / "text_encoder_2", width=10, projection=7, seed=1, tokenizer="tokenizer_2", tokens=tokens),
        make_t5(folder / "text_encoder_3", tokenizer="tokenizer_3"),
    )


def _perturbed(model: Any) -> Any:
    """Norms and biases that are not ones and zeros, so that leaving one out shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()
