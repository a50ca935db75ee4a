"""The cost of a run: real steps measured and nothing left behind, totals that add up, what can't fit said in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kinolab.errors import InputError
from kinolab.models import save_autoencoder
from kinolab.planning import cost
from kinolab.planning.a_step import flops_per_step
from kinolab.planning.cost import measure_cost
from kinolab.planning.cost_report import CostReport, Memory, Once, Phase, clock, size
from kinolab.planning.counting import ATTENTION, saved_tensors
from kinolab.runtime.machine import disk_left, folder_size, memory_left, memory_size
from kinolab.training.initial import first_autoencoder
from kinolab.training.recipe import AutoencoderRecipe, load_recipe
from kinolab.training.trainer import Job, Trainer
from tests.training.tiny import autoencoder_recipe, denoiser_recipe, odvae_recipe, tasks_recipe


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder with random weights, as a model folder."""
    folder = tmp_path_factory.mktemp("autoencoder")
    recipe = load_recipe(autoencoder_recipe())
    assert isinstance(recipe, AutoencoderRecipe)
    save_autoencoder(first_autoencoder(recipe), folder)
    return folder


def measure(recipe: dict[str, Any], tmp_path: Path, **values: Any) -> CostReport:
    return measure_cost(recipe, steps=values.pop("steps", 2), run=tmp_path / "run", **values)


@pytest.mark.slow
def test_a_denoisers_run(autoencoder: Path, tmp_path: Path) -> None:
    recipe = denoiser_recipe(autoencoder, steps=10, save_every=4, evaluate_every=5, sample_every=4, keep=1)
    report = measure(recipe, tmp_path, price=3600.0, currency="EUR")
    count = report.parameters["denoiser"]
    memory = report.memory
    assert memory.gradients == 4 * count and memory.optimizer >= 8 * count and memory.average >= 4 * count
    assert memory.frozen > 0 and memory.activations and memory.peak and memory.peak > memory.weights
    assert [(p.first, p.last, len(p.computing)) for p in report.phases] == [(0, 10, 2)]
    assert (report.saving.times, report.evaluation.times, report.sampling.times) == (3, 2, 3)
    assert report.saving.bytes > memory.weights + memory.optimizer + memory.average and report.checkpoints == 2
    assert report.seconds is not None and report.cost is not None
    low, middle, high = report.seconds
    beside = 3 * report.saving.seconds + 2 * report.evaluation.seconds + 3 * report.sampling.seconds
    assert middle == pytest.approx(10 * report.phases[0].step[1] + beside) and low <= middle <= high
    assert report.cost == pytest.approx((low, middle, high))
    assert report.disk == 2 * report.saving.bytes + 3 * report.sampling.bytes + report.model_bytes
    assert report.sampling.bytes > 0 and not report.notes and not report.warnings
    assert list(tmp_path.iterdir()) == [], "no run folder, no files"


