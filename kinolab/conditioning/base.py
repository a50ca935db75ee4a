"""What every condition says of itself: how it comes from a request and from a training example, and what it tells.

Training and sampling differ in the first step alone. Each turns what it has, examples or requests, into the same plain
things (a caption, a label's number, a clip), None where there is none; one function, `tell`, makes of these what a
denoiser is told. So a model can't be sampled with other conditions than it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning.text import TextEmbedding
from kinolab.config import Config
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.denoisers.base import DenoiserSpec
from kinolab.errors import InputError
from kinolab.runtime.hashes import seed_bytes

T = TypeVar("T")
Draws = Callable[[str], list[torch.Generator]]
"""For a purpose, one CPU generator for each row of a batch, which belongs to the row alone."""


class ConditionConfig(Config):
    """What a recipe may set of any condition."""

    dropout: float = Field(0.1, ge=0, le=1)
    """Share of samples that are trained without it, so that it may be left out, or be guided away from, in sampling."""


@dataclass(frozen=True)
class Setting:
    """What conditions are made with; a model that samples and a job that trains it fill it in alike.

    spec: what the denoiser takes. autoencoder: makes latents of clips. device: where conditions go. embed: captions ->
    their embeddings, None = the model reads none. look: pictures (B, 3, H, W) -> their tokens (B, L, D), None = alike.
    imagine: prompts and a generator for each -> embeddings (B, D) of pictures that they might describe, None = there is
    no prior.
    null_prompt, class_names: as in the model's config. frames, size,
    fps: of a training clip, for what a request leaves open. settings: the configs of conditions, by name.
    """

    spec: DenoiserSpec
    autoencoder: Autoencoder
    device: torch.device
    embed: Callable[[Sequence[str]], TextEmbedding] | None = None
    look: Callable[[Tensor], Tensor] | None = None
    imagine: Callable[[Sequence[str], Sequence[torch.Generator]], Tensor] | None = None
    null_prompt: Literal["learned", "empty"] = "learned"
    class_names: tuple[str, ...] = ()
    frames: int = 1
    size: tuple[int, int] = (1, 1)
    fps: float = 1.0
    settings: Mapping[str, ConditionConfig] = field(default_factory=dict)


class Condition(Generic[T]):
    """Base of the conditions: of a batch, plain things of type T -> what a denoiser is told.

    A vector of numbers needs `shown` alone; see `VectorCondition`.
    """

    name: ClassVar[str]
    """Its name in the table, in recipes and requests, and of its port."""
    ports: ClassVar[tuple[str, ...]] = ()
    """Names of what it tells; none = its own."""
    Config: ClassVar[type[ConditionConfig]] = ConditionConfig

    def __init__(self, config: ConditionConfig | None = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @property
    def tells(self) -> tuple[str, ...]:
        """The ports that it tells something to."""
        return self.ports or (self.name,)

    @property
    def called(self) -> str:
        """What an error calls it."""
        return self.name

    def files(self, value: Any) -> list[Path]:
        """The files that a request's value names."""
        return []

    def taken(self, setting: Setting) -> bool:
        """Whether a model takes it."""
        return any(name in setting.spec.ports for name in self.tells)

    def asks(self, request: Request) -> bool:
        """Whether a request asks for it, so that a model that doesn't take it has to refuse."""
        return request.conditions.get(self.name) is not None

    def asked(self, request: Request, setting: Setting) -> T | None:
        """What a request says; None = nothing.

        Raises:
            InputError: for what can't be meant.
        """
        value: T | None = request.conditions.get(self.name)
        return value

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[T | None]:
        """What training examples say, one each; None = nothing."""
        raise NotImplementedError

    def tell(self, told: Sequence[T | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """What the denoiser is told of B things, of which some may be None.

        `before` is what conditions earlier in the table told, `draws` the randomness of each row.
        """
        raise NotImplementedError

    def dropped(self, draws: Draws) -> Tensor:
        """The rows (B,) of a batch that are trained without it."""
        return uniform(draws(f"dropout {self.name}")) < self.config.dropout


class VectorCondition(Condition[Any]):
    """A condition of one number, or of some, for each clip."""

    def tell(self, told: Sequence[Any | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """A vector (B,), or (B, D) where the port is D wide; null where there is none."""
        width = setting.spec.ports[self.name].width or 0
        rows = [[0.0] * max(width, 1) if v is None else self._numbers(v, max(width, 1)) for v in told]
        value = torch.tensor(rows, device=setting.device)
        return alone(self.name, Value("vector", value if width else value[:, 0]), told)

    def _number(self, request: Request, default: float, most: float, expected: str) -> float:
        """What a request says, or the default; from 0 to `most`, which `expected` says in words.

        Raises:
            InputError: for another number, or none.
        """
        value = request.conditions.get(self.name)
        number = default if value is None else self._numbers(value, 1)[0]
        if not 0 <= number <= most:
            raise InputError(f"{self.name}: expected {expected}, got {value!r}")
        return float(number)

    def _numbers(self, value: Any, count: int) -> list[float]:
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) != count or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise InputError(f"{self.name}: expected {'a number' if count == 1 else f'{count} numbers'}, got {value!r}")
        return [float(number) for number in numbers]


class TokensCondition(Condition[Any]):
    """A condition of any number of tokens for each clip: a tensor or lists (L, D), attended to."""

    def tell(self, told: Sequence[Any | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Tokens (B, L, D) of what was asked or shown; null where there is none."""
        width = setting.spec.ports[self.name].width or 0
        return self.stacked([None if v is None else self._tokens(v, width) for v in told], setting)

    def _tokens(self, value: Any, width: int) -> Tensor:
        try:
            rows = torch.as_tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            rows = torch.empty(0)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
            raise InputError(f"{self.name}: expected tokens of {width} numbers each, as [[...], ...], got {value!r}")
        return rows

    def stacked(self, rows: Sequence[Tensor | None], setting: Setting) -> Conditions:
        """Tokens (B, L, D) of rows (L, D), null and 0 where there is none; nothing is told where nobody has any.

        Rows of fewer tokens than others are filled up, and a mask (B, L) says which are there.
        """
        there = [row for row in rows if row is not None]
        if not there:
            return Conditions()
        longest = max(map(len, there))
        tokens = there[0].new_zeros(len(rows), longest, there[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for k, row in enumerate(rows):
            if row is not None:
                tokens[k, : len(row)], mask[k, : len(row)] = row, True
        alike = all(len(row) == longest for row in there)
        value = Value("tokens", tokens.to(setting.device), None if alike else mask.to(setting.device))
        return alone(self.name, value, rows)


class FieldCondition(Condition[T]):
    """A condition of latents (C, T, H, W) for each clip, on the grid of its own latents."""

    def files(self, value: Any) -> list[Path]:
        """The clip's file."""
        if isinstance(value, Mapping):
            return [path for part in value.values() for path in self.files(part)]
        return [Path(value)] if isinstance(value, str | Path) else []

    def stacked(self, latents: Sequence[Tensor | None], setting: Setting) -> Conditions:
        """A field (B, C, T, H, W), null and 0 where there is none; nothing is told where nobody has one."""
        some = next((z for z in latents if z is not None), None)
        if some is None:
            return Conditions()
        rows = [torch.zeros_like(some) if z is None else z for z in latents]
        return alone(self.name, Value("field", torch.stack(rows).to(setting.device)), latents)


def alone(name: str, value: Value, told: Sequence[Any]) -> Conditions:
    """One condition, null where nothing was told."""
    null = torch.tensor([thing is None for thing in told], device=value.value.device)
    return Conditions.of({name: value}, {name: null} if any(thing is None for thing in told) else None)


def request_draws(requests: Sequence[Request]) -> Draws:
    """The randomness of requests: each by its own seed, apart from the noise that sampling begins with."""

    def draws(purpose: str) -> list[torch.Generator]:
        digests = (seed_bytes(f"{r.seed}/{purpose}") for r in requests)
        return [torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1) for digest in digests]

    return draws


def uniform(sources: Sequence[torch.Generator]) -> Tensor:
    """One uniform number in [0, 1) for each generator: (len(sources),)."""
    return torch.cat([torch.rand(1, generator=g) for g in sources])
