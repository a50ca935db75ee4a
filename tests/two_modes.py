"""A world of two unequal modes, whose optimal denoiser is known in closed form: does a student find its teacher's?

Every place of the latents (B, C, T, H, W) is a point of its own, (B, C, 1, 1, 1) is one for each clip; in clips of
several frames all frames of a place are of one mode, so that a point is (B, C, T, 1, 1). The data are a mixture of two
Gaussians of one deviation around opposite centres, of weights such as 0.3 and 0.7. On any path
z = alpha x + sigma e a mixture stays one, so that E[x | z] is exact (`TwoModes.clean`), and `Points` predicts it in the
diffusion's own type. It is teacher and student at once, as a student of the house begins with its teacher's weights:
the closed form, and a small network of the point and the time whose last layer is zero in a teacher.

    with two_modes(tmp_path, DiffusionConfig(schedule="flow", prediction="flow")) as world:
        job = world.job(SomeJob, {"steps": 500, "learning_rate": 1e-3})
        world.train(job, tmp_path / "run")
        world.judged(job.network, SamplerConfig(name="ddim", steps=2)).check()

A student is judged by what it samples: by the sliced Wasserstein distance to the teacher's samples, which is to lie
where two draws of the teacher of equal size lie from each other, and by the weights of the modes, within 2%.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kinolab.autoencoders.pixel import PixelAutoencoder, PixelConfig
from kinolab.config import load_config
from kinolab.contracts.conditions import Conditions
from kinolab.contracts.examples import Example, Source
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers.base import BaseDenoiserConfig, Denoiser, DenoiserSpec
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.layers.embeddings import time_features
from kinolab.layers.ports import ConditionPorts, named_ports
from kinolab.models import ModelConfig, VideoModel
from kinolab.runtime.ranks import Ranks
from kinolab.tables import DENOISERS
from kinolab.training.trainer import Job, Trainer

CHANNELS, SIDE = 3, 8
FEATURES = 16
WITHIN = 0.02
"""How far the weight of a mode may be from the teacher's."""


@dataclass(frozen=True)
class TwoModes:
    """weight N(c, d^2) + (1 - weight) N(-c, d^2) for points of C numbers, with all numbers of the centre alike."""

    weight: float = 0.3
    centre: float = 0.8
    deviation: float = 0.25

    def draw(self, count: int, source: torch.Generator, frames: int = 1) -> Tensor:
        """Points of the data: (count, C * frames)."""
        sign = torch.where(torch.rand(count, 1, generator=source) < self.weight, 1.0, -1.0)
        return sign * self.centre + self.deviation * torch.randn(count, CHANNELS * frames, generator=source)

    def clean(self, z: Tensor, alpha: Tensor, sigma: Tensor, past: Tensor | float = 0.0) -> Tensor:
        """E[x | z] for z (B, C, T, ...), with alpha and sigma that broadcast against it.

        past: (B, 1, 1, ...) log of the modes' odds given frames before (`odds_of`), where there are any.
        """
        variance = (alpha * self.deviation).square() + sigma.square()
        # The log of the modes' odds given z: of their weights, and of the distances to both centres.
        near = past + (2 * alpha * self.centre * z / variance).sum((1, 2), keepdim=True)
        mean = torch.tanh((math.log(self.weight / (1 - self.weight)) + near) / 2) * self.centre
        return mean + alpha * self.deviation**2 / variance * (z - alpha * mean)

    def odds_of(self, past: Tensor) -> Tensor:
        """(B, 1, 1, ...) log of the modes' odds, but for their weights, given clean frames (B, C, T, ...)."""
        return (2 * self.centre * past / self.deviation**2).sum((1, 2), keepdim=True)

    def share(self, points: Tensor) -> float:
        """The share of points (N, C * T) that lie on the side of the first mode."""
        return float((points.sum(1) > 0).double().mean())


class PointsConfig(BaseDenoiserConfig):
    """The closed form and the network beside it."""

    kind: Literal["points"] = "points"
    weight: float = 0.3
    width: int = 64
    vectors: dict[str, int] = {}  # noqa: RUF012
    diffusion: DiffusionConfig = DiffusionConfig()
    input_size: int = SIDE
    num_frames: int = 1
    """Frames of a clip; a denoiser of several also has a block-causal form."""


