"""First weights: random, copied from an equal model, or made from an image model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from kinolab.autoencoders import (
    AUTOENCODERS,
    DpVaeConfig,
    OdVaeConfig,
    Taesd,
    TaesdConfig,
    TemporalDecoderConfig,
    inflate,
    inflate_dpvae,
    inflate_taesd,
)
from kinolab.autoencoders import build as build_autoencoder
from kinolab.autoencoders.base import Autoencoder
from kinolab.autoencoders.image import ImageAutoencoder
from kinolab.autoencoders.inflate import with_temporal_decoder
from kinolab.contracts.events import Listener, events_of
from kinolab.denoisers import Denoiser, Svd
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.inflate import start_from_image
from kinolab.denoisers.svd import init_svd
from kinolab.errors import InputError
from kinolab.models import find_model, load_autoencoder, load_denoiser, read_model_config
from kinolab.training.recipe import AutoencoderRecipe, DenoiserInitialConfig, DenoiserRecipe, InitialConfig


def check_initial(config: AutoencoderRecipe) -> None:
    """Raises InputError where a part that stays frozen would have random weights."""
    target = config.autoencoder
    if isinstance(target, DpVaeConfig) and target.reads_image and config.initial is None:
        raise InputError(
            "autoencoder.image is frozen and would have random weights: name a trained image autoencoder with "
            "initial.path and initial.method=tail"
        )


def first_autoencoder(config: AutoencoderRecipe) -> Autoencoder:
    """The recipe's autoencoder with its first weights: random, copied, or inflated from an image autoencoder.

    Raises:
        InputError: for an autoencoder that can't be trained here, or first weights that don't fit it.
    """
    kind = config.autoencoder.kind
    if AUTOENCODERS.get(kind).untrainable:
        raise InputError(f"autoencoder.kind={kind}: {AUTOENCODERS.get(kind).untrainable}")
    if config.initial is None:
        return build_autoencoder(config.autoencoder)
    return inflated_or_equal(config.autoencoder, config.initial)


def inflated_or_equal(target: Any, initial: InitialConfig) -> Autoencoder:
    """An autoencoder of config `target` that starts from another one's weights.

    Raises:
        InputError: where the two don't fit the method.
    """
    try:
        source = load_autoencoder(initial.path, device="cpu")
    except InputError as error:
        raise InputError(f"initial.path: {error}") from None
    if isinstance(target, TemporalDecoderConfig) and type(source) is ImageAutoencoder:
        return with_temporal_decoder(source, target)  # by any method: there is one
    if initial.method == "weights":
        return _copied(build_autoencoder(target), source, initial.path)
    if isinstance(source, ImageAutoencoder | Taesd) and isinstance(target, DpVaeConfig):
        return inflate_dpvae(source, target, initial.method)
    if isinstance(source, ImageAutoencoder) and isinstance(target, OdVaeConfig):
        return inflate(source, target, initial.method)
    if isinstance(source, Taesd) and isinstance(target, TaesdConfig):
        return inflate_taesd(source, target, initial.method)
    raise InputError(
        f"initial.method={initial.method} inflates an image autoencoder: `image` to odvae or dpvae, taesd to taesd or "
        f"dpvae; got {source.config.kind} to {target.kind}; use method: weights"
    )


def first_denoiser(config: DenoiserRecipe, events: Listener = None) -> Denoiser:
    """The recipe's denoiser with its first weights: random, copied, or made from an image model.

    Raises:
        InputError: where the weights don't fit.
    """
    denoiser, initial = build_denoiser(config.denoiser), config.initial
    if initial is None:
        return denoiser
    source = _read_denoiser(initial)
    if initial.method == "weights":
        return _copied(denoiser, source, initial.path)
    if initial.method == "stage":
        if not isinstance(denoiser, Svd) or not isinstance(source, Svd):
            raise InputError("initial.method=stage: expected svd from svd; use weights, or image for an image model's")
        report = init_svd(denoiser, source)
    else:
        report = start_from_image(denoiser, source, initial.image)
    taken, fresh, left = len(report.copied), len(report.fresh), len(report.dropped)
    events_of(events).note(f"from {initial.path}: {taken} tensors taken, {fresh} fresh, {left} left")
    return denoiser


def _read_denoiser(initial: DenoiserInitialConfig) -> nn.Module:
    """The denoiser of a model folder or run folder, or of a file of public weights."""
    try:
        folder = find_model(initial.path)
    except InputError:
        if not initial.path.exists():
            raise
        heads: dict[str, Any] = {} if initial.num_heads is None else {"num_heads": initial.num_heads}
        from kinolab import checkpoints  # all public formats

        return checkpoints.load(initial.path, prefix=initial.prefix, **heads)
    if read_model_config(folder).denoiser is None:
        raise InputError(f"{initial.path}: holds an autoencoder alone; expected a denoiser to start from")
    return load_denoiser(folder, device="cpu")


def _copied(target: Any, source: nn.Module, path: Path) -> Any:
    """`target` with all of `source`'s weights."""
    expected, given = target.state_dict(), source.state_dict()
    wrong = [k for k in expected if k not in given or given[k].shape != expected[k].shape]
    wrong += [k for k in given if k not in expected]
    if wrong:
        raise InputError(f"{path}: its weights don't fit this {target.config.kind}: {', '.join(wrong[:8])}")
    target.load_state_dict(given)
    return target
