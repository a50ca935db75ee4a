"""What stands for no prompt in a model that reads token states and a pooled embedding: learned, or the empty prompt's.

Shapes: B batch, L tokens, P width of token states, Q width of the pooled embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.layers.embeddings import FixedTables


class NullPrompt(FixedTables):
    """Holds `text` (tokens, P) and `pooled` (Q,), zeros at first, and puts them in the place of prompts that are null.

    The empty prompt's embedding may be absent from a checkpoint: it stays as it is.

    Args:
        text_dim, pooled_dim: P and Q; 0 = there is none.
        tokens: number of text tokens.
        learned: parameters; otherwise buffers for the embedding of an empty prompt (`set_prompt`).
    """

    text: Tensor
    pooled: Tensor

    def __init__(self, text_dim: int, pooled_dim: int, tokens: int, *, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        for name, shape in (("text", (tokens, text_dim)), ("pooled", (pooled_dim,))):
            if not shape[-1]:
                continue
            if learned:
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
            else:
                self.register_buffer(name, torch.zeros(shape))

    def set_prompt(self, text: Tensor | None, pooled: Tensor | None) -> None:
        """Set the embedding of the empty prompt: text (tokens, P), of any number of tokens, and pooled (Q,).

        Raises:
            InputError: for a learned one, or another width.
        """
        if self.learned:
            raise InputError("this model learns its null condition (null: learned); null: prompt takes an embedding")
        for name, value, rank in (("text", text, 2), ("pooled", pooled, 1)):
            if value is None:
                continue
            old = getattr(self, name, None)
            if old is None or value.ndim != rank or value.shape[-1] != old.shape[-1]:
                expected = "none" if old is None else f"{rank} dimensions, the last one {old.shape[-1]}"
                raise InputError(f"the null condition's {name}: expected {expected}, got {tuple(value.shape)}")
            setattr(self, name, value.detach().clone().to(old))

    def fill_pooled(self, pooled: Tensor | None, null: Tensor | None, batch: int) -> Tensor:
        """Pooled embeddings (B, Q) with those that are null (B,), or all where none are given, replaced."""
        nothing = self.pooled.expand(batch, -1)
        if pooled is None:
            return nothing
        pooled = pooled.to(nothing.dtype)
        return pooled if null is None else torch.where(null[:, None], nothing, pooled)

    def fill_text(
        self, text: Tensor | None, mask: Tensor | None, null: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """Token states (B, L, P) with those that are null replaced, and which of them are there (B, L), none = all.

        A prompt with no real token counts as null. The shorter ones of prompts and null prompt are padded.
        """
        if text is None:
            return self.text.expand(batch, -1, -1), None
        if mask is not None:
            null = ~mask.any(-1) if null is None else null | ~mask.any(-1)
        if null is None:
            return text.to(self.text.dtype), None
        count, length = len(self.text), text.shape[1]
        longest = max(count, length)
        nothing = F.pad(self.text, (0, 0, 0, longest - count))
        states = F.pad(text.to(nothing.dtype), (0, 0, 0, longest - length))
        states = torch.where(null[:, None, None], nothing, states)
        if mask is None and count == length:
            return states, None
        if mask is None:
            mask = torch.ones(batch, length, dtype=torch.bool, device=text.device)
        there = torch.arange(longest, device=text.device) < count
        return states, torch.where(null[:, None], there, F.pad(mask, (0, longest - length)))
