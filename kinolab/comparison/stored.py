"""What a comparison keeps of a cell: scores and costs, read back and checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from kinolab.config import load_config
from kinolab.diffusion import SamplerConfig
from kinolab.evaluation.shown import ShownConfig
from kinolab.generation.request import SamplingConfig
from kinolab.runtime.records import as_model, read_record


class _Stored(BaseModel):
    """Fields that tables and pages are made of; others are kept and not looked at."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Interval(_Stored):
    low: float
    high: float


class _Metric(_Stored):
    value: float | None
    count: int
    interval: _Interval | None


class _Protocol(_Stored):
    name: str
    kind: Literal["reconstruction", "generation"]


class _Clip(_Stored):
    name: str
    scores: dict[str, float | None]
    video: str | None


class _Facts(_Stored):
    latents: list[int] | None = None
    temporal_compression: float | None = None
    spatial_compression: float | None = None
    total_compression: float | None = None
    latent_channels: int | None = None
    parameters: int | None = None
    generated_clips: int | None = None
    real_clips: int | None = None
    world_requests: int | None = None
    sampler: dict[str, Any] | None = None
    sampling: dict[str, Any] = {}
    asked_frames: int | None = None
    shown: dict[str, Any] | None = None


class _Heldout(_Stored):
    loss: float | None = None


class _Training(_Stored):
    steps: int
    trained_parameters: int | None = None
    heldout: _Heldout = _Heldout()


class _Data(_Stored):
    clips: int
    files: int


class _Scores(_Stored):
    protocol: _Protocol
    protocol_hash: str
    metrics: dict[str, _Metric]
    facts: _Facts
    clips: list[_Clip]
    notes: list[str]
    data: _Data
    training: _Training | None = None

    @model_validator(mode="after")
    def _says_of_what(self) -> _Scores:
        counts = (self.facts.generated_clips, self.facts.real_clips)
        if "generated_clips" in self.facts.model_fields_set and None in counts:
            raise ValueError("facts: expected generated_clips and real_clips")
        return self


class _Costs(_Stored):
    encode_frames_per_second: float | None = None
    decode_frames_per_second: float | None = None
    coding_memory: float | None = None
    training_memory: float | None = None
    sampling_memory: float | None = None
    training_seconds: float | None = None
    training_flops: float | None = None
    clips_per_second: float | None = None
    seconds_per_clip: float | None = None
    sampler: dict[str, Any] | None = None
    sampling: dict[str, Any] = {}
    shown: dict[str, Any] | None = None


def read_scores(path: Path) -> dict[str, Any]:
    """A cell's scores, as they were written.

    Raises:
        InputError: for a file that is damaged or of another form; says what to do.
        OSError: where it can't be read.
    """
    return _read(path, _Scores, "delete it, and the cell is measured again")


def read_costs(path: Path) -> dict[str, Any]:
    """A cell's costs, as they were written; raises as `read_scores` does."""
    return _read(path, _Costs, "delete it, and the costs are measured again")


def _read(path: Path, form: type[BaseModel], advice: str) -> dict[str, Any]:
    # A training that went astray has losses that are no numbers, which JSON has no word for, and Python writes as NaN.
    values = read_record(path, advice, constants=True).values
    as_model(form, values, str(path), advice)
    return values


def same_sampler(kept: Any, sampler: SamplerConfig) -> bool:
    """Whether a record was made by a sampler; fields that joined later are not in an older one, and change nothing."""
    return kept is not None and load_config(SamplerConfig, kept) == sampler


def same_sampling(record: Mapping[str, Any], sampling: Mapping[str, Any]) -> bool:
    """Whether a record was made as an entry of the plan is sampled: by its sampler, and whatever else it asks for."""
    rest = {name: value for name, value in sampling.items() if name != "sampler"}
    asked, kept = (load_config(SamplingConfig, dict(values)) for values in (rest, record.get("sampling", {})))
    return same_sampler(record.get("sampler"), load_config(SamplerConfig, sampling["sampler"])) and asked == kept


def same_shown(record: Mapping[str, Any], shown: ShownConfig | None) -> bool:
    """Whether a record was made as an entry of the plan is shown clips."""
    kept = record.get("shown")
    return shown is None if kept is None else load_config(ShownConfig, kept) == shown


def sampling_record(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of it beside the sampler; nothing where nothing else is asked for."""
    rest = {name: value for name, value in sampling.items() if name != "sampler"}
    return {"sampling": rest} if rest else {}
