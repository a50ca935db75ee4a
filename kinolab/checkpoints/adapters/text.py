"""What an adapter changes of text encoders: of CLIP and T5 in a person's own folders, by transformers' names.

SD 1.x and 2.x have one encoder, SD3 three: kohya's `lora_te1_` and diffusers' `text_encoder.` are of the first CLIP,
those with 2 of the second, those with 3 of T5. transformers dropped `text_model.` from its names; adapters have it.
"""

from __future__ import annotations

import copy

from torch import nn

from kinolab.checkpoints.adapters.files import Adapter, LowRank
from kinolab.conditioning.text import TextEncoder
from kinolab.conditioning.text.clip import ClipText
from kinolab.conditioning.text.public import FolderText
from kinolab.conditioning.text.sd3 import Sd3Text
from kinolab.conditioning.text.t5 import T5Text
from kinolab.errors import InputError
from kinolab.layers.lora import Change, change_layers, weight_of

MOST = 4
"""Names that an error lists."""
BEFORE = "text_model."


def encoders_of(encoder: TextEncoder | None) -> dict[int, FolderText]:
    """The networks that adapters call the first, second and third text encoder."""
    if isinstance(encoder, ClipText | T5Text):
        return {1: encoder}
    if isinstance(encoder, Sd3Text):
        found: dict[int, FolderText | None] = {1: encoder.clip_l, 2: encoder.clip_g, 3: encoder.t5}
        return {number: each for number, each in found.items() if each is not None}
    return {}


def put_on_text(encoder: TextEncoder, adapter: Adapter, weight: float) -> TextEncoder:
    """A copy of a text encoder with the changes that an adapter has of it in its weights, that remembers no prompt.

    Raises:
        InputError: for changes of an encoder that there isn't, or of other layers.
    """
    made = copy.deepcopy(encoder)
    networks = encoders_of(made)
    for number, layers in adapter.text.items():
        if number not in networks:
            raise InputError(
                f"{adapter.path}: changes text encoder {number}, and the model has {len(networks)} of them"
            )
        network: nn.Module = networks[number].model
        change_layers(network, {n: c.times(weight) for n, c in _changes(network, adapter, layers, number).items()})
    for each in (made, *networks.values()):
        each.cache.clear()
    return made


def _changes(network: nn.Module, adapter: Adapter, layers: dict[str, LowRank], number: int) -> dict[str, Change]:
    """The changes of an encoder's layers by its own names."""
    weights = {name: weight_of(module) for name, module in network.named_modules()}
    own = {name: weight for name, weight in weights.items() if weight is not None and weight.ndim == 2}
    known = {name.removeprefix(BEFORE).replace(".", "_"): name for name in own}
    found, other = {}, []
    for name, layer in layers.items():
        place = known.get(name.replace(".", "_").removeprefix(BEFORE.replace(".", "_")))
        change = layer.change
        if place is None or (len(change.up), *change.down.shape[1:]) != tuple(own[place].shape):
            other.append(name)
        else:
            found[place] = change
    if other:
        raise InputError(
            f"{adapter.path}: an adapter for another text encoder: {len(other)} of its {len(layers)} layers are not in "
            f"encoder {number}, or of another shape: {', '.join(other[:MOST])}"
        )
    return found
