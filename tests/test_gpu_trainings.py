"""Trainings against a clock: clips from other processes, the bank of latents, the learning rate, what comes back."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import pace
from benchmarks.gpu.bank import Bank, to_pixels
from benchmarks.gpu.pace import Learner, Log
from benchmarks.gpu.stream import Chunk, ClipStream
from kinolab import video
from kinolab.autoencoders import OdVaeConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.config import load_config
from kinolab.tasks import TasksConfig, encode_given
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.training.settings import TrainingConfig
from tests.closeness import assert_close

WORLD = WorldConfig(frames=5, size=32)
PREDICT = TasksConfig(predict_frames=(2, 2))


def test_a_stream_gives_every_clip_once_with_a_mask_of_its_task() -> None:
    stream = ClipStream(WORLD, (PREDICT,), None, first=70, workers=2, size=2, slots=3)
    try:
        seen = []
        for _ in range(4):
            chunk = stream.take(60)
            assert chunk is not None
            assert chunk.masks[:, :2].sum() == 0 and bool(chunk.masks[:, 2:].all())
            seen += [frames.clone().numpy().tobytes() for frames in chunk.frames]
            stream.give_back(chunk)
        known = {make_clip(WORLD, seed).frames.tobytes() for seed in range(70, 90)}
        assert len(set(seen)) == 8 and set(seen) <= known
    finally:
        stream.close()


def test_what_goes_wrong_in_a_process_is_said() -> None:
    stream = ClipStream(WORLD, (), Path("nowhere"), first=0, workers=1, size=1, slots=1)
    try:
        with pytest.raises(RuntimeError, match="no text encoder was carried"):
            stream.take(60)
    finally:
        stream.close()


def chunk_of(seeds: range) -> Chunk:
    """Clips of the toy world of which two frames are given."""
    clips = [make_clip(WORLD, seed) for seed in seeds]
    masks = torch.zeros(len(clips), 5, 32, 32, dtype=torch.bool)
    masks[:, 2:] = True
    labels = torch.tensor([c.label for c in clips])
    none = torch.zeros(len(clips), 22, dtype=torch.int64)
    return Chunk(0, torch.stack([torch.from_numpy(c.frames) for c in clips]), masks, none, none[:, 0], labels)


def test_a_bank_holds_the_latents_of_clips_and_of_what_is_given_and_lets_the_oldest_go() -> None:
    widths = {"hidden_size": 8, "hidden_size_mult": [1, 1, 1], "num_res_blocks": 1, "norm_num_groups": 4}
    config = load_config(OdVaeConfig, {**widths, "latent_channels": 4, "mid_attention": "none"})
    autoencoder = build_autoencoder(config).eval()
    bank, chunk = Bank(autoencoder, None, 3, torch.device("cpu")), chunk_of(range(2))
    assert_close(to_pixels(chunk.frames), torch.stack([video.to_tensor(f.numpy()) for f in chunk.frames]))
    bank.add(chunk)
    assert bank.filled == 2
    rows = bank.draw(64)
    clips = to_pixels(chunk.frames)
    with torch.no_grad():
        given, mask = encode_given(autoencoder, clips, chunk.masks[:, None].float())
        latents = autoencoder.encode(clips).mean
    for k in range(64):
        number = int((rows["latents"][k] - latents).flatten(1).norm(dim=1).argmin())
        for name, true in {"latents": latents, "given": given, "mask": mask}.items():
            assert (rows[name][k] - true[number]).norm() <= 0.05 * true[number].norm()
        assert rows["label"][k] == chunk.labels[number]
    later = chunk_of(range(2, 4))
    bank.add(later)
    assert bank.filled == 3
    assert bank.rows["label"].tolist() == [later.labels[1], chunk.labels[1], later.labels[0]]


class Line(torch.nn.Module):
    """One number, whose loss is its distance from 2."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(()))

    def loss(self) -> Tensor:
        """(x - 2)^2."""
        return (self.x - 2).square()


def test_the_learning_rate_rises_and_has_fallen_to_zero_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    settings = TrainingConfig(learning_rate=0.1, warmup=4, ema=0.5)
    line = Line()
    learner = Learner(line, settings, 1100.0, Log("line"))
    rates = []
    for second in range(100):
        now[0] = 1000.0 + second
        rates.append(learner.rate)
        learner.step(line.loss())
    now[0] = 1100.0
    assert rates[0] == pytest.approx(0.025) and max(rates) == rates[3] and learner.rate == 0
    assert rates[50] == pytest.approx(0.05) and rates[3:] == sorted(rates[3:], reverse=True)
    assert abs(float(learner.ema.shadow["x"]) - 2) < 0.2


def test_a_loss_that_is_not_finite_goes_back_to_the_average(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pace, "EVERY", 2)
    line = Line()
    learner = Learner(line, TrainingConfig(learning_rate=0.1, ema=0.5), time.time() + 1000, Log("line"))
    learner.step(line.loss())
    learner.step(line.loss())
    kept = {k: v.clone() for k, v in learner.ema.shadow.items()}
    monkeypatch.setattr(learner.ema, "update", lambda done: None)
    learner.step(line.loss() * math.nan)
    learner.step(line.loss())
    assert_close(learner.module.state_dict()["x"], kept["x"])
    said: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "at half the learning rate" in said[-1]["text"] and learner.peak == 0.05
