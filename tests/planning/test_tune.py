"""Tuning: what is tried, how it is measured, what is chosen, and that the printed options give the measured setting."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

import pytest
import torch

from kinolab.config import load_config
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.evaluation.world_report import Share
from kinolab.generation.request import sampling_of
from kinolab.methods import GuidanceConfig, StepCacheConfig
from kinolab.metrics.reconstruction import psnr
from kinolab.models import ModelConfig, Request, VideoModel
from kinolab.planning import settings
from kinolab.planning.settings import Lists, Setting, full_run, grid, quick
from kinolab.planning.tune import TuneConfig, _mark, tune
from kinolab.planning.tune_report import Outcome, TuneReport
from kinolab.toyworld.words import CLASSES
from tests.tiny_model import save_tiny_model, tiny_model, tiny_vdt

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What "auto" means does not depend on the machine here."""
    monkeypatch.setattr(settings, "resolve", lambda policy, device: torch.float32)


@pytest.fixture(scope="module")
def own() -> ModelConfig:
    return tiny_model(text=False).config.model_copy(update={"sampler": SamplerConfig(name="euler", steps=6)})


def config_of(**values: Any) -> TuneConfig:
    return load_config(TuneConfig, {"count": 2, "repeats": 1, **values})


def outcome(faster: float, psnr: float, **values: Any) -> Outcome:
    setting = Setting(sampler=SamplerConfig(steps=int(10 * faster)), guidance=GuidanceConfig())
    return Outcome(setting, (1.0 / faster,), faster, 0.0, psnr, psnr, 0.0, values.get("passed"), 0, 0)


def test_the_full_run_has_twice_the_steps_and_draws_no_noise(own: ModelConfig) -> None:
    full, notes = full_run(own, Lists())
    assert (full.sampler.name, full.sampler.steps, full.precision, full.cache) == ("euler", 12, "float32", None)
    assert full.guidance == own.guidance and not notes
    for sampler in (SamplerConfig(name="ddpm", steps=8), SamplerConfig(name="ddim", steps=8, eta=1.0)):
        full, notes = full_run(own.model_copy(update={"sampler": sampler}), Lists(full_steps=9))
        assert (full.sampler.name, full.sampler.steps, full.sampler.eta) == ("ddim", 9, 0.0)
        assert "draws new noise" in notes[0]


def test_quick_changes_one_thing_at_a_time(own: ModelConfig) -> None:
    titles = [s.title for s in quick(own, Lists(), CPU)]
    assert titles[0] == "euler 6" and len(set(titles)) == len(titles)
    expected = ["euler 3", "euler 2", "dpmpp_2m 3", "heun 3", "euler 6, cache 0.05", "euler 6, cache 1/2"]
    expected += ["euler 6, guided 0.2-1", "euler 6, guided 1/2", "heun 3, cache 0.1"]
    assert set(expected) <= set(titles)
    unguided = own.model_copy(update={"guidance": GuidanceConfig()})
    assert not any("guided" in s.title for s in quick(unguided, Lists(), CPU))
    assert "euler 6, compiled" in [s.title for s in quick(own, Lists(compile=True), CPU)]


def test_the_grid_is_every_combination(own: ModelConfig) -> None:
    lists = Lists(steps=(6, 3), samplers=("euler", "heun"), intervals=((0.2, 1.0),), thresholds=(0.1,), cache_every=(),
                  guidance_every=(2,), precisions=("float32",), compile=False)  # fmt: skip
    found = grid(own, lists, CPU)
    # 2 steps x 2 samplers x 2 intervals x (none, cache, guidance, both)
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 4
    assert {s.title for s in found} >= {"heun 3, cache 0.1, guided 1/2, guided 0.2-1", "euler 6"}


