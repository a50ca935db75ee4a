"""Joint training on buckets: shares of steps, batches of equal cost, exact resumption, and what a model records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import data
from kinolab.config import load_config
from kinolab.contracts.examples import Example, Source
from kinolab.data import encode_to_cache
from kinolab.denoisers import Conditions, Denoiser, DenoiserSpec
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, Request, VideoModel, load_autoencoder, save_autoencoder
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import MicroBatch, micro_batches
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.mix import BucketMix, MixConfig, bucket_mix
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.settings import TrainingConfig
from tests.data.clip_files import write_numbered
from tests.tiny_model import tiny_model

SHAPES = [(17, 64, 64), (17, 32, 64), (1, 64, 64)]
GROUPS = [[0, 1, 2, 3], [4, 5], list(range(6, 26))]
POSITIONS = [5 * 16 * 16, 5 * 8 * 16, 16 * 16]


def settle(**values: Any) -> BucketMix:
    return bucket_mix(load_config(MixConfig, values), GROUPS, SHAPES, POSITIONS)


def normalised(mix: BucketMix, *steps: int) -> list[list[float]]:
    shares = mix.shares(np.array(steps))
    return (shares / shares.sum(1, keepdims=True)).tolist()


def test_by_latents_every_bucket_costs_alike_and_every_clip_is_seen_alike() -> None:
    mix = settle(batch="latents")
    assert mix.ratios == [1.0, 2.0, 5.0]
    assert normalised(mix, 0)[0] == pytest.approx([4 / 9, 1 / 9, 4 / 9])
    assert settle(batch="clips", schedule=[{"weights": {"1": 1}}]).ratios == [1.0] * 3


def test_the_schedule_is_linear_between_its_points() -> None:
    mix = settle(schedule=[{"at": 10, "weights": {1: 3, 17: 1}}, {"at": 20, "weights": {"17x64x64": 2, "1": 2}}])
    first, last = [1 / 4 * 4 / 6, 1 / 4 * 2 / 6, 3 / 4], [0.5, 0.0, 0.5]
    middle = [(a + b) / 2 for a, b in zip(first, last, strict=True)]
    for got, expected in zip(normalised(mix, 0, 10, 15, 20, 99), [first, first, middle, last, last], strict=True):
        assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": [{"weights": {"9": 1}}]}, "no bucket 9 in the data; it has 17x64x64, 17x32x64, 1x64x64"),
        ({"schedule": [{"weights": {"1": 0}}]}, "one of them above"),
        ({"schedule": [{"weights": {"1": -1, "17": 2}}]}, "weights of at least 0"),
        (
            {"schedule": [{"at": 5, "weights": {"1": 1}}, {"at": 5, "weights": {"1": 1}}]},
            r"rising steps, got \[5, 5",
        ),
    ],
)
def test_impossible_mixes_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settle(**values)


class Numbers(Source):
    """Windows that say their numbers."""

    clip = torch.zeros(3, 1, 2, 2)

    def __len__(self) -> int:
        return 26

    def __getitem__(self, index: int) -> Example:
        return Example(self.clip, 8.0, None, None, str(index), (0.0, 1.0))


def indices(config: TrainingConfig, mix: BucketMix, first: int = 0, ranks: Ranks = Ranks()) -> list[list[MicroBatch]]:
    return list(micro_batches(Numbers(), config, first, ranks, mix=mix))


def test_micro_batches_grow_as_clips_shrink_and_hold_one_bucket() -> None:
    config = TrainingConfig(steps=30, batch_size=4, micro_batch=2)
    sizes = {0: 2, 1: 4, 2: 10}
    for step in indices(config, settle(batch="latents")):
        numbers = {int(e.source) for m in step for e in m.examples}
        [group] = [g for g, members in enumerate(GROUPS) if numbers & set(members)]
        assert [len(m.examples) for m in step] == [sizes[group]] * 2
        assert [p for m in step for p in m.positions] == list(range(2 * sizes[group]))


def test_a_resumed_run_and_more_processes_see_the_same() -> None:
    config = TrainingConfig(steps=20, batch_size=4, micro_batch=2)
    whole = indices(config, settle(batch="latents"))
    assert indices(config, settle(batch="latents"), first=13) == whole[13:]
    pair = [indices(config, settle(batch="latents"), ranks=Ranks(rank, 2)) for rank in range(2)]
    assert [a + b for a, b in zip(*pair, strict=True)] == whole


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of ratio 4 x 4 and a cache of three buckets."""
    root = tmp_path_factory.mktemp("mix")
    save_autoencoder(tiny_model().autoencoder, root / "autoencoder")
    for k in range(3):
        write_numbered(root / "clips" / f"long{k}.mkv", 5, mark=k, width=32, height=32)
        write_numbered(root / "clips" / f"wide{k}.mkv", 5, mark=40 + k, width=64, height=32)
    buckets = [{"frames": 5, "size": 32}, {"frames": 5, "size": [16, 32]}, {"frames": 1, "size": 32}]
    values = {"kind": "folder", "path": root / "clips", "buckets": buckets, "lengths": "all", "index": "none"}
    source = data.FolderSource(load_config(data.FolderConfig, values | {"split": "all"}))
    encode_to_cache(source, load_autoencoder(root / "autoencoder").eval(), root / "cache", dtype="float32")
    return root


