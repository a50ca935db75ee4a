"""The evaluation counts what the reader sees: a perfect generator passes everything, a wrong one does not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.contracts.events import Listener, Stopped, events_of
from kinolab.contracts.method import Method
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.evaluation.world import evaluate_world
from kinolab.evaluation.world_report import CHECKS, Share, summary_lines
from kinolab.generation.provenance import model_hash
from kinolab.methods import GuidanceConfig, SteeringConfig, StepCache
from kinolab.metrics.statistics import Z95
from kinolab.models import GivenPart, ModelConfig, Request, VideoModel
from kinolab.models.cascade import Keeper, StageSettings
from kinolab.toyworld.clips import WorldConfig, make_clip, parse_caption
from kinolab.toyworld.source import HELDOUT_SEEDS
from tests.engines.inside import Sent
from tests.listening import Listening

pytestmark = pytest.mark.slow  # many short ones, which take long together

TinyConfig = Callable[..., ModelConfig]


class Identity(Autoencoder):
    """Latents are the pixels."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.spec = AutoencoderSpec(latent_channels=3, temporal_ratio=1, spatial_ratio=1, causal=True)

    def encode(self, video: Tensor) -> Posterior:
        return Posterior(video, torch.zeros_like(video))

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class Oracle(VideoModel):
    """Gives the true clip of request k + shift, which it knows from its seed, k."""

    def __init__(self, config: ModelConfig, shift: int = 0) -> None:
        assert config.denoiser is not None
        super().__init__(config, Identity(), build_denoiser(config.denoiser))
        self.shift = shift
        self.asked: list[Request] = []

    def sample_latents(
        self,
        requests: Sequence[Request],
        *,
        sampler: SamplerConfig | None = None,
        guidance: GuidanceConfig | None = None,
        events: Listener = None,
        cache: StepCache | None = None,
        methods: Sequence[Method] = (),
        given: GivenPart | None = None,
        steering: SteeringConfig | None = None,
        stages: Mapping[str, StageSettings] | None = None,
        keeper: Keeper | None = None,
    ) -> Tensor:
        self.asked += requests
        events_of(events).progress(1, 1)
        clips = [make_clip(WorldConfig(), HELDOUT_SEEDS + r.seed + self.shift) for r in requests]
        return torch.stack([video.to_tensor(clip.frames) for clip in clips])


def test_wilson_interval_solves_its_equation_and_has_its_closed_form_at_the_ends() -> None:
    for passed, count in ((3, 4), (50, 256), (255, 256)):
        share = Share(passed, count)
        for x in share.interval:
            assert (share.value - x) ** 2 == pytest.approx(Z95**2 * x * (1 - x) / count)
    assert Share(0, 20).interval == pytest.approx((0.0, Z95**2 / (20 + Z95**2)), abs=1e-12)
    assert Share(20, 20).interval == pytest.approx((20 / (20 + Z95**2), 1.0), abs=1e-12)
    assert Share(0, 0).interval == (0.0, 1.0) and math.isnan(Share(0, 0).value) and str(Share(0, 0)) == "-"


def test_a_stopped_evaluation_ends_between_two_batches(tiny_config: TinyConfig) -> None:
    model, heard = Oracle(tiny_config()), Listening(stop_after=2)
    with pytest.raises(Stopped):
        evaluate_world(model, {"count": 6}, batch=2, events=heard)
    assert [r.seed for r in model.asked] == [0, 1] and heard.told[-1] == (2, 6)


def test_a_perfect_generator_passes_everything(tiny_config: TinyConfig) -> None:
    model = Oracle(tiny_config())
    seen: list[tuple[int, int]] = []
    report = evaluate_world(model, {"count": 10}, batch=4, events=lambda done, total: seen.append((done, total)))
    for subject in ("generated", "reconstructed", "true"):
        assert all(share.passed == share.count for share in report.shares(subject).values())
        assert report.shares(subject)["all"].count == 10
        assert report.physics(subject) == report.physics("true") < 0.5
    assert report.psnr is not None and report.ssim is not None
    assert report.psnr.value > 99 and report.ssim.value == pytest.approx(1, rel=1e-6) and report.psnr.count == 170
    assert [r.seed for r in model.asked] == list(range(10))
    assert seen[-1] == (10, 10) and seen == sorted(seen) and all(done <= total for done, total in seen)
    direction = [r for r in report.results if r.subject == "generated" and r.checks["direction"] is not None]
    assert report.shares()["direction"].count == len(direction) <= 10
    clips = [make_clip(WorldConfig(), HELDOUT_SEEDS + k) for k in range(10)]
    assert [r.prompt for r in model.asked] == [c.caption for c in clips]
    assert [r.label for r in model.asked] == [c.label for c in clips]


