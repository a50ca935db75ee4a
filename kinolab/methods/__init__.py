"""Methods: wrappers of a sampling run, one file each (`kinolab.contracts.method`).

To add one: a file here with a config and a class, and a line in `kinolab.tables`; a request then names it under
`methods`. From outside the package a class joins by `METHODS.register(name)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from kinolab.config import Config, load_config
from kinolab.contracts.method import Method
from kinolab.errors import InputError
from kinolab.methods.controlvideo import ControlVideo, ControlVideoConfig
from kinolab.methods.frame_reach import FrameReach, FrameReachConfig
from kinolab.methods.guidance import Guidance, GuidanceConfig, OscillationConfig
from kinolab.methods.held import Held
from kinolab.methods.hierarchical import Hierarchical, HierarchicalConfig
from kinolab.methods.inversion import Inversion, InversionConfig
from kinolab.methods.langevin import Langevin, LangevinConfig
from kinolab.methods.noise_policy import NoiseConfig, NoisePolicy
from kinolab.methods.reconstruction import Reconstruction
from kinolab.methods.replacement import Replacement
from kinolab.methods.smoother import Smoother, SmootherConfig
from kinolab.methods.spatial import SpatialConfig, SpatialReconstruction
from kinolab.methods.steering import SteeringConfig
from kinolab.methods.step_cache import StepCache, StepCacheConfig
from kinolab.methods.temperature import Temperature, TemperatureConfig
from kinolab.methods.text2video_zero import Text2VideoZero, Text2VideoZeroConfig
from kinolab.methods.thresholding import Thresholding, ThresholdingConfig
from kinolab.tables import METHODS, OWN_FIELD


def checked(asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a request names under `methods`, with every default filled in.

    Raises:
        InputError: for a name that is not in the table, or a method that a request asks for in a field of its own.
    """
    return {name: _config(name, values).model_dump(mode="json") for name, values in asked.items()}


def _known(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        return checked(asked)
    except InputError as error:
        raise ValueError(str(error)) from None


MethodsConfig = Annotated[dict[str, Any], AfterValidator(_known)]
"""Methods that a config names, each with its fields, as `{thresholding: {percentile: 0.99}}`."""


def build(asked: Mapping[str, Any]) -> Sequence[Method]:
    """The methods that a request names, in its order."""
    return [METHODS.get(name)(_config(name, values)) for name, values in asked.items()]


def _config(name: str, values: Any) -> Config:
    if name in METHODS.names(OWN_FIELD):
        raise InputError(f"methods: {name} has a field of its own in a request: set {METHODS.get(name).option} instead")
    kind = METHODS.get(name, "")
    if not isinstance(values, Mapping | None):
        raise InputError(f"methods.{name}: expected fields and their values, got {values!r}")
    return load_config(kind.Config, values or {}, name=f"methods.{name}")


__all__ = [
    "METHODS",
    "ControlVideo",
    "ControlVideoConfig",
    "FrameReach",
    "FrameReachConfig",
    "Guidance",
    "GuidanceConfig",
    "Held",
    "Hierarchical",
    "HierarchicalConfig",
    "Inversion",
    "InversionConfig",
    "Langevin",
    "LangevinConfig",
    "Method",
    "MethodsConfig",
    "NoiseConfig",
    "NoisePolicy",
    "OscillationConfig",
    "Reconstruction",
    "Replacement",
    "Smoother",
    "SmootherConfig",
    "SpatialConfig",
    "SpatialReconstruction",
    "SteeringConfig",
    "StepCache",
    "StepCacheConfig",
    "Temperature",
    "TemperatureConfig",
    "Text2VideoZero",
    "Text2VideoZeroConfig",
    "Thresholding",
    "ThresholdingConfig",
    "build",
    "checked",
]
