"""How strongly control networks count in a run, and in which part of it (as ControlNet's pipelines offer).

At 0 a control network is left out, and not computed. Composition is decided in the first steps, details in the last: a
control that ends early leaves the model more freedom in them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Call, Method, Predict, Run
from kinolab.errors import InputError


class ControlStrengthConfig(BaseConfig):
    """Factors, and the part of the steps that they hold for."""

    scale: float | dict[str, float] = 1.0
    """What contributions are multiplied by: of all control networks, or of each by its port, as {depth: 0.5}."""
    start: float = Field(0.0, ge=0, le=1)
    """Share of the steps after which it begins; 0 = from the first."""
    end: float = Field(1.0, ge=0, le=1)
    """Share of the steps after which it ends; 1 = with the last."""

    @model_validator(mode="after")
    def _check(self) -> ControlStrengthConfig:
        if not self.start < self.end:
            raise ValueError(f"expected start below end, got {self.start} and {self.end}")
        return self


class ControlStrength(Method):
    """Sets the strength of control networks beside the denoiser."""

    Config: ClassVar[type[BaseConfig]] = ControlStrengthConfig
    config: ControlStrengthConfig

    def check(self, run: Run) -> None:
        """Raises InputError for a model without the control networks that are named, or without a map for them."""
        known = getattr(run.denoiser, "controls", ())
        asked = tuple(self.config.scale) if isinstance(self.config.scale, dict) else known
        wrong = next((port for port in asked if port not in known), None)
        if wrong is not None or not known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"control_strength: this model has no control network {wrong or 'at all'}; {has}")
        if not any(port in run.conditions for port in asked):
            raise InputError(f"control_strength: no map is given; ask with conditions.{asked[0]}=FILE, or leave it out")

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same calls with the strength among their options."""
        scale = self.config.scale
        asked = scale if isinstance(scale, dict) else dict.fromkeys(run.conditions, scale)
        nothing = dict.fromkeys(run.conditions, 0.0)

        def predict(call: Call) -> dict[str, Tensor]:
            done = sum(1 for time in run.times.tolist() if time > call.t) / max(1, run.steps)
            now = asked if self.config.start <= done < self.config.end else nothing
            return inner(replace(call, options=replace(call.options, strength=now)))

        return predict
