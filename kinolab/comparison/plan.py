"""The plan of a comparison: a matrix of autoencoders, denoisers, tasks and budgets on one or more sets of clips.

A YAML file, read by `kinolab compare PLAN.yaml`. Every entry is a part of a recipe (`kinolab.training.recipe`); what
all entries of a kind share stands in `autoencoder_training` and `denoiser_training`, so that nothing but what is
compared differs.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from kinolab.autoencoders import AutoencoderConfig
from kinolab.config import Config, apply_overrides, load_config, read_yaml
from kinolab.contracts.sampling import sampler_values
from kinolab.data import FolderConfig, WorldSourceConfig
from kinolab.denoisers import DenoiserConfig
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.evaluation.shown import ShownConfig
from kinolab.generation.request import SamplingConfig
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import single
from kinolab.tasks import TasksConfig
from kinolab.training.recipe import AutoencoderRecipe, DenoiserInitialConfig, DenoiserRecipe

ClipsConfig = Annotated[FolderConfig | WorldSourceConfig, Field(discriminator="kind")]


DECIDED = frozenset(("kind", "name", "data", "autoencoder", "denoiser", "initial", "tasks"))
"""Fields of a recipe that the plan's entries, clips and tasks decide."""
ONLY_TRAINING = frozenset(("training", "trained", "trained_names", "lora_rank", "lora_alpha", "lora_targets"))
"""Fields of a recipe that say nothing where nothing is trained."""
DECIDED_TRAINING = frozenset(("seed", "steps"))
"""Fields of a recipe's `training` that the plan's seeds and budgets decide."""


class Budget(Config):
    """How long something is trained: exactly one of the four."""

    steps: int | None = Field(None, ge=1)
    """Optimiser steps."""
    samples: int | None = Field(None, ge=1)
    """Clips seen; the last batch may go beyond it."""
    teraflops: float | None = Field(None, gt=0)
    """10^12 floating point operations, forward and backward, as counted on one step of the model itself."""

    seconds: float | None = Field(None, gt=0)
    """Seconds of training on the machine that it begins on: as many steps as a few timed ones fit in."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [n for n in ("steps", "samples", "teraflops", "seconds") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of steps, samples, teraflops, seconds; got {', '.join(given) or 'none'}")
        return self


class CellBudget(Config):
    """The budget of a cell's two trainings."""

    autoencoder: Budget
    """Of every autoencoder that is trained."""
    denoiser: Budget
    """Of every denoiser."""


class StartFrom(Config):
    """First weights from another autoencoder of the plan, trained on the same clips."""

    entry: str
    """The other autoencoder's name in the plan."""
    method: str = "tail"
    """weights, tail, average or random (OD-VAE, section 3.3)."""


class AutoencoderEntry(Config):
    """One autoencoder of the matrix: trained here, or taken as it is."""

    autoencoder: AutoencoderConfig | None = None
    """The model to train; none = `path` names one."""
    path: str | None = None
    """A model folder, a shipped model, or public weights; it is measured and not trained."""
    initial: StartFrom | None = None
    """First weights; none = random."""
    budget: dict[str, float] = Field(default_factory=dict)
    """Factors on the budget's steps by budget name, for an autoencoder that starts from another: none = 1."""

    @model_validator(mode="after")
    def _one(self) -> AutoencoderEntry:
        if (self.autoencoder is None) == (self.path is None):
            raise ValueError("expected either `autoencoder` (to be trained) or `path` (to be taken as it is)")
        if self.path is not None and self.initial is not None:
            raise ValueError("initial is for an autoencoder that is trained; this one is taken as it is")
        return self


