"""Control networks beside a model: from public weights, or from a model that was trained with one."""

from __future__ import annotations

from pathlib import Path

from kinolab.checkpoints.reading import load
from kinolab.conditioning import CONDITIONS
from kinolab.denoisers.controlnet import ControlNet
from kinolab.denoisers.controlnet_mmdit import ControlNetMmdit
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel, find_model, read_model_config
from kinolab.models.controlnet import ControlPart, control_part
from kinolab.models.controlnet_mmdit import mmdit_control_part


def with_control(model: VideoModel, port: str, path: Path) -> VideoModel:
    """The model with a control network beside it that reads the condition `port`, as a part of that name.

    Args:
        path: a file or folder of public weights, or a model or run folder that has a control network for that port.

    Raises:
        InputError: for a name that is no condition, for weights of something else or for another denoiser, and where
            the model has such a port already.
    """
    CONDITIONS.get(port)
    folder = _model_folder(path)
    part = _trained(folder, model, port) if folder is not None else _public(path, model, port)
    name = next(n for n in (port, *(f"{port}_{k}" for k in range(2, 99))) if n not in model.parts)
    settings = dict(model.config.conditions)
    if folder is not None and port in (theirs := read_model_config(folder).conditions):
        settings[port] = theirs[port]
    values = dict(model.config) | {
        "format": 2,
        "parts": {**model.config.parts, name: part.config},
        "conditions": settings,
        "trained": f"{model.config.trained}; {port}: {path.name}",
    }
    others = {**model.others, "parts": {**model.parts, name: part}}
    made = VideoModel(ModelConfig.model_validate(values), model.autoencoder, model.denoiser, **others)
    _ = made.network  # which checks that no two have the same port
    return made


def _model_folder(path: Path) -> Path | None:
    """The model folder at a path; None for public weights."""
    try:
        return find_model(path)
    except InputError:
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder; expected a control network's weights or a model"
            ) from None
        return None


def _public(path: Path, model: VideoModel, port: str) -> ControlPart:
    net = load(path)
    try:
        if isinstance(net, ControlNetMmdit):
            return mmdit_control_part(net, model.denoiser, port=port)
        if not isinstance(net, ControlNet):
            raise InputError(f"expected a control network, got a {type(net).__name__}")
        return control_part(net, model.denoiser, port=port)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _trained(folder: Path, model: VideoModel, port: str) -> ControlPart:
    """The control network of a model that was trained with one, beside another model's denoiser."""
    other = VideoModel.load(folder, device="cpu", precision="float32")
    found = [part for part in other.parts.values() if isinstance(part, ControlPart) and part.config.port == port]
    if not found:
        has = ", ".join(part.config.port for part in other.parts.values() if isinstance(part, ControlPart)) or "none"
        raise InputError(f"{folder}: has no control network that reads {port}; those it has read: {has}")
    if other.config.denoiser != model.config.denoiser:
        raise InputError(f"{folder}: its control network was trained beside a denoiser of another config")
    return found[0]
