"""The table of latents: an aligned autoencoder is at distance zero, a shifted one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import latent_alignment
from kinolab.autoencoders import DpVaeConfig, ImageAutoencoder, ImageConfig, inflate_dpvae
from kinolab.errors import InputError
from kinolab.model import save_autoencoder

IMAGE = ImageConfig(
    block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, mid_block_attention=False
)


def test_distances_are_zero_for_image_latents_and_grow_with_a_shift(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = ImageAutoencoder(IMAGE).eval()
    save_autoencoder(image, tmp_path / "image")
    # Inflated by the last kernel, a video latent is the image latent of the last frame that it stands for.
    video = inflate_dpvae(image, DpVaeConfig(image=IMAGE, group_frames=9), "tail").eval()
    save_autoencoder(video, tmp_path / "dpvae")
    with torch.no_grad():
        video.encoder.conv_out.conv.weight.mul_(1.5)
    save_autoencoder(video, tmp_path / "drifted")
    said: list[str] = []
    videos = [f"near={tmp_path / 'dpvae'}", str(tmp_path / "drifted")]
    arguments = [str(tmp_path / "image"), *videos, "--clips", "3", "--size", "32", "--frames", "9"]
    latent_alignment.main([*arguments, "--markdown", str(tmp_path / "table.md")], said.append)
    assert (tmp_path / "table.md").read_text() == said[0]
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in said[0].splitlines() if line.startswith("| ")}
    assert list(rows) == ["latents of", "---", "image", "near", "drifted"]
    near, drifted = (float(rows[name][1]) for name in ("near", "drifted"))
    assert near < 1e-4 < drifted
    with pytest.raises(InputError, match="expected an image autoencoder, got dpvae"):
        latent_alignment.main([str(tmp_path / "dpvae"), str(tmp_path / "dpvae")], said.append)
