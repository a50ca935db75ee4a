"""What `model.yaml` holds of a stage: its networks, its noise, the clips it was trained on, its defaults."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, field_validator, model_validator

from kinolab.autoencoders import AutoencoderConfig
from kinolab.conditioning import ConditionsConfig
from kinolab.conditioning.text import TextEncoderConfig
from kinolab.conditioning.vision import ImageEncoderConfig
from kinolab.config import Config
from kinolab.contracts.causal import CausalConfig
from kinolab.contracts.table import KindConfig
from kinolab.data.buckets import BucketShape
from kinolab.denoisers import DenoiserConfig
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.methods import GuidanceConfig, MethodsConfig
from kinolab.models.distilled import DistilledConfig
from kinolab.models.lora import LoraConfig
from kinolab.tables import PARTS
from kinolab.tasks import TasksConfig

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Of a stage or a part: its file is called by it."""


def checked_names(parts: dict[str, T]) -> dict[str, T]:
    """Raises ValueError for a name that no file can be called by."""
    for name in parts:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name; expected small letters, digits and underscores")
    return parts


PartsConfig = Annotated[dict[str, Annotated[KindConfig, PARTS.one_of()]], AfterValidator(checked_names)]
"""The configs of parts of any kind, by name."""


LoraParts = Annotated[dict[str, LoraConfig], AfterValidator(checked_names)]
"""Adapters by name."""


class ExpertConfig(Config):
    """A denoiser that takes the stage's place at the cleaner times."""

    until: float = Field(gt=0, lt=1)
    """Its times are those from where the one before it ends (0 = clean) up to this fraction."""
    denoiser: DenoiserConfig
    """Its config; it takes and gives what the stage's own denoiser does."""


class StageConfig(Config):
    """What is known of any stage."""

    denoiser: DenoiserConfig | None = None
    """The denoiser's config; none = an autoencoder alone."""
    experts: tuple[ExpertConfig, ...] = ()
    """Other denoisers for the cleaner times, in rising order; `denoiser` has the times after the last one's end."""
    parts: PartsConfig = Field(default_factory=dict)
    """Networks beside the denoiser that own a port, by name; the first is innermost."""
    lora: LoraParts = Field(default_factory=dict)
    """LoRA adapters beside the layers of the denoiser and its experts, by name."""
    diffusion: DiffusionConfig = DiffusionConfig()
    """Noise path and prediction that the denoiser was trained with."""
    text_encoder: TextEncoderConfig = "none"
    """What turns a prompt into conditions."""
    image_encoder: ImageEncoderConfig | None = None
    """What makes tokens of a first frame, for a denoiser that reads them (`image_tokens`)."""
    null_prompt: Literal["learned", "empty"] = "learned"
    """What no prompt is: the denoiser's learned null condition, or the empty prompt (as in Stable Diffusion 3)."""
    class_names: tuple[str, ...] = ()
    """Names of the class labels, in order."""
    tasks: TasksConfig | None = None
    """The tasks that the denoiser was trained on; none = nothing was ever given."""
    frames: int = Field(17, ge=1)
    """Frames of a training clip."""
    size: tuple[int, int] = (64, 64)
    """Height and width of a training clip."""
    buckets: tuple[BucketShape, ...] = ()
    """Frames, height and width of all clips that it was trained on, where they differ."""
    fps: float = Field(8.0, gt=0)
    """Frame rate of the training clips."""
    conditions: ConditionsConfig = Field(default_factory=dict)
    """Settings of the conditions that have some, by name."""
    guidance: GuidanceConfig = GuidanceConfig()
    """The guidance to sample with by default."""
    given_guidance: float = Field(1.0, ge=0)
    """The scale towards the given part that a task is sampled with by default where no prompt or label is told, as
    `guidance.scales: {given: ...}`; 1 = none."""
    sampler: SamplerConfig = SamplerConfig()
    """The sampler to use by default."""
    methods: MethodsConfig = Field(default_factory=dict)
    """Methods that wrap every sampling run that does not name them itself, such as thresholding for pixels."""
    causal: CausalConfig | None = None
    """How frames lie in blocks that read themselves and the past, for a denoiser that makes clips block by block and of
    any length; none = it makes all frames at once."""
    distilled: DistilledConfig | None = None
    """What a distilled stage was made for; none = it is no distilled one, and takes any steps, sampler and guidance."""

    @model_validator(mode="after")
    def _check(self) -> StageConfig:
        ends = [expert.until for expert in self.experts]
        if ends != sorted(set(ends)):
            raise ValueError(f"experts: expected rising ends of their times, got {', '.join(map(str, ends))}")
        if (self.experts or self.parts or self.lora) and self.denoiser is None:
            raise ValueError("experts and parts belong to a denoiser, which is missing; so do adapters")
        for config in (self.denoiser, *(expert.denoiser for expert in self.experts)):
            if config is not None:
                config.check_diffusion(self.diffusion.schedule, self.diffusion.prediction)
                config.check_given_guidance(self.given_guidance)
        return self


class LaterStageConfig(StageConfig):
    """What is known of a stage that refines what the one before it made, told as its condition `low_resolution`."""

    name: str
    """What the stage is called, in requests and by its files."""
    autoencoder: AutoencoderConfig | None = None
    """The autoencoder's config; none = that of the stage before."""
    denoiser: DenoiserConfig
    """The denoiser's config."""

    @field_validator("name")
    @classmethod
    def _word(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name; expected small letters, digits and underscores")
        return name
