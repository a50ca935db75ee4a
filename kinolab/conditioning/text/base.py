"""What every text encoder takes and gives, and what they share: a memory of prompts, cutting, and the weights' hash.

Shapes: B prompts, L tokens, D width of a token's state, P width of the pooled embedding.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.runtime.devices import no_autocast
from kinolab.runtime.hashes import Sha256, canonical, file_sha256
from kinolab.runtime.paths import visible


@dataclass(frozen=True)
class TextEmbedding:
    """What a text encoder says of B prompts; on the CPU.

    states: (B, L, D) float32, zero after a prompt's end; mask: (B, L) bool, True = a token to attend to;
    pooled: (B, P) float32, one vector per prompt (P = 0 where the encoder has none). MiniLM's has length 1.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor


class TextEncoder:
    """Base of the text encoders: prompts -> states, mask and pooled embedding.

    Prompts are encoded one by one and in full precision of the weights, so that a prompt gets the same numbers, bit for
    bit, in whichever batch it comes; the last ones are remembered. Weights are read at the first prompt.
    """

    def __init__(self, config: Config, cache_size: int) -> None:
        self.config, self.cache_size = config, cache_size
        self.cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    @property
    def name(self) -> str:
        """The config's `kind`."""
        return str(getattr(self.config, "kind"))  # noqa: B009  (a field of every encoder's config, not of the base)

    @property
    def length(self) -> int:
        """Tokens L of an embedding."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Width D of a token's state."""
        raise NotImplementedError

    @property
    def pooled_dim(self) -> int:
        """Width P of the pooled embedding; 0 = none."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> TextEncoder:
        """Where to compute, now or once the weights are read; what comes out is on the CPU. Returns itself."""
        return self

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """B prompts, empty ones allowed -> states (B, L, D), mask (B, L), pooled (B, P).

        Raises:
            InputError: unless `prompts` is a non-empty list of strings, and where the weights can't be read.
        """
        if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) for p in prompts):
            raise InputError(f"expected a list of prompts, got {prompts!r}")
        rows = [self._remembered(prompt) for prompt in prompts]
        states = torch.zeros(len(rows), self.length, self.dim)
        mask = torch.zeros(len(rows), self.length, dtype=torch.bool)
        for i, (row, _) in enumerate(rows):
            states[i, : len(row)] = row
            mask[i, : len(row)] = True
        return TextEmbedding(states, mask, torch.stack([pooled for _, pooled in rows]))

    def knows(self, prompt: str) -> bool:
        """Whether the encoder knows any token of a prompt, so that it is told apart from others; true of a blank one.

        A tokenizer with a fixed vocabulary reads emoji and many scripts as the one token for what it doesn't know.
        """
        return not prompt.strip() or self._known_tokens(prompt) > 0

    def warn_unknown(self, prompts: Sequence[str]) -> None:
        """Warn, in a line for each, of prompts of which no token is known."""
        for prompt in dict.fromkeys(prompts):
            if not self.knows(prompt):
                text = f"the text encoder {self.name} knows no token of the prompt {shortened(prompt)!r}"
                warnings.warn(f"{text}, and can't tell it from others that it doesn't know", stacklevel=3)

    def _known_tokens(self, prompt: str) -> int:
        """How many tokens of a prompt are neither marks nor the one for what is unknown; one of an encoder that has no
        such token."""
        return 1

    def _remembered(self, prompt: str) -> tuple[Tensor, Tensor]:
        """States (L', D) of the prompt's own L' tokens and its pooled embedding (P,), float32 on the CPU."""
        known = self.cache.get(prompt)
        if known is not None:
            self.cache.move_to_end(prompt)
            return known
        # Exact and the same whatever precision surrounds the call: what is remembered must not depend on it.
        with torch.no_grad(), no_autocast():
            states, pooled = self._compute(prompt)
        result = states.to("cpu", torch.float32), pooled.to("cpu", torch.float32)
        if not bool(torch.isfinite(result[0]).all() and torch.isfinite(result[1]).all()):
            raise InputError(f"the text encoder {self.name} gave NaN or infinity for {shortened(prompt)!r}")
        self.cache[prompt] = result
        if len(self.cache) > self.cache_size:
            self.cache.popitem(last=False)
        return result

    def _compute(self, prompt: str) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def files(self) -> list[Path]:
        """The files that decide an embedding: weights, tokenizer and their configs."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the config and the files' contents, wherever they lie: equal where the embeddings are equal.

        Raises:
            InputError: where a file is missing.
        """
        settings = self.config.model_dump(mode="json", exclude=PLACES)
        settings = {k: v for k, v in settings.items() if k not in LATER or v != LATER[k]}
        digest = Sha256().text(canonical(settings))
        for path in self.files():
            digest.text(f"{path.name} {file_hash(path)}\n")
        return digest.hex()


PLACES = {"folder", "clip_l", "clip_g", "t5", "cache_size"}
"""Fields of the encoders' configs that no embedding depends on: where files lie, and how many prompts are kept."""
LATER = {"padded": False}
"""Fields that came later, and the value with which an embedding is what it was before."""


def check_widths(encoder: TextEncoder, text_dim: int, pooled_dim: int) -> None:
    """Raises InputError where a denoiser takes states or pooled embeddings (0 = none) of other widths."""
    for field, takes, gives in (("text_dim", text_dim, encoder.dim), ("pooled_dim", pooled_dim, encoder.pooled_dim)):
        if takes and not gives:
            raise InputError(f"denoiser.{field}={takes}: the text encoder {encoder.name} gives none; set it to 0")
        if takes and takes != gives:
            raise InputError(f"denoiser.{field}={takes}: the text encoder {encoder.name} gives {gives}; set {gives}")


def cut(ids: Sequence[int], limit: int, prompt: str, reader: str = "") -> list[int]:
    """At most `limit` token ids, the last one (the end mark) kept; a warning says how many were left out.

    `reader` names the encoder where several read the prompt.
    """
    if len(ids) <= limit:
        return list(ids)
    by = f" for {reader}" if reader else ""
    text = f"prompt of {len(ids)} tokens is cut to {limit}{by}, {len(ids) - limit} left out: {shortened(prompt)!r}"
    warnings.warn(text, stacklevel=2)
    return [*ids[: limit - 1], ids[-1]]


def shortened(prompt: str) -> str:
    """The first 40 characters of a prompt."""
    return prompt if len(prompt) <= 40 else prompt[:37] + "..."


def file_hash(path: Path) -> str:
    """sha256 of a file; read once in a process as long as it does not change."""
    if not path.is_file():
        raise InputError(f"{path}: missing; the text encoder is not complete")
    seen = path.stat()
    return _file_hash(path, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def known_files(folders: Iterable[Path]) -> list[Path]:
    """The files in folders of encoders and tokenizers that they are read from; weights as safetensors before .bin."""
    found: list[Path] = []
    for folder in dict.fromkeys(folders):
        weights = visible(folder, "*.safetensors") or visible(folder, "*.bin")
        found += [f for f in visible(folder) if f.suffix in (".json", ".txt", ".model")] + weights
    return found
