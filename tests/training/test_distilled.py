"""Distillation of a model: a student begins as its teacher, goes on where it stopped, and says what it is for."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints.adapters import AdapterUse, put_on
from kinolab.conditioning import of_requests
from kinolab.conditioning.guidance_scale import GuidanceScaleConfig
from kinolab.contracts.conditions import Conditions, Value
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.methods.guidance import OscillationConfig
from kinolab.models import ModelConfig, Request, VideoModel, load_denoiser, read_model_config
from kinolab.models.distilled import DistilledConfig, outside
from kinolab.models.folder import model_yaml
from kinolab.models.stage_config import StageConfig
from kinolab.runtime.ranks import Ranks
from kinolab.training.distilled import Teacher, student_of
from kinolab.training.jobs.progressive import ProgressiveJob
from kinolab.training.recipe import load_recipe
from kinolab.training.run import make_job, train
from tests.closeness import assert_close, assert_same
from tests.test_contracts import DENOISERS as KINDS
from tests.training.tiny import QUIET, denoiser_recipe

SCALE = 3.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Latte of labels, in a model folder, guided by default."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    config = ModelConfig.model_validate(
        {
            "autoencoder": pixels, "denoiser": denoiser_recipe(folder)["denoiser"], "frames": 5, "size": (32, 32),
            "diffusion": DiffusionConfig(schedule="flow", prediction="flow"),
            "guidance": GuidanceConfig(scale=SCALE), "sampler": SamplerConfig(name="euler", steps=8),
            "class_names": ("fall", "throw", "bounce", "collide", "ramp", "float"),
        }
    )  # fmt: skip
    assert config.denoiser is not None
    model = denoisers.build(config.denoiser)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    VideoModel(config, ImageAutoencoder(pixels), model).save(folder / "teacher")
    return folder / "teacher"


def values(base: Path, **fields: Any) -> dict[str, Any]:
    """A recipe that distils it in two rounds after its guidance."""
    training = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2, **QUIET, **fields.pop("training", {})}
    return {
        "kind": "progressive", "name": "tiny", "teacher": str(base), "rounds": [2, 1],
        "data": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 8, "heldout_count": 2},
        "heldout_clips": 2, "samples": {"labels": [1]}, "training": training, **fields,
    }  # fmt: skip


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "r.yaml"


def told(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    z, t = torch.randn(batch, 4, 5, 16, 16), torch.tensor([900.0, 500.0, 100.0])[:batch]
    return z, t, Conditions(label=torch.tensor([1, 4, 2])[:batch])


def test_a_recipe_is_filled_in_from_its_teacher_and_whole_then(base: Path) -> None:
    recipe: Any = load_recipe(values(base))
    assert recipe.denoiser == read_model_config(base).denoiser and recipe.diffusion.schedule == "flow"
    assert recipe.autoencoder == base and recipe.class_names[0] == "fall"
    assert recipe.samples.sampler == SamplerConfig(name="ddim", steps=1, spacing="trailing")
    assert recipe.samples.guidance == GuidanceConfig() and not recipe.ranged
    assert load_recipe(recipe.model_dump(mode="json")) == recipe
    ranged: Any = load_recipe(values(base, guidance=[1, 6]))
    assert ranged.denoiser.vectors == {"guidance_scale": 0} and ranged.ranged
    assert ranged.conditions["guidance_scale"] == GuidanceScaleConfig(least=1, most=6, scale=3)
    assert load_recipe(ranged.model_dump(mode="json")) == ranged


@pytest.mark.parametrize("fields", [{"guidance": [1, 6]}, {"guidance": [1, 6], "trained": "adapter", "lora_rank": 2}])
def test_a_student_begins_as_its_teacher_whatever_scale_it_is_told(base: Path, fields: dict[str, Any]) -> None:
    job = make_job(load_recipe(values(base, **fields)))
    assert isinstance(job, ProgressiveJob)
    z, t, conditions = told()
    scales = Conditions.of({"guidance_scale": Value("vector", torch.tensor([0.0, 2.0, 5.0]))})
    with torch.no_grad():
        ours = job.network.eval()(z, t, conditions.told(scales))
        assert_same(ours, load_denoiser(base)(z, t, conditions))
    trained = {name for name, p in job.network.named_parameters() if p.requires_grad}
    assert any("guidance_scale" in name for name in trained)
    assert ("lora_rank" not in fields) == (trained == {name for name, _ in job.network.named_parameters()})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_a_student_of_any_kind_begins_as_its_teacher(name: str) -> None:
    config: Any = KINDS[name]
    teacher = denoisers.build(config).eval()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    told = config.model_copy(update={"vectors": {**config.vectors, "guidance_scale": 0}})
    student = student_of(teacher, told).eval()
    z, t = torch.randn(2, teacher.spec.channels, 3, 4, 4), torch.tensor([3.0, 900.0])
    conditions = Conditions(label=torch.tensor([1, 2]))
    scales = Conditions.of({"guidance_scale": Value("vector", torch.tensor([0.0, 5.0]))})
    with torch.no_grad():
        assert_same(student(z, t, conditions.told(scales)), teacher(z, t, conditions))
        for name, parameter in student.named_parameters():
            if "guidance_scale" in name:
                parameter.add_(0.1)
        assert not torch.equal(student(z, t, conditions.told(scales))[1], teacher(z, t, conditions)[1])


def test_a_teacher_is_guided_row_by_row_as_a_sampling_run_is(base: Path) -> None:
    """(1 + w) x(c) - w x(none), with w = scale - 1; at a scale of 1 the teacher's plain prediction."""
    process, network = Diffusion(DiffusionConfig(schedule="flow", prediction="flow")), load_denoiser(base)
    z, t, conditions = told()
    setting: Any = make_job(load_recipe(values(base))).assembly.setting  # type: ignore[attr-defined]
    with torch.no_grad():
        with_label = network(z, t, conditions)
        without = network(z, t, conditions.all_null(3))
    teacher = Teacher(network, process, GuidanceConfig(scale=SCALE), told=False)
    w = torch.tensor([0.0, 2.0, 5.0])
    by_hand = (1 + w.view(-1, 1, 1, 1, 1)) * with_label - w.view(-1, 1, 1, 1, 1) * without
    assert_close(teacher.predict(z, t, conditions, setting, w + 1), by_hand)
    assert_close(teacher.predict(z, t, conditions, setting), without + SCALE * (with_label - without))
    within = Teacher(network, process, GuidanceConfig(scale=SCALE, interval=(0.4, 0.6)), told=False)
    found = within.predict(z, t, conditions, setting)
    assert_close(found[1], (without + SCALE * (with_label - without))[1])
    assert_same(found[::2], with_label[::2])
    plain = Teacher(network, process, GuidanceConfig(scale=SCALE), told=True)
    assert_same(plain.predict(z, t, conditions, setting, w + 1), with_label)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"guidance": [1, 6], "trained": "adapter", "lora_rank": 2}])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_stopped_in_or_between_rounds_gives_the_same_weights(
    base: Path, tmp_path: Path, fields: dict[str, Any], stop: int
) -> None:
    path = write(tmp_path, values(base, **fields))
    train(path, tmp_path / "once")
    log = [json.loads(line) for line in (tmp_path / "once" / "log.jsonl").read_text().splitlines()]
    steps = [line["student_steps"] for line in log if line["kind"] == "train"]
    assert steps == [0, 0, 2, 2, 1, 1]
    rates = [line["learning_rate"] for line in log if line["kind"] == "train"]
    assert rates == [1e-2, 5e-3] * 3
    train(path, tmp_path / "twice", until=stop)
    train(path, tmp_path / "twice", resume=True)
    for name in ("denoiser.safetensors", "model.yaml"):
        once, twice = ((tmp_path / run / "model" / name).read_bytes() for run in ("once", "twice"))
        assert once == twice


