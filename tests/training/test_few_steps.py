"""Consistency distillation and distribution matching: what they compute, on every family, resumed, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab import denoisers
from kinolab.autoencoders.pixel import PixelAutoencoder, PixelConfig
from kinolab.config import load_config
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.events import Silent
from kinolab.contracts.examples import Example, Source
from kinolab.contracts.request import Request
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.diffusion.consistency import boundary
from kinolab.diffusion.matching import matching_gradient
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, VideoModel, read_model_config
from kinolab.planning.cost import measure_cost
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import MicroBatch
from kinolab.training.distill import DistillConfig, recipe_values
from kinolab.training.few_steps import FewStepRecipe
from kinolab.training.jobs.consistency import ConsistencyJob
from kinolab.training.jobs.few_steps import FewStepJob
from kinolab.training.jobs.matching import MatchingJob
from kinolab.training.recipe import load_recipe
from kinolab.training.trainer import Trainer
from tests.closeness import NETWORK, assert_close, assert_same, difference
from tests.tiny_unets import SMALL
from tests.training.tiny import QUIET

KINDS: dict[str, type[FewStepJob]] = {"consistency": ConsistencyJob, "matching": MatchingJob}
FLOW = DiffusionConfig(schedule="flow", prediction="flow")
SIZES: dict[str, Any] = {
    "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 3, "input_size": 4, "num_frames": 2,
}  # fmt: skip
FAMILIES: dict[str, tuple[Any, DiffusionConfig]] = {
    "unet": (denoisers.UnetConfig(**{**SMALL, "in_channels": 3, "text_dim": 0}),
             DiffusionConfig(schedule="scaled_linear")),
    "latte": (denoisers.LatteConfig(**SIZES, num_classes=5, learned_variance=True),
              DiffusionConfig(learned_variance=True, loss="mse_vb")),
    "vdt": (denoisers.VdtConfig(**SIZES, num_classes=5), DiffusionConfig(schedule="cosine_logsnr", prediction="v")),
    "mmdit": (denoisers.MmditConfig(**SIZES, num_classes=5), FLOW),
    "edm": (denoisers.VdtConfig(**SIZES, num_classes=5), DiffusionConfig(schedule="edm", prediction="v")),
}  # fmt: skip


class Clips(Source):
    """Latents (3, 2, 4, 4) of five classes."""

    encoded = True
    classes = tuple("abcde")

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Example:
        clip = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(index))
        return Example(clip, 8.0, None, index % 5, f"clip/{index}", (0.0, 0.25), encoded=True)


def teacher(folder: Path, family: str, **fields: Any) -> Path:
    """The model folder of a tiny denoiser with labels, guided, whose every layer does something."""
    config, diffusion = FAMILIES[family]
    torch.manual_seed(3)
    denoiser: Any = denoisers.build(config)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pixels = PixelConfig()
    made = ModelConfig(
        autoencoder=pixels, denoiser=config, diffusion=diffusion, frames=2, size=(4, 4), class_names=Clips.classes,
        guidance=GuidanceConfig(scale=3.0), sampler=SamplerConfig(name="euler", steps=8), **fields,
    )  # fmt: skip
    VideoModel(made, PixelAutoencoder(pixels), denoiser).save(folder)
    return folder


def recipe_of(kind: str, folder: Path, training: dict[str, Any] | None = None, **fields: Any) -> Any:
    values = {
        "kind": kind, "name": "tiny", "teacher": str(folder), "data": {"kind": "world"}, "heldout_clips": 2, **fields,
        "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-2, **QUIET, **(training or {})},
    }  # fmt: skip
    return load_config(KINDS[kind].Recipe, values, name="recipe")


def job_of(kind: str, folder: Path, training: dict[str, Any] | None = None, **fields: Any) -> Any:
    recipe = recipe_of(kind, folder, training, **fields)
    torch.manual_seed(0)
    student = KINDS[kind].start(recipe, None)  # type: ignore[arg-type]
    return KINDS[kind](recipe, PixelAutoencoder(PixelConfig()), student, Clips(), Clips())


def batch_of(job: Any, count: int = 4) -> MicroBatch:
    return MicroBatch(list(range(count)), [job.source[i] for i in range(count)])


@pytest.fixture(scope="module")
def mmdit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher(tmp_path_factory.mktemp("teacher") / "mmdit", "mmdit")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_every_family_is_distilled(kind: str, family: str, tmp_path: Path) -> None:
    """Two steps change the student, and its folder knows how it is sampled and is sampled so."""
    job = job_of(kind, teacher(tmp_path / "teacher", family), {"steps": 2, "ema": 0.5}, steps=4)
    before = {name: value.clone() for name, value in job.network.state_dict().items()}
    trainer = Trainer(job, job.recipe.training, tmp_path / "run", Ranks())
    assert trainer.run() == 2
    changed = [n for n, v in job.network.state_dict().items() if not torch.equal(v, before[n])]
    assert len(changed) > len(before) / 3
    model = VideoModel.load(tmp_path / "run", device="cpu")
    made = model.config.distilled
    assert made is not None and (made.method, made.steps, made.sampler) == (kind, (4,), "consistency")
    assert (model.config.sampler.name, model.config.sampler.steps, model.config.guidance.scale) == ("consistency", 4, 1)
    asked = made.guidance
    assert asked == ((1.5, 4.5) if kind == "consistency" else 3.0)
    latents = model.sample_latents([Request(label="b", seed=1)])  # a warning would be an error
    assert tuple(latents.shape) == (1, 3, 2, 4, 4) and bool(torch.isfinite(latents).all())


def test_the_consistency_loss_is_lcms(mmdit: Path) -> None:
    """Algorithm 1 by hand: one guided step of DDIM down the grid, f of the average there, f of the student here."""
    job = job_of("consistency", mmdit, solver_steps=8, steps=[4], distance="squared")
    trainer = Trainer(job, job.recipe.training, Path("."), Ranks())
    job.assembly.device = torch.device("cpu")
    average = trainer.job.parts["denoiser"].ema
    assert average is not None
    with torch.no_grad():  # an average that is not the student
        for value in average.shadow.values():
            value.mul_(1.1)
    batch = job.assembly.batch(batch_of(job), 0)
    found = job.error(job.network, batch)

    z0, path = batch.latents, job.diffusion.path
    picks = [int(torch.randint(8, (), generator=source)) for source in batch.draws("time")]
    noise = torch.stack([torch.randn(z0.shape[1:], generator=source) for source in batch.draws("noise")])
    w = batch.conditions.tensor("guidance_scale")
    assert len(set(picks)) > 1 and w is not None and bool((w >= 0.5).all() and (w <= 3.5).all())
    network, frozen = job.network, job.teacher.network
    expected = []
    for k, pick in enumerate(picks):
        t, s = 1000 * (1 - pick / 8), 1000 * (1 - (pick + 1) / 8)
        row = job.assembly.batch(MicroBatch([k], [job.source[k]]), 0).conditions
        z = (1 - t / 1000) * z0[k : k + 1] + t / 1000 * noise[k : k + 1]
        at = torch.full((1,), t)

        def f(value: Tensor, z: Tensor, t: float) -> Tensor:
            c_skip, c_out = (float(c) for c in boundary(path, t))
            return c_skip * z + c_out * (z - t / 1000 * value)

        with torch.no_grad():
            plain = row.without(("guidance_scale",))
            told, null = frozen(z, at, plain), frozen(z, at, plain.all_null(1))
            velocity = null + (w[k] + 1) * (told - null)
            lower = z + (s - t) / 1000 * velocity
            if s:
                with average.swapped_in():
                    aim = f(network(lower, torch.full((1,), s), row), lower, s)
            else:
                aim = lower
            expected.append((f(network(z, at, row), z, t) - aim).square().mean())
    assert_close(found.detach(), torch.stack(expected), within=NETWORK)
    job.error(job.network, batch).sum().backward()
    assert all(p.grad is None for p in frozen.parameters())


def test_the_matching_gradient_is_of_the_students_own_steps(mmdit: Path) -> None:
    """Backward simulation: two steps of the student without a gradient, and a third with one, as it is sampled."""
    job = job_of("matching", mmdit, steps=4)
    Trainer(job, job.recipe.training, Path("."), Ranks())
    with torch.no_grad():
        for parameter in job.critic.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = job.assembly.batch(batch_of(job), 0)
    x = job.generated(job.network, batch, 2, "student noise", learns=True)
    sources = batch.draws("student noise")
    normal = lambda: torch.stack([torch.randn(batch.latents.shape[1:], generator=g) for g in sources])  # noqa: E731
    z = normal()
    for t, s in ((1000.0, 750.0), (750.0, 500.0), (500.0, 250.0)):
        u = job.network(z, torch.full((4,), t), batch.conditions)
        clean = z - t / 1000 * u
        z = (1 - s / 1000) * clean.detach() + s / 1000 * normal() if s > 250 else z
    assert_close(x.detach(), clean.detach(), within=NETWORK)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    learned = list(job.network.parameters())
    ours, theirs = (torch.autograd.grad((v * weight).sum(), learned, allow_unused=True) for v in (x, clean))
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None and float(b.abs().max()) > 1e-4:
            assert_close(a, b, within=1e-3)

    error = job.student_error(job.network, batch, 2)
    uniform = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in batch.draws("student time")])
    at = 1000 * (0.02 + 0.96 * uniform)
    noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in batch.draws("score noise")])
    part = (at / 1000).float().view(-1, 1, 1, 1, 1)
    z = ((1 - part) * x + part * noise).detach()
    with torch.no_grad():
        told, null = (job.teacher.network(z, at.float(), c) for c in (batch.conditions, batch.conditions.all_null(4)))
        walked = Conditions(steps_walked=Value("vector", torch.full((4,), 0.5)))  # two of four: the critic knows it
        judged = job.critic(z, at.float(), batch.conditions.told(walked))
        real, fake = z - part * (null + 3 * (told - null)), z - part * judged
        expected = 0.5 * matching_gradient(x.detach(), real, fake).square().flatten(1).mean(1)
    assert_close(error.detach(), expected, within=1e-3)


def test_the_critic_learns_the_students_samples_and_not_the_clips(mmdit: Path) -> None:
    job = job_of("matching", mmdit, steps=2)
    Trainer(job, job.recipe.training, Path("."), Ranks())
    batch = job.assembly.batch(batch_of(job), 0)
    first = job.critic_error(job.critic, batch, 1)
    first.sum().backward()
    assert all(p.grad is None for p in job.network.parameters())
    assert any(p.grad is not None for p in job.critic.parameters())
    other = job.assembly.batch(MicroBatch(batch.positions, [job.source[i] for i in (5, 6, 7, 8)]), 0)  # same labels
    assert_same(job.critic_error(job.critic, other, 1), first)


@pytest.mark.slow
def test_the_adversarial_loss_goes_through_the_critic(mmdit: Path, tmp_path: Path) -> None:
    """Off by default; with it the critic sees the clips too, and the student's gradient has a part that is not of the
    scores and leaves no gradient in the critic."""
    gan = {"student": 0.5, "critic": 0.25, "width": 4}
    plain, job = job_of("matching", mmdit, steps=2), job_of("matching", mmdit, steps=2, gan=gan)
    assert plain.critic.head is None and job.critic.head is not None
    for each in (plain, job):
        Trainer(each, each.recipe.training, Path("."), Ranks())
    batch = job.assembly.batch(batch_of(job), 0)
    other = job.assembly.batch(MicroBatch(batch.positions, [job.source[i] for i in (5, 6, 7, 8)]), 0)  # same labels
    errors = [job.critic_error(job.critic, told, 1) for told in (batch, other)]
    assert difference(errors[0], errors[1]) > 1e-4
    without, found = (each.student_error(each.network, batch, 1) for each in (plain, job))
    assert bool((found > without).all())  # softplus is above 0
    (found - without.detach()).sum().backward()
    assert all(p.grad is None for p in job.critic.parameters())
    assert any(p.grad is not None for p in job.network.parameters())
    assert all(p.requires_grad for p in job.critic.parameters())
    errors[0].sum().backward()
    assert all(p.grad is not None for p in job.critic.head.parameters())
    assert (
        Trainer(job_of("matching", mmdit, steps=2, gan=gan), job.recipe.training, tmp_path / "run", Ranks()).run() == 2
    )


def test_a_critic_that_is_told_nothing_is_the_teacher_of_the_paper(mmdit: Path) -> None:
    """Without `critic_told`, and where there is one step alone, it has the student's weights and no more."""
    told = job_of("matching", mmdit, steps=4)
    begins = {name for name, _ in told.critic.denoiser.named_parameters()}
    for job in (job_of("matching", mmdit, steps=4, critic_told=False), job_of("matching", mmdit, steps=1)):
        known = {name for name, _ in job.critic.denoiser.named_parameters()}
        assert known == {name for name, _ in job.network.named_parameters()} and known < begins
        batch = job.assembly.batch(batch_of(job), 0)
        assert job.told_walk(batch, 0) is batch


