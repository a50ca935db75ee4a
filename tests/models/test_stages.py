"""Stages, experts and parts as configs and modules: what fits, what is refused, and who predicts when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from kinolab import VideoModel
from kinolab.config import load_config, to_yaml
from kinolab.denoisers import build as build_denoiser
from kinolab.errors import InputError
from kinolab.evaluation.physics import evaluate_physics
from kinolab.evaluation.world import evaluate_world
from kinolab.methods import GuidanceConfig, StepCache, StepCacheConfig
from kinolab.models import ModelConfig, Request, build_part, read_model_config
from kinolab.models.assemble import cascade, with_experts
from kinolab.models.cascade import given_part, settled_stages, stage_requests, stage_seed
from kinolab.models.experts import Experts
from kinolab.models.folder import model_yaml
from kinolab.models.input_adapter import InputAdapterConfig
from kinolab.models.part import WithParts
from kinolab.models.stage_config import ExpertConfig, LaterStageConfig
from kinolab.planning.tune import TuneConfig, tune
from kinolab.tasks import TasksConfig, predict_mask
from kinolab.verify import verify
from tests.closeness import NETWORK, assert_close, assert_same
from tests.tiny_model import tiny_cascade, tiny_model, tiny_vdt


def two_experts() -> VideoModel:
    """The tiny model, and for the cleaner half another of its kind."""
    model, other = tiny_model(text=False), tiny_model(text=False)
    with torch.no_grad():
        for parameter in other.denoiser.parameters():
            parameter.mul_(0.5)
    assert model.config.denoiser is not None
    expert = ExpertConfig(until=0.5, denoiser=model.config.denoiser)
    config = model.config.model_copy(update={"experts": (expert,)})
    made = VideoModel(config, model.autoencoder, model.denoiser, experts=[other.denoiser])
    made.precision = "float32"
    return made


def with_adapter(model: VideoModel, **fields: Any) -> VideoModel:
    """The model beside an adapter of random weights."""
    part = InputAdapterConfig(**fields)
    config = model.config.model_copy(update={"parts": {"edges": part}})
    network = build_part(part, model.denoiser)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made = VideoModel(config, model.autoencoder, model.denoiser, parts={"edges": network}, experts=model.experts)
    made.precision = "float32"
    return made


def test_an_expert_is_asked_at_its_times_alone() -> None:
    model, called = two_experts(), dict[str, list[float]]()
    for name, denoiser in (("noisy", model.denoiser), ("clean", model.experts[0])):
        times = called.setdefault(name, [])
        denoiser.register_forward_pre_hook(lambda _, args, times=times: times.append(float(args[1][0]) / 1000))
    model.generate(label=1, sampler={"steps": 6})
    assert called["noisy"] and called["clean"]
    assert min(called["noisy"]) > 0.5 >= max(called["clean"])


def test_the_step_cache_keeps_the_features_of_experts_apart() -> None:
    """An interval of the whole run: without a cache of its own the second expert would add what the first one did."""
    model = two_experts()
    ran: list[int] = []
    for number, denoiser in enumerate((model.denoiser, *model.experts)):
        blocks: Any = denoiser.blocks
        blocks[0].register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    cache = StepCache(StepCacheConfig(method="interval", every=100))
    model.generate(label=1, sampler={"steps": 8}, guidance=1.0, cache=cache)
    assert ran == [0, 1, 1], "the first step, the other's first, and the last step"


@pytest.mark.slow
def test_a_folder_of_format_2_is_what_was_saved(tmp_path: Path) -> None:
    model = with_adapter(two_experts())
    model.save(tmp_path / "model")
    files = {p.name for p in (tmp_path / "model").glob("*.safetensors")}
    assert files == {f"{name}.safetensors" for name in ("autoencoder", "denoiser", "expert0", "part-edges")}
    assert not list(verify(tmp_path / "model"))
    loaded = VideoModel.load(tmp_path / "model", precision="float32")
    assert read_model_config(tmp_path / "model") == model.config.model_copy(update={"format": 2})
    asked = [Request(label=1, seed=4, conditions={"control": torch.zeros(3, 5, 32, 32)})]
    assert_same(loaded.sample_latents(asked), model.sample_latents(asked))
    path = tmp_path / "model" / "part-edges.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert {finding.path for finding in verify(tmp_path / "model") if finding.damaged} == {path}
    with pytest.raises(InputError, match="part-edges"):
        VideoModel.load(tmp_path / "model")
    tiny_model(text=False).save(tmp_path / "model")
    files = {p.name for p in (tmp_path / "model").glob("*.safetensors")}
    assert files == {"autoencoder.safetensors", "denoiser.safetensors"}, "of the folder before nothing is left"


def test_what_is_empty_by_default_is_not_written_and_reads_back_the_same() -> None:
    config = tiny_model().config
    values = yaml.safe_load(model_yaml(config))
    assert values["format"] == 1 and not {"experts", "parts", "stages", "conditions", "tasks"} & set(values)
    assert "vectors" not in values["denoiser"]
    assert load_config(ModelConfig, values) == config == load_config(ModelConfig, yaml.safe_load(to_yaml(config)))


def test_a_part_adds_nothing_where_nothing_is_told() -> None:
    plain, model = tiny_model(text=False), with_adapter(tiny_model(text=False))
    told = [Request(label=1, conditions={"control": torch.rand(3, 5, 32, 32)}), Request(label=1, seed=1)]
    found = model.sample_latents(told)
    assert_same(model.sample_latents([Request(label=1)]), plain.sample_latents([Request(label=1)]))
    alone = plain.sample_latents([Request(label=1), Request(label=1, seed=1)])
    assert not torch.equal(found[0], alone[0])
    assert_same(found[1], alone[1])  # null in its row
    with pytest.raises(InputError, match="control"):
        plain.sample_latents(told[:1])


def test_parts_and_experts_that_do_not_fit_are_refused() -> None:
    model = two_experts()
    twice = {name: build_part(InputAdapterConfig(), model.denoiser) for name in ("a", "b")}
    with pytest.raises(InputError, match=r"parts.b: control is a port of parts.a already"):
        WithParts(model.denoiser, twice)
    other = build_denoiser(model.denoiser.config.model_copy(update={"num_classes": 5}))
    with pytest.raises(InputError, match=r"experts.0: expected a denoiser that takes"):
        Experts([other, model.denoiser], [0.5], lambda t: t)
    values = yaml.safe_load(model_yaml(model.config))
    for changes, message in (
        ({"experts": [values["experts"][0]] * 2}, "experts: expected rising ends"),
        ({"experts": [values["experts"][0] | {"until": 1.5}]}, "experts.0.until: Input should be less than 1"),
        ({"parts": {"../x": {"kind": "input_adapter"}}}, "is no name; expected small letters"),
        ({"parts": {"x": {"kind": "inputadapter"}}}, "unknown part 'inputadapter'; expected one of input_adapter"),
        ({"denoiser": None}, "experts and parts belong to a denoiser"),
        ({"stages": [{"name": "a b", "denoiser": values["denoiser"]}]}, "'a b' is no name"),
        ({"stages": [{"name": "sr", "denoiser": values["denoiser"]}] * 2}, "each needs a name of its own"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(ModelConfig, values | changes)


def test_a_model_is_put_together_of_what_fits_alone(tmp_path: Path) -> None:
    model, other = tiny_model(text=False), tiny_model(text=False)
    with torch.no_grad():
        other.autoencoder.latent_scale.mul_(2)
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="latents of the same autoencoder"):
        with_experts(model, {0.5: tmp_path / "other"})
    with pytest.raises(InputError, match="takes low_resolution"):
        cascade(model, {"sr": tmp_path / "other"})
    assert with_experts(model, {}) is model and cascade(model, {}) is model


def test_each_stage_is_asked_what_it_can_be_told() -> None:
    first, second = tiny_model(), with_adapter(tiny_model(text=False), port="low_resolution")
    second.config = second.config.model_copy(update={"size": (64, 64)})
    asked = Request("a ball", 1, size=(64, 128), seed=5, negative="dark", conditions={"nothing": 1})
    (one,) = stage_requests((first, second), 0, [asked])
    assert (one.prompt, one.label, one.size, one.seed, one.frames) == ("a ball", 1, (32, 64), 5, 5)
    assert dict(one.conditions) == {"nothing": 1}, "which no stage takes, so that the first one refuses it"
    clip: Tensor = torch.zeros(1, 3, 5, 32, 64)
    (two,) = stage_requests((first, second), 1, [asked], clip)
    assert (two.prompt, two.negative, two.label, two.size) == (None, None, 1, (64, 128))
    assert two.seed == stage_seed(5, 1) != 5
    assert set(two.conditions) == {"low_resolution"} and two.conditions["low_resolution"].shape == (3, 5, 32, 64)


def test_a_stage_is_guided_by_what_it_reads_alone() -> None:
    denoiser = tiny_model(text=False).config.denoiser
    assert denoiser is not None
    for classes, scale in ((3, 4.0), (0, 1.0)):
        config = LaterStageConfig(
            name="sr", denoiser=denoiser.model_copy(update={"num_classes": classes}), guidance=GuidanceConfig(scale=4.0)
        )
        found = settled_stages([config], {"sr": {"sampler": {"steps": 2}}}, words=True, label=True)["sr"]
        assert found.guidance is not None and found.sampler is not None
        assert found.guidance.scale == scale and found.sampler.steps == 2
        untold = settled_stages([config], None, words=True, label=False)["sr"]
        assert untold.guidance is not None and untold.guidance.scale == 1.0
        assert settled_stages([config], {"sr": found}, words=False, label=False)["sr"] == found
    with pytest.raises(InputError, match="the model has one stage"):
        settled_stages([], {"sr": {}}, words=True, label=True)


def test_each_stage_is_given_a_part_at_its_own_size() -> None:
    first = tiny_vdt()
    model, told = tiny_cascade(first), list[Tensor]()
    model.stages[0].denoiser.register_forward_pre_hook(lambda _, args: told.append(args[2]["low_resolution"].value))
    clip = torch.rand(2, 3, 5, 64, 64, generator=torch.Generator().manual_seed(4)) * 2 - 1
    mask = predict_mask(5, 64, 64, 2).expand(2, 1, -1, -1, -1)
    made = model.complete(clip, mask, exact=True)
    assert made.shape == clip.shape
    assert_same(made[:, :, :2], clip[:, :, :2])
    half = F.avg_pool3d(clip, (1, 2, 2))
    small = first.complete(half, predict_mask(5, 32, 32, 2).expand(2, 1, -1, -1, -1))
    asked = [Request(frames=5, size=(64, 64), conditions={"low_resolution": row}) for row in small]
    assert_close(told[0], model.stages[0].conditions(asked)["low_resolution"].value, NETWORK)
    changed = clip.clone()
    changed[:, :, 2:] = 0.0
    assert_same(model.complete(changed, mask, exact=True), made)


def test_a_pixel_that_is_open_at_the_last_stage_is_open_at_the_first() -> None:
    model, clip = tiny_cascade(tiny_vdt()), torch.zeros(1, 3, 5, 64, 64)
    mask = torch.zeros(1, 1, 5, 64, 64)
    mask[:, :, 3, 21, 40] = 1.0
    part = given_part(model.cascade, clip, mask)
    assert part.pixel_mask.shape == (1, 1, 5, 32, 32) and part.pixel_mask.nonzero().tolist() == [[0, 0, 3, 10, 20]]
    assert part.later == (None,)


@pytest.mark.slow
def test_a_cascade_is_measured_at_the_size_of_its_videos() -> None:
    model = tiny_cascade(tiny_vdt(tasks=TasksConfig(predict=1, predict_frames=(1, 4))))
    once = {"sampler": {"steps": 1}}
    report = evaluate_physics(model, {"given": [3], "count": 1, "scenarios": ["fall"]}, sampling=once)
    assert (report.protocol["size"], report.protocol["frames"]) == (64, 5)
    world = evaluate_world(model, {"count": 1}, sampling=once)
    assert world.protocol["size"] == world.protocol["true_size"] == [64, 64] and world.psnr is not None
    few = {"steps": [2], "samplers": ["euler"], "thresholds": [], "cache_every": [], "guidance_every": []}
    tuned = tune(model, load_config(TuneConfig, {"count": 1, "repeats": 1, "lists": few}), name="world")
    assert tuned.protocol["size"] == [64, 64]
