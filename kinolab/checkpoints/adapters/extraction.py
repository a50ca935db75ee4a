"""An adapter from two models, one of which was trained on from the other: their difference's first singular values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kinolab.checkpoints.adapters.files import LowRank
from kinolab.checkpoints.adapters.names import WEIGHT, Layout
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import low_rank

MOST_LISTED = 6


@dataclass(frozen=True)
class Kept:
    """How much of a layer's difference an adapter holds.

    rank: of the change; share: of the difference's squares; size: of the difference beside the weight, |dW| / |W|.
    """

    rank: int
    share: float
    size: float


@dataclass(frozen=True)
class Extracted:
    """Changes by the names of a layout, what each kept, and what differs and is in no change.

    left: tensors that differ and that no adapter can hold (biases, norms, tables), or that were not wanted.
    """

    layers: dict[str, LowRank]
    kept: dict[str, Kept]
    left: tuple[str, ...]


@torch.no_grad()
def extract(
    base: Denoiser,
    tuned: Denoiser,
    layout: Layout,
    rank: int,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    events: Listener = None,
) -> Extracted:
    """What leads from one model's weights to another's, at most `rank` for each layer of the layout.

    Args:
        layout: one of `layouts(base)`: its names are those of the changes.
        wanted: of these names, those to take.

    Raises:
        InputError: for models of other layers, or that are the same.
    """
    before, after = base.state_dict(), tuned.state_dict()
    other = [n for n in before if n not in after or after[n].shape != before[n].shape] + [
        n for n in after if n not in before
    ]
    if type(base) is not type(tuned) or other:
        listed = ", ".join(other[:MOST_LISTED])
        raise InputError(
            f"the two models are a {type(base).__name__} and a {type(tuned).__name__} with {len(other)} different "
            f"tensors ({listed}); an adapter leads from one model to another of the same layers"
        )
    told, layers, kept, passed = events_of(events), {}, {}, set[str]()
    for number, (public, place) in enumerate(layout.places.items(), 1):
        name = f"{place.layer}{WEIGHT}"
        old, new = (layout.turned(place.layer, s[name]).chunk(place.count)[place.index] for s in (before, after))
        advance(told, number, len(layout.places))
        if torch.equal(old, new):
            continue
        if not wanted(public):
            passed.add(name)
            continue
        delta = new.double() - old.double()
        change, share = low_rank(delta, rank)
        layers[public] = LowRank(change.down, change.up, float(change.rank))
        size = float(delta.norm() / old.double().norm()) if bool(old.any()) else float("inf")
        kept[public] = Kept(change.rank, share, size)
    if not layers:
        raise InputError("the two models have the same weights in all layers that an adapter can change")
    held = {f"{place.layer}{WEIGHT}" for place in layout.places.values()} - passed
    left = tuple(n for n in before if n not in held and not torch.equal(before[n], after[n]))
    return Extracted(layers, kept, left)