@pytest.mark.slow
def test_what_a_model_is_for_is_recorded_and_its_default(base: Path, tmp_path: Path) -> None:
    train(write(tmp_path, values(base)), tmp_path / "run")
    model = VideoModel.load(tmp_path / "run", device="cpu", precision="float32")
    made = model.config.distilled
    assert made is not None and made.teacher == str(base)
    assert (made.method, made.steps, made.guidance, made.sampler) == ("progressive", (1,), SCALE, "ddim")
    assert (model.config.sampler.steps, model.config.guidance.scale) == (1, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample_latents([Request(label=1)])
        model.sample_latents([Request(label=1)], sampler=SamplerConfig(name="stochastic", steps=1, spacing="trailing"))
    with pytest.warns(UserWarning, match="8 steps: this model was distilled .*others are no better.*use --steps 1"):
        model.sample_latents([Request(label=1)], sampler=SamplerConfig(name="ddim", steps=8, spacing="trailing"))
    with pytest.warns(UserWarning, match="guidance on top of guidance.*guidance 3 distilled in.*leave --guidance at 1"):
        model.sample_latents([Request(label=1)], guidance=GuidanceConfig(scale=2.0))
    # A student that is a teacher has its guidance already, and takes no other; and it knows its own steps alone.
    model.config = model.config.model_copy(update={"distilled": made.model_copy(update={"steps": (2,)})})
    model.save(tmp_path / "run" / "model")
    job = make_job(load_recipe(values(tmp_path / "run", rounds=[1])))
    assert isinstance(job, ProgressiveJob) and [r.steps for r in job.rounds] == [1] and job.distilled.guidance == SCALE
    with pytest.raises(InputError, match=r"a student of 2 steps needs a teacher of 4, .*begin with half of its steps"):
        make_job(load_recipe(values(tmp_path / "run", rounds=[2, 1])))
    with pytest.raises(InputError, match=r"the teacher is distilled itself .*leave guidance out"):
        make_job(load_recipe(values(tmp_path / "run", rounds=[1], guidance=2.0)))


@pytest.mark.slow
def test_an_adapter_is_the_whole_student(base: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"trained": "adapter", "lora_rank": 2, "lora_targets": ["*"]}
    train(write(tmp_path, values(base, **fields)), tmp_path / "run")
    student = load_denoiser(tmp_path / "run", device="cpu").state_dict()
    teacher = VideoModel.load(base, device="cpu", precision="float32")
    changed = put_on(teacher, [AdapterUse(path=tmp_path / "run" / "adapter")]).denoiser.state_dict()
    assert any(not torch.equal(student[name], value) for name, value in teacher.denoiser.state_dict().items())
    for name, value in student.items():
        assert_close(changed[name], value, what=name)


def test_folders_of_before_say_nothing_of_it() -> None:
    config = ModelConfig.model_validate({"autoencoder": {"kind": "pixel"}})
    assert "distilled" not in model_yaml(config)
    made = config.model_copy(update={"distilled": DistilledConfig(method="progressive", steps=(1, 2, 4), guidance=4.0)})
    assert ModelConfig.model_validate(yaml.safe_load(model_yaml(made))).distilled == made.distilled
    assert str(made.distilled) == "progressive, for 1, 2 or 4 steps of ddim, guidance 4 distilled in"


def test_what_lies_outside_is_said_once_each() -> None:
    usual = SamplerConfig(name="ddim", steps=4, spacing="trailing")
    config = StageConfig(
        distilled=DistilledConfig(method="matching", steps=(2, 4), guidance=(1.0, 6.0), also=("stochastic",)),
        sampler=usual,
    )

    def said(guidance: float = 1.0, **changes: Any) -> list[str]:
        return outside(config, usual.model_copy(update=changes), GuidanceConfig(scale=guidance))

    usual_ones: tuple[dict[str, Any], ...] = ({}, {"steps": 2}, {"name": "euler"}, {"name": "stochastic"})
    for asked in usual_ones:
        assert not said(**asked)
    assert not outside(StageConfig(), SamplerConfig(steps=999), GuidanceConfig(scale=9.0))
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"steps": 1}, "1 steps: .*others leave noise: use --steps 4"),
        ({"steps": 25}, "25 steps: .*for 2 or 4 steps"),
        ({"name": "heun"}, "sampler heun: .*use --sampler ddim"),
        ({"spacing": "linspace"}, "spacing linspace: "),
        ({"eta": 0.5}, "noise in every step of ddim: "),
        ({"guidance": 4.0}, "guidance on top of guidance: .*ask for the condition guidance_scale"),
    )
    for asked, expected in cases:
        [note] = said(**asked)
        assert re.search(expected, note), note


