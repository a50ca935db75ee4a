"""One small model folder from a trained denoiser and, if wanted, a better decoder: what `kinolab pack` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from kinolab.errors import InputError
from kinolab.models import VideoModel, find_model, load_autoencoder, read_model_config
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
    model: Path | str, out: Path, *, autoencoder: Path | str | None = None, dtype: torch.dtype = torch.float16
) -> Packed:
    """Write a model folder with weights of `dtype`, its autoencoder taken from `autoencoder` where that is given.

    What is written is read back to say what it lost.

    Raises:
        InputError: where the other autoencoder's latents differ from those the denoiser was trained on.
    """
    whole, before = VideoModel.load(model, device="cpu", precision="float32"), _bytes(find_model(model))
    if autoencoder is not None:
        other = load_autoencoder(autoencoder, device="cpu")
        ours = {**whole.autoencoder.encoder_parts().state_dict(), "latent_scale": whole.autoencoder.latent_scale}
        theirs = {**other.encoder_parts().state_dict(), "latent_scale": other.latent_scale}
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        if not same or not torch.equal(whole.autoencoder.latent_shift, other.latent_shift):
            raise InputError(
                f"{autoencoder}: its encoder is not the one that {model} was trained with, so the latents don't fit; "
                "train the decoder alone (trained: decoder)"
            )
        trained = f"{whole.config.trained}; autoencoder: {read_model_config(find_model(autoencoder)).trained}"
        config = whole.config.model_copy(update={"autoencoder": other.config, "trained": trained})
        whole = VideoModel(config, other, whole.denoiser)
    whole.save(out, dtype=dtype)
    stored = VideoModel.load(out, device="cpu", precision="float32")
    name, error = largest_error(whole.state_dict(), stored.state_dict())
    return Packed(out, before, _bytes(out), name, error)


def _bytes(folder: Path) -> int:
    """Bytes of all files of a model folder."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
