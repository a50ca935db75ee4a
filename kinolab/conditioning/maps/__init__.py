"""Control maps: what is kept of a clip for a control network to follow, one file per way of making them.

To add one: a file here with a config (its `kind` is the table's key) and a `ControlMap`, and a line in
`kinolab.tables`. From outside the package a class joins by `MAPS.register(name)`.
"""

from __future__ import annotations

from typing import Annotated

from kinolab.conditioning.maps.base import ControlMap
from kinolab.contracts.table import KindConfig
from kinolab.tables import MAPS

MapConfig = Annotated[KindConfig, MAPS.one_of()]
"""The config of any map; its name alone stands for its defaults."""


def build(config: KindConfig) -> ControlMap:
    """What makes maps as a config says."""
    return MAPS.of(config)(config)


__all__ = ["MAPS", "ControlMap", "MapConfig", "build"]