def test_a_run_that_recorded_nothing_of_it_goes_on_with_a_critic_that_is_told_nothing(mmdit: Path) -> None:
    now = recipe_of("matching", mmdit, steps=4)
    recorded = now.model_dump(mode="json")
    since = load_recipe(recorded)
    then = load_recipe({name: value for name, value in recorded.items() if name != "critic_told"})
    assert then.resumed(then).critic_told is now.resumed(then).critic_told is False  # type: ignore[attr-defined]
    assert now.resumed(since).critic_told is then.resumed(since).critic_told is True  # type: ignore[attr-defined]
    asked = recipe_of("matching", mmdit, steps=4, critic_told=True)
    assert asked.resumed(then).critic_told is True


def test_the_critic_has_its_own_pace(mmdit: Path, tmp_path: Path) -> None:
    job = job_of("matching", mmdit, {"steps": 7}, critic_updates=3)
    stepped = [[name for name, part in job.parts.items() if part.steps_at(step)] for step in range(4)]
    assert stepped == [["denoiser", "critic"], ["critic"], ["critic"], ["denoiser", "critic"]]


@pytest.mark.slow
def test_a_plan_counts_three_networks(mmdit: Path, tmp_path: Path) -> None:
    gone = {"kind": "cache", "path": str(tmp_path / "gone")}  # random latents stand in for it
    recipe = recipe_of("matching", mmdit, {"steps": 9}, critic_updates=3, data=gone)
    report = measure_cost(recipe.model_dump(mode="json"), steps=1, run=tmp_path / "run")
    network = VideoModel.load(mmdit, device="cpu").denoiser
    count = sum(p.numel() for p in network.parameters())
    job = job_of("matching", mmdit)
    port = sum(p.numel() for n, p in job.critic.named_parameters() if "steps_walked" in n)  # which it is told by
    assert port and report.parameters == {"denoiser": count, "critic": count + port}
    memory, bytes_each = report.memory, sum(value.nbytes for value in network.state_dict().values())
    assert memory.beside == ("autoencoder", "teacher") and memory.frozen >= bytes_each
    assert memory.weights == 2 * bytes_each + 4 * port and memory.average <= bytes_each
    assert [(phase.parts, phase.steps) for phase in report.phases] == [(("denoiser", "critic"), 3), (("critic",), 6)]
    assert any("frozen autoencoder and teacher" in row[-1] for row in report._memory_rows())


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_recipe_that_is_changed_is_sampled_as_it_is_trained(kind: str, mmdit: Path) -> None:
    written = recipe_of(kind, mmdit, guidance=3.0).model_dump(mode="json")
    changed = load_recipe(written, ["shift=3", "steps=2"])
    assert isinstance(changed, FewStepRecipe)
    job = KINDS[kind](changed, PixelAutoencoder(PixelConfig()), KINDS[kind].start(changed, Silent()), Clips(), Clips())
    assert job.model().config.sampler == changed.grid(2) and changed.grid(2).shift == 3


