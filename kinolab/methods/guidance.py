"""Classifier-free guidance (Ho & Salimans 2022): mixes branches of the denoiser, knows nothing of samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.conditions import PROMPT, Conditions
from kinolab.contracts.method import CONDITIONAL, Call, Method, Predict, Run
from kinolab.errors import InputError

UNCONDITIONAL = "unconditional"
ASKED = "prompt"
"""In `scales` the name of all that is asked of a clip (`kinolab.contracts.conditions.PROMPT`)."""


class OscillationConfig(BaseConfig):
    """Which steps are guided less (Ho et al. 2022, Imagen Video, section 2.4: scale 15 and 1 by turns)."""

    low: float = Field(default=1.0, ge=0.0)
    """Scale of every other step, the first of them included."""
    after: int = Field(default=4, ge=0)
    """Steps at the beginning that all have the high scale."""

    def lowers(self, step: int) -> bool:
        """Whether a step, counted from 0, has the low scale."""
        return step >= self.after and (step - self.after) % 2 == 0


class GuidanceConfig(BaseConfig):
    """How far to move from the unconditional towards the conditional prediction, and when."""

    scale: float = Field(default=1.0, ge=0.0)
    """unconditional + scale * (conditional - unconditional): 1 is off, 0 is unconditional."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Fractions of time, low and high, with 1 the pure noise; outside only the conditional branch runs (Kynkäänniemi
    et al. 2024)."""
    rescale: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the guided prediction's standard deviation that is set back to the conditional one's (Lin et al.
    2024, section 3.4); 0 is off, 0.7 is their choice."""
    batched: bool = True
    """Run all branches as one larger batch; off runs them one after the other in less memory."""
    frames: tuple[float, ...] = ()
    """In place of `scale` one for each frame: two or more scales, spread from the first latent frame to the last and
    interpolated in between (Blattmann et al. 2023, Stable Video Diffusion: 1, 3); none = all alike."""
    scales: tuple[tuple[str, float], ...] = ()
    """In place of `scale` one for each of some conditions, as {given: 1.5, prompt: 7}: from the prediction without all
    of them, towards that with the first, from there towards that with the second too, ... (Brooks et al. 2023,
    InstructPix2Pix, eq. 3). `prompt` is label and text together; what is not named is always told."""

    oscillate: OscillationConfig | None = None
    """Guide by `scale` in some first steps, then less and again by `scale`, step by step: a high scale keeps to the
    prompt, and the steps between take back what it saturates; none = all steps alike."""
    of: tuple[str, ...] = ()
    """The conditions that `scale` and `frames` guide towards, which the other branch is not told, such as image and
    image_tokens; none = prompt, which is label and text together."""

    @field_validator("scales", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check(self) -> GuidanceConfig:
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"interval must be two fractions with 0 <= low <= high <= 1, got {low} and {high}")
        if len(self.frames) == 1 or any(s < 0 for s in (*self.frames, *(s for _, s in self.scales))):
            raise ValueError("expected two or more scales for frames, and all scales of at least 0")
        ways = [name for name, used in (("frames", self.frames), ("scales", self.scales)) if used]
        if (self.scale != 1.0 and ways) or len(ways) > 1:
            raise ValueError("scale, frames and scales are three ways to say how far: give one, and leave scale at 1")
        if self.oscillate is not None and ways:
            raise ValueError(f"oscillate goes between scale and a lower one: leave {ways[0]} out")
        if self.oscillate is not None and self.oscillate.low > self.scale:
            raise ValueError(f"oscillate: low {self.oscillate.low:g} is above the scale {self.scale:g}")
        if self.scales and self.of:
            raise ValueError("of is for scale and frames: scales names its conditions itself")
        names = [name for name, _ in self.scales]
        if len(set(names)) < len(names):
            raise ValueError(f"scales: expected each condition once, got {', '.join(names)}")
        return self

    @property
    def towards(self) -> tuple[str, ...]:
        """The conditions that `scale` and `frames` guide towards."""
        return self.of or (ASKED,)

    @property
    def active(self) -> bool:
        """Whether guidance changes anything at any time."""
        return self.scale != 1.0 or any(s != 1.0 for s in self.frames) or any(s != 1.0 for _, s in self.scales)


