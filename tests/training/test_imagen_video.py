"""Imagen Video's cascade in the smallest world: what each stage is trained on, and all of them from text to video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab import video
from kinolab.conditioning.crops import crop_of
from kinolab.conditioning.low_resolution import shrunk
from kinolab.contracts.examples import Example, Source
from kinolab.denoisers import build
from kinolab.errors import InputError
from kinolab.models import VideoModel, load_autoencoder
from kinolab.models.assemble import cascade
from kinolab.training.batches import MicroBatch
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import load_recipe, shipped_recipes
from kinolab.training.run import make_job, train
from tests.closeness import assert_close, assert_same, differs
from tests.training.tiny import QUIET

UNET: dict[str, Any] = {
    "kind": "imagen_video", "block_out_channels": [8, 16], "layers_per_block": 1, "attention_levels": [],
    "num_heads": 2, "norm_groups": 4, "in_channels": 3, "input_size": 32, "num_classes": 6,
}  # fmt: skip
REFINES: dict[str, Any] = {
    **UNET, "temporal": "convolution", "spatial_attention": False, "concatenated": {"low_resolution": 3},
    "vectors": {"noise_level": 0},
}  # fmt: skip
SPATIAL: dict[str, Any] = {
    "denoiser": REFINES, "size": 64, "crop": 32, "window_frames": 2,
    "conditions": {"low_resolution": {"factor": 2, "dropout": 0.0}},
}  # fmt: skip
TEMPORAL: dict[str, Any] = {
    "denoiser": REFINES, "conditions": {"low_resolution": {"factor": 1, "frames_factor": 2, "dropout": 0.0}},
}  # fmt: skip


def recipe(size: int = 32, frames: int = 5, fps: float = 8.0, **changes: Any) -> dict[str, Any]:
    world = {"size": size, "frames": frames, "fps": fps}
    return {
        "kind": "denoiser", "name": "tiny", "data": {"kind": "world", "world": world, "count": 8, "heldout_count": 4},
        "autoencoder": "pixels", "denoiser": UNET, "diffusion": {"schedule": "cosine_logsnr", "prediction": "v"},
        "heldout_clips": 2, "samples": {"labels": [1], "sampler": {"name": "ddim", "steps": 2}},
        "training": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, **QUIET, "sample_every": 2},
        **changes,
    }  # fmt: skip


def job_of(**values: Any) -> Any:
    job: Any = make_job(load_recipe(recipe(**values)))
    job.parts["denoiser"].wrapped = job.network
    return job


def batch(job: Any, count: int = 2) -> MicroBatch:
    return MicroBatch(list(range(count)), [job.source[i] for i in range(count)])


def test_a_stage_that_enlarges_is_trained_on_crops_and_makes_whole_clips() -> None:
    job = job_of(**SPATIAL)
    assert (job.model().config.frames, job.model().config.size) == (5, (64, 64))
    chosen = job.assembly.images(batch(job), 3)
    places = set()
    for example, given in zip(chosen.examples, (job.source[0], job.source[1]), strict=True):
        crop = crop_of(example)
        assert example.video.shape == (3, 2, 32, 32) and crop is not None and crop.whole.shape == (3, 2, 64, 64)
        assert_same(crop.cut(crop.whole), example.video)
        assert any(torch.equal(crop.whole[:, 0], frame) for frame in given.video.unbind(1))
        places.add(crop.corner)
    told = job.assembly.batch(batch(job), 3)
    levels = told.conditions["noise_level"].value
    for example, z, low, level in zip(
        chosen.examples, told.latents, told.conditions["low_resolution"].value, levels, strict=True
    ):
        crop = crop_of(example)
        assert crop is not None
        assert_same(z, example.video)
        noise = (low - (1 - level**2).sqrt() * crop.cut(shrunk(crop.whole, 2))) / level
        assert_close(noise.std(), torch.tensor(1.0), 0.05)
    assert_same(told.latents, job.assembly.batch(batch(job), 3).latents)
    more = {crop_of(e).corner for s in range(6) for e in job.assembly.images(batch(job), s).examples}  # type: ignore[union-attr]
    assert len(places | more) > 4
    job.loss("denoiser", batch(job), 0)[0].backward()


def test_samples_are_of_held_out_clips_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(**SPATIAL)
    wide = [replace(job.heldout[k], clip=job.heldout[k].video[..., : 32 + 32 * (k % 2)]) for k in range(4)]
    monkeypatch.setattr(type(job.heldout), "__getitem__", lambda self, k: wide[k])
    monkeypatch.setattr(type(job.heldout), "groups", lambda self: [[1, 3], [0, 2]])
    assert [r.size for r in job._to_refine(job.model(), 4)] == [(64, 64)] * 2  # requests of several sizes are refused


def test_single_images_behind_a_clip_are_told_their_own_low_resolution_and_pass_time_by() -> None:
    changes = {**TEMPORAL, "conditions": {"low_resolution": {"factor": 2, "dropout": 0.0}}, "image_frames": 2}
    unet = {**REFINES, "vectors": {}}
    job = job_of(**changes | {"denoiser": unet})
    told = job.assembly.batch(batch(job), 1)
    z, low = told.latents, told.conditions["low_resolution"].value
    assert z.shape == low.shape == (2, 3, 7, 32, 32) and told.conditions.image_frames == 2
    for row in range(2):
        assert_same(low[row], shrunk(z[row], 2))  # of every frame, the images' too
    assert told.conditions["label"].value.shape == (2, 3)
    level = job_of(**changes).assembly.batch(batch(job), 1).conditions  # with a level
    noise = level["low_resolution"].value - (1 - level["noise_level"].value.square()).sqrt().view(2, 1, 1, 1, 1) * low
    spread = noise.transpose(1, 2).flatten(2).std(2)  # (B, T + N): the images' noise is of their clip's level
    assert_close(spread / level["noise_level"].value[:, None], torch.ones(2, 7), 0.05)
    network = job.denoiser.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        t, conditions = torch.tensor([300.0, 600.0]), told.conditions
        out = network(z, t, conditions)
        other = z.clone()
        other[:, :, :5] += 1.0
        assert_same(network(other, t, conditions)[:, :, 5:], out[:, :, 5:])
        assert differs(network(other, t, conditions)[:, :, :5], out[:, :, :5]).any()


class Mixed(Source):
    """Two clips of 5 frames, and two pictures: one bucket each."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Example:
        frames = 5 if index < 2 else 1
        clip = torch.rand(3, frames, 64, 64, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return Example(clip, 8.0, "a red ball", 0, str(index), (0.0, 1.0))

    def groups(self) -> list[list[int]]:
        return [[0, 1], [2, 3]]


def test_pictures_are_clips_of_one_frame_in_a_bucket_of_their_own() -> None:
    values: Any = load_recipe(recipe(**SPATIAL))
    source, network = Mixed(), build(values.denoiser)
    job = DenoiserJob(values, load_autoencoder("pixels"), network, source, source)
    job.parts["denoiser"].wrapped = job.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert network.partly_used and job.model().config.buckets == ((5, 64, 64), (1, 64, 64))
    for indices, frames in (([0, 1], 2), ([2, 3], 1)):
        chosen = MicroBatch([0, 1], [source[i] for i in indices])
        told = job.assembly.batch(chosen, 0)
        assert told.latents.shape == told.conditions["low_resolution"].value.shape == (2, 3, frames, 32, 32)
        network.zero_grad()
        loss, _ = job.loss("denoiser", chosen, 0)
        loss.backward()
        over_time = [p.grad for name, p in network.named_parameters() if network.models_time(name)]
        assert all(g is None or not g.any() for g in over_time) == (frames == 1)


@pytest.mark.wide
def test_each_stage_is_trained_by_itself_and_all_make_one_video(tmp_path: Path) -> None:
    stages = {
        "base": recipe(frames=3, fps=4.0, image_frames=1),
        "tsr": recipe(**TEMPORAL),
        "ssr": recipe(**{**SPATIAL, "size": 64}, image_frames=1),
    }
    for name, values in stages.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        train(tmp_path / f"{name}.yaml", tmp_path / name)
    assert video.read(next((tmp_path / "ssr").rglob("*.mp4"))).frames.shape == (5, 64, 64, 3)
    base = VideoModel.load(tmp_path / "base", precision="float32")
    model = cascade(base, {"tsr": tmp_path / "tsr", "ssr": tmp_path / "ssr"})
    clip = model.generate(label=1, seed=2)
    assert clip.shape == (1, 3, 5, 64, 64) and bool(clip.isfinite().all())
    assert differs(clip, model.generate(label=4, seed=2)).any()
    with pytest.raises(InputError, match="was trained to make 5 frames of 3, and the stage before makes 5"):
        cascade(base, {"tsr": tmp_path / "tsr", "again": tmp_path / "tsr"})
    with pytest.raises(InputError, match="was trained to enlarge 32x32 to 64x64, and the stage before makes 64x64"):
        cascade(base, {"tsr": tmp_path / "tsr", "ssr": tmp_path / "ssr", "again": tmp_path / "ssr"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": 33}, "crop: 33 x 33 is larger than the clips, which are 32 x 32"),
        ({**SPATIAL, "crop": 31}, "crop: expected a height and width in multiples of 2, got 31 x 31"),
        ({**SPATIAL, "crop": 0}, "expected sides of at least one pixel"),
        (TEMPORAL | {"conditions": {"low_resolution": {"factor": 1}}}, "there is nothing to refine"),
        (TEMPORAL | {"conditions": {"low_resolution": {"filter": "cubic"}}}, "filter"),
        (TEMPORAL | {"denoiser": UNET}, "the denoiser takes no low_resolution"),
    ],
)
def test_recipes_that_can_not_be_are_one_clear_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        job_of(**changes)


def test_the_shipped_cascade_fits_together() -> None:
    made = [load_recipe(f"toy-imagen-{name}") for name in ("base", "tsr", "ssr")]
    assert {f"toy-imagen-{name}" for name in ("base", "tsr", "ssr", "full")} <= set(shipped_recipes())
    shapes = [(r.data.world.frames, r.data.world.size, r.data.world.fps) for r in made]  # type: ignore[attr-defined]
    for before, after, stage in zip(shapes, shapes[1:], made[1:], strict=False):
        low = stage.conditions["low_resolution"]  # type: ignore[attr-defined]
        assert low.input_shape(after[0], (after[1], after[1])) == (before[0], (before[1], before[1]))
        assert after[2] / low.frames_factor == before[2]
    for stage in made:
        assert stage.denoiser.text_dim, "every stage reads the prompt"  # type: ignore[attr-defined]
