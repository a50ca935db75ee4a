"""What `kinolab data curate` reads from a YAML file: signals, how clips are cut, what is kept, what is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from kinolab.config import Config, load_config
from kinolab.contracts.work import WorkConfig
from kinolab.data.curate.frames import FrameSignal
from kinolab.errors import InputError
from kinolab.tables import FRAME_SIGNALS, NAMED


class Bounds(Config):
    """What a score has to be for a clip to be kept; clips at a bound are kept."""

    min: float | None = None
    """At least this."""
    max: float | None = None
    """At most this."""
    min_percentile: float | None = Field(None, ge=0, le=100)
    """At least what this share of all clips of the table is below: 12.5 drops the lowest eighth."""
    max_percentile: float | None = Field(None, ge=0, le=100)
    """At most what this share of all clips is below: 87.5 drops the highest eighth."""
    missing: Literal["keep", "drop"] = "keep"
    """What becomes of a clip that has no such score."""

    @model_validator(mode="after")
    def _check(self) -> Bounds:
        given = (self.min, self.max, self.min_percentile, self.max_percentile)
        if all(value is None for value in given) and self.missing == "keep":
            raise ValueError("expected min, max, min_percentile or max_percentile")
        for low, high in ((self.min, self.max), (self.min_percentile, self.max_percentile)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"keeps nothing: at least {low:g} and at most {high:g}")
        return self


class ClipsConfig(Config):
    """How files become clips."""

    cut: bool = True
    """Cut at the scenes; false = every file is one clip."""
    min_seconds: float = Field(1.0, ge=0)
    """Scenes that are shorter give no clip."""
    max_seconds: float | None = Field(None, gt=0)
    """Longer scenes are divided evenly into clips of at most this."""
    trim: float = Field(0.0, ge=0)
    """Seconds left out at either end of a scene that was cut off there."""
    crop_bars: bool = True
    """Cut black bars off the picture; the score `bars` says how much they are."""


class OutputConfig(Config):
    """What is written of the clips that are kept."""

    format: Literal["folder", "parquet", "webdataset"] = "folder"
    """A folder of clips with metadata.jsonl (as Hugging Face's datasets read it), Parquet with the clips inside (needs
    pyarrow), or WebDataset archives."""
    quality: int = Field(95, ge=1, le=100)
    """Of clips that are encoded anew; a file that is one clip is copied as it is."""
    shard: int = Field(256, ge=1)
    """Clips in one file of Parquet or one archive."""


class CurateConfig(Config):
    """All of a curation."""

    signals: dict[str, dict[str, Any] | bool] = Field(default_factory=dict)
    """Settings of signals by name; false leaves one out. Those that need no file of yours are on."""
    clips: ClipsConfig = ClipsConfig()
    """How files become clips."""
    keep: dict[str, Bounds] = Field(default_factory=dict)
    """By score, what a clip has to have, in the order in which thresholds are said to cost."""
    output: OutputConfig = OutputConfig()
    """What is written."""
    disk_gb: float | None = Field(None, gt=0)
    """Of videos in a store, how much of this machine's disk they may take at once; none = 20."""
    work: WorkConfig | None = None
    """Who scores the videos; options of the command win, and no number depends on it."""


Chosen = dict[str, FrameSignal]


def chosen(config: CurateConfig) -> Chosen:
    """The signals of a curation by name, checked.

    Raises:
        InputError: for an unknown signal or field, a package or file that is not there, and a threshold on a score that
            no chosen signal gives.
    """
    for name in config.signals:
        FRAME_SIGNALS.get(name)
    names = [n for n in FRAME_SIGNALS if n not in FRAME_SIGNALS.names(NAMED) or config.signals.get(n, False)]
    settings = {n: given for n in names if (given := config.signals.get(n, {})) is not False}
    if not isinstance(settings.get("native"), dict):
        raise InputError("signals.native: every clip's length comes from it; leave it in")
    if config.clips.cut and "cuts" not in settings:
        raise InputError("signals.cuts: false, and clips.cut: true cuts by it; set clips.cut to false too")
    found = built({n: {} if given is True else given for n, given in settings.items()})
    for signal in found.values():
        signal.check()
    scores = [score for signal in found.values() for score in signal.scores]
    for name in config.keep:
        if name not in scores:
            raise InputError(f"keep: {name}: no score of that name; there are {', '.join(scores)}")
    return found


def built(settings: Mapping[str, Mapping[str, Any]]) -> Chosen:
    """Signals from their settings, as plain values by name."""
    made = {}
    for name, values in settings.items():
        cls = FRAME_SIGNALS.get(name)
        made[name] = cls(load_config(cls.Config, values, name=f"signals.{name}"))
    return made


def plain(signals: Chosen) -> dict[str, dict[str, Any]]:
    """Signals as plain values, for another process."""
    return {name: signal.config.model_dump(mode="json") for name, signal in signals.items()}
