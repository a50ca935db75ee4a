"""One small model folder from a trained denoiser and, if wanted, a better decoder: what `kinolab pack` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kinolab.errors import InputError
from kinolab.models.assemble import cascade, same_latents, with_experts
from kinolab.models.folder import find_model, load_autoencoder, read_model_config
from kinolab.models.model import VideoModel
from kinolab.runtime.modules import largest_error


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote: the folder, bytes of the model folder it came from and of this one, and what storing cost.

    error: the largest |stored - weights| / |weights| of a tensor; tensor: its name, or "" where nothing changed.
    """

    folder: Path
    before: int
    after: int
    tensor: str
    error: float


def pack(
    model: Path | str,
    out: Path,
    *,
    autoencoder: Path | str | None = None,
    dtype: torch.dtype = torch.float16,
    experts: Mapping[float, Path | str] | None = None,
    stages: Mapping[str, Path | str] | None = None,
    adapt: Callable[[VideoModel], VideoModel] = lambda model: model,
) -> Packed:
    """Write a model folder with weights of `dtype`. What is written is read back to say what it lost.

    Args:
        autoencoder: where its autoencoder is taken from, where that is not the model's own.
        experts: model folders whose denoisers take the model's place at cleaner times, each up to a fraction of time.
        adapt: puts adapters on the model, before anything else.
        stages: model folders that refine what the model made, in order, by the names that the stages get.

    Raises:
        InputError: where the other autoencoder's latents differ from those the denoiser was trained on, or experts or
            stages don't fit.
    """
    whole, before = VideoModel.load(model, device="cpu", precision="float32"), _bytes(find_model(model))
    whole = adapt(whole)
    if autoencoder is not None:
        other = load_autoencoder(autoencoder, device="cpu")
        if not same_latents(whole.autoencoder, other):
            raise InputError(
                f"{autoencoder}: its encoder is not the one that {model} was trained with, so the latents don't fit; "
                "train the decoder alone (trained: decoder)"
            )
        trained = f"{whole.config.trained}; autoencoder: {read_model_config(find_model(autoencoder)).trained}"
        config = whole.config.model_copy(update={"autoencoder": other.config, "trained": trained})
        whole = VideoModel(config, other, whole.denoiser, **whole.others)
    whole = cascade(with_experts(whole, experts or {}), stages or {})
    whole.save(out, dtype=dtype)
    stored = VideoModel.load(out, device="cpu", precision="float32")
    name, error = largest_error(whole.state_dict(), stored.state_dict())
    return Packed(out, before, _bytes(out), name, error)


def _bytes(folder: Path) -> int:
    """Bytes of all files of a model folder."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
