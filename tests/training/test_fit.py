"""One-shot tuning: only what is named moves, the loss on the clip falls, LoRA, several clips, and going on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kinolab import video
from kinolab.autoencoders import ImageConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.config import load_config
from kinolab.data import CacheConfig, CacheSource
from kinolab.denoisers import UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel
from kinolab.training.fit import FitConfig, Prepared, check_free, prepare
from kinolab.training.run import train
from tests.closeness import assert_same, differs

pytestmark = pytest.mark.slow  # several short trainings

UNET: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "attention_levels": (0,), "num_heads": 2, "norm_groups": 4,
    "in_channels": 4, "input_size": 8, "num_classes": 3,
}  # fmt: skip
QUICK = [f"training.{s}" for s in ("device=cpu", "precision=float32", "learning_rate=2e-2", "log_every=1")]


@dataclass
class Place:
    """A folder with an image model in `image` and two clips."""

    folder: Path

    def fit(self, out: Path, *clips: str, **fields: Any) -> Prepared:
        named = [self.folder / clip for clip in clips or ("a.mp4",)]
        values = {"clips": named, "model": str(self.folder / "image"), "labels": [1], "steps": 30, **fields}
        return prepare(load_config(FitConfig, values), out, QUICK)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("fit")
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    config = ModelConfig(
        autoencoder=pixels, denoiser=UnetConfig(**UNET), frames=1, size=(16, 16),
        diffusion=DiffusionConfig(schedule="flow", prediction="flow"), sampler=SamplerConfig(name="euler", steps=2),
    )  # fmt: skip
    assert config.denoiser is not None
    model = VideoModel(config, build_autoencoder(pixels), build_denoiser(config.denoiser))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save(folder / "image")
    source = np.random.default_rng(0)
    for name, frames in (("a.mp4", 6), ("b.mp4", 9)):
        video.write(folder / name, source.integers(0, 255, (frames, 20, 16, 3), dtype=np.uint8), fps=8)
    return Place(folder)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "denoiser.safetensors")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line.get("kind", line.get("of")) == "heldout" or "loss_at_0.5" in line]


def moved(place: Place, run: Path) -> set[str]:
    """Weights of the image model that are others after a run."""
    before, after = weights(place.folder / "image"), weights(run / "model")
    assert set(before) < set(after) and all("inside_transformer" in name for name in set(after) - set(before))
    return {name for name, value in before.items() if differs(after[name], value).any()}


def test_one_clip_is_learned_by_queries_and_time_alone(place: Place, tmp_path: Path) -> None:
    prepared = place.fit(tmp_path / "run")
    assert (prepared.clips, prepared.frames, prepared.size, prepared.notes) == (1, 6, (16, 16), ())
    train(prepared.recipe, tmp_path / "run")
    before, after = losses(tmp_path / "run")
    assert after < 0.95 * before
    changed = moved(place, tmp_path / "run")
    assert changed and all(name.endswith((".attn1.to_q.weight", ".attn2.to_q.weight")) for name in changed)
    trained = weights(tmp_path / "run" / "model")
    outputs = [v for n, v in trained.items() if ".attn_temp.to_out.0." in n]
    assert outputs and all(value.any() for value in outputs)
    norms = [v for n, v in trained.items() if ".norm_temp.weight" in n]
    assert norms and all(bool((value == 1).all()) for value in norms)
    model = VideoModel.load(tmp_path / "run", precision="float32")
    assert model.config.fps == 8 and model.config.frames == 6 and model.config.sampler.steps == 2
    assert model.generate(label=1, seed=0).shape == (1, 3, 6, 16, 16)


@pytest.mark.wide
def test_a_stopped_run_goes_on_to_the_same_model(place: Place, tmp_path: Path) -> None:
    for name in ("once", "twice"):
        prepared = place.fit(tmp_path / name, steps=4)
        train(prepared.recipe, tmp_path / name, until=2 if name == "twice" else None)
    train(None, tmp_path / "twice", resume=True)
    once, twice = (weights(tmp_path / name / "model") for name in ("once", "twice"))
    assert set(once) == set(twice)
    for name, value in once.items():
        assert_same(twice[name], value, name)


def test_low_rank_changes_of_several_clips(place: Place, tmp_path: Path) -> None:
    prepared = place.fit(tmp_path / "run", "a.mp4", "b.mp4", labels=[1, "2"], lora=2, steps=3)
    assert prepared.clips == 2 and prepared.frames == 6
    [note] = prepared.notes
    assert "b.mp4: its first 6 of 9 frames are tuned on; --frames and --interval take others" in note
    latents = CacheSource(CacheConfig(path=tmp_path / "run" / "latents", split="all"))
    assert [(latents.record(i).source, latents.record(i).label) for i in range(2)] == [("a.mp4", 1), ("b.mp4", 2)]
    train(prepared.recipe, tmp_path / "run")
    changed = moved(place, tmp_path / "run")
    assert changed and all(name.endswith((".attn1.to_q.weight", ".attn2.to_q.weight")) for name in changed)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    for name in changed:  # of rank 2
        delta = weights(tmp_path / "run" / "model")[name] - weights(place.folder / "image")[name]
        assert torch.linalg.matrix_rank(delta, rtol=1e-3) <= 2, name


def test_latents_are_not_encoded_twice_and_others_take_their_place(place: Place, tmp_path: Path) -> None:
    first = place.fit(tmp_path / "run")
    [shard] = (tmp_path / "run" / "latents" / "shards").glob("*.safetensors")
    written = shard.stat().st_mtime_ns
    first.recipe.unlink()  # as if stopped before it was written
    check_free(tmp_path / "run")
    place.fit(tmp_path / "run")
    assert shard.stat().st_mtime_ns == written
    place.fit(tmp_path / "run", "b.mp4", interval=2)
    source = CacheSource(CacheConfig(path=tmp_path / "run" / "latents", split="all"))
    assert len(source) == 1 and source.record(0).source == "b.mp4" and source.record(0).fps == 4
    assert source.shape(0) == (5, 8, 8)
    train(place.fit(tmp_path / "run", steps=1).recipe, tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already; pass --resume"):
        check_free(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="exists; choose another name"):
        check_free(tmp_path / "mine")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompts": ["x"]}, "takes no prompt; leave --prompt out"),
        ({"labels": [1, 2]}, "2 labels for 1 clips: expected one for all, or one for each"),
        ({"labels": ["jump"]}, "label 'jump': expected one of 0 to 2"),
        ({"frames": 7}, "a.mp4: 6 frames and --frames 7 are asked for"),
        ({"interval": 2, "frames": 4}, "3 frames, 2 frames apart, and --frames 4"),
        ({"size": (15, 16)}, "multiples of 2"),
        ({"model": "nowhere"}, "nowhere: no such model"),
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_written(
    place: Place, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        place.fit(tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def test_the_same_clip_twice_and_a_folder_of_clips_are_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the same clip as .*a\.mp4; name each once"):
        place.fit(tmp_path / "run", "a.mp4", "a.mp4")
