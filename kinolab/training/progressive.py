"""The recipe of progressive distillation, and how its steps are shared between guidance and the rounds that halve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from kinolab.diffusion.progressive import Weight
from kinolab.errors import InputError
from kinolab.models import ModelConfig, find_model
from kinolab.training.distilled import DistilRecipe
from kinolab.training.recipe import BaseRecipe, DenoiserRecipe
from kinolab.training.settings import TrainingConfig

ROUNDS = (16, 8, 4)
LAST, LAST_SHARE = 2, 2.0
"""The last two rounds get twice the steps of the others (Salimans & Ho 2022, section 5)."""
MOST_STEPS = 16
"""The most steps of a first student that `kinolab distill` asks for; its teacher takes twice as many."""


class ProgressiveRecipe(DistilRecipe):
    """Progressive distillation: guidance first, then rounds of which each halves the steps."""

    kind: Literal["progressive"] = "progressive"  # type: ignore[assignment]
    rounds: tuple[int, ...] = Field(ROUNDS, min_length=1)
    """The steps of the students one after another, each half of the one before; the first one's teacher is the model
    itself in twice as many."""
    guidance_first: bool | None = None
    """Whether a stage before the rounds learns the guidance, at times of any noise; none = where there is some."""
    shares: tuple[float, ...] = ()
    """How the training's steps are shared, the stage of guidance first if there is one; none = evenly, with twice as
    many for the last two rounds."""
    weight: Weight = "truncated"
    """The weight of the squared error of the clean sample by the signal-to-noise ratio: constant, snr (as the error of
    the noise), truncated, max(SNR, 1), or snr_plus_one (as the error of v, Imagen Video's)."""
    training: TrainingConfig = TrainingConfig()
    """Steps of all rounds together, batch, optimiser, precision; warm-up and decay of the learning rate (linear where
    nothing is said) are those of each round, and so is the optimiser's memory."""
    method: ClassVar[str] = "progressive"
    also: ClassVar[tuple[str, ...]] = ("stochastic",)

    @model_validator(mode="after")
    def _check_rounds(self) -> ProgressiveRecipe:
        if min(self.rounds) < 1 or any(a != 2 * b for a, b in zip(self.rounds, self.rounds[1:], strict=False)):
            told = ", ".join(map(str, self.rounds))
            raise ValueError(f"rounds: expected steps that halve from one to the next, such as 16, 8, 4, got {told}")
        if self.diffusion.schedule == "edm":
            raise ValueError("diffusion.schedule=edm: halved steps need a discrete schedule, flow or cosine_logsnr")
        return self

    @classmethod
    def filled(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As of every method; and the learning rate falls to 0 in each round."""
        return {**super().filled(values), "training": {"decay": "linear", "ema": 0.99}}

    @classmethod
    def made_for(cls, values: Mapping[str, Any]) -> tuple[int, ...]:
        """The last round's steps."""
        rounds = values.get("rounds", ROUNDS)
        known = isinstance(rounds, Sequence) and rounds and isinstance(rounds[-1], int)
        return (rounds[-1],) if known else (ROUNDS[-1],)

    @classmethod
    def asked(cls, steps: int, model: ModelConfig) -> dict[str, Any]:
        """Rounds that halve down to so many steps."""
        most = MOST_STEPS if model.distilled is None else max(model.distilled.steps) // 2
        rounds = [steps]
        while rounds[0] * 2 <= most:
            rounds.insert(0, rounds[0] * 2)
        return {"rounds": rounds}

    def resumed(self, former: BaseRecipe) -> DenoiserRecipe:
        """As of every denoiser.

        Raises:
            InputError: where the rounds would be others than those that the run began with, whose teacher it has kept.
        """
        if isinstance(former, ProgressiveRecipe):
            old, new = former._shared, self._shared
            for name, value in new.items():
                if value != old[name]:
                    raise InputError(
                        f"{name}: {old[name]} -> {value} moves the rounds under a run that is in one of them; go on "
                        "with what it began with, or begin another run"
                    )
        return super().resumed(former)

    @property
    def _shared(self) -> dict[str, Any]:
        """What settles the rounds."""
        own = {"rounds": self.rounds, "shares": self.shares, "guidance_first": self.guidance_first}
        return {"training.steps": self.training.steps, **own}

    def check(self, model: ModelConfig) -> None:
        """Raises InputError for a plan of rounds that can't be, for first weights that are not the teacher's, and for a
        teacher that doesn't know the rounds' steps."""
        planned(self, guided=self.guided(model))
        if self.initial is not None and find_model(self.initial.path).resolve() != find_model(self.teacher).resolve():
            raise InputError(
                f"initial.path={self.initial.path}: the first round's teacher is the student as it begins, with the "
                f"weights of the teacher {self.teacher}; leave initial out"
            )
        needed = 2 * self.rounds[0]
        if model.distilled is not None and needed not in model.distilled.steps:
            raise InputError(
                f"rounds: a student of {self.rounds[0]} steps needs a teacher of {needed}, and {self.teacher} is "
                f"distilled itself ({model.distilled}): begin with half of its steps"
            )


@dataclass(frozen=True)
class Round:
    """Steps of the training from `first` to before `last`: of a student of `steps`, or none = of guidance alone."""

    first: int
    last: int
    steps: int | None

    def __str__(self) -> str:
        name = "guidance" if self.steps is None else f"{self.steps} step{'s' * (self.steps > 1)}"
        return f"{name} ({self.last - self.first})"


def planned(recipe: ProgressiveRecipe, *, guided: bool) -> tuple[Round, ...]:
    """The rounds of a recipe. guided: whether the teacher is guided.

    Raises:
        InputError: for shares that don't fit, and for fewer steps than rounds.
    """
    first = guided if recipe.guidance_first is None else recipe.guidance_first
    kinds: list[int | None] = [*([None] if first else []), *recipe.rounds]
    usual = [LAST_SHARE if k >= len(kinds) - LAST and len(recipe.rounds) > LAST else 1.0 for k in range(len(kinds))]
    shares = list(recipe.shares) or usual
    if len(shares) != len(kinds) or min(shares) <= 0:
        raise InputError(
            f"shares: expected {len(kinds)} numbers above 0, one for each of {_named(kinds)}, got {shares}"
        )
    total = recipe.training.steps
    if total < len(kinds):
        raise InputError(f"training.steps={total}: expected at least one for each of {_named(kinds)}")
    ends = [round(total * sum(shares[: k + 1]) / sum(shares)) for k in range(len(kinds))]
    for k in range(len(ends)):  # each at least one
        ends[k] = max(ends[k], ends[k - 1] + 1 if k else 1)
    for k in reversed(range(len(ends) - 1)):
        ends[k] = min(ends[k], ends[k + 1] - 1)
    ends[-1] = total
    starts = [0, *ends[:-1]]
    return tuple(Round(*told) for told in zip(starts, ends, kinds, strict=True))


def _named(kinds: Sequence[int | None]) -> str:
    return ", ".join("guidance" if k is None else f"{k} steps" for k in kinds)
