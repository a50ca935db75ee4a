"""Which parameters of a denoiser are trained: all, those for time alone, those of some names, or low-rank changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from kinolab.denoisers.base import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import UP, add_lora, is_lora

Trained = Literal["all", "temporal", "named", "lora", "adapter", "parts"]
MOST = 12
"""Names that a line lists."""
QUERIES = ":queries"
"""The end of a name that means the queries alone of a joint projection to queries, keys and values (`qkv`)."""


@dataclass(frozen=True)
class LowRank:
    """The low-rank changes that are trained: rank, alpha (none = the rank) and the layers' names, with * for any part
    and `:queries` for the queries of a joint projection; none = the projections of all attention but that over time."""

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True)
class TrainedCount:
    """Numbers of parameters: in the model before anything was added, that are trained, of these for time, and by LoRA.

    layers: those that have a low-rank change; kept: the parameters that stay as they are.
    """

    model: int
    trained: int
    temporal: int
    lora: int
    layers: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = f"{self.trained:,} of {self.model + self.lora:,} parameters are trained"
        time = f"{self.temporal:,} for time alone" if self.temporal or not self.lora else ""
        return f"{share} ({', '.join(filter(None, (time, f'{self.lora:,} added by LoRA' if self.lora else '')))})"

    def lines(self) -> list[str]:
        """Which layers are changed and what is frozen, blocks of one kind named once."""
        changed = f"low-rank changes of {len(self.layers)} layers: {_kinds(self.layers)}"
        frozen = f"frozen: {len(self.kept)} tensors: {_kinds(self.kept)}"
        return [*([changed] if self.layers else []), *([frozen] if self.kept else [])]


def trainable_parameters(
    denoiser: Denoiser, mode: Trained, low_rank: LowRank = LowRank(), names: Sequence[str] = ()
) -> TrainedCount:
    """Freeze what is not trained, in place, and count.

    Args:
        mode: `all`; `temporal`: what an image model of the same kind has not (`Denoiser.models_time`); `named`: those
            that `names` says; `lora`: what is temporal, and low-rank changes; `adapter`: the changes alone. Their
            layers become `LoraLinear`s, which `kinolab.layers.lora.merge_lora` makes plain again; `parts`: nothing of
            the denoiser itself.
        low_rank: the changes, for `lora` and `adapter`.
        names: of parameters, with * for any part, for `named`; of a joint projection (`qkv`) a name that ends in
            `:queries` means the rows of the queries: the others get no gradient.

    Raises:
        InputError: for `temporal` where nothing is for time alone, for targets that are no linear layers, and for names
            that no parameter has.
    """
    whole = _count(denoiser)
    temporal = [name for name, _ in denoiser.named_parameters() if denoiser.models_time(name)]
    if mode == "temporal" and not temporal:
        raise InputError(
            f"trained: temporal needs parameters for time alone, and this {type(denoiser).__name__} has none: "
            "use all or lora"
        )
    layers, parts = _change(denoiser, low_rank) if mode in ("lora", "adapter") else ((), frozenset())
    asked, in_part = _named(denoiser, names) if mode == "named" else (frozenset(), parts)
    of_time = lora = trained = 0
    kept = []
    for name, parameter in denoiser.named_parameters():
        of_lora, is_temporal = is_lora(name), denoiser.models_time(name) and not is_lora(name)
        meant = {"all": True, "temporal": is_temporal, "named": name in asked, "lora": of_lora or is_temporal}
        parameter.requires_grad_(meant.get(mode, of_lora and mode == "adapter"))
        size = parameter.numel()
        if name in in_part and parameter.requires_grad:
            parameter.register_hook(_of_queries)
            size //= 3
        of_time += size * (is_temporal and parameter.requires_grad)
        lora += size * of_lora
        trained += size * parameter.requires_grad
        kept += [] if parameter.requires_grad else [name]
    return TrainedCount(whole, trained, of_time, lora, layers, tuple(kept))


def _named(denoiser: Denoiser, patterns: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of parameters that patterns mean, each of which means some, and those of which the queries alone."""
    known = [name for name, _ in denoiser.named_parameters()]
    whole, part = set(), set()
    for pattern in patterns:
        plain = pattern.removesuffix(QUERIES)
        found = [name for name in known if fnmatchcase(name, plain)]
        if not found:
            raise InputError(f"trained_names: {plain} is no parameter of the denoiser, which has {_kinds(known)}")
        if plain != pattern:
            _check_joint("trained_names", pattern, [name.rpartition(".")[0] for name in found])
            part |= set(found)
        else:
            whole |= set(found)
    return frozenset(whole | part), frozenset(part - whole)


def _check_joint(field: str, pattern: str, layers: Iterable[str]) -> None:
    """Raises InputError where a pattern for queries means a layer that isn't a joint projection."""
    for layer in layers:
        if layer.rpartition(".")[2] != "qkv":
            raise InputError(f"{field}: {pattern} means {layer}, which has no keys and values: leave {QUERIES} out")


def _of_queries(gradient: Tensor) -> Tensor:
    """The gradient of a joint projection's weight, bias or change (3 * D, ...), zero but for the queries' rows."""
    rows = gradient.shape[0] // 3  # queries, keys and values, one after the other
    return torch.cat([gradient[:rows], torch.zeros_like(gradient[rows:])])


def _change(denoiser: Denoiser, low_rank: LowRank) -> tuple[tuple[str, ...], frozenset[str]]:
    """Put fresh changes beside the layers that are meant; their names, and the parameters that change queries alone."""
    linear = [name for name, child in denoiser.named_modules() if type(child) is nn.Linear]
    part, whole = set[str](), set[str]()
    for pattern in low_rank.targets:
        plain = pattern.removesuffix(QUERIES)
        found = [name for name in linear if fnmatchcase(name, plain)]
        if not found:
            raise InputError(f"lora_targets: {plain} is no linear layer of the denoiser, which has {_kinds(linear)}")
        if plain != pattern:
            _check_joint("lora_targets", pattern, found)
        (whole if plain == pattern else part).update(found)

    def wanted(name: str) -> bool:
        if low_rank.targets:
            return name in whole or name in part
        return "attn" in name and not denoiser.models_time(f"{name}.weight")

    added = tuple(add_lora(denoiser, low_rank.rank, wanted, low_rank.scale))
    return added, frozenset(f"{name}.{UP}" for name in part - whole)


def _kinds(names: Iterable[str]) -> str:
    """Names with N for the numbers of blocks, each once."""
    kinds = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name in names))
    return ", ".join(kinds[:MOST]) + (f", and {len(kinds) - MOST} more kinds" if len(kinds) > MOST else "")


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