def test_every_method_has_an_average_of_its_own(mmdit: Path) -> None:
    """However much else is said of the training, in a recipe and by `kinolab distill`."""
    for kind, usual in (("consistency", 0.95), ("matching", 0.99), ("progressive", 0.99)):
        config = DistillConfig(model=str(mmdit), method=kind)
        values = recipe_values(config, read_model_config(mmdit), Path("run"), {"kind": "world"})
        assert load_recipe(values).training.ema == usual
        assert load_recipe(values, ["training.ema=0.5"]).training.ema == 0.5
        assert load_recipe({**values, "training": {"steps": 9}}).training.ema == usual


def test_a_recipe_written_for_a_range_of_guidance_keeps_to_it(mmdit: Path) -> None:
    recipe = recipe_of("consistency", mmdit, guidance=None)
    assert recipe.guidance == (1.5, 4.5) and recipe.ranged  # null = as where nothing is said
    written = recipe.model_dump(mode="json")
    assert load_recipe(written) == recipe
    for changed in ("4", "[1, 8]"):
        with pytest.raises(InputError, match=r"told scales from 1.5 to 4.5; a recipe that was filled in for a range"):
            load_recipe(written, [f"guidance={changed}"])


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_draw_what_the_batch_does(kind: str, mmdit: Path) -> None:
    job = job_of(kind, mmdit)
    Trainer(job, job.recipe.training, Path("."), Ranks())
    whole = batch_of(job)
    halves = [MicroBatch(whole.positions[k : k + 2], whole.examples[k : k + 2]) for k in (0, 2)]
    for name in job.parts:
        expected = job.loss(name, whole, 5)[0].detach()
        assert_close(sum(job.loss(name, half, 5)[0].detach() for half in halves) / 2, expected, within=NETWORK)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_resumed_run_is_bit_equal(kind: str, mmdit: Path, tmp_path: Path) -> None:
    training = {"steps": 5, "save_every": 100, "ema": 0.9}

    def run(until: int | None, folder: str) -> Any:
        job = job_of(kind, mmdit, training, **({"critic_updates": 2} if kind == "matching" else {}))
        trainer = Trainer(job, job.recipe.training, tmp_path / folder, Ranks())
        trainer.run(until)
        return trainer

    whole = run(None, "whole")
    run(3, "parts")
    resumed = run(None, "parts")
    for name, part in whole.job.parts.items():
        other = resumed.job.parts[name]
        assert_same(other.module.state_dict(), part.module.state_dict())
        if part.ema is not None:
            assert_same(other.ema.shadow, part.ema.shadow)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_may_be_low_rank_changes(kind: str, mmdit: Path, tmp_path: Path) -> None:
    job = job_of(kind, mmdit, {"ema": 0.5}, trained="adapter", lora_rank=2, guidance=2.0)
    Trainer(job, job.recipe.training, tmp_path / "run", Ranks()).run()
    moved = [name for name, p in job.denoiser.named_parameters() if p.requires_grad]
    assert moved and all("lora_" in name for name in moved)
    student, first = (VideoModel.load(f, device="cpu").denoiser.state_dict() for f in (tmp_path / "run", mmdit))
    changed = [name for name in first if difference(student[name], first[name]) > 0]
    assert changed and all("attn" in name for name in changed)
    assert (tmp_path / "run" / "adapter" / "distilled.yaml").is_file()
    assert not any("adapter will hold" in note for note in job.notes)


