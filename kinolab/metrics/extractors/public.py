"""What the networks with public weights share: a spec that names their output, and how their files are opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from kinolab.metrics.extractors.base import ExtractorSpec
from kinolab.metrics.weights import checked_hash, fill, read_tensors
from kinolab.runtime.modules import without_memory

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class PublicSpec(ExtractorSpec):
    """An extractor's spec with the layer that is read out and whatever else decides its numbers.

    output: the layer; settings: (name, value) pairs that belong to a score's protocol.
    """

    output: str = "features"
    settings: tuple[tuple[str, str], ...] = ()

    def protocol(self) -> dict[str, str | int | float | bool]:
        """The part of a score's protocol that the extractor decides."""
        return super().protocol() | {"extractor_output": self.output} | dict(self.settings)


def read_network(
    build: Callable[[], N], path: Path, sha256: str | None, *, ignored: Sequence[str] = ()
) -> tuple[N, str]:
    """A frozen network with the tensors of a file, and the file's sha256.

    build: makes the network; sha256: what the file must have, if known; ignored: beginnings of names not used.

    Raises:
        InputError: for a missing, foreign or damaged file, another hash, or tensors that do not fit: one line each.
    """
    digest = checked_hash(path, sha256)
    tensors = read_tensors(path)
    with without_memory():  # no time is lost on drawing weights that the file replaces
        network = build()
    fill(network, tensors, path, ignored)
    return network, digest