class Told(Denoiser):
    """Takes a frame rate and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = DenoiserSpec(channels=4, learned_variance=False, fps=True)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[tuple[int, ...], list[float]]] = []

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: object = None) -> Tensor:
        self.check_inputs(z, t, conditions)
        assert conditions.fps is not None
        self.seen.append((tuple(z.shape), conditions.fps.tolist()))
        return z * self.weight


def job(place: Path, **values: Any) -> tuple[DenoiserJob, Told]:
    recipe = load_recipe({
        "kind": "denoiser", "name": "tiny", "autoencoder": str(place / "autoencoder"),
        "data": {"kind": "cache", "path": str(place / "cache"), "split": "all"},
        "denoiser": {"kind": "latte", "in_channels": 4}, "diffusion": {"schedule": "flow", "prediction": "flow"},
        "training": {"steps": 12, "batch_size": 2, "precision": "float32"}, **values,
    })  # fmt: skip
    assert isinstance(recipe, DenoiserRecipe)
    source, denoiser = data.build(recipe.data), Told()
    made = DenoiserJob(recipe, load_autoencoder(recipe.autoencoder), denoiser, source, source)
    for part in made.parts.values():
        part.wrapped = part.module
    return made, denoiser


def test_a_job_trains_and_measures_every_bucket(place: Path) -> None:
    made, denoiser = job(place, mix={"batch": "latents"})
    for step, [micro] in enumerate(made.batches(0, Ranks())):
        loss, _ = made.loss("denoiser", micro, step)
        assert torch.isfinite(loss)
    batches = {shape[2:]: (shape[0], set(fps)) for shape, fps in denoiser.seen}
    assert batches == {(2, 8, 8): (2, {10.0}), (2, 4, 8): (4, {10.0}), (1, 8, 8): (4, {0.0})}
    denoiser.seen.clear()
    assert made.evaluate(Ranks())["loss"] > 0
    assert {shape[2:] for shape, _ in denoiser.seen} == set(batches)


def test_frames_of_clips_of_several_lengths_are_images_of_one_shape(place: Path) -> None:
    buckets = [{"frames": 5, "size": [16, 32]}, {"frames": 1, "size": 32}]
    clips = {"kind": "folder", "path": str(place / "clips"), "buckets": buckets, "lengths": "all", "index": "none"}
    made, denoiser = job(place, data=clips | {"split": "all"}, frames_per_clip=2, heldout_clips=7)
    config = made.model().config
    assert (config.frames, config.size) == (1, (32, 32)), "the largest image, not that of the longest clip"
    assert config.buckets == ((1, 32, 32), (1, 16, 32))
    first, again = (made.evaluate(Ranks()) for _ in range(2))
    assert first == again, "the same frames and the same noise every time"
    assert {shape[2:] for shape, _ in denoiser.seen} == {(1, 8, 8), (1, 4, 8)}
    assert {rate for _, fps in denoiser.seen for rate in fps} == {0.0}, "an image has no frame rate"


def test_a_model_records_its_buckets_and_warns_outside(place: Path) -> None:
    made, _ = job(place)
    config = made.model().config
    assert config.buckets == ((5, 32, 32), (5, 16, 32), (1, 32, 32))
    assert (config.frames, config.size, config.fps) == (5, (32, 32), 10.0)
    model = VideoModel(config, made.autoencoder, denoiser := Told())
    model.precision = "float32"
    model.sample_latents([Request(frames=1), Request(frames=1)], guidance=GuidanceConfig())
    assert denoiser.seen[-1] == ((2, 4, 1, 8, 8), [0.0, 0.0])
    model.sample_latents([Request(fps=24.0), Request()], guidance=GuidanceConfig())
    assert denoiser.seen[-1] == ((2, 4, 2, 8, 8), [24.0, 10.0])
    with pytest.warns(UserWarning, match="trained on 1 to 5 frames, asked for 9"):
        model.sample_latents([Request(frames=9)], guidance=GuidanceConfig())
    with pytest.warns(UserWarning, match="trained on pictures of height / width 0.5 to 1, asked for 32x16"):
        model.sample_latents([Request(size=(32, 16))], guidance=GuidanceConfig())


def test_old_models_have_no_buckets() -> None:
    assert tiny_model().config.buckets == () and "buckets" in ModelConfig.model_fields


def test_a_frame_rate_is_checked() -> None:
    z, t = torch.zeros(2, 4, 1, 4, 4), torch.zeros(2)
    with pytest.raises(InputError, match="built without fps conditions"):
        tiny_model().denoiser.check_inputs(z, t, Conditions(fps=torch.ones(2)))
    with pytest.raises(InputError, match=r"expected fps of shape \(2,\), got \(3,\)"):
        Told().check_inputs(z, t, Conditions(fps=torch.ones(3)))


def test_joint_images_need_clips_of_one_size(place: Path) -> None:
    with pytest.raises(InputError, match="joint images need clips of one size"):
        job(place, image_frames=1)
