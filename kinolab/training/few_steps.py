"""The recipes of consistency distillation and of distribution matching, whose students make a clean sample in each of a
few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kinolab.diffusion import SamplerConfig
from kinolab.diffusion.consistency import Distance
from kinolab.errors import InputError
from kinolab.models import ModelConfig, find_model, read_model_config
from kinolab.training.critic import GanConfig
from kinolab.training.distilled import DistilRecipe
from kinolab.training.recipe import BaseRecipe, DenoiserRecipe
from kinolab.training.settings import TrainingConfig

STEPS = 4
"""Steps that a student is for where nothing else is asked for."""
SOLVER_STEPS = 48
"""Steps of the teacher's solver: about the 50 of LCM (every 20th of 1000), so that 1, 2, 3, 4, 6 and 8 divide them."""


class FewStepRecipe(DistilRecipe):
    """What both have in common."""

    average: ClassVar[float]
    """`training.ema` where nothing else is asked for."""
    shift: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Moves the student's steps towards the noise, each fraction f of time to s f / (1 + (s - 1) f); the model folder's
    sampler has it too. None = 1, where they lie."""
    sampler: ClassVar[str] = "consistency"

    @classmethod
    def filled(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a recipe that its teacher settles.

        Raises:
            InputError: for a teacher that can't be distilled in this way, as one that is a student itself.
        """
        place = str(values["teacher"])
        made = read_model_config(find_model(place)).distilled
        if made is not None:
            known = f", {made.teacher}" if made.teacher else ""
            raise InputError(f"{place}: is distilled itself ({made}); name the model that it learned from{known}")
        found = super().filled(values)
        own = {"name": cls.sampler, "steps": cls.made_for(values)[0], "shift": values.get("shift")}
        samples = {**found["samples"], "sampler": own}
        return {**found, "samples": samples, "training": {"ema": cls.average}}

    def grid(self, steps: int) -> SamplerConfig:
        """The sampler that walks so many steps of the student's."""
        return SamplerConfig(name=self.sampler, steps=steps, shift=self.shift)


