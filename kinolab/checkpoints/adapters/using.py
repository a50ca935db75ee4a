"""Adapters put on a model: which, how strongly, and whether their changes are added to its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from kinolab.checkpoints.adapters.files import Adapter, adapter_files, read_adapter
from kinolab.checkpoints.adapters.names import native_changes
from kinolab.checkpoints.adapters.text import encoders_of, put_on_text
from kinolab.contracts.adapters import AdapterUse
from kinolab.contracts.events import Listener, events_of
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import change_layers, fold
from kinolab.models import ModelConfig, VideoModel
from kinolab.models.distilled import with_adapters
from kinolab.models.lora import LoraConfig, StageLora
from kinolab.models.stage_config import NAME


def files_of(use: AdapterUse) -> list[Path]:
    """The files that an adapter is read from; none of one that the model may have itself."""
    return [] if NAME.fullmatch(str(use.path)) and not use.path.exists() else adapter_files(use.path)


def put_on(
    model: VideoModel,
    uses: Sequence[AdapterUse],
    *,
    merged: bool = True,
    in_place: bool = False,
    text: bool = True,
    events: Listener = None,
) -> VideoModel:
    """The model with adapters on its denoiser and its experts, one after the other; itself where there are none.

    One that the model has beside it, named by its name, gets another weight. What an adapter changes of text
    encoders is added to those of the model, if they are of a person's own folders; else it is left out, as a note says.

    Args:
        merged: add the changes to the weights; else they stay beside their layers.
        text: put changes of text encoders on too.
        in_place: change the networks themselves; else copies, and the model that is given stays as it is.

    Raises:
        InputError: for an adapter that can't be read, or is for another model.
    """
    if not uses:
        return model
    weights = {name: lora.weight for name, lora in model.config.lora.items()}
    own = [use for use in uses if str(use.path) in weights and not use.path.exists()]
    adapters = [(use, read_adapter(use.path)) for use in uses if use not in own]
    made = copy.copy(model)
    if not in_place:
        made.denoiser, made.experts = copy.deepcopy(model.denoiser), copy.deepcopy(model.experts)
    for use in own:
        name = str(use.path)
        made.lora[name].put_on(made.denoiser, use.weight - weights[name], merged=merged)
        weights[name] = use.weight
    for use, adapter in adapters:
        for denoiser in (made.denoiser, *made.experts):
            _put(denoiser, adapter, use.weight, merged)
        if adapter.text and text and encoders_of(made.text_encoder) and made.text_encoder is not None:
            made.text_encoder = put_on_text(made.text_encoder, adapter, use.weight)
        elif adapter.text:
            _tell(events, use, adapter)
    made.adapters = (*model.adapters, *uses)
    made.config = with_adapters(made.config, uses)
    return made


def folded(model: VideoModel, uses: Sequence[AdapterUse], events: Listener = None) -> VideoModel:
    """The model with adapters in its weights, in place, those beside them too; later stages keep theirs.

    Raises:
        InputError: as `put_on`.
    """
    made = put_on(model, uses, in_place=True, text=False, events=events)
    fold(made.denoiser)
    made.config, made.lora, made.adapters = made.config.model_copy(update={"lora": {}}), {}, ()
    return _noted(made, [f"{use.path.name} x {use.weight:g}" for use in uses])


def beside(model: VideoModel, name: str, use: AdapterUse, events: Listener = None) -> VideoModel:
    """The model with an adapter beside its layers that has a name and a file of its own in its folder, in place.

    Raises:
        InputError: as `put_on`; for a name that is taken, or no name; and for a model with experts.
    """
    if model.experts:
        raise InputError(f"{use.path}: a model of experts has no adapters beside it: fold it in (pack --lora)")
    if name in model.lora:
        raise InputError(f"{name}: the model has an adapter of that name already; give another name")
    adapter = read_adapter(use.path)
    lora = StageLora(native_changes(model.denoiser, adapter))
    values = dict(model.config) | {"format": 2, "lora": {**model.config.lora, name: LoraConfig(weight=use.weight)}}
    try:
        config = ModelConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
    if adapter.text:
        _tell(events, use, adapter)
    lora.put_on(model.denoiser, use.weight)
    model.config, model.lora = config, {**model.lora, name: lora}
    return _noted(model, [f"{name}: {use.path.name} x {use.weight:g}"])


def _noted(model: VideoModel, notes: Sequence[str]) -> VideoModel:
    """The model whose folder says what is on it."""
    if notes:
        model.config = model.config.model_copy(update={"trained": "; ".join([model.config.trained, *notes])})
    return model


def _tell(events: Listener, use: AdapterUse, adapter: Adapter) -> None:
    """Say that what an adapter changes of text encoders is left out.

    Raises:
        InputError: where that is all of it.
    """
    if not adapter.layers:
        raise InputError(f"{use.path}: changes text encoders alone, and none can be changed here")
    count = sum(map(len, adapter.text.values()))
    events_of(events).note(f"{use.path}: its {count} changes of text encoders are left out")


def _put(denoiser: Denoiser, adapter: Adapter, weight: float, merged: bool) -> None:
    changes = {name: change.times(weight) for name, change in native_changes(denoiser, adapter).items()}
    change_layers(denoiser, changes, merged=merged)
