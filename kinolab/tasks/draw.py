"""What training draws: a task by its weight, and a mask of that task, by the functions that requests use too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.tasks.animate import draw_animate
from kinolab.tasks.complete import draw_complete
from kinolab.tasks.interpolate import draw_interpolate
from kinolab.tasks.predict import draw_predict

TaskName = Literal["unconditional", "predict", "past", "interpolate", "animate", "complete"]
"""The kinds of masks. A request to extend is one to predict, a loop one to interpolate."""


class TasksConfig(Config):
    """How often each task is drawn in training, as weights of any sum."""

    unconditional: float = Field(0.0, ge=0)
    """Nothing is given."""
    predict: float = Field(1.0, ge=0)
    """The first frames are given."""
    past: float = Field(0.0, ge=0)
    """The last frames are given."""
    interpolate: float = Field(0.0, ge=0)
    """Frames at any times are given."""
    animate: float = Field(0.0, ge=0)
    """The first frame, the last one, or both are given."""
    complete: float = Field(0.0, ge=0)
    """A part of each frame is given."""
    predict_frames: tuple[int, int] | None = None
    """Fewest and most frames given to predict from; none = 1 to all but one."""
    interpolate_every: Annotated[int, Field(ge=2)] | tuple[int, int] | None = None
    """Give every n-th frame to interpolate between, from the first on, and no others; of two numbers n is drawn from
    one to the other (Make-A-Video, section 3.3: 2 to 5); none = frames at any times."""

    @model_validator(mode="after")
    def _check(self) -> TasksConfig:
        if not 0 < sum(self.weights.values()) < float("inf"):
            raise ValueError("expected finite weights, above 0 for at least one task")
        if self.predict_frames is not None and not 1 <= self.predict_frames[0] <= self.predict_frames[1]:
            low, high = self.predict_frames
            raise ValueError(f"predict_frames: expected 1 <= fewest <= most, got {low} and {high}")
        steps = self.steps
        if self.interpolate_every is not None and (not steps or steps[0] < 2):
            raise ValueError(f"interpolate_every: expected 2 <= fewest <= most, got {self.interpolate_every}")
        return self

    @property
    def steps(self) -> range:
        """The numbers n of which every n-th frame may be given to interpolate between; empty = frames at any times."""
        every = self.interpolate_every
        if every is None:
            return range(0)
        low, high = every if isinstance(every, tuple) else (every, every)
        return range(low, high + 1)

    @property
    def weights(self) -> dict[TaskName, float]:
        """The weight of each task."""
        return {
            "unconditional": self.unconditional,
            "predict": self.predict,
            "past": self.past,
            "interpolate": self.interpolate,
            "animate": self.animate,
            "complete": self.complete,
        }

    def draws_as(self, other: TasksConfig) -> bool:
        """Whether the same masks come in the same shares: weights may have another sum."""
        ours, theirs = sum(self.weights.values()), sum(other.weights.values())
        same = all(abs(w / ours - other.weights[name] / theirs) < 1e-9 for name, w in self.weights.items())
        alike = ("predict_frames", "interpolate_every")
        return same and all(getattr(self, name) == getattr(other, name) for name in alike)

    def described(self) -> dict[str, Any]:
        """The fields as they are kept and hashed; without those that joined later, where they change nothing."""
        without = {"interpolate_every"} if self.interpolate_every is None else None
        return self.model_dump(mode="json", exclude=without)

    def without_unconditional(self) -> TasksConfig | None:
        """The same weights of the tasks that have something given; none where there is no such task."""
        given = sum(self.weights.values()) - self.unconditional
        return self.model_copy(update={"unconditional": 0.0}) if given > 0 else None


def draw_task(config: TasksConfig, generator: torch.Generator) -> TaskName:
    """A task by its weight."""
    names = list(config.weights)
    weights = torch.tensor([config.weights[n] for n in names], dtype=torch.float64)
    return names[int(torch.multinomial(weights, 1, generator=generator))]


def draw_mask(
    config: TasksConfig, frames: int, height: int, width: int, generator: torch.Generator
) -> tuple[TaskName, Tensor]:
    """A task and a mask (T, H, W) of it: 1 = generate, 0 = given."""
    name, shape = draw_task(config, generator), (frames, height, width)
    if name == "unconditional" or (frames == 1 and name != "complete"):
        return "unconditional", torch.ones(shape)
    if name == "predict":
        return name, draw_predict(*shape, config.predict_frames, generator)
    if name == "past":
        return name, draw_predict(*shape, None, generator).flip(0)
    if name == "interpolate":
        return name, draw_interpolate(*shape, generator, config.steps)
    draws = {"animate": draw_animate, "complete": draw_complete}
    return name, draws[name](*shape, generator)


def kinds(mask: Tensor) -> tuple[set[TaskName], int]:
    """The tasks that a mask (T, H, W) may belong to, and how many of its frames are given whole."""
    whole = (mask == 0).flatten(1).all(1)
    count, frames = int(whole.sum()), len(mask)
    if not bool(((mask == 0).flatten(1).any(1) == whole).all()):
        return {"complete"}, count
    if count == 0:
        return {"unconditional"}, 0
    found: set[TaskName] = set()
    if bool(whole[:count].all()):
        found.add("predict")
    if bool(whole[frames - count :].all()):
        found.add("past")
    if count <= 2 and all(k in (0, frames - 1) for k in whole.nonzero().flatten().tolist()):
        found.add("animate")
    if not found & {"predict", "past"}:
        found.add("interpolate")
    return found, count


def outside_training(tasks: TasksConfig | None, mask: Tensor) -> str | None:
    """What of a request for this mask (T, H, W) lies outside the training with `tasks`; none = nothing does."""
    if tasks is None:
        return "the model was not trained on any task: what is given means nothing to it; steer it instead"
    found, count = kinds(mask)
    known = {name for name in found if tasks.weights[name] > 0}
    if not known:
        trained = ", ".join(name for name, weight in tasks.weights.items() if weight > 0)
        return f"the model was not trained on the task {' or '.join(sorted(found))}, but on: {trained}"
    if known == {"predict"} and tasks.predict_frames is not None:
        low, high = tasks.predict_frames
        if not low <= count <= high:
            return f"trained to predict from {low} to {high} given frames, got {count}"
    if known == {"interpolate"} and tasks.steps and all(bool((mask[::n] != 0).any()) for n in tasks.steps):
        every = " or ".join(f"{n}th" for n in tasks.steps)
        return f"trained to interpolate between every {every} frame, from the first one on, and got others"
    return None
