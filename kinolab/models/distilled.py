"""What a distilled model was made for: the steps, the sampler and the guidance that it knows, and what lies outside.

A student of few steps has learned to jump along one path: from the times of its own steps, and towards samples that are
guided already. Asked for anything else it answers all the same, so a person is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, model_validator

from kinolab.config import Config, load_config, to_yaml
from kinolab.contracts.adapters import AdapterUse
from kinolab.diffusion import SAMPLERS, SamplerConfig
from kinolab.methods import GuidanceConfig
from kinolab.runtime.files import write_text
from kinolab.tables import METHODS

if TYPE_CHECKING:
    from kinolab.models.stage_config import StageConfig

S = TypeVar("S", bound="StageConfig")
GUIDANCE = "guidance_scale"
"""The condition by which a student is told the scale of guidance, where it learned several."""
RECORD = "distilled.yaml"
"""The file beside an adapter's own that says what it was made for, as model.yaml does of a model."""
ALIKE = (frozenset({"ddim", "euler"}),)
"""Samplers that take the same steps on every path, without noise of their own."""


class DistilledConfig(Config):
    """What a distilled stage was made for."""

    method: str
    """How it was distilled: progressive, consistency, matching, ..."""
    steps: tuple[int, ...] = Field(min_length=1)
    """The numbers of steps that it was trained for."""
    guidance: float | tuple[float, float] | None = None
    """The scale of guidance that its samples have of themselves, or the least and the most that it can be told as the
    condition guidance_scale; none = nothing is distilled in, and it is guided like any model."""
    sampler: str = "ddim"
    """The sampler that it was trained for."""
    also: tuple[str, ...] = ()
    """Other samplers that suit it."""
    teacher: str = ""
    """What it learned from."""

    @model_validator(mode="after")
    def _check(self) -> DistilledConfig:
        if min(self.steps) < 1:
            raise ValueError(f"steps: expected numbers of at least 1, got {', '.join(map(str, self.steps))}")
        if isinstance(self.guidance, tuple) and not 0 <= self.guidance[0] <= self.guidance[1]:
            raise ValueError(f"guidance: expected the least scale and the most, got {list(self.guidance)}")
        return self

    @property
    def guided(self) -> str:
        """The guidance in words."""
        if self.guidance is None:
            return "no guidance distilled in"
        if isinstance(self.guidance, tuple):
            return f"guidance {self.guidance[0]:g} to {self.guidance[1]:g} distilled in, told as {GUIDANCE}"
        return f"guidance {self.guidance:g} distilled in"

    def __str__(self) -> str:
        """In a line, for people."""
        counts = [str(n) for n in sorted(self.steps)]
        steps = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} or {counts[-1]}"
        return f"{self.method}, for {steps} step{'s' * (counts != ['1'])} of {self.sampler}, {self.guided}"

    def suits(self, sampler: str) -> bool:
        """Whether a sampler is one that it was made for, or takes the same steps."""
        known = {self.sampler, *self.also}
        return sampler in known or any(sampler in group and known & group for group in ALIKE)


def outside(config: StageConfig, sampler: SamplerConfig, guidance: GuidanceConfig) -> list[str]:
    """What of a run lies outside of what a distilled stage was made for, each with what to ask for; none for others."""
    made, own = config.distilled, config.sampler
    if made is None:
        what = f"{sampler.name} is for few-step models, whose estimates are samples, and this one's are means"
        return [f"{what}: use --sampler {own.name}"] if SAMPLERS.get(sampler.name).few_steps else []
    notes, says = [], f"this model was distilled ({made})"
    if sampler.steps not in made.steps:
        usual = own.steps if own.steps in made.steps else max(made.steps)
        worse = "leave noise" if sampler.steps < min(made.steps) else "are no better, and often worse"
        notes.append(f"{sampler.steps} steps: {says}; others {worse}: use --steps {usual}")
    asked, usual_shift = sampler.shift or 1.0, own.shift or 1.0
    if asked != usual_shift and made.suits(sampler.name):
        notes.append(f"shift {asked:g}: {says}, with steps shifted by {usual_shift:g}: leave shift at that")
    noisy = (sampler.eta > 0 and own.eta == 0) or (sampler.churn is not None and own.churn is None)
    if not made.suits(sampler.name) or sampler.spacing != own.spacing or noisy:
        what = f"sampler {sampler.name}" if not made.suits(sampler.name) else f"spacing {sampler.spacing}"
        what = f"noise in every step of {sampler.name}" if what.startswith("spacing") and noisy else what
        notes.append(f"{what}: {says}, with the times of its own steps: use --sampler {made.sampler}")
    if guidance.active and made.guidance is not None:
        told = f"ask for the condition {GUIDANCE} instead, and " if isinstance(made.guidance, tuple) else ""
        notes.append(f"guidance on top of guidance: {says}; {told}leave --guidance at 1")
    return notes


class AdapterRecord(Config):
    """What an adapter that is a student says of the model that it is put on."""

    distilled: DistilledConfig
    """What it was made for."""
    sampler: SamplerConfig
    """The sampler to use by default."""
    guidance: GuidanceConfig = GuidanceConfig()
    """The guidance to sample with by default."""


def write_adapter_record(folder: Path, config: StageConfig) -> None:
    """Say in an adapter's folder what the stage is for that it makes of its teacher."""
    assert config.distilled is not None
    made = AdapterRecord(distilled=config.distilled, sampler=config.sampler, guidance=config.guidance)
    write_text(folder / RECORD, to_yaml(made))


def read_adapter_record(folder: Path) -> AdapterRecord | None:
    """What an adapter's folder says that it was made for; None where it is no student's, or no folder.

    Raises:
        InputError: for a record that can't be read.
    """
    path = folder / RECORD
    return load_config(AdapterRecord, path) if path.is_file() else None


def of_students(methods: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a teacher's own methods that are its student's too."""
    return {name: fields for name, fields in methods.items() if METHODS.get(name).of_students}


def with_adapters(config: S, uses: Iterable[AdapterUse]) -> S:
    """A stage's config as adapters make it: a student's has its sampler, guidance and record in place of the model's.

    Raises:
        InputError: as `read_adapter_record`.
    """
    for use in uses:
        record = read_adapter_record(use.path) if use.weight else None
        if record is not None:
            guided = {"guidance": record.guidance, "given_guidance": 1.0, "methods": of_students(config.methods)}
            config = config.model_copy(update={"distilled": record.distilled, "sampler": record.sampler, **guided})
    return config