class DenoiserEntry(Config):
    """One denoiser of the matrix: its model, what it starts from, and where its training differs from the others'."""

    denoiser: DenoiserConfig | None = None
    """The model; channels, latent size, frames and mask channels are fitted to each autoencoder. None = `weights_of`
    names another entry, whose model it is, or `path` one that is finished."""
    path: str | None = None
    """A finished model, taken as it is with all that stands beside its denoiser, such as a control network: a model
    folder, or a run folder, whose training then counts as the row's. Its autoencoder has to be the one it stands in
    front of. An image model makes clips of the plan's length and rate."""
    weights_of: str | None = None
    """Another entry whose weights it has, to be sampled otherwise: nothing is trained for it."""
    autoencoders: tuple[str, ...] = ()
    """The autoencoders it stands in front of; none = all."""
    initial: DenoiserInitialConfig | None = None
    """First weights, an image model's for example; none = random."""
    untrained: bool = False
    """Take it as `initial` makes it, with nothing trained: for methods that need no training."""
    start: str = ""
    """What it starts from, in a word: entries of one start stand in a table of their own; empty = all in one."""
    sampling: SamplingConfig = SamplingConfig()
    """Where its sampling differs from the plan's `sampler` and the model's own: sampler, guidance, reach, methods."""
    frames: int | None = Field(None, ge=1)
    """Frames that it is asked for, where it is trained on others (single ones, by `frames_per_clip` in `recipe`); none
    = as trained."""
    shown: ShownConfig | None = None
    """What of each held-out clip of the toy world it is shown beside the prompt: a control map, or the clip itself, to
    be edited; none = nothing."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Fields of its recipe that differ from `denoiser_training`, such as `trained: temporal`; of `training`, those that
    are named differ."""

    @model_validator(mode="before")
    @classmethod
    def _is_an_entry(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "denoiser" not in value and "kind" in value:
            raise ValueError("expected the model's kind and fields under denoiser, as in {denoiser: {kind: latte}}")
        return value

    @model_validator(mode="after")
    def _one(self) -> DenoiserEntry:
        given = [name for name in ("denoiser", "weights_of", "path") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "expected either `denoiser` (a model), or `weights_of` (another entry, sampled otherwise), or `path` "
                "(a finished model)"
            )
        if self.denoiser is None and (self.initial is not None or self.untrained or self.recipe):
            whose = "a finished model" if self.path is not None else "another entry"
            raise ValueError(f"{given[0]} has the weights of {whose}: leave initial, untrained and recipe out")
        if self.untrained and self.initial is None:
            raise ValueError("untrained: takes the weights of `initial` as they are; name them")
        idle = [name for name in self.recipe if name in ONLY_TRAINING]
        if self.untrained and idle:
            raise ValueError(f"recipe.{idle[0]}: nothing of an untrained entry is trained; leave it out")
        return self


class TaskEntry(Config):
    """What a denoiser is trained for and asked to do."""

    given_frames: int = Field(0, ge=0)
    """First frames that are given; 0 = generate from nothing. A denoiser that takes nothing given is held to them by
    reconstruction guidance."""
    train: TasksConfig | None = None
    """What is given in training; none = nothing."""


class ComparePlan(Config):
    """The whole comparison."""

    name: str
    """What it is called."""
    description: str = ""
    """What it asks, in words; printed above the table."""
    data: dict[str, ClipsConfig] = Field(min_length=1)
    """The sets of clips; every cell is trained and measured on one of them."""
    autoencoders: dict[str, AutoencoderEntry] = Field(min_length=1)
    """The rows of the first table."""
    denoisers: dict[str, DenoiserEntry] = Field(default_factory=dict)
    """In front of the autoencoders."""
    tasks: dict[str, TaskEntry] = Field(default_factory=lambda: {"generate": TaskEntry()})
    """What the denoisers are asked."""
    budgets: dict[str, CellBudget] = Field(min_length=1)
    """How long everything is trained."""
    seeds: tuple[int, ...] = Field((0,), min_length=1, max_length=1000)
    """Every cell is trained once with each: the spread between them is the noise of training."""
    autoencoder_training: dict[str, Any] = Field(default_factory=dict)
    """Fields of an autoencoder's recipe that all share: loss, training, window_frames, ..."""
    denoiser_training: dict[str, Any] = Field(default_factory=dict)
    """Fields of a denoiser's recipe that all share: diffusion, training, ..."""
    sampler: SamplerConfig = SamplerConfig(name="euler", steps=25)
    """How clips are generated."""
    cached_clips: int = Field(512, ge=1)
    """Clips of the toy world whose latents a denoiser is trained on; a folder gives all its windows."""
    reconstruction: str = "toy-reconstruction"
    """The protocol of the autoencoders' scores."""
    generation: str = "toy-generation"
    """The protocol of the denoisers' scores."""
    reconstruction_changes: dict[str, Any] = Field(default_factory=dict)
    """Fields of that protocol that differ, by dotted names."""
    generation_changes: dict[str, Any] = Field(default_factory=dict)
    """Fields of that protocol that differ, by dotted names."""
    world_requests: int = Field(0, ge=0)
    """Held-out requests of the toy world that every denoiser which was trained on it is asked: the shares of its clips
    that show what was asked are scores too; 0 = none."""
    videos: int = Field(4, ge=0)
    """Clips of every cell that are kept as videos."""

    def sampling(self, denoiser: str) -> dict[str, Any]:
        """How the clips of an entry are sampled: what it says, on top of the plan's sampler; the rest is the model's
        own."""
        own = self.denoisers[denoiser].sampling.model_dump(mode="json", exclude_unset=True)
        return own | {"sampler": sampler_values(self.sampler.model_dump(mode="json"), own.get("sampler"))}

    @model_validator(mode="after")
    def _check(self) -> ComparePlan:
        for name, entry in self.autoencoders.items():
            seen = [name]
            while entry.initial is not None:
                other = entry.initial.entry
                if other not in self.autoencoders:
                    raise ValueError(f"autoencoders.{name} starts from {other!r}, which the plan does not have")
                if other in seen:
                    raise ValueError(f"autoencoders.{name} starts from itself, through {other!r}")
                seen.append(other)
                entry = self.autoencoders[other]
        for name, denoiser in self.denoisers.items():
            unknown = [n for n in denoiser.autoencoders if n not in self.autoencoders]
            if unknown:
                raise ValueError(f"denoisers.{name} stands in front of {unknown[0]!r}, which the plan does not have")
            _check_weights_of(self, name)
            _check_shown(self, name)
        _check_recipe("autoencoder_training", self.autoencoder_training, AutoencoderRecipe)
        _check_recipe("denoiser_training", self.denoiser_training, DenoiserRecipe)
        for name, denoiser in self.denoisers.items():
            _check_recipe(f"denoisers.{name}.recipe", denoiser.recipe, DenoiserRecipe)
        for names in (self.data, self.autoencoders, self.denoisers, self.tasks, self.budgets):
            bad = [n for n in names if not n or set(n) & set("/\\ ")]
            if bad:
                raise ValueError(f"{shown(bad[0])}: expected a name without blanks and slashes")
            for entry_name in names:
                single(Path("cells"), entry_name)  # they become folders
        twice = [seed for seed, count in Counter(self.seeds).items() if count > 1]
        if twice:
            raise ValueError(f"seeds: {shown(twice[0])} stands there twice, and would train the same cells again")
        return self


def _check_weights_of(plan: ComparePlan, name: str) -> None:
    """Raises ValueError where an entry has the weights of one that there is not, or not where it stands."""
    entry = plan.denoisers[name]
    if entry.weights_of is None:
        return
    other = plan.denoisers.get(entry.weights_of)
    if other is None or other.weights_of is not None:
        own = [n for n, e in plan.denoisers.items() if e.weights_of is None]
        raise ValueError(f"denoisers.{name}.weights_of: expected one of {', '.join(own)}, got {entry.weights_of!r}")
    apart = [n for n in entry.autoencoders if other.autoencoders and n not in other.autoencoders]
    if apart:
        raise ValueError(f"denoisers.{name} stands in front of {apart[0]!r}, and {entry.weights_of!r} does not")


def _check_shown(plan: ComparePlan, name: str) -> None:
    """Raises ValueError where an entry is shown clips of which it is not known what they show, or frames of them
    too."""
    if plan.denoisers[name].shown is None:
        return
    others = [n for n, clips in plan.data.items() if not isinstance(clips, WorldSourceConfig)]
    if others:
        raise ValueError(f"denoisers.{name}.shown: of clips of the toy world; data.{others[0]} is a folder")
    given = [n for n, task in plan.tasks.items() if task.given_frames]
    if given:
        raise ValueError(f"denoisers.{name}.shown: a clip is shown whole; tasks.{given[0]} gives frames of it too")


def _check_recipe(where: str, fields: Mapping[str, Any], recipe: type[Config]) -> None:
    """Raises ValueError for what is no field of a recipe, and for what would be ignored."""
    training = fields.get("training", {})
    if not isinstance(training, Mapping):
        raise ValueError(f"{where}.training: expected fields of a recipe's training, got {training!r}")
    decided = [n for n in fields if n in DECIDED] + [f"training.{n}" for n in training if n in DECIDED_TRAINING]
    if decided:
        raise ValueError(f"{where}.{decided[0]}: the plan's entries, tasks, budgets and seeds decide it; leave it out")
    for name in fields:
        if name not in recipe.model_fields:
            close = difflib.get_close_matches(name, recipe.model_fields, n=1, cutoff=0.5)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where}.{name}: a recipe has no such field{hint}")


def load_plan(path: Path, overrides: Sequence[str] = ()) -> ComparePlan:
    """The plan of a YAML file, with dotted overrides on top.

    Raises:
        InputError: where it is not there or not a plan.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such plan; expected a YAML file (see benchmarks/comparison.yaml)")
    return load_config(ComparePlan, apply_overrides(read_yaml(path), overrides), name=str(path))
