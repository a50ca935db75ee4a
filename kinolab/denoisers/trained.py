"""Which parameters of a denoiser are trained: all, those for time alone, or low-rank changes of its attention too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from kinolab.denoisers.base import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import add_lora

Trained = Literal["all", "temporal", "lora", "parts"]


@dataclass(frozen=True)
class TrainedCount:
    """Numbers of parameters: in the model before anything was added, that are trained, for time, and added by LoRA."""

    model: int
    trained: int
    temporal: int
    lora: int

    def __str__(self) -> str:
        share = f"{self.trained:,} of {self.model + self.lora:,} parameters are trained"
        parts = f"{self.temporal:,} for time alone" + (f", {self.lora:,} added by LoRA" if self.lora else "")
        return f"{share} ({parts})"


def trainable_parameters(denoiser: Denoiser, mode: Trained, rank: int = 8) -> TrainedCount:
    """Freeze what is not trained, in place, and count.

    Args:
        mode: `all`; `temporal`: what an image model of the same kind has not (`Denoiser.models_time`); `lora`: that,
            and a low-rank change of every projection of every other attention. The layers become `LoraLinear`s, which
            `kinolab.layers.lora.merge_lora` makes plain again; `parts`: nothing of the denoiser itself.
        rank: of the changes, for `lora`.

    Raises:
        InputError: for `temporal` where nothing is for time alone.
    """
    whole = _count(denoiser)
    temporal = [name for name, _ in denoiser.named_parameters() if denoiser.models_time(name)]
    if mode == "temporal" and not temporal:
        raise InputError(
            f"trained: temporal needs parameters for time alone, and this {type(denoiser).__name__} has none: "
            "use all or lora"
        )
    if mode == "lora":
        add_lora(denoiser, rank, lambda name: "attn" in name and not denoiser.models_time(f"{name}.weight"))
    of_time = lora = trained = 0
    for name, parameter in denoiser.named_parameters():
        is_lora, is_temporal = name.endswith((".lora_up", ".lora_down")), denoiser.models_time(name)
        parameter.requires_grad_(mode == "all" or (mode != "parts" and (is_temporal or is_lora)))
        of_time += parameter.numel() * is_temporal
        lora += parameter.numel() * is_lora
        trained += parameter.numel() * parameter.requires_grad
    return TrainedCount(whole, trained, of_time, lora)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
