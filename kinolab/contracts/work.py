"""Who does work of many pieces, as a recipe or the settings of a curation say it; options of a command win."""

from __future__ import annotations

from pydantic import Field, model_validator

from kinolab.config import Config
from kinolab.contracts.engine import MOST, Each


class WorkConfig(Config):
    """Engine, workers, and what each of them is given. No result depends on it, and no hash."""

    engine: str = "embedded"
    """embedded (this machine), ray (a Ray begun here), or ray:HOST:PORT."""
    workers: int | None = Field(None, ge=1)
    """Processes that do the work; none = 1, of Ray as many as it has processors for."""
    cpus: int | None = Field(None, ge=1, le=MOST)
    """Processors of each: threads, of Ray also what it reserves."""
    gpus: float | None = Field(None, ge=0, le=MOST)
    """GPUs of Ray's for each, also a share of one."""
    seconds: float | None = Field(None, gt=0)
    """That a clip may take before its worker counts as hanging; none = 1800."""

    @model_validator(mode="after")
    def _check(self) -> WorkConfig:
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: expected whole ones, or a share of one, got {self.gpus:g}")
        if self.engine == "embedded" and self.workers in (None, 1) and self.given:
            raise ValueError(
                f"{next(iter(self.given))}: is for workers; expected workers of at least 2, or engine: ray"
            )
        return self

    @property
    def given(self) -> dict[str, float]:
        """What is said of each worker, by the names of `Each`."""
        told = {"cpus": self.cpus, "gpus": self.gpus, "seconds": self.seconds}
        return {name: value for name, value in told.items() if value is not None}

    def with_options(
        self, engine: str | None, workers: int | None, each: dict[str, float] | None
    ) -> tuple[str, int | None, Each | None]:
        """Engine, workers and what each is given, where options say otherwise as they say.

        With one process of this machine there is no worker to be given anything.
        """
        engine, workers = engine or self.engine, workers if workers is not None else self.workers
        values = self.given | (each or {})
        if not each and engine == "embedded" and workers in (None, 1):
            values = {}
        return engine, workers, Each(**values) if values else None  # type: ignore[arg-type]


class EncodingWork(WorkConfig):
    """The same of an encoding, which has two stages: reading clips (processors) and the autoencoder (a GPU)."""

    decoders: int = Field(1, ge=1, le=64)
    """Threads that read and decode clips for each worker while it encodes."""
