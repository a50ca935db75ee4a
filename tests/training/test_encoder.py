"""Training of the video encoder: its sources, its losses, and a run that goes on where it stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from kinolab import data, video
from kinolab.contracts.examples import ClipSource, Example
from kinolab.errors import InputError
from kinolab.metrics.distortions import DISTORTIONS
from kinolab.metrics.extractors.encoder import load_encoder
from kinolab.runtime.ranks import Ranks
from kinolab.toyworld.clips import CLASSES, COLOURS, SHAPES, WorldConfig
from kinolab.toyworld.source import WorldSourceConfig
from kinolab.toyworld.words import DIRECTIONS
from kinolab.training.batches import MicroBatch
from kinolab.training.jobs.encoder import (
    FACTS,
    MANY,
    EncoderJob,
    Learner,
    MixedSource,
    facts_of,
    is_world,
    nt_xent,
    view,
)
from kinolab.training.recipe import EncoderRecipe, load_recipe
from kinolab.training.run import make_job, train
from tests.data.clip_files import numbered_frames, write_numbered
from tests.training.tiny import QUIET

WORLD = {"kind": "world", "world": {"size": 32, "frames": 9, "fps": 5}, "count": 12, "heldout_count": 6}


def recipe(clips: Path | None = None, **training: Any) -> dict[str, Any]:
    """A tiny encoder on the toy world, and on a folder of clips where one is given."""
    sources: dict[str, Any] = {"world": WORLD}
    if clips is not None:
        sources["clips"] = {
            "kind": "folder", "path": str(clips), "frames": 9, "size": 32, "heldout_fraction": 0.4, "index": "none",
        }  # fmt: skip
    return {
        "kind": "encoder",
        "name": "tiny",
        "data": sources,
        "encoder": {"widths": [8, 8], "embedding": 8, "size": 16},
        "frames": 6,
        "stored": "float32",
        "heldout_clips": 5,
        "training": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, **QUIET, **training},
    }


def write(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def job_of(values: dict[str, Any]) -> EncoderJob:
    config = load_recipe(values)
    assert isinstance(config, EncoderRecipe)
    job = make_job(config)
    assert isinstance(job, EncoderJob)
    for part in job.parts.values():
        part.wrapped = part.module
    return job


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for mark in range(5):
        write_numbered(folder / f"{mark}.mkv", 9, mark=40 * mark, height=32, width=32)
    return folder


@pytest.mark.slow
def test_a_run_writes_an_encoder_that_can_be_read(clips: Path, tmp_path: Path) -> None:
    report = train(write(tmp_path, recipe(clips, evaluate_every=2)), tmp_path / "run")
    assert report.finished
    extractor = load_encoder(tmp_path / "run")
    assert extractor(torch.zeros(1, 3, 6, 16, 16)).shape == (1, 8)
    names = set(load_file(tmp_path / "run" / "model" / "encoder.safetensors"))
    assert not any(n.startswith(("facts", "projection", "strengths")) for n in names), "the heads are thrown away"
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "heldout"] == [2, 4]
    assert all({"strengths", "contrast", "scenario"} <= set(r) for r in rows if r["kind"] == "heldout")
    assert all(math.isfinite(v) for r in rows for v in r.values() if isinstance(v, float))
    half = {**recipe(clips, steps=1), "stored": "float16"}
    train(write(tmp_path, half), tmp_path / "half")
    stored = load_file(tmp_path / "half" / "model" / "encoder.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16}


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(clips: Path, tmp_path: Path) -> None:
    path = write(tmp_path, recipe(clips, save_every=2, evaluate_every=2, ema=0.9))
    train(path, tmp_path / "whole")
    assert not train(path, tmp_path / "parts", until=2).finished
    train(None, tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / r / "model" / "encoder.safetensors") for r in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(v, parts[k]) for k, v in whole.items())


def test_the_parts_of_the_loss(clips: Path) -> None:
    job = job_of(recipe(clips))
    loss, parts = job.loss("encoder", MicroBatch([0, 1, 2], [job.source[k] for k in (0, 1, 2)]), 0)
    assert set(parts) == {"strengths", "contrast", *FACTS, *MANY, "loss"}
    weighted = 10 * parts["strengths"] + 0.5 * parts["contrast"] + sum(parts[k] for k in (*FACTS, *MANY))
    assert float(loss.detach()) == pytest.approx(weighted, rel=1e-5) == pytest.approx(parts["loss"], rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in job.learner.parameters())
    again, _ = job.loss("encoder", MicroBatch([0, 1, 2], [job.source[k] for k in (0, 1, 2)]), 0)
    other, _ = job.loss("encoder", MicroBatch([0, 1, 2], [job.source[k] for k in (0, 1, 2)]), 1)
    assert float(again.detach()) == float(loss.detach()) != float(other.detach()), "views are drawn by the step"


def test_real_clips_teach_no_facts(clips: Path) -> None:
    job = job_of(recipe(clips))
    _, parts = job.loss("encoder", MicroBatch([0, 1], [job.source[1], job.source[3]]), 0)
    assert set(parts) == {"strengths", "contrast", "loss"}


def test_captions_that_name_objects_only_give_no_loss_of_nothing() -> None:
    """Clips too short to show an event: nothing is known of scenario and direction, and that is not a number."""
    short = recipe()
    short["data"] = {"world": {**WORLD, "world": {"size": 32, "frames": 6, "fps": 8}}}
    job = job_of(short)
    loss, parts = job.loss("encoder", MicroBatch([0, 1], [job.source[0], job.source[1]]), 0)
    assert bool(torch.isfinite(loss)) and set(parts) == {"strengths", "contrast", "count", "colours", "shapes", "loss"}


def test_held_out_clips_come_from_every_source(clips: Path) -> None:
    job = job_of({**recipe(clips), "heldout_clips": 4})
    sources = [job.heldout[k].source for k in job.heldout_indices()]
    assert sum(s.startswith("world/") for s in sources) == 2 and sum(s.endswith(".mkv") for s in sources) == 2
    assert len(set(job.heldout_indices())) == 4
    every = job_of({**recipe(clips), "heldout_clips": 1000})
    assert sorted(every.heldout_indices()) == list(range(len(every.heldout)))
    values = job.evaluate(Ranks())
    assert set(values) == {"strengths", "contrast", *FACTS, *MANY, "loss"}
    assert all(math.isfinite(v) for v in values.values()) and values == job.evaluate(Ranks())


def test_nothing_held_out_is_trained_on(clips: Path) -> None:
    job = job_of(recipe(clips))
    trained, heldout = ({s[k].source for k in range(len(s))} for s in (job.source, job.heldout))
    assert trained and heldout and not trained & heldout


def test_sources_take_turns_and_short_ones_repeat() -> None:
    class Named(ClipSource):
        def __init__(self, name: str, count: int) -> None:
            self.name, self.count = name, count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> Example:
            assert 0 <= index < self.count
            return Example(torch.zeros(3, 1, 2, 2), 8.0, None, None, f"{self.name}{index}", (0.0, 1.0))

        def transform(self) -> dict[str, object]:
            return {}

    mixed = MixedSource([Named("a", 3), Named("b", 2)])
    assert [mixed[k].source for k in range(len(mixed))] == ["a0", "b0", "a1", "b1", "a2", "b0"]


def test_a_caption_of_the_world_as_targets() -> None:
    facts = facts_of("a red ball falls to the floor")
    assert CLASSES[facts["scenario"]] == "fall" and facts["count"] == 0
    assert facts["colours"] == [float(c == "red") for c in COLOURS]
    assert facts["shapes"] == [float(s == "ball") for s in SHAPES]
    assert facts_of("a blue box is thrown to the right")["direction"] == list(DIRECTIONS).index("right")
    many = facts_of("a purple box, a yellow ball and a green ball fall")
    assert many["count"] == 2 and sum(many["colours"]) == 3 and sum(many["shapes"]) == 2


@pytest.mark.parametrize("fps", [4.0, 30.0])
def test_every_caption_of_the_world_has_targets(fps: float) -> None:
    config = WorldSourceConfig(world=WorldConfig(size=32, frames=9, fps=fps), count=24)
    source: Any = data.build(config)
    for k in range(24):
        facts = facts_of(source[k].caption)
        assert set(facts) == {*FACTS, *MANY}
        assert all(-1 <= facts[n] < size for n, size in FACTS.items()) and facts["count"] >= 0
        assert all(len(facts[n]) == size and 1 <= sum(facts[n]) <= 3 for n, size in MANY.items())
        assert (facts["scenario"] == -1) == (fps == 30.0) == (facts["direction"] == -1)


def test_only_clips_of_the_world_are_taken_at_their_word() -> None:
    def example(source: str, caption: str | None) -> Example:
        return Example(torch.zeros(3, 1, 2, 2), 8, caption, None, source, (0, 1))

    assert is_world(example("world/0000000000012", "a red ball falls"))
    assert is_world(example(f"world/{2**40 + 5:013d}", "a red ball falls"))
    assert not is_world(example("world/0000000000012", None))
    assert not is_world(example("clips/a.mp4", "a dog"))
    assert not is_world(example("world/street.mp4", "a dog")), "a folder of the person's own called world"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nt_xent_is_the_papers_formula(count: int) -> None:
    projection = torch.randn(2 * count, 6, dtype=torch.float64)
    z = projection / projection.norm(dim=1, keepdim=True)
    losses = []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        terms = {k: math.exp(float(z[i] @ z[k]) / 0.2) for k in range(2 * count) if k != i}
        losses.append(-math.log(terms[partner] / sum(terms.values())))
    assert float(nt_xent(projection)) == pytest.approx(sum(losses) / len(losses), rel=1e-6, abs=1e-9)
    assert float(nt_xent(5 * projection)) == pytest.approx(float(nt_xent(projection))), "only directions count"


def test_views_are_windows_and_crops() -> None:
    clip = video.to_tensor(numbered_frames(12, height=20, width=20))
    starts = set()
    for seed in range(20):
        found = view(clip, 6, 20, torch.Generator().manual_seed(seed), crop=1.0)
        start = next(k for k in range(7) if torch.equal(found, clip[:, k : k + 6]))
        starts.add(start)
    assert len(starts) > 4
    assert view(clip, 6, 16, torch.Generator(), crop=0.5).shape == (3, 6, 16, 16)
    x = torch.linspace(-1, 1, 40).expand(3, 2, 40, 40).contiguous()
    spans = [
        float(v.amax() - v.amin()) for v in (view(x, 2, 16, torch.Generator().manual_seed(s), 0.8) for s in range(9))
    ]
    assert all(1.5 < s <= 2 for s in spans) and max(spans) - min(spans) > 0.05


def test_the_learner_has_a_head_for_everything_it_is_taught() -> None:
    config = load_recipe(recipe())
    assert isinstance(config, EncoderRecipe)
    outputs: dict[str, Tensor] = Learner(config.encoder)(torch.zeros(2, 3, 6, 16, 16))
    assert {k: v.shape[1] for k, v in outputs.items()} == {
        **FACTS, **MANY, "strengths": len(DISTORTIONS), "projection": 64,
    }  # fmt: skip


def test_sources_that_cannot_teach_are_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny: a view has 12 frames, but clips of world have 9"):
        job_of({**recipe(clips), "frames": 12})
    with pytest.raises(InputError, match=r"data\.latents: the encoder learns from pixels, got a cache of latents"):
        job_of({**recipe(), "data": {"latents": {"kind": "cache", "path": str(tmp_path)}}})
    with pytest.raises(InputError, match=r"data: .* at least 1 item"):
        load_recipe({**recipe(), "data": {}})
    with pytest.raises(InputError, match=r"unknown key 'encoder\.width', did you mean 'widths'"):
        load_recipe(recipe(), ["encoder.width=[8]"])
    with pytest.raises(InputError, match="holding out needs two different clips"):
        job_of(recipe(clips / "0.mkv"))