class ConsistencyRecipe(FewStepRecipe):
    """Consistency distillation in latents (Luo et al. 2023): every point of the teacher's trajectory is mapped to its
    end."""

    kind: Literal["consistency"] = "consistency"  # type: ignore[assignment]
    steps: tuple[int, ...] = Field((STEPS,), min_length=1)
    """The numbers of steps that it may be sampled with; the first is the usual one. Each divides `solver_steps`, so
    that it begins every step at a time that it was trained at."""
    solver_steps: int = Field(SOLVER_STEPS, ge=2)
    """Steps of the teacher's solver (DDIM, which is Euler's) from noise to the clean sample: each takes what LCM calls
    k = 1000 / solver_steps timesteps at once."""
    distance: Distance = "squared"
    """How far the student is from its target: squared, or huber, which hardly feels what is far off, and so prefers the
    larger of two modes that the student can't tell apart yet."""
    huber: float = Field(1e-3, gt=0.0)
    """c of the Huber distance sqrt(d^2 + c^2) - c, as in LCM's code: where squares turn into sizes."""
    slow: bool = True
    """Whether the target is of the student's average, which `training.ema` makes; else of the student as it is."""
    training: TrainingConfig = TrainingConfig(ema=0.95)
    """Steps, batch, optimiser, precision; `ema` is the target's average (0.95 in LCM's code)."""
    average: ClassVar[float] = 0.95
    method: ClassVar[str] = "consistency"

    @field_validator("steps", mode="before")
    @classmethod
    def _one(cls, steps: Any) -> Any:
        return (steps,) if isinstance(steps, int) else steps

    @field_validator("steps")
    @classmethod
    def _at_least_one(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if min(steps) < 1:
            raise ValueError(f"expected numbers of at least 1, got {', '.join(map(str, steps))}")
        return steps

    @model_validator(mode="after")
    def _check_steps(self) -> ConsistencyRecipe:
        wrong = [n for n in self.steps if self.solver_steps % n]
        if wrong:
            raise ValueError(
                f"steps: {', '.join(map(str, wrong))} don't divide solver_steps={self.solver_steps}; expected some of "
                f"{', '.join(str(n) for n in range(1, self.solver_steps) if self.solver_steps % n == 0)}"
            )
        if self.slow and not self.training.ema:
            raise ValueError("slow: the target is of the average, which training.ema=0 doesn't make; set slow=false")
        return self

    @classmethod
    def filled(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As of every few-step student; where no guidance is asked for and the teacher is guided, a range around it."""
        if values.get("guidance") is None:
            model = read_model_config(find_model(str(values["teacher"])))
            ported = "vectors" in type(model.denoiser).model_fields if model.denoiser is not None else False
            if model.guidance.scale > 1 and ported:
                usual = [max(1.0, model.guidance.scale / 2), model.guidance.scale * 1.5]
                return {**super().filled({**values, "guidance": usual}), "guidance": usual}
        return super().filled(values)

    @classmethod
    def made_for(cls, values: Mapping[str, Any]) -> tuple[int, ...]:
        """Its steps."""
        steps = cls._one(values.get("steps", STEPS))
        known = isinstance(steps, list | tuple) and steps and all(isinstance(n, int) for n in steps)
        return tuple(steps) if known else (STEPS,)

    @classmethod
    def asked(cls, steps: int, model: ModelConfig) -> dict[str, Any]:
        """A student for so many steps, whose solver has a multiple of them."""
        return {"steps": [steps], "solver_steps": steps * max(1, round(SOLVER_STEPS / steps))}


class MatchingRecipe(FewStepRecipe):
    """Distribution matching (Yin et al. 2024, DMD2): the student's samples follow the teacher's score against that of
    a critic, which learns the student's own distribution."""

    kind: Literal["matching"] = "matching"  # type: ignore[assignment]
    steps: int = Field(STEPS, ge=1)
    """Steps of the student, always from the same times."""
    critic_updates: int = Field(5, ge=1)
    """Updates of the critic for each of the student (DMD2, section 4.2: two time scales). The training's steps count
    the critic's."""
    critic_told: bool = True
    """Tell the critic after how many of its steps the student made a sample. One that isn't told (as in DMD2) knows the
    samples of all steps together, and what one step makes too often another may make up for: the last step's alone are
    the student's, though. A denoiser without `vectors` can't be told."""
    noise: tuple[float, float] = (0.02, 0.98)
    """The share of training times, least and most, at which both scores are compared (DMD's 20 to 980 of 1000)."""
    gan: GanConfig | None = None
    """The adversarial loss of DMD2 beside it, by which the student may become better than its teacher; none = off: only
    the prompts of the data are used then."""
    training: TrainingConfig = TrainingConfig(ema=0.99)
    """Steps (of the critic), batch, optimiser, precision; `ema` is of the student, whose average is exported."""
    average: ClassVar[float] = 0.99
    method: ClassVar[str] = "matching"

    @model_validator(mode="after")
    def _check_matching(self) -> MatchingRecipe:
        if not 0 <= self.noise[0] < self.noise[1] <= 1:
            raise ValueError(f"noise: expected rising shares from 0 to 1, got {list(self.noise)}")
        if self.gan is not None and getattr(self.denoiser, "gradient_checkpointing", False):
            raise ValueError(
                "gan: its gradients go through the critic without reaching its weights, and layers that are run again "
                "would not know: set denoiser.gradient_checkpointing=false, or leave gan out"
            )
        return self

    def resumed(self, former: BaseRecipe) -> DenoiserRecipe:
        """As of every denoiser; the critic of a run that recorded no `critic_told` was told nothing."""
        made = super().resumed(former)
        unsaid = isinstance(former, MatchingRecipe) and "critic_told" not in former.model_fields_set
        if unsaid and "critic_told" not in self.model_fields_set:
            return made.model_copy(update={"critic_told": False})
        return made

    @classmethod
    def made_for(cls, values: Mapping[str, Any]) -> tuple[int, ...]:
        """Its steps."""
        steps = values.get("steps", STEPS)
        return (steps,) if isinstance(steps, int) and steps >= 1 else (STEPS,)

    @classmethod
    def asked(cls, steps: int, model: ModelConfig) -> dict[str, Any]:
        """A student for so many steps."""
        return {"steps": steps}
