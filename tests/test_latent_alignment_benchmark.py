"""The table of latents: an aligned autoencoder is at distance zero, a shifted one is not."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks import latent_alignment
from kinolab.autoencoders import DpVae, DpVaeConfig, ImageAutoencoder, ImageConfig, inflate_dpvae
from kinolab.errors import InputError
from kinolab.models import VideoModel, save_autoencoder

IMAGE = ImageConfig(
    block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, mid_block_attention=False
)


@pytest.mark.slow
def test_distances_are_zero_for_image_latents_and_grow_with_a_shift(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = ImageAutoencoder(IMAGE).eval()
    save_autoencoder(image, tmp_path / "image")
    # Inflated by the last kernel, a video latent is the image latent of the last frame that it stands for.
    video = inflate_dpvae(image, DpVaeConfig(image=IMAGE, group_frames=9), "tail").eval()
    save_autoencoder(video, tmp_path / "dpvae")
    with torch.no_grad():
        video.get_parameter("encoder.conv_out.conv.weight").mul_(1.5)
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


@pytest.mark.slow
def test_latents_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    image = ImageAutoencoder(IMAGE).eval()
    save_autoencoder(image, tmp_path / "image")
    wider, coarser = IMAGE.model_copy(update={"latent_channels": 8}), (8, 8, 8, 8)
    made = {
        "wider": DpVaeConfig(image=wider, group_frames=9),
        "coarser": DpVaeConfig(image=IMAGE.model_copy(update={"block_out_channels": coarser}), group_frames=9),
        "short": DpVaeConfig(image=IMAGE, group_frames=5),
        "finer": DpVaeConfig(image=IMAGE, group_frames=9, temporal_ratio=2),
        "fine": DpVaeConfig(image=IMAGE, group_frames=9),
    }
    for name, config in made.items():
        save_autoencoder(DpVae(config).eval(), tmp_path / name)
    for names, frames, said in (
        (["wider"], 9, "wider: latent channels 8, and 4 of the image autoencoder"),
        (["coarser"], 9, "coarser: spatial ratio 8, and 4 of the image autoencoder"),
        (["short"], 9, r"short: expected clips of one group, a first frame and 4\*k more, got 9 frames of 5"),
        (["fine"], 8, "fine: expected clips of one group, .* got 8 frames of 9; change --frames"),
        (["fine", "finer"], 9, "of one temporal ratio in a table, got 2 and 4"),
    ):
        folders = [str(tmp_path / name) for name in names]
        arguments = [str(tmp_path / "image"), *folders, "--clips", "1", "--size", "32", "--frames", str(frames)]
        with pytest.raises(InputError, match=said):
            latent_alignment.main(arguments, lambda text: None)


def test_a_loss_is_the_mean_over_clips_whatever_the_last_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clips in batches of two: the last one counts a third, not a half."""
    torch.manual_seed(0)
    image = ImageAutoencoder(IMAGE).eval()
    video = inflate_dpvae(image, DpVaeConfig(image=IMAGE, group_frames=5), "tail").eval()
    monkeypatch.setattr(latent_alignment, "BATCH", 2)
    monkeypatch.setattr(latent_alignment, "_loss", lambda model, latents, captions, seed: float(seed))
    clips, captions, model = torch.rand(3, 3, 5, 32, 32), ["a"] * 3, cast(VideoModel, object())
    rows = [
        latent_alignment.measure(image, model, "a", video, clips, captions),
        latent_alignment._image_row(image, model, clips[:, :, 4::4], captions),
    ]
    assert [row.loss for row in rows] == [pytest.approx(2 / 3)] * 2
