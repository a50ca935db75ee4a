"""Protocols of the evaluations on the toy world: what is asked of a model, and of which held-out clips.

A result's hash covers its protocol and the frames, size and rate of the model's clips, as clips of other shapes don't
compare; not its name, nor the model, nor how it was sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from kinolab.config import Config, load_config
from kinolab.contracts.reach import ReachName
from kinolab.errors import InputError
from kinolab.evaluation.protocol import read_protocol
from kinolab.methods import InversionConfig
from kinolab.toyworld.words import CLASSES


class ToyProtocol(Config):
    """What all of them say."""

    name: str = ""
    """What it is called; not part of the hash."""
    description: str = ""
    """What it is for, in words; not part of the hash."""
    count: int = Field(64, ge=1)
    """Held-out clips; the first ones are always the same."""
    first: int = Field(0, ge=0)
    """Number of the first clip: choose settings on others than you report on."""
    seed: int = Field(0, ge=0)
    """Seed of the first clip's noise; the others follow."""


class WorldProtocol(ToyProtocol):
    """Clips by their captions, judged by what shows (`kinolab evaluate world`)."""

    kind: Literal["world"] = "world"
    """What is measured."""
    count: int = Field(256, ge=1)
    """Held-out requests; the first ones are always the same."""
    label: bool = True
    """Give the class label beside the prompt, where the model takes both."""


def _scenarios(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in CLASSES]
    if unknown or not names:
        raise ValueError(f"scenarios {', '.join(unknown) or 'none'}: expected some of {', '.join(CLASSES)}")
    return names


class PhysicsProtocol(ToyProtocol):
    """Clips that are predicted from their first frames (`kinolab evaluate physics`)."""

    kind: Literal["physics"] = "physics"
    """What is measured."""
    given: tuple[Annotated[int, Field(ge=1)], ...] = Field((8, 4, 2, 1), min_length=1)
    """Numbers of given frames, each measured by itself."""
    scenarios: Annotated[tuple[str, ...], AfterValidator(_scenarios)] = CLASSES
    """What happens in the clips, in turn."""


class EditWay(InversionConfig):
    """One way to edit: how the noise is made of a clip, and what is told and read on the way."""

    reach: ReachName | None = None
    """Which frames a frame's self-attention reads, there and back; none = as trained."""
    told: bool = True
    """Tell what the clip shows while it is inverted."""
    fitted: bool = False
    """By a model that was fitted to each clip, which the call of the evaluation has to bring."""


Edit = Literal["colour", "shape", "both"]
EDITS: tuple[Edit, ...] = ("colour", "shape", "both")
"""What an edit may change."""
WAYS = {
    "inverted": EditWay(),
    "inverted, first_previous": EditWay(reach="first_previous"),
    "inverted, 0.7": EditWay(strength=0.7),
    "noised, 0.5": EditWay(way="noise", strength=0.5),
    "noised, 0.7": EditWay(way="noise", strength=0.7),
    "noised, 0.9": EditWay(way="noise", strength=0.9),
}
"""The ways that need no training."""


class EditsProtocol(ToyProtocol):
    """Clips of one object whose colour or shape is changed (`kinolab evaluate edits`)."""

    kind: Literal["edits"] = "edits"
    """What is measured."""
    count: int = Field(48, ge=1)
    """Held-out clips; the first ones are always the same."""
    edits: tuple[Edit, ...] = Field(EDITS, min_length=1)
    """What is changed, in turn."""
    frames: int = Field(16, ge=1)
    """Frames of the clips for an image model, which has no number of its own; a video model has its training clips'."""
    fps: float = Field(8.0, gt=0)
    """Frame rate of the clips for an image model."""
    ways: dict[str, EditWay] = Field(WAYS, min_length=1)
    """The ways to edit, by name; the first one's scores are the report's."""

    def only(self, names: Sequence[str]) -> EditsProtocol:
        """The same with some of its ways.

        Raises:
            InputError: for a name that it doesn't have.
        """
        for name in names:
            if name not in self.ways:
                raise InputError(f"way {name!r}: expected one of {'; '.join(self.ways)}")
        return self.model_copy(update={"ways": {name: self.ways[name] for name in names}})

    def with_fitted(self) -> EditsProtocol:
        """The same with a way by a model that was fitted to each clip, where there is none."""
        there = any(way.fitted for way in self.ways.values())
        return self if there else self.model_copy(update={"ways": {**self.ways, "fitted": EditWay(fitted=True)}})


class ZeroProtocol(ToyProtocol):
    """Clips by an image model, which move as asked (`kinolab evaluate zero`)."""

    kind: Literal["zero"] = "zero"
    """What is measured."""
    count: int = Field(32, ge=1)
    """Held-out prompts; the first ones are always the same."""
    frames: int = Field(8, ge=2)
    """Frames of a clip."""
    motions: tuple[tuple[float, float], ...] = Field(((4.0, 0.0), (2.0, 0.0), (3.0, 0.0)), min_length=1)
    """Motions that are asked for, each measured by itself: pixels of a frame of 64 to the right and down from frame to
    frame."""
    samplings: tuple[Literal["nearest", "bilinear"], ...] = Field(("nearest", "bilinear"), min_length=1)
    """How latents are read between two places, each measured by itself."""


class ControlProtocol(ToyProtocol):
    """Clips that are generated from control maps (`kinolab evaluate control`)."""

    kind: Literal["control"] = "control"
    """What is measured."""
    count: int = Field(32, ge=1)
    """Held-out clips; the first ones are always the same."""
    map: str = "trajectory"
    """The condition that the map is given as: a port of one of the model's control networks."""
    frames: int | None = Field(None, ge=1)
    """Frames of a clip; none = those of the model's clips, and 8 of an image model."""
    prompt: bool = True
    """Tell the objects' caption beside the map, where the model takes prompts."""


T = TypeVar("T", bound=ToyProtocol)


def protocol_of(cls: type[T], asked: T | Mapping[str, Any] | None) -> T:
    """A protocol as it is, or of the fields that differ from its defaults.

    Raises:
        InputError: for a field that it doesn't have, or a value of the wrong type.
    """
    return asked if isinstance(asked, cls) else load_config(cls, dict(asked or {}), name="protocol")


def load_toy_protocol(cls: type[T], name: str | Path, overrides: Sequence[str] = ()) -> T:
    """The protocol of a YAML file or of a shipped name, with dotted overrides.

    Raises:
        InputError: where there is none, or it measures something else.
    """
    kind = cls.model_fields["kind"].default
    return load_config(cls, read_protocol(name, overrides, kind), name=str(name))