class Points(Denoiser):
    """What the optimal denoiser predicts, and a network of the point and the time, which begins as nothing."""

    Config = PointsConfig

    def __init__(self, config: PointsConfig) -> None:
        super().__init__()
        self.config, self.modes = config, TwoModes(config.weight)
        self.spec = DenoiserSpec(CHANNELS, learned_variance=False, more=named_ports(config.vectors, {}))
        self.ports = ConditionPorts(config.vectors, {}, FEATURES, 1)
        self.process = Diffusion(config.diffusion)
        W, told = config.width, int(config.num_frames > 1)
        self.net = nn.Sequential(
            nn.Linear(CHANNELS + FEATURES + told, W), nn.SiLU(), nn.Linear(W, W), nn.SiLU(), nn.Linear(W, CHANNELS)
        )
        last: Any = self.net[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,) -> the prediction, of the same shape."""
        alpha, sigma = self.process.coefficients(t, z)
        past = self.past(z, options)
        sample = self.modes.clean(z, alpha, sigma, past)
        known = self.process.target(sample, (z - alpha * sample) / sigma, t)
        points = z.movedim(1, -1)
        features = self.ports.add_vectors(time_features(t, FEATURES).to(z), conditions)
        features = features.view(-1, 1, 1, 1, FEATURES).expand(*points.shape[:-1], FEATURES)
        told = [points, features]
        if self.config.num_frames > 1:  # what other frames say: the sign of the mode, as far as it is known
            told.append((sample.mean((1, 2), keepdim=True) + 0 * z[:, :1]).movedim(1, -1))
        return known + self.net(torch.cat(told, -1)).movedim(-1, 1)

    def check_causal(self) -> None:
        """Of several frames it has a causal form, which reads the clean frames before by what is kept of them."""
        if self.config.num_frames == 1:
            super().check_causal()

    def past(self, z: Tensor, options: ForwardOptions | None) -> Tensor | float:
        """The modes' odds given the frames of blocks before; a frame's points are what is kept of it."""
        plan = self.plan(z.shape[2], options)
        if plan is None or plan.kept is None:
            return 0.0
        own = z.permute(0, 2, 3, 4, 1).flatten(2, 3)[:, :, :, None]  # (B, T, S, 1, C)
        known = plan.kept.joined(self, own, own)[0][:, : len(plan.kept.numbers)]
        return self.modes.odds_of(known[:, :, :, 0].unflatten(2, z.shape[3:]).permute(0, 4, 1, 2, 3))


class PointsSource(Source):
    """Clips of one frame, or of several, every place of which is a point."""

    encoded = True

    def __init__(self, modes: TwoModes, frames: int = 1, count: int = 512) -> None:
        self.modes, self.frames, self.count = modes, frames, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        """Clip `index`, the same one whenever it is asked for."""
        points = self.modes.draw(SIDE * SIDE, torch.Generator().manual_seed(index), self.frames)
        clip = points.T.reshape(CHANNELS, self.frames, SIDE, SIDE)
        return Example(clip, 8.0, None, None, f"points/{index}", (0.0, self.frames / 8), encoded=True)


def as_points(latents: Tensor) -> Tensor:
    """(B, C, T, H, W) -> the points (N, C * T)."""
    return latents.flatten(1, 2).movedim(1, -1).flatten(0, 2)


def sliced_wasserstein(a: Tensor, b: Tensor, slices: int = 64) -> float:
    """The mean over random directions of the 2-Wasserstein distance of two sets (N, C), projected on them."""
    directions = torch.randn(a.shape[1], slices, generator=torch.Generator().manual_seed(0)).double()
    directions = directions / directions.norm(dim=0)
    ours, theirs = ((points.double() @ directions).sort(0).values for points in (a, b))
    return float((ours - theirs).square().mean(0).sqrt().mean())


@dataclass(frozen=True)
class Judged:
    """How far a student's samples are from the teacher's, the interval of two draws of the teacher, and the weights."""

    distance: float
    interval: tuple[float, float]
    share: float
    teachers: float

    def check(self) -> None:
        """Fail where the student does not sample what its teacher does."""
        low, high = self.interval
        assert self.distance <= high, f"{self.distance:.4f} apart; two draws of the teacher {low:.4f} to {high:.4f}"
        assert abs(self.share - self.teachers) <= WITHIN, (
            f"a mode's weight is {self.share:.3f}, not {self.teachers:.3f}"
        )


@dataclass(frozen=True)
class World:
    """A teacher in a model folder, and what a job of its student is made of."""

    folder: Path
    diffusion: DiffusionConfig
    modes: TwoModes
    frames: int = 1

    def recipe(self, job: type[Job], training: dict[str, Any], **fields: Any) -> Any:
        """The recipe of a job with this teacher; its training is quiet, in float32 and without an average."""
        quiet = {
            "device": "cpu", "precision": "float32", "tensorboard": False, "log_every": 100, "batch_size": 16,
            "evaluate_every": 10**9, "sample_every": 10**9, "save_every": 10**9, "ema": 0.0,
        }  # fmt: skip
        kind = job.Recipe.model_fields["kind"].default
        values = {"kind": kind, "name": "points", "teacher": str(self.folder), "data": {"kind": "world"}}
        return load_config(job.Recipe, {**values, **fields, "training": {**quiet, **training}}, name="recipe")

    def job(self, kind: type[Any], training: dict[str, Any], **fields: Any) -> Any:
        """The job of that recipe, on points."""
        recipe, source = self.recipe(kind, training, **fields), PointsSource(self.modes, self.frames)
        torch.manual_seed(recipe.training.seed)
        student = kind.start(recipe, None)
        return kind(recipe, PixelAutoencoder(PixelConfig(channels=CHANNELS)), student, source, source)

    def train(self, job: Job, folder: Path, until: int | None = None) -> Trainer:
        """Train it to its last step, without a model folder."""
        job.export = job.sample = lambda *args: None  # type: ignore[method-assign]
        job.evaluate = lambda ranks: {}  # type: ignore[method-assign]
        recipe: Any = job.recipe  # type: ignore[attr-defined]
        trainer = Trainer(job, recipe.training, folder, Ranks())
        trainer.run(until)
        return trainer

    @property
    def teacher(self) -> Points:
        """The optimal denoiser."""
        config = PointsConfig(weight=self.modes.weight, diffusion=self.diffusion, num_frames=self.frames)
        return Points(config).eval()

    def sampled(self, network: Denoiser, sampler: SamplerConfig, count: int = 4096, seed: int = 0) -> Tensor:
        """Points (count, C * T) that a denoiser samples."""
        source = torch.Generator().manual_seed(seed)
        noise = torch.randn(count // SIDE**2, CHANNELS, self.frames, SIDE, SIDE, generator=source)
        process = Diffusion(self.diffusion)
        return as_points(process.sample(network, noise, Conditions(), sampler=sampler, generator=source))

    def judged(
        self, student: Denoiser, sampler: SamplerConfig, usual: SamplerConfig | None = None, count: int = 4096,
        draws: int = 16,
    ) -> Judged:  # fmt: skip
        """A student with its own sampler, against its teacher with the usual one (64 steps of DDIM)."""
        return self.judge(self.sampled(student.eval(), sampler, count, seed=1), usual, draws)

    def judge(self, ours: Tensor, usual: SamplerConfig | None = None, draws: int = 16) -> Judged:
        """Points (count, C * T) of a student, against its teacher's with the usual sampler.

        The distance is the middle one of those to `draws` draws of the teacher; the interval that of the distances of
        its draws from each other, two after another.
        """
        count = len(ours)
        usual = usual or SamplerConfig(name="ddim", steps=64, spacing="trailing")
        theirs = [self.sampled(self.teacher, usual, count, seed=1000 + k) for k in range(draws)]
        pairs = [sliced_wasserstein(theirs[k], theirs[k - 1]) for k in range(draws)]
        distance = sorted(sliced_wasserstein(ours, other) for other in theirs)[draws // 2]
        share = sum(map(self.modes.share, theirs)) / draws
        return Judged(distance, (min(pairs), max(pairs)), self.modes.share(ours), share)


@contextmanager
def two_modes(
    folder: Path, diffusion: DiffusionConfig, modes: TwoModes = TwoModes(), frames: int = 1
) -> Iterator[World]:
    """The world with its teacher in `folder / teacher`; within this context `points` is a kind of denoiser."""
    DENOISERS.register("points")(Points)
    try:
        config = PointsConfig(weight=modes.weight, diffusion=diffusion, num_frames=frames)
        pixels = PixelConfig(channels=CHANNELS)
        made = ModelConfig(
            autoencoder=pixels,
            denoiser=config,
            diffusion=diffusion,
            frames=frames,
            size=(SIDE, SIDE),
            trained="in closed form",
        )
        VideoModel(made, PixelAutoencoder(pixels), Points(config)).save(folder / "teacher")
        yield World(folder / "teacher", diffusion, modes, frames)
    finally:
        DENOISERS.remove("points")