def test_a_student_may_begin_as_another(mmdit: Path, tmp_path: Path) -> None:
    """Distribution matching of what consistency distillation made; the critic begins as the teacher all the same."""
    other = VideoModel.load(mmdit, device="cpu")
    with torch.no_grad():
        for parameter in other.denoiser.parameters():
            parameter.mul_(1.5)
    other.save(tmp_path / "student")
    job = job_of("matching", mmdit, initial={"path": str(tmp_path / "student")})
    assert_same(job.network.state_dict(), other.denoiser.state_dict())
    critic = {n: v for n, v in job.critic.denoiser.state_dict().items() if "steps_walked" not in n}
    assert_same(critic, VideoModel.load(mmdit, device="cpu").denoiser.state_dict())
    # An adapter's changes are of what it began as, so that no record says that it makes the teacher a student.
    job = job_of("matching", mmdit, initial={"path": str(tmp_path / "student")}, trained="adapter", lora_rank=2)
    assert f"changes of {tmp_path / 'student'}" in job.notes[-1] and f"lora extract {mmdit}" in job.notes[-1]
    Trainer(job, job.recipe.training, tmp_path / "run", Ranks()).run()
    assert {path.name for path in (tmp_path / "run" / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_bad_input_says_what_to_do(mmdit: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"steps: 5 don't divide solver_steps=48; expected some of 1, 2, 3, 4, 6, 8"):
        recipe_of("consistency", mmdit, steps=[4, 5])
    with pytest.raises(InputError, match=r"steps: expected numbers of at least 1, got 0"):
        recipe_of("consistency", mmdit, steps=[0])
    with pytest.raises(InputError, match=r"slow: the target is of the average, which training.ema=0 doesn't make"):
        recipe_of("consistency", mmdit, {"ema": 0.0})
    with pytest.raises(InputError, match=r"noise: expected rising shares from 0 to 1, got \[0.9, 0.1\]"):
        recipe_of("matching", mmdit, noise=[0.9, 0.1])
    again = {"gradient_checkpointing": True}
    with pytest.raises(InputError, match=r"gan: .*set denoiser.gradient_checkpointing=false, or leave gan out"):
        recipe_of("matching", mmdit, gan={}, denoiser=again)
    assert recipe_of("matching", mmdit, denoiser=again).denoiser.gradient_checkpointing
    with pytest.raises(InputError, match=r"training.parallel: the target's average is called whole: use ddp"):
        job_of("consistency", mmdit, {"parallel": "fsdp"})
    made = {"distilled": {"method": "progressive", "steps": [4], "teacher": "big"}}
    student = teacher(tmp_path / "student", "mmdit", **made)
    for kind in KINDS:
        with pytest.raises(InputError, match=r"is distilled itself \(progressive, .*; name the model that it .*, big"):
            recipe_of(kind, student)
