"""Sources of clips and latents: a folder, the toy world, a latent cache; and the order training sees them in."""

from __future__ import annotations

from typing import Annotated

from kinolab.contracts.examples import (
    ClipRecord,
    ClipSource,
    Example,
    ShapeRules,
    Source,
    SourceConfig,
    Split,
    Verdict,
)
from kinolab.data.cache import CacheConfig, CacheSource, LatentStatistics
from kinolab.data.clips import CheckSummary, summarise
from kinolab.data.encode import EncodeSummary, autoencoder_hash, encode_to_cache
from kinolab.data.folder import FolderConfig, FolderSource
from kinolab.data.order import ShuffledOrder
from kinolab.tables import SOURCES
from kinolab.toyworld.source import WorldSource, WorldSourceConfig

__all__ = [
    "SOURCES",
    "CacheConfig",
    "CacheSource",
    "CheckSummary",
    "ClipRecord",
    "ClipSource",
    "DataConfig",
    "EncodeSummary",
    "Example",
    "FolderConfig",
    "FolderSource",
    "LatentStatistics",
    "ShapeRules",
    "ShuffledOrder",
    "Source",
    "SourceConfig",
    "Split",
    "Verdict",
    "WorldSource",
    "WorldSourceConfig",
    "autoencoder_hash",
    "build",
    "encode_to_cache",
    "summarise",
]

DataConfig = Annotated[SourceConfig, SOURCES.one_of()]
"""The config of any source."""


def build(
    config: SourceConfig,
    spec: ShapeRules | None = None,
    *,
    split: Split | None = None,
    annotated: bool = True,
) -> Source:
    """The source of a config.

    Args:
        config: one of the sources' configs.
        spec: the autoencoder's shape rules, which frame counts are snapped to. A cache's shapes are settled already.
        split: train, heldout or all; None = what the config says.
        annotated: whether captions and labels are needed; where they aren't, broken ones of a folder are a note.

    Raises:
        InputError: where the source holds nothing usable (see each source).
    """
    if split is not None:
        config = config.model_copy(update={"split": split})
    return SOURCES.of(config).from_config(config, spec, annotated=annotated)
