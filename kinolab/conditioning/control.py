"""Control maps: fields that show where something is to be, such as the edges of a clip.

ControlNet (Zhang et al. 2023) hands the map to a copy of the network, and models of video concatenate the map's latents
(Wan 2.1's control models); a port says which it takes: pixels in [0, 1], or the map's latents. In training the map is
made of the clip. In a request it is made of a clip too, or is a map already: `{map: FILE}`. Its null is no map: a field
of zeros that adds nothing.

One model may take several: each has a name of its own, which differ in the map that they are made of by default.
Which ways there are of making a map stands in `kinolab.conditioning.maps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import field_serializer
from torch import Tensor

from kinolab.conditioning.base import ConditionConfig, Draws, FieldCondition, Setting
from kinolab.conditioning.clips import encoded, example_clips, request_clip
from kinolab.conditioning.maps import MAPS, MapConfig, build
from kinolab.conditioning.maps.base import from_frames
from kinolab.conditioning.maps.canny import CannyConfig as CannyMapConfig
from kinolab.conditioning.maps.discs import Path as Track
from kinolab.conditioning.maps.discs import between, draw_paths
from kinolab.conditioning.maps.edges import EdgesConfig
from kinolab.conditioning.maps.world import WorldDepthConfig, WorldPathsConfig, shade
from kinolab.config import Config, load_config
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.toyworld.words import COLOURS


class ControlConfig(ConditionConfig):
    """Which map is made of a clip."""

    map: MapConfig = EdgesConfig()
    """The map: a name, such as edges, or {kind: canny, low: 50}."""

    @field_serializer("map")
    def _short(self, value: KindConfig) -> Any:
        """A map's name alone where all is as by default."""
        values = value.model_dump(mode="json", exclude_defaults=True)
        return {"kind": value.kind, **values} if values else value.kind


class MadeConfig(Config):
    """A clip, and the way in which a map is made of it for one request."""

    clip: Path
    """The clip."""
    by: MapConfig
    """The map: a name, such as canny, or {kind: canny, low: 50}."""


class Control(FieldCondition[Tensor]):
    """Where something is to be. In a request: a clip (file or pixels) that the map is made of, {"map": the map}, or
    {"clip": FILE, "by": a way of making maps} for another map than the model's own."""

    name = "control"
    Config = ControlConfig

    def asked(self, request: Request, setting: Setting) -> Tensor | None:
        """The request's map (3, T, H, W) in [-1, 1]."""
        given = request.conditions.get(self.name)
        if isinstance(given, Mapping) and set(given) == {"map"}:
            ready = replace(request, conditions={**request.conditions, self.name: given["map"]})
            return request_clip(self.name, ready, setting)
        if isinstance(given, Mapping) and "by" in given:
            asked = load_config(MadeConfig, given, name=f"conditions.{self.name}")
            told = replace(request, conditions={**request.conditions, self.name: asked.clip})
            clip = request_clip(self.name, told, setting)
            return None if clip is None else build(asked.by).make(clip)
        clip = request_clip(self.name, request, setting)
        return None if clip is None else self.made(clip)

    def files(self, value: Any) -> list[Any]:
        """The clip's file, and that of the network that makes a map of it."""
        if not (isinstance(value, Mapping) and "by" in value):
            return super().files(value)
        by = value["by"]
        named = [value.get("clip"), by.get("file") if isinstance(by, Mapping) else None]
        return [Path(path) for path in named if isinstance(path, str | Path)]

    def made(self, clip: Tensor) -> Tensor:
        """The map of a clip (3, T, H, W)."""
        return build(self.config.map).make(clip)

    def shown(self, examples: Sequence[Example], setting: Setting, draws: Draws) -> Sequence[Tensor]:
        """The maps of the examples' clips."""
        maker = build(self.config.map)
        return [maker.make(clip) for clip in example_clips(self.name, examples, setting)]

    def tell(self, told: Sequence[Tensor | None], setting: Setting, before: Conditions, draws: Draws) -> Conditions:
        """Of maps (3, T, H, W) their latents (B, C, T, H, W), or where the port takes pixels these in [0, 1]."""
        pixels = setting.spec.ports[self.name].pixels
        if not pixels:
            return self.stacked(encoded(told, setting), setting)
        ratio, frames = setting.autoencoder.spec.spatial_ratio, setting.autoencoder.spec.temporal_ratio
        if frames > 1 or ratio != pixels:
            way = f"set its hint_ratio={ratio}" if frames == 1 else "let it read latents: hint: latents"
            raise InputError(
                f"{self.name}: a map of {pixels} x {pixels} pixels per latent is read, of every frame, and a latent of "
                f"this model's autoencoder stands for {ratio} x {ratio} pixels of {frames} frames: {way}"
            )
        return self.stacked([None if m is None else ((m + 1) / 2).clamp(0, 1) for m in told], setting)