def test_other_requests_can_be_asked(tiny_config: TinyConfig) -> None:
    model = Oracle(tiny_config())
    report = evaluate_world(model, {"count": 3, "first": 7}, batch=2)
    assert [r.seed for r in model.asked] == [7, 8, 9]
    assert [r.prompt for r in model.asked] == [make_clip(WorldConfig(), HELDOUT_SEEDS + k).caption for k in (7, 8, 9)]
    assert report.protocol["first"] == 7 and report.protocol["count"] == 3
    assert report.protocol["clip_seeds"] == [HELDOUT_SEEDS + 7, HELDOUT_SEEDS + 9]
    assert report.protocol["noise_seeds"] == [7, 9] and len(report.results) == 9
    assert "from number 7 on" in str(report.table().title)


def test_a_wrong_generator_fails_and_each_scenario_is_counted_by_itself(tiny_config: TinyConfig) -> None:
    report = evaluate_world(Oracle(tiny_config(), shift=1), {"count": 8}, batch=8)
    shares = report.shares()
    assert shares["identity"].value == 1.0, "the clips are true ones, only not those that were asked for"
    assert shares["all"].value < 0.3 and shares["colours"].value < 0.5
    assert all(share.value == 1.0 for share in report.shares("true").values())
    counts = [report.shares("generated", name)["all"].count for name in report.scenarios]
    assert sum(counts) == 8 and all(counts)
    objects, clips = (list(column.cells) for column in report.objects_table().columns[:2])
    named = [len(parse_caption(r.caption).objects) for r in report.results if r.subject == "generated"]
    assert objects == [str(n) for n in sorted(set(named))]
    assert clips == [str(named.count(int(str(n)))) for n in objects]


@pytest.mark.slow
def test_labels_alone_are_judged_by_what_they_promise(tiny_config: TinyConfig) -> None:
    config = tiny_config(pooled_dim=0)
    model = Oracle(config)
    report = evaluate_world(model, {"count": 12}, batch=12)
    shares = report.shares()
    assert all(r.prompt is None and r.label is not None for r in model.asked)
    assert {n for n in CHECKS if shares[n].count} == {"motion", "identity"}
    assert shares["all"].value == 1.0 and report.protocol["asked_with"] == "label"
    wrong = evaluate_world(Oracle(config, shift=1), {"count": 12}, batch=12).shares()
    assert wrong["motion"].value < 0.8


def test_without_conditions_only_identity_is_judged_and_guidance_is_off(tiny_config: TinyConfig) -> None:
    model = Oracle(tiny_config(pooled_dim=0, num_classes=0))
    report = evaluate_world(model, {"count": 3})
    assert {n for n in CHECKS if report.shares()[n].count} == {"identity"}
    assert report.protocol["guidance"]["scale"] == 1.0 and any("unconditional" in note for note in report.notes)


@pytest.mark.slow
def test_a_random_model_from_its_folder_end_to_end(tiny_model: Path) -> None:
    model = VideoModel.load(tiny_model, precision="float32")
    report = evaluate_world(model, {"count": 4}, batch=3, name=str(tiny_model))
    assert report.shares()["all"].passed == 0 and report.shares("true")["all"].passed == 4
    record = json.loads(report.to_json())
    together = evaluate_world(model, {"count": 4}, batch=3, name=str(tiny_model), engine=Sent())
    assert replace(together, seconds_per_clip=report.seconds_per_clip) == report, "by workers"
    assert record["protocol"]["model_sha256"] == model_hash(str(tiny_model))
    assert record["protocol"]["clip_seeds"] == [HELDOUT_SEEDS, HELDOUT_SEEDS + 3]
    assert (record["protocol"]["frames"], record["protocol"]["size"]) == (17, [64, 64])
    assert record["protocol"]["sampler"]["steps"] == 2 and record["protocol"]["asked_with"] == "prompt and label"
    assert record["checks"]["true"]["all"] == pytest.approx(
        {"passed": 4, "count": 4, "share": 1.0, "low": 4 / (4 + Z95**2), "high": 1.0}
    )
    assert len(record["clips"]) == 12 and record["seconds_per_clip"] > 0
    assert record["reconstruction"]["psnr"]["count"] == 4 * 17
    names = [str(cell) for cell in report.table().columns[0].cells]
    assert names[:6] == list(CHECKS) and "all" in names and report.scenario_table().row_count == len(report.scenarios)
    assert any("2 steps" in line for line in summary_lines(report))


def test_another_size_is_said(tiny_model: Path) -> None:
    model = VideoModel.load(tiny_model, precision="float32")
    model.config = model.config.model_copy(update={"size": (64, 32), "frames": 5})
    with pytest.warns(UserWarning, match="interpolated"):
        report = evaluate_world(model, {"count": 1, "label": False})
    assert report.protocol["true_size"] == [32, 32] and report.protocol["size"] == [64, 32]
    assert any("32x64" in note for note in report.notes) and any("objects only" in note for note in report.notes)
    assert report.shares()["direction"].count == 0 and report.protocol["asked_with"] == "prompt"


def test_mistakes_are_named(tiny_config: TinyConfig) -> None:
    with pytest.raises(InputError, match="count: Input should be greater than or equal to 1"):
        evaluate_world(Oracle(tiny_config()), {"count": 0})
    with pytest.raises(InputError, match="first: Input should be greater than or equal to 0"):
        evaluate_world(Oracle(tiny_config()), {"first": -1})
