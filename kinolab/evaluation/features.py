"""Features of the clips of a protocol, extracted once and kept under a name that the data and the protocol decide."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kinolab.contracts.events import Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.clips import Batch, ProtocolClips
from kinolab.evaluation.protocol import Protocol
from kinolab.metrics import METRICS
from kinolab.metrics.extractors import load_extractor
from kinolab.metrics.extractors.base import Extractor
from kinolab.metrics.features import load_tensors, save_tensors
from kinolab.runtime.devices import choose
from kinolab.runtime.files import make_folder
from kinolab.runtime.hashes import json_sha256

ROLES = ("video", "image", "classifier")
UNITS: dict[str, Literal["clip", "frame"]] = {"video": "clip", "image": "frame"}
KIND = "reference features"


class Extractors:
    """The networks of a protocol by role: of clips (video), of frames (image), and with classes (classifier).

    Args:
        protocol: names them.
        device: where they compute.
    """

    def __init__(self, protocol: Protocol, device: torch.device | str = "auto") -> None:
        self.networks: dict[str, Extractor] = {}
        self.device = choose(device)
        for role in ROLES:
            config = getattr(protocol, role)
            if config is None or not needed(role, protocol):
                continue
            network = load_extractor(config, unit=UNITS.get(role))
            self.networks[role] = network.to(self.device)

    def __call__(self, video: Tensor) -> dict[str, Tensor]:
        """Clips (B, 3, T, H, W) -> for each role its features, of the classifier its probabilities; on the CPU."""
        found = {}
        for role, network in self.networks.items():
            values = network.probabilities(video.to(self.device)) if role == "classifier" else network(
                video.to(self.device))  # fmt: skip
            found[role] = values.float().cpu()
        return found

    def protocol(self, role: str) -> dict[str, str | int | float | bool]:
        """What the score of a role states of its network."""
        return self.networks[role].spec.protocol()


def needed(role: str, protocol: Protocol) -> bool:
    """Whether any metric of the protocol reads features of this role."""
    return any(METRICS.get(name).weights == role for name in protocol.metrics)


def extract(batches: Iterable[Batch], extractors: Extractors, total: int, events: Listener = None) -> dict[str, Tensor]:
    """The features of all batches, by role: (N, width).

    Raises:
        InputError: where features are not finite; names the clip.
    """
    parts: dict[str, list[Tensor]] = {}
    done, told = 0, events_of(events)
    for batch in batches:
        for role, values in extractors(batch.video).items():
            bad = (~torch.isfinite(values).all(1)).nonzero().flatten().tolist()
            if bad:
                name = batch.names[bad[0] * len(batch.names) // len(values)]
                network = extractors.networks[role].spec.name
                raise InputError(
                    f"{name}: {network} gives features that are not finite; look at that clip and the weights"
                )
            parts.setdefault(role, []).append(values)
        done += len(batch.names)
        advance(told, done, total)
    return {role: torch.cat(values) for role, values in parts.items()}


def reference_features(
    clips: ProtocolClips,
    protocol: Protocol,
    extractors: Extractors,
    cache: Path | None,
    *,
    batch: int = 8,
    events: Listener = None,
) -> tuple[dict[str, Tensor], bool]:
    """Features of the real clips, from the cache where it has them; and whether it had.

    The cache's key is the content of the clips (the files' hashes, times, what is done to the pixels) and the
    protocol's hash, which holds the networks' own: nothing stale is ever read. A damaged file is made again.
    """
    roles = sorted(set(extractors.networks) - {"classifier"})
    if not roles:
        return {}, False
    path = None if cache is None else cache / f"{cache_key(clips, protocol, roles)}.safetensors"
    if path is not None:
        make_folder(path.parent)  # before hours are spent, not after
        with suppress(InputError):
            return load_tensors(path, KIND)[0], True
    features = extract(clips.batches(batch), extractors, len(clips), events)
    features.pop("classifier", None)  # the inception score has no reference
    if path is not None:
        header: dict[str, Any] = {"protocol": protocol.name, "protocol_hash": protocol.hash(), "data": clips.describe()}
        save_tensors(path, KIND, features, header)
    return features, False


def cache_key(clips: ProtocolClips, protocol: Protocol, roles: list[str]) -> str:
    """The name of a file of reference features."""
    return json_sha256([clips.content_hash(), protocol.hash(), roles])[:32]


def default_cache() -> Path:
    """Where reference features are kept unless another folder is named."""
    return Path.home() / ".cache" / "kinolab" / "features"