class Edges(Control):
    """A second map beside `control`, of a clip's edges."""

    name = "edges"


class CannyConfig(ControlConfig):
    """Canny's lines."""

    map: MapConfig = CannyMapConfig()
    """The map; canny by default."""


class Canny(Control):
    """A map of Canny's lines."""

    name = "canny"
    Config = CannyConfig


class DepthConfig(ControlConfig):
    """Depth of the toy world's objects; of real clips by a network: {kind: onnx, file: ...}."""

    map: MapConfig = WorldDepthConfig()
    """The map; world_depth by default."""


class Depth(Control):
    """A map of depth, near things bright."""

    name = "depth"
    Config = DepthConfig


class Pose(Control):
    """A map of poses, which a network makes: set {map: {kind: onnx, file: ...}}, or ask with {"map": the map}."""

    name = "pose"

    def made(self, clip: Tensor) -> Tensor:
        """The map by the network that the model names."""
        if self.config.map == EdgesConfig():
            raise InputError(
                "pose: nothing is known that makes maps of poses of a clip; give maps: {map: FILE}, or set "
                "conditions.pose.map={kind: onnx, file: ...} where the model is made"
            )
        return super().made(clip)


class TrajectoryConfig(ControlConfig):
    """Discs at the toy world's objects; of real clips at tracked points: {kind: tracks}."""

    map: MapConfig = WorldPathsConfig()
    """The map; world_paths by default."""


class Trajectory(Control):
    """Where things go: a clip whose objects are followed, {"map": the map}, or {"paths": [...]}, which are drawn.

    A path is {"colour": a colour of the toy world, or [red, green, blue] in [0, 1], "points": [[x, y], ...]}, points as
    fractions of width and height, gone through evenly and straight.
    """

    name = "trajectory"
    Config = TrajectoryConfig

    def asked(self, request: Request, setting: Setting) -> Tensor | None:
        """The request's map (3, T, H, W) in [-1, 1]."""
        given = request.conditions.get(self.name)
        if not (isinstance(given, Mapping) and set(given) == {"paths"}):
            return super().asked(request, setting)
        frames, size = request.frames or setting.frames, request.size or setting.size
        drawn = draw_paths([_path(p, frames, size) for p in _listed(given["paths"])], frames, size)
        return from_frames(drawn, torch.zeros(()))

    def files(self, value: Any) -> list[Any]:
        """The clip's file; paths name none."""
        return [] if isinstance(value, Mapping) and "paths" in value else super().files(value)


def _listed(paths: Any) -> Sequence[Any]:
    if not isinstance(paths, Sequence) or isinstance(paths, str) or not paths:
        raise InputError(f"trajectory: expected paths as [{{colour: red, points: [[x, y], ...]}}, ...], got {paths!r}")
    return paths


def _path(asked: Any, frames: int, size: tuple[int, int]) -> Track:
    """A path as a request says it."""
    if not isinstance(asked, Mapping) or set(asked) != {"colour", "points"}:
        raise InputError(f"trajectory: expected a path as {{colour: red, points: [[x, y], ...]}}, got {asked!r}")
    colour, points = asked["colour"], np.asarray(asked["points"], object)
    if isinstance(colour, str) and colour in COLOURS:
        colour = shade(colour)
    if isinstance(colour, str) or len(colour) != 3:
        known = ", ".join(COLOURS)
        raise InputError(f"trajectory: expected a colour of {known}, or [red, green, blue] in [0, 1], got {colour!r}")
    if points.ndim != 2 or points.shape[1:] != (2,) or not len(points):
        raise InputError(f"trajectory: expected points as [[x, y], ...], got {asked['points']!r}")
    red, green, blue = (float(value) for value in colour)
    return Track((red, green, blue), between(points.astype(float).tolist(), frames, size))


__all__ = ["MAPS", "Canny", "Control", "ControlConfig", "Depth", "Edges", "Pose", "Trajectory"]
