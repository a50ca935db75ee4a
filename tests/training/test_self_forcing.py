"""Self Forcing: what is rolled out in training is what a stream makes, and both scores see it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import Request, VideoModel
from kinolab.models.streaming import LatentStream
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import MicroBatch
from kinolab.training.jobs.matching import MatchingJob
from kinolab.training.jobs.self_forcing import SelfForcingJob
from kinolab.training.recipe import load_recipe
from kinolab.training.run import make_job, train
from tests.closeness import NETWORK, assert_close
from tests.tiny_model import tiny_causal
from tests.training.tiny import QUIET

pytestmark = pytest.mark.slow  # short trainings of three networks


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Of a random VDT of 3 latent frames, without guidance."""
    model = tiny_causal()
    config = model.config.model_copy(update={"causal": None, "guidance": GuidanceConfig()})
    VideoModel(config, model.autoencoder, model.denoiser).save(tmp_path / "base")
    return {
        "kind": "self_forcing", "name": "tiny", "teacher": str(tmp_path / "base"), "steps": 2, "critic_updates": 2,
        "data": {"kind": "world", "world": {"size": 32, "frames": 9}, "count": 8, "heldout_count": 2},
        "causal": {"block": 1, "window": 1}, "heldout_clips": 2,
        "training": {"steps": 4, "batch_size": 2, "learning_rate": 1e-2, "save_every": 2, **QUIET},
    }  # fmt: skip


def job_of(recipe: dict[str, Any]) -> tuple[SelfForcingJob, MicroBatch]:
    job = make_job(load_recipe(recipe))
    assert isinstance(job, SelfForcingJob)
    for part in job.parts.values():
        part.wrapped = part.module.eval()
    [batch] = next(job.batches(0, Ranks()))
    return job, batch


def test_what_is_rolled_out_is_what_a_stream_makes(recipe: dict[str, Any]) -> None:
    job, micro = job_of({**recipe, "training": {**recipe["training"], "batch_size": 1}})
    batch = job.assembly.batch(micro, 0)
    with torch.no_grad():
        made = job.generated(job.network, batch, 1, "noise", learns=False)
    model = job.model()
    stream = LatentStream(model, [Request()], sampler=model.config.sampler, guidance=GuidanceConfig())
    stream.sources, stream.conditions = batch.draws("noise"), batch.conditions
    assert made.shape[2] == 3
    assert_close(made, torch.cat([stream.block() for _ in range(3)], 2), within=NETWORK)


def test_one_block_of_the_whole_clip_is_distribution_matching(recipe: dict[str, Any]) -> None:
    job, micro = job_of({**recipe, "causal": {"block": 3}})
    for name in ("denoiser", "critic"):
        assert_close(job.loss(name, micro, 0)[0], MatchingJob.loss(job, name, micro, 0)[0], what=name)
    batch = job.assembly.batch(micro, 0)
    with torch.no_grad():
        ours = job.generated(job.network, batch, 1, "noise", learns=False)
        theirs = MatchingJob.generated(job, job.network, batch, 1, "noise", learns=False)
    assert_close(ours, theirs)


def test_every_block_learns_and_the_past_does_not(recipe: dict[str, Any]) -> None:
    """The gradient of the last block alone reaches the weights by its own last step, not through what was kept."""
    job, micro = job_of(recipe)
    batch = job.assembly.batch(micro, 0)
    made = job.generated(job.network, batch, 0, "noise", learns=True)
    for frame in range(3):
        job.network.zero_grad()
        made[:, :, frame].square().sum().backward(retain_graph=True)
        assert any(p.grad is not None and bool(p.grad.any()) for p in job.network.parameters())


@pytest.mark.wide
def test_a_resumed_run_gives_the_same_and_streams(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    train(path, tmp_path / "once")
    train(path, tmp_path / "twice", until=2)
    train(None, tmp_path / "twice", resume=True)
    first, second = (VideoModel.load(tmp_path / name, device="cpu") for name in ("once", "twice"))
    for name, value in first.denoiser.state_dict().items():
        assert torch.equal(second.denoiser.state_dict()[name], value), name
    assert first.config.causal is not None and first.config.distilled is not None
    assert (first.config.distilled.method, first.config.distilled.steps) == ("self_forcing", (2,))
    assert len(list(first.stream("a ball", frames=6))) == 6


def test_it_may_begin_with_a_causal_form(recipe: dict[str, Any], tmp_path: Path) -> None:
    begun = tiny_causal()
    with torch.no_grad():
        for parameter in begun.denoiser.parameters():
            parameter.mul_(0.5)
    begun.save(tmp_path / "causal")
    job, _ = job_of({**recipe, "start": str(tmp_path / "causal")})
    student, teacher, first = (d.state_dict() for d in (job.denoiser, job.teacher.network, begun.denoiser))
    for name in ("blocks.0.attn.qkv.weight", "t_embedder.mlp.0.bias"):
        assert_close(student[name], first[name])
        assert_close(teacher[name], 2 * first[name])
    with pytest.raises(InputError, match="no such model"):
        make_job(load_recipe({**recipe, "start": "nowhere"}))