@pytest.mark.slow
def test_options_are_those_of_generate(own: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate's options, parsed by the command line, ask for exactly that candidate."""
    from typer.testing import CliRunner

    import kinolab.generation.generate
    from kinolab import cli

    asked: list[Any] = []

    def take(config: Any, out: Any, **rest: Any) -> list[Any]:
        asked.append(config)
        return []

    monkeypatch.setattr(kinolab.generation.generate, "generate", take)
    monkeypatch.setattr("kinolab.generation.request.read_model_config", lambda folder: own)
    app = cli.build(["generate", "recipes"])
    lists = Lists(compile=True, precisions=("float32", "bfloat16"), guidance_every=(2, 3))
    candidates = quick(own, lists, CPU) + grid(own, lists, CPU)[::37]
    varied = {"sampler": SamplerConfig(name="ddim", steps=5, eta=0.5), "guidance": GuidanceConfig(scale=7, rescale=0.2)}
    beside = {"reach": "first", "methods": {}, "stages": {}}
    others = quick(own.model_copy(update=varied), lists, CPU)
    candidates += [setting.model_copy(update=beside) for setting in others]
    for setting in candidates:
        words = ["generate", "--model", "world", "--label", "1", *shlex.split(setting.options(own))]
        result = CliRunner().invoke(app, words)
        assert result.exception is None, (words, result.exception)
        made = asked[-1]
        assert (made.sampler, made.guidance, made.precision) == (setting.sampler, setting.guidance, setting.precision)
        assert (made.compile, made.cache, made.reach) == (setting.compile, setting.cache, setting.reach)


@pytest.mark.slow
def test_a_report_holds_what_a_direct_run_gives() -> None:
    """PSNR and latents against clips that are made here, from the same seeds."""
    model = tiny_model(text=False)
    config = config_of(seed=7, lists={"thresholds": [1e6], "cache_every": [], "guidance_every": [], "intervals": []})
    report = tune(model, config, name="world")
    full, loose = report.outcomes[0], next(o for o in report.outcomes if o.setting.title == "euler 3, cache 1e+06")
    assert full.setting.title == "euler 6" and full.psnr == 100.0 and full.latents == 0.0 and full.faster == 1.0
    assert (loose.hits, loose.misses) == (1, 2) and loose.passed is None
    requests = [Request(None, k, seed=7 + k) for k in range(2)]
    sampler = SamplerConfig(name="euler", steps=6)
    latents = model.sample_latents(requests, sampler=sampler)
    from kinolab.methods import StepCache

    cached = model.sample_latents(requests, cache=StepCache(StepCacheConfig(threshold=1e6)))
    assert loose.latents == pytest.approx(float((cached - latents).abs().max()))
    by_clip = psnr(model.decode(latents), model.decode(cached)).mean(1)
    assert (loose.psnr, loose.worst) == (pytest.approx(float(by_clip.mean())), pytest.approx(float(by_clip.min())))
    assert report.protocol["labels"] == [0, 1] and report.protocol["seeds"] == [7, 8]


@pytest.mark.slow
def test_every_setting_is_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    sample = VideoModel.sample_latents

    def spy(self: VideoModel, requests: Any, **values: Any) -> Any:
        order.append(values["sampler"].steps)
        return sample(self, requests, **values)

    monkeypatch.setattr(VideoModel, "sample_latents", spy)
    lists = {"steps": [3, 2], "samplers": ["euler"], "thresholds": [], "cache_every": [], "guidance_every": []}
    report = tune(tiny_vdt(), config_of(repeats=3, batch=2, lists=lists), name="world")
    assert order == [6, 3, 2] * 4
    assert [len(o.seconds) for o in report.outcomes] == [3] * 3
    assert report.protocol["asked_with"] == "nothing" and report.protocol["full_run"]["guidance"]["scale"] == 1.0


@pytest.mark.slow
def test_the_toy_worlds_clips_are_judged() -> None:
    made = tiny_model()
    assert made.config.denoiser is not None
    denoiser = made.config.denoiser.model_copy(update={"num_classes": len(CLASSES)})
    changes = {"class_names": CLASSES, "denoiser": denoiser}
    model = VideoModel(made.config.model_copy(update=changes), made.autoencoder, build_denoiser(denoiser))
    lists = {"steps": [2], "samplers": ["euler"], "thresholds": [], "cache_every": [], "intervals": []}
    report = tune(model, config_of(first=3, lists=lists | {"guidance_every": []}), name="world")
    assert all(o.passed is not None and o.passed.count == 2 for o in report.outcomes)
    assert all(report.protocol["prompts"]) and report.protocol["asked_with"] == "prompt and label"
    record = json.loads(report.to_json())
    low, high = report.outcomes[0].passed.interval if report.outcomes[0].passed else (math.nan, math.nan)
    assert record["outcomes"][0]["passed"] == {"passed": 0, "count": 2, "low": low, "high": high}
    text = tune(model, config_of(prompts=["a red ball"], lists=lists | {"guidance_every": []}), name="world")
    assert text.protocol["prompts"] == ["a red ball"] and text.outcomes[0].passed is None


def test_the_frontier_is_what_nothing_beats() -> None:
    outcomes = _mark([outcome(1, 100), outcome(2, 40), outcome(3, 40), outcome(4, 20), outcome(4, 30), outcome(3, 40)])
    assert [o.frontier for o in outcomes] == [True, False, True, False, True, True]


def test_the_fastest_within_the_drift_is_chosen(own: ModelConfig) -> None:
    outcomes = _mark([outcome(1, 100, passed=Share(1, 2)), outcome(2, 40), outcome(3, 35), outcome(4, 20)])
    protocol = {"model": "m", "clips": 2, "frames": 5, "size": [32, 32], "batch": 2, "threads": 1, "device": "cpu"}
    report = TuneReport(protocol | {"repeats": 3}, outcomes, own, ("a note",))
    assert [report.choose(d).faster for d in (10, 30, 36, 50)] == [4, 3, 2, 1]
    lines = report.lines(30)
    assert lines[-2].startswith("within 30 dB, 3.0 times as fast") and "--steps 30" in lines[-1]
    assert "note: a note" in lines and "no setting stays within 50 dB" in report.lines(50)[-1]
    assert len(report.table().rows) == 4


@pytest.mark.slow
def test_what_is_varied_may_be_another_way_to_sample() -> None:
    lists = {"steps": [2], "samplers": ["heun"], "thresholds": [], "cache_every": [], "guidance_every": []}
    asked = {"sampler": {"name": "heun"}, "guidance": 5.0, "reach": "first"}
    report = tune(tiny_model(text=False), config_of(lists=lists), name="world", sampling=sampling_of(own_of(), asked))
    assert {o.setting.sampler.name for o in report.outcomes} == {"heun"}
    assert {(o.setting.guidance.scale, o.setting.reach) for o in report.outcomes} == {(5.0, "first")}
    assert "guidance.scale=5.0" in report.outcomes[-1].setting.options(report.own)
    with pytest.raises(InputError, match="the step cache is what is tried"):
        tune(tiny_model(text=False), config_of(lists=lists), name="world", sampling=sampling_of(own_of(), {"cache": 1}))


def own_of() -> ModelConfig:
    return tiny_model(text=False).config


def test_bad_input_is_one_line() -> None:
    model = tiny_vdt()
    lists = {"steps": [6], "samplers": ["euler"], "thresholds": [], "cache_every": [], "guidance_every": []}
    with pytest.raises(InputError, match="nothing to try beside the full run"):
        tune(model, config_of(lists=lists), name="world")
    with pytest.raises(InputError, match="takes no prompt"):
        tune(model, config_of(prompts=["a ball"]), name="world")
    for values in ({"prompts": [" "]}, {"lists": {"samplers": ["ddpm"]}}, {"lists": {"thresholds": [0.0]}}):
        with pytest.raises(InputError):
            config_of(**values)


def test_a_setting_that_breaks_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from kinolab.runtime.precision import NonFiniteError

    folder = save_tiny_model(tmp_path / "m", text=False)
    sample = VideoModel.sample_latents

    def breaks(self: VideoModel, requests: Any, **values: Any) -> Any:
        if values["sampler"].steps == 2:
            raise NonFiniteError("NaN")
        return sample(self, requests, **values)

    monkeypatch.setattr(VideoModel, "sample_latents", breaks)
    lists = {"steps": [3, 2], "samplers": ["euler"], "thresholds": [], "cache_every": [], "guidance_every": []}
    report = tune(VideoModel.load(folder), config_of(lists=lists | {"intervals": []}), name=str(folder))
    assert [o.setting.title for o in report.outcomes] == ["euler 6", "euler 3"]
    assert report.notes == ("euler 2: gave NaN or infinity, left out",)
