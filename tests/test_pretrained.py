"""The weights that ship: their size, and on a few held-out requests the quality that the README states for 256."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinolab import VideoModel, video
from kinolab.data.toy import HELDOUT_SEEDS
from kinolab.data.world import WorldConfig, make_clip
from kinolab.diffusion import SamplerConfig
from kinolab.evaluation.physics import evaluate_physics
from kinolab.evaluation.tasks import evaluate_tasks
from kinolab.metrics.reconstruction import Psnr
from kinolab.metrics.world import check, read_world
from kinolab.model import shipped_models


def test_all_shipped_weights_stay_within_25_megabytes() -> None:
    models = shipped_models()
    assert "world" in models
    assert sum(f.stat().st_size for folder in models.values() for f in Path(folder).iterdir()) <= 25e6


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return VideoModel.load("world", precision="float32")


def test_the_autoencoder_reconstructs_heldout_clips(model: VideoModel) -> None:
    """The README states the mean over 256 clips; 12 of them scatter by about half a decibel."""
    psnr = Psnr()
    for k in range(12):
        clip = video.to_tensor(make_clip(WorldConfig(), HELDOUT_SEEDS + k).frames)[None]
        with torch.no_grad():
            psnr.update(clip, model.decode(model.autoencoder.encode(clip).mean))
    assert psnr.compute().value > 36.0


def test_its_latents_are_normalised(model: VideoModel) -> None:
    clips = [video.to_tensor(make_clip(WorldConfig(), HELDOUT_SEEDS + k).frames)[None] for k in range(8)]
    with torch.no_grad():
        latents = torch.cat([model.autoencoder.encode(c).mean for c in clips])
    assert latents.mean((0, 2, 3, 4)).abs().max() < 0.3
    assert (latents.std((0, 2, 3, 4)) - 1).abs().max() < 0.3


def test_its_stream_is_exact(model: VideoModel) -> None:
    clip = video.to_tensor(make_clip(WorldConfig(frames=33), HELDOUT_SEEDS).frames)[None]
    with torch.no_grad():
        whole = model.autoencoder.decode(model.autoencoder.encode(clip).mean)
        latents = (p.mean for p in model.autoencoder.encode_stream(clip.split(5, dim=2)))
        streamed = torch.cat(list(model.autoencoder.decode_stream(latents)), dim=2)
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=0)


def test_prompts_show_what_they_ask_for(model: VideoModel) -> None:
    """Twelve held-out requests. Of 256 the README states 62.5% with the right colours, 79.7% with the right direction;
    a model that good falls below these counts about once or twice in a hundred draws of twelve."""
    clips = [make_clip(WorldConfig(), HELDOUT_SEEDS + k) for k in range(12)]
    made = model.generate([c.caption for c in clips], sampler=SamplerConfig(name="heun", steps=8), seed=0)
    checks = [check(c.request, read_world(video.to_uint8(m))) for c, m in zip(clips, made, strict=True)]
    assert sum(c.colours for c in checks) >= 4
    assert sum(c.direction for c in checks) >= 7


def test_it_predicts_better_than_standing_still(model: VideoModel) -> None:
    """Six held-out clips, one of each scenario; docs/tasks.md states 5.0 px against 8.5 for sixty."""
    report = evaluate_physics(model, given=[8], count=6, sampler=SamplerConfig(name="euler", steps=10))
    assert report.error("model", 8, 1) < 0.75 * report.error("copy last", 8, 1)
    assert report.error("model", 8) < report.error("copy last", 8)


def test_it_does_every_task(model: VideoModel) -> None:
    """Six held-out clips. docs/tasks.md states more: 28.9 dB and 1.1 px for three missing frames of thirty-two."""
    report = evaluate_tasks(model, count=6, sampler=SamplerConfig(name="euler", steps=10))
    results = {r.task: r for r in report.results}
    assert report.notes == () and len(results) == 12
    between, box = results["interpolate, 3 missing"], results["complete, moving box"]
    assert between.made_psnr > 26 and between.error < 2.5 and box.made_psnr > 16
    assert results["predict from 8 frames"].given_psnr > 32
