"""Embeddings of captions for training: from the latent cache where they are, computed and stored there where not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kinolab.conditioning.text import TextEmbedding, TextEncoder
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.data.prompts import PromptCache

MEMORY = 256 * 2**20
"""Bytes of embeddings that are held in memory."""


class CaptionEmbedder:
    """Captions -> embeddings, rounded to float16, wherever they come from.

    Each distinct caption is computed once: what is computed goes to the folder of the latent cache, if there is one,
    and the most recently used embeddings stay in memory.

    Args:
        encoder: computes what is missing.
        cache: the latent cache's folder; none = memory alone.
    """

    def __init__(self, encoder: TextEncoder, cache: Path | None = None) -> None:
        self.encoder = encoder
        self.store = None if cache is None else PromptCache(cache, encoder.fingerprint)
        self._memory: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._bytes = 0

    def __call__(self, captions: Sequence[str]) -> TextEmbedding:
        """B captions -> states (B, L, D), mask (B, L), pooled (B, P)."""
        rows = {caption: self._row(caption) for caption in dict.fromkeys(captions)}
        states = torch.zeros(len(captions), self.encoder.length, self.encoder.dim)
        mask = torch.zeros(len(captions), self.encoder.length, dtype=torch.bool)
        for i, caption in enumerate(captions):
            row = rows[caption][0]
            states[i, : len(row)] = row.float()
            mask[i, : len(row)] = True
        return TextEmbedding(states, mask, torch.stack([rows[c][1].float() for c in captions]))

    def _row(self, caption: str) -> tuple[Tensor, Tensor]:
        """States (L', D) of the caption's own tokens and its pooled embedding (P,), float16."""
        found = self._memory.get(caption)
        if found is not None:
            self._memory.move_to_end(caption)
            return found
        found = None if self.store is None else self.store.get(caption)
        if found is None:
            found = self._computed(caption)
            if self.store is not None:
                self.store.put(caption, *found)
        self._memory[caption] = found
        self._bytes += _size(found)
        while self._bytes > MEMORY and len(self._memory) > 1:
            self._bytes -= _size(self._memory.popitem(last=False)[1])
        return found

    def _computed(self, caption: str) -> tuple[Tensor, Tensor]:
        embedded = self.encoder.encode([caption])
        return embedded.states[0][embedded.mask[0]].half(), embedded.pooled[0].half()

    def fill(self, captions: Sequence[str], events: Listener = None) -> int:
        """Compute and store what the latent cache lacks of these captions; returns how many those were.

        A killed call loses at most 64 captions, an interrupted or stopped one none; the next one goes on.
        """
        assert self.store is not None
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self.store]
        told = events_of(events)
        try:
            for done, caption in enumerate(missing, start=1):
                self.store.put(caption, *self._computed(caption))
                advance(told, done, len(missing))
        finally:
            self.store.flush()
        return len(missing)

    def flush(self) -> None:
        """Store what was computed and not yet written."""
        if self.store is not None:
            self.store.flush()


def _size(row: tuple[Tensor, Tensor]) -> int:
    return row[0].nbytes + row[1].nbytes