class Guidance(Method):
    """Guidance of one config; `negative` are conditions to move away from in place of the null ones.

    Only the first C channels are guided; a learned variance behind them is the conditional branch's.
    """

    Config: ClassVar[type[BaseConfig]] = GuidanceConfig
    option = "guidance"
    config: GuidanceConfig

    def __init__(self, config: GuidanceConfig | None = None, negative: Any = None) -> None:
        super().__init__(config)
        self.negative = negative

    def check(self, run: Run) -> None:
        """Raises InputError where there is nothing to guide towards, or a negative and no guidance."""
        config, told = self.config, run.conditions
        if self.negative is not None and not config.active:
            raise InputError(
                "a negative prompt is what guidance moves away from, and scale 1 has none: use another scale"
            )
        if self.negative is not None and config.scales:
            raise InputError("a negative prompt takes the place of the null condition of one scale: leave scales out")
        if config.active and not config.scales and not any(_is_told(told, name) for name in config.towards):
            said = ", ".join(f"{s:g}" for s in config.frames or (config.scale,))
            needs = ", ".join(config.of) or "a label or a text"
            raise InputError(f"guidance scale {said} needs {needs} to guide towards, and none was given: use scale 1")
        if self.negative is not None and ASKED not in config.towards:
            raise InputError(f"a negative prompt is what guidance of a prompt moves away from, not of {config.of[0]}")
        for name, scale in config.scales:
            if not _is_told(told, name):
                raise InputError(f"guidance scale {scale:g} of {name}: no {name} was given to guide towards")

    def branches(self, inner: Predict, run: Run) -> Predict:
        """Asks for the branches that are to be mixed, inside the interval."""
        if not self.config.active:
            return inner
        low, high = self.config.interval
        # Between the two scales only the scale changes: which branches run is settled by the one of the step.
        lower = self.config.oscillate
        lowered = None if lower is None else self.config.model_copy(update={"scale": lower.low, "oscillate": None})

        def predict(call: Call) -> dict[str, Tensor]:
            # The margin keeps the interval's own ends in it, after the rounding of times to units and back.
            if not low - 1e-9 <= run.path.fraction(call.t) <= high + 1e-9:
                return inner(call)
            config = self.config
            if lower is not None and lowered is not None and lower.lowers(run.step):
                config = lowered
            if not config.active:
                return inner(call)
            if self.config.frames and run.frames is not None:
                raise InputError(
                    "guidance.frames is spread over a whole clip, and this run walks over parts: use scale"
                )
            away = self._away(run.conditions, call.z)
            asked = {CONDITIONAL: call.branches[CONDITIONAL], **away}
            found = inner(replace(call, branches=asked, batched=self.config.batched))
            C, whole = run.channels, found[CONDITIONAL]
            mixed = mix([found[name][:, :C] for name in away], whole[:, :C], config)
            return {CONDITIONAL: torch.cat([mixed, whole[:, C:]], 1)}

        return predict

    def _away(self, told: Conditions, z: Tensor) -> dict[str, Any]:
        """The branches that are moved away from by name, the least told first."""
        if self.negative is not None:
            return {UNCONDITIONAL: self.negative}
        batch, names = z.shape[0], [name for name, _ in self.config.scales]
        if not names:
            null = [member for name in self.config.towards for member in _members(name)]
            return {UNCONDITIONAL: told.all_null(batch, z.device, null)}
        away = {}
        for k in range(len(names)):
            null = [member for name in names[k:] for member in _members(name)]
            away[f"with {names[k - 1]}" if k else UNCONDITIONAL] = told.all_null(batch, z.device, null)
        return away


def mix(away: Sequence[Tensor], conditional: Tensor, config: GuidanceConfig) -> Tensor:
    """Guided prediction from its branches, (B, C, T, H, W) each; Lin et al. 2024, eq. 14 to 16.

    `away` are those that are moved away from, the least told first: one for each of `scales`, or the one of `scale`.
    """
    scales: list[float | Tensor] = [scale for _, scale in config.scales] or [config.scale]
    if config.frames:
        known = conditional.new_tensor(config.frames)[None, None]
        scales = [F.interpolate(known, conditional.shape[2], mode="linear", align_corners=True).view(-1, 1, 1)]
    mixed = away[0]
    for scale, low, high in zip(scales, away, [*away[1:], conditional], strict=True):
        mixed = mixed + scale * (high - low)
    if not config.rescale:
        return mixed
    dims = tuple(range(1, mixed.ndim))
    ratio = conditional.std(dims, keepdim=True) / mixed.std(dims, keepdim=True).clamp(min=1e-12)
    return mixed * (config.rescale * ratio + 1.0 - config.rescale)


def _members(name: str) -> tuple[str, ...]:
    return PROMPT if name == ASKED else (name,)


def _is_told(conditions: Conditions, name: str) -> bool:
    return any(conditions.tensor(member) is not None for member in _members(name))