@pytest.mark.slow
def test_steps_of_parts_that_step_at_their_own_pace_are_measured_by_themselves(
    autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critic in every step and a student in every third one: the run takes each kind of step as often as it comes."""
    stepped: list[tuple[int, ...]] = []
    made, step = cost.make_job, Trainer.train_step

    def paced(*values: Any) -> Job:
        job = made(*values)
        other, student = made(*values), "denoiser"
        job.parts[student].every, job.parts["critic"] = 3, other.parts[student]
        losses = {student: job.loss, "critic": other.loss}
        monkeypatch.setattr(job, "loss", lambda name, batch, number: losses[name](student, batch, number))
        return job

    def seen(self: Trainer, number: int, batch: Any) -> dict[str, float]:
        stepped.append((number, len(batch)))
        return step(self, number, batch)

    monkeypatch.setattr(cost, "make_job", paced)
    monkeypatch.setattr(Trainer, "train_step", seen)
    report = measure(denoiser_recipe(autoencoder, steps=10), tmp_path)
    assert [(p.first, p.last, p.steps, p.parts) for p in report.phases] == [
        (0, 10, 4, ("denoiser", "critic")), (0, 10, 6, ("critic",)),
    ]  # fmt: skip
    assert [number for number, _ in stepped] == [0, 0, 3, 6, 1, 2, 4], "one clip, then three steps of each kind"
    both, alone = (p.flops or 0.0 for p in report.phases)
    assert both == pytest.approx(2 * alone, rel=0.05)
    beside = sum(once.seconds * once.times for once in (report.evaluation, report.sampling, report.saving))
    middles = [p.step[1] for p in report.phases]
    assert report.seconds is not None and report.seconds[1] == pytest.approx(4 * middles[0] + 6 * middles[1] + beside)
    rows = [" ".join(row) for row in report._time_rows()]
    assert any("4 steps of denoiser and critic" in row for row in rows) and any("6 steps of critic" in r for r in rows)


@pytest.mark.slow
def test_the_parts_of_a_step_are_those_of_the_trainer(autoencoder: Path, tmp_path: Path) -> None:
    """A batch of four and one of eight: as many FLOPs and activations per clip, none of it for the frozen weights."""
    small, large = (measure(denoiser_recipe(autoencoder, batch_size=n), tmp_path, steps=1) for n in (4, 8))
    a, b = small.phases[0].flops, large.phases[0].flops
    assert a is not None and b is not None and b == pytest.approx(2 * a, rel=1e-3)
    assert small.memory.activations is not None and large.memory.activations is not None
    assert large.memory.activations == 2 * small.memory.activations
    halves = measure(denoiser_recipe(autoencoder, batch_size=8, micro_batch=4), tmp_path, steps=1)
    assert halves.memory.activations == small.memory.activations
    assert halves.phases[0].flops == pytest.approx(b, rel=1e-6)


@pytest.mark.slow
def test_a_part_that_starts_later_is_measured_where_it_has_started(tmp_path: Path) -> None:
    report = measure(odvae_recipe(steps=8), tmp_path, steps=1)
    assert [(p.first, p.last) for p in report.phases] == [(0, 1), (1, 8)]
    before, after = (p.flops for p in report.phases)
    assert before is not None and after is not None and after > 1.1 * before, "the discriminator's steps cost more"
    assert set(report.parameters) == {"autoencoder", "discriminator"}
    assert "steps 1 to 7" in rendered(report)


@pytest.mark.slow
def test_missing_data_and_weights_are_stood_in_for(autoencoder: Path, tmp_path: Path) -> None:
    recipe = denoiser_recipe(autoencoder) | {"data": {"kind": "folder", "path": "nowhere", "frames": 5, "size": 32}}
    report = measure(recipe | {"initial": {"path": "nowhere"}}, tmp_path, steps=1)
    assert len(report.notes) == 1 and report.notes[0].startswith("measured on random data, since: nowhere")
    assert report.sampling.times == 1 and report.phases
    clips = measure(autoencoder_recipe() | {"data": recipe["data"]}, tmp_path, steps=1)
    assert "random data" in clips.notes[0] and clips.phases


@pytest.mark.slow
@pytest.mark.parametrize("given", ["none", "channels"])
def test_a_cache_and_an_autoencoder_that_are_not_there_yet(given: str, tmp_path: Path) -> None:
    recipe = tasks_recipe(Path("runs/not-yet"), "channels") if given != "none" else denoiser_recipe(Path("not-yet"))
    recipe["denoiser"] |= {"mask_channels": 4} if given != "none" else {}
    report = measure(recipe | {"data": {"kind": "cache", "path": "nothing"}}, tmp_path, steps=1)
    assert "random data" in report.notes[0] and "without the autoencoder" in report.notes[1]
    assert report.sampling == Once() and report.evaluation.seconds > 0 and report.memory.frozen == 0


def test_a_recipe_that_is_wrong_stays_an_error(autoencoder: Path, tmp_path: Path) -> None:
    wrong = denoiser_recipe(autoencoder)
    wrong["denoiser"] |= {"in_channels": 7}
    with pytest.raises(InputError, match=r"set denoiser\.in_channels=4"):
        measure(wrong, tmp_path)
    with pytest.raises(InputError, match="no such recipe"):
        measure_cost("nothing")
    with pytest.raises(InputError, match=r"unknown key .training\.stepps."):
        measure_cost(denoiser_recipe(autoencoder), ["training.stepps=3"])
    with pytest.raises(InputError, match="at least 1 step"):
        measure(denoiser_recipe(autoencoder), tmp_path, steps=0)
    with pytest.raises(InputError, match="price per hour"):
        measure(denoiser_recipe(autoencoder), tmp_path, price=-1.0)


@pytest.mark.slow
def test_what_will_not_fit_is_not_run(autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = denoiser_recipe(autoencoder)
    static = 5 * 4 * measure(recipe, tmp_path, steps=1).parameters["denoiser"]
    monkeypatch.setattr(cost, "memory_left", lambda device: static)
    nothing = measure(recipe, tmp_path, steps=1)
    assert not nothing.phases and nothing.seconds is None and nothing.memory.peak == static
    assert len(nothing.warnings) == 1 and "nothing was run" in nothing.warnings[0]
    assert "nothing was run" in rendered(nothing) and json.loads(nothing.to_json())["seconds"] is None


@pytest.mark.slow
def test_a_batch_that_will_not_fit_is_measured_by_one_clip(
    autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = denoiser_recipe(autoencoder, batch_size=8)
    whole = measure(recipe, tmp_path, steps=1)
    left = iter([10**12, 1000])
    monkeypatch.setattr(cost, "memory_left", lambda device: next(left))
    one = measure(recipe, tmp_path, steps=1)
    assert "measured with one clip" in one.warnings[0] and one.memory.activations == whole.memory.activations
    assert one.phases[0].flops == pytest.approx(whole.phases[0].flops, rel=1e-3)


@pytest.mark.slow
def test_memory_and_disk_that_run_out_are_warned_of(
    autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "memory_size", lambda device: 1000)
    monkeypatch.setattr(cost, "disk_left", lambda folder: 1000)
    report = measure(denoiser_recipe(autoencoder), tmp_path, steps=1)
    assert [w.split(":")[0] for w in report.warnings] == ["memory", "disk"]
    assert report.lines()[-1].startswith("warning: disk: the run writes")


def test_flops_are_counted_by_closed_forms() -> None:
    """A linear layer and attention, forward and backward, on a processor, where torch does not count attention."""
    from torch.utils.flop_counter import FlopCounterMode

    layer, x = torch.nn.Linear(8, 16), torch.randn(4, 8, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 4 * 8 * 16
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counter.get_total_flops() == (2 + 5) * 2 * (2 * 3) * 5 * 7 * 8


def test_saved_tensors_are_those_that_backward_needs() -> None:
    """sin keeps its input, a product both; a storage counts once and parameters not at all."""
    weight, x = torch.nn.Parameter(torch.ones(10)), torch.ones(10)
    with saved_tensors([weight]) as kept:
        y = weight * x
        z = (y.sin() + y.cos()).sum()
    assert sum(kept.values()) == x.nbytes + y.nbytes
    z.backward()


def phase(first: int, last: int, seconds: tuple[float, ...]) -> Phase:
    return Phase(first, last, (0.5,) * len(seconds), seconds, 9.0, 6e9, last - first)


def rendered(report: CostReport) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(report.table())
    return capture.get()


def test_totals_add_up_over_phases() -> None:
    memory = Memory(4_000_000_000, 8_000_000_000, 1, 1, 1, 1, 0, None)
    protocol = {"name": "r", "batch_size": 2, "device": "cpu", "measured_steps": 3, "precision": "float32",
                "threads": 1, "processes": 2}  # fmt: skip
    phases = (phase(0, 10, (1.0, 2.0, 4.5)), phase(10, 100, (3.0, 3.0, 3.0)))
    once = Once(10.0, 0, 2), Once(5.0, 100, 4), Once(1.0, 1000, 7)
    report = CostReport(
        protocol, 100, {"a": 1_000_000}, phases, *once, 3, 5000, 0, 10**9, memory, 7.2, "USD", ("n",), ("w",)
    )
    assert phases[0].step == (1.5, 2.5, 5.0) and phases[0].rate == 3e9
    beside = 20.0 + 20.0 + 7.0
    assert report.seconds == (15 + 315 + beside, 25 + 315 + beside, 50 + 315 + beside)
    assert report.disk == 3 * 1000 + 4 * 100 + 5000
    assert report.cost == pytest.approx(tuple(s * 7.2 / 3600 for s in report.seconds))
    text = rendered(report)
    for expected in ("1.00 M", "4 GB", "0.77 USD", "3 GFLOP/s reached", "20% waiting", "14% waiting", "2 times 10 s"):
        assert expected in text
    assert report.lines()[0].endswith("one of 2 processes") and report.lines()[1:] == ["note: n", "warning: w"]
    assert json.loads(report.to_json())["disk"] == report.disk


def test_units() -> None:
    assert [size(n) for n in (10, 2_500_000, 3_210_000_000, 4e12)] == ["0.01 kB", "2.5 MB", "3.21 GB", "4 TB"]
    assert [clock(s) for s in (0.5, 45, 600, 3 * 3600 + 1200, 5 * 86400 + 7200)] == [
        "0.5 s", "45 s", "10 min", "3 h 20 min", "5 d 2 h",
    ]  # fmt: skip


def test_the_machine_says_what_it_has(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    whole, left = memory_size(cpu), memory_left(cpu)
    assert whole is not None and left is not None and 0 < left <= whole
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(bytes(300))
    (tmp_path / "g").write_bytes(bytes(7))
    assert folder_size(tmp_path) == 307 and folder_size(tmp_path / "none") == 0
    assert disk_left(tmp_path / "not" / "there") > 0


@pytest.mark.slow
def test_a_compiled_recipe_is_counted_as_it_is_written(autoencoder: Path) -> None:
    """Compiled operations are invisible to the counter: a budget of them would never end."""
    counts = [flops_per_step(load_recipe(denoiser_recipe(autoencoder, compile=c))) for c in (False, True)]
    assert counts[0] > 0 and counts[0] == counts[1]