def test_a_scale_is_drawn_in_training_and_told_in_sampling(base: Path) -> None:
    recipe: Any = load_recipe(values(base, guidance=[1, 6]))
    job: Any = make_job(recipe)
    [batch] = next(job.batches(0, Ranks()))
    made = job.assembly.batch(batch, 0)
    scales = job.scales(made)
    assert scales.shape == (2,) and ((scales >= 1) & (scales <= 6)).all() and scales[0] != scales[1]
    setting = job.assembly.setting
    asked = of_requests([Request(label=1, conditions={"guidance_scale": 4.5}), Request(label=1)], setting)
    assert asked.tensor("guidance_scale").tolist() == [3.5, 2.0]  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="guidance_scale 9: the model learned scales from 1 to 6"):
        of_requests([Request(label=1, conditions={"guidance_scale": 9})], setting)
    with pytest.raises(InputError, match="guidance_scale: expected a scale of at least 0"):
        of_requests([Request(label=1, conditions={"guidance_scale": -1})], setting)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"teacher": "nowhere"}, "teacher: nowhere: no such model"),
        ({"teacher": "pixels"}, "teacher: pixels: an autoencoder alone"),
        ({"guidance": [6, 1]}, "expected least up to most"),
        ({"denoiser": {"hidden_size": 32}}, "a student is made like its teacher"),
        ({"training": {"parallel": "fsdp"}}, "use ddp"),
    ],
)
def test_recipes_that_can_not_be(base: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_job(load_recipe(values(base, **fields)))


@pytest.mark.slow
def test_teachers_that_lack_what_is_needed(base: Path, tmp_path: Path) -> None:
    config = read_model_config(base)
    model = VideoModel.load(base, device="cpu")
    for changes, fields, said in (
        ({"diffusion": DiffusionConfig(schedule="edm", prediction="v")}, {}, "halved steps need a discrete schedule"),
        ({"guidance": GuidanceConfig(scales={"prompt": 2.0, "fps": 3.0})}, {}, "one scale for each condition"),
        ({"guidance": GuidanceConfig(scale=2.0, oscillate=OscillationConfig())}, {}, "give one with guidance=2"),
        ({"guidance": GuidanceConfig(scale=2.0, of=("image",))}, {}, "the teacher is told no image"),
    ):
        model.config = config.model_copy(update=changes)
        model.save(tmp_path / "changed")
        with pytest.raises(InputError, match=said):
            make_job(load_recipe(values(tmp_path / "changed", **fields)))
    model.config = config.model_copy(update={"guidance": GuidanceConfig(scale=2.0, oscillate=OscillationConfig())})
    model.save(tmp_path / "changed")
    job = make_job(load_recipe(values(tmp_path / "changed", guidance=4.0)))
    assert isinstance(job, ProgressiveJob) and job.teacher.guidance == GuidanceConfig(scale=4.0)
