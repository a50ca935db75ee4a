"""The benchmark for a card, tried on the CPU: what it compares, that it goes on, that failures stay where they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import (
    beside,
    cases_models,
    cases_networks,
    numerics,
    steps,
)
from benchmarks.gpu.cases import Case, moved, seeded, tensors
from benchmarks.gpu.running import FAILED, Clock, Item, OutOfTimeError, Part, Place, Record, Results, plain, run_parts
from kinolab.autoencoders import AUTOENCODERS, OdVaeConfig
from kinolab.denoisers import DENOISERS, Conditions, LatteConfig
from kinolab.denoisers.vdt import VdtConfig
from kinolab.diffusion.samplers import SAMPLERS
from kinolab.errors import InputError
from kinolab.layers.causal_coder import Variant
from kinolab.metrics.extractors import EXTRACTORS
from tests.gpu_place import small_place

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A small run on the CPU with time enough."""
    return small_place(tmp_path)


# --- parts and items


def part(name: str, made: list[str], failing: str = "", share: float = 1.0) -> Part:
    """Items a, b, c that say when they run; one of them may fail."""

    def items(place: Place) -> list[Item]:
        def make(item: str) -> Record:
            made.append(f"{name}.{item}")
            if item == failing:
                raise RuntimeError("it broke\nmore")
            return {"value": item}

        return [(item, lambda item=item: make(item)) for item in "abc"]  # type: ignore[misc]

    return Part(name, name, share, items, lambda records: (["", ""], [[k, str(v)] for k, v in records.items()]))


def test_what_is_done_is_not_done_again_and_a_failure_stays_where_it_is(place: Place) -> None:
    made: list[str] = []
    results = Results(place.out / "results.json")
    assert not run_parts([part("one", made, failing="b"), part("two", made)], place, results)
    assert made == ["one.a", "one.b", "one.c", "two.a", "two.b", "two.c"]
    assert results.of("one")["b"][FAILED] == "RuntimeError: it broke"
    made.clear()
    again = Results(place.out / "results.json")  # as the next call reads it
    assert run_parts([part("one", made), part("two", made)], place, again)
    assert made == ["one.b"] and again.of("one")["b"]["value"] == "b", "only what failed is tried again"


def test_another_machine_goes_on_from_the_carried_results(place: Place, tmp_path: Path) -> None:
    made: list[str] = []
    first = Results(tmp_path / "first.json")
    run_parts([part("one", made)], place, first)
    made.clear()
    assert run_parts([part("one", made)], place, Results(tmp_path / "elsewhere" / "results.json", first.path))
    assert not made


def test_a_machine_whose_output_is_taken_away_goes_on_from_its_own_copy(place: Place) -> None:
    made: list[str] = []
    kept = place.state / "results.json"
    run_parts([part("one", made)], place, Results(place.out / "results.json", kept, kept=kept))
    assert kept.read_text() == (place.out / "results.json").read_text()
    (place.out / "results.json").unlink()
    made.clear()
    assert run_parts([part("one", made)], place, Results(place.out / "results.json", kept, kept=kept)) and not made


def test_a_part_whose_items_cant_be_listed_doesnt_end_the_others(place: Place) -> None:
    def broken(place: Place) -> list[Item]:
        raise InputError("no frames of clips were carried")

    made: list[str] = []
    bad = Part("bad", "bad", 1.0, broken, lambda records: ([], []))
    results = Results(place.out / "results.json")
    assert not run_parts([bad, part("two", made)], place, results)
    assert "no frames" in results.of("bad")["all of it"][FAILED] and len(made) == 3


def test_time_that_a_part_leaves_is_the_next_ones(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.gpu.running.time.monotonic", lambda: now[0])
    place.clock = Clock(100.0, began=0.0)
    seen: list[float] = []

    def items(place: Place, cost: float) -> list[Item]:
        def make() -> Record:
            seen.append(place.clock.left())
            now[0] += cost
            return {}

        return [(str(k), make) for k in range(4)]

    def costing(name: str, share: float, cost: float) -> Part:
        return Part(name, name, share, lambda p: items(p, cost), lambda records: ([], []))

    parts = [costing("quick", 0.25, 1.0), costing("slow", 0.25, 30.0), costing("last", 0.5, 40.0)]
    results = Results(place.out / "results.json")
    assert not run_parts(parts, place, results)
    assert seen == [25.0, 24.0, 23.0, 22.0, 46.0, 16.0, 36.0], "slow may work until 50, last until 100"
    assert list(results.of("slow")) == ["0", "1"] and list(results.of("last")) == ["0"]


def test_an_item_that_runs_out_of_time_has_no_record(place: Place) -> None:
    def make() -> Record:
        raise OutOfTimeError("step 3 of 9")

    results = Results(place.out / "results.json")
    assert not run_parts([Part("p", "p", 1, lambda p: [("x", make)], lambda r: ([], []))], place, results)
    assert results.of("p") == {}


def test_a_lost_device_ends_the_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def lost(self: Place) -> None:
        if "one.b" in made:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Place, "wait", lost)
    results = Results(place.out / "results.json")
    assert not run_parts([part("one", made, failing="b"), part("two", made)], place, results)
    assert made == ["one.a", "one.b"]


def test_records_are_strict_json(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json")
    results.put("p", "x", {"a": float("nan"), "b": [float("inf"), 1.5], "c": (1, {2: None})})
    assert json.loads(results.path.read_text())["parts"]["p"]["x"] == {
        "a": "nan",
        "b": ["inf", 1.5],
        "c": [1, {"2": None}],
    }
    assert plain(0.1) == 0.1


# --- numerics


def linear(weight: float = 2.0) -> Case:
    def build() -> nn.Module:
        layer = nn.Linear(3, 3, bias=False)
        nn.init.constant_(layer.weight, weight)
        return layer

    return Case("linear", build, lambda: (seeded(0, 4, 3),))


def test_the_same_module_differs_in_nothing_and_bfloat16_by_its_rounding() -> None:
    record = numerics.compare(linear(), CPU)
    modes = record["modes"]
    assert list(modes) == ["float32", "bfloat16"], "TF32 is of CUDA alone"
    assert modes["float32"]["largest"] == modes["float32"]["gradient_largest"] == 0 and modes["float32"]["passes"]
    assert 1e-5 < modes["bfloat16"]["relative"] < 1e-2 and modes["bfloat16"]["passes"]
    assert record["values"] == 12 and record["gradients"] == 12 + 9


def test_a_device_that_computes_otherwise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, and gradients alone, a hundredth off."""

    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
            ctx.backward_factor = backward
            return x * forward

        @staticmethod
        def backward(ctx: Any, *slopes: Tensor) -> Any:
            return slopes[0] * ctx.backward_factor, None, None

    for factors, key in (((1.01, 1.0), "relative"), ((1.0, 1.01), "gradient_relative")):
        calls: list[int] = []

        def run(module: nn.Module, x: Tensor, calls: list[int] = calls, factors: Any = factors) -> Tensor:
            calls.append(1)
            return module(x) if len(calls) == 1 else Off.apply(module(x), *factors)  # the first call is the reference

        entry = numerics.compare(replace(linear(), run=run), CPU)["modes"]["float32"]
        assert not entry["passes"] and entry[key] == pytest.approx(0.01, rel=0.05)


def test_a_family_whose_library_is_missing_is_skipped_with_the_reason() -> None:
    def build() -> nn.Module:
        raise ModuleNotFoundError("No module named 'transformers'")

    record = numerics.compare(replace(linear(), build=build), CPU)
    assert numerics.table({"clip": record, "linear": numerics.compare(linear(), CPU)})[1][0][1] == record["skipped"]
    assert "transformers" in record["skipped"] and FAILED not in record


def test_a_difference_is_over_the_spread_and_nan_is_infinite() -> None:
    reference = torch.tensor([0.0, 2.0], dtype=torch.float64)
    found = numerics.difference(torch.tensor([0.0, 2.5], dtype=torch.float64), reference)
    assert found == numerics.Difference(largest=0.5 / 1.0, relative=0.25)
    constant = torch.full((3,), 4.0, dtype=torch.float64)
    assert numerics.difference(constant + 1, constant).largest == 0.25
    assert numerics.difference(reference * float("nan"), reference).relative == float("inf")
    assert numerics.difference(reference * 0, reference * 0) == numerics.Difference(0.0, 0.0)


def test_the_table_marks_what_is_over_its_limit() -> None:
    entry = {"largest": 0.1, "relative": 0.1, "passes": False}
    columns, rows = numerics.table({"a": {"modes": {"float32": entry}}, "b": {FAILED: "RuntimeError: x"}})
    assert columns == ["case", "float32"]
    assert rows == [["a", "1.0e-01 !"], ["b", "RuntimeError: x"]]


def names_of(cases: Any) -> set[str]:
    return {case.name for case in cases}


@pytest.mark.slow
def test_every_family_is_compared() -> None:
    """A new denoiser, autoencoder, variant, sampler or network of metrics has to get a case."""
    denoisers, autoencoders = names_of(cases_models.denoisers(True)), names_of(cases_models.autoencoders(True))
    assert {name.split(":")[0] for name in denoisers} == set(DENOISERS)
    assert {name.split(":")[0].split(",")[0] for name in autoencoders} == set(AUTOENCODERS) - {"diffusers"}
    said = " ".join(denoisers | autoencoders)
    for variant in (
        *get_args(LatteConfig.model_fields["variant"].annotation),
        *(f"given: {how}" for how in get_args(VdtConfig.model_fields["given"].annotation) if how != "none"),
        *(f"odvae: {v}" for v in get_args(Variant)),
        "2d,", "3d,", "2d+3d,",
    ):  # fmt: skip
        assert variant in said, variant
    sampled = names_of(cases_networks.sampling(True))
    assert {name.split(": ")[1].split(",")[0] for name in sampled if name.startswith("sampler")} == set(SAMPLERS)
    networks = names_of(cases_networks.networks(True))
    assert {"minilm", "clip text", "t5 encoder", "lpips: vgg16", "lpips: alexnet"} <= networks
    known = {"i3d_torchscript": "i3d", "inception_torchvision": "inception", "encoder": "video encoder"}
    assert {known.get(name, name) for name in EXTRACTORS} <= networks
    assert {"world: denoiser", "world-text: autoencoder", "encoder"} <= names_of(cases_networks.shipped(True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "vdt: given: channels", "mmdit: 2d+3d, labels, fps, dual", "image, decode", "tats: group norm, before its codes",
    "loss: ddpm", "step cache", "minilm",
])  # fmt: skip
def test_cases_run_and_are_the_same_each_time(name: str) -> None:
    makers = (cases_models.denoisers, cases_models.autoencoders, cases_networks.sampling, cases_networks._text)
    case = next(c for maker in makers for c in maker(True) if c.name == name)
    entry = numerics.compare(case, CPU)["modes"]["float32"]
    assert entry["largest"] == 0 and entry.get("gradient_largest", 0) == 0
    outputs = tensors(case.run(case.build(), *case.inputs()))
    assert all(float(o.detach().float().abs().max()) > 1e-3 for o in outputs), "nothing that is compared is zero"


def test_moving_reaches_every_tensor() -> None:
    told = (torch.ones(1), [Conditions(label=torch.ones(1, dtype=torch.long))], {"a": torch.ones(2)}, "word")
    there = moved(told, "meta")
    assert [t.device.type for t in tensors(there)] == ["meta"] * 3 and there[3] == "word"


# --- training steps


def test_a_step_is_measured_with_its_flops(place: Place) -> None:
    training = next(t for t in steps.trainings(True) if t.name == "Latte")
    record = steps.measure(training, place)
    assert record["examples_per_second"] == pytest.approx(2 / record["step_seconds"])
    assert record["tflops"] == pytest.approx(record["tflop_per_step"] / record["step_seconds"])
    # The blocks' four products per token, forward and twice backward, are most of it; 2 FLOPs each.
    tokens, D = 2 * 3 * 16, 32
    products = 3 * 2 * tokens * 2 * (4 * D * D + 8 * D * D)
    assert products < 1e12 * record["tflop_per_step"] < 1.5 * products


def test_a_batch_that_doesnt_fit_is_halved(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def measure(training: steps.Training, batch: int, place: Place, folder: Path) -> Record:
        tried.append(batch)
        if batch > 8:
            raise torch.cuda.OutOfMemoryError("no room")
        return {"batch": batch}

    monkeypatch.setattr(steps, "_measure", measure)
    assert steps.measure(steps.Training("x", {}, (1,), 32), place)["batch"] == 8 and tried == [32, 16, 8]


def test_utilisation_is_of_the_data_sheet_and_of_a_product() -> None:
    top = {"bfloat16_tflops": 800.0, "float32_tflops": 50.0, "data_sheet_bfloat16_tflops": 989.0}
    record = {"batch": 2, "example": [4, 3], "precision": "bfloat16", "step_seconds": 0.01, "tflop_per_step": 2.0,
              "tflops": 200.0, "peak_gb": 7.25}  # fmt: skip
    _, rows = steps.table({steps.CEILINGS: top, "a": record, "b": {**record, "precision": "float32", "tflops": 25.0}})
    assert rows[0] == ["a", "2 x 4 x 3", "bfloat16", "10 ms", "2", "200", "20.2%", "25.0%", "7.2 GB"]
    assert rows[1][6:8] == ["", "50.0%"]


# --- beside diffusers


def test_without_diffusers_the_rest_is_measured_and_the_reason_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(case: Any) -> Any:
        raise ImportError("No module named 'diffusers'")

    monkeypatch.setattr(beside.latte, "diffusers_latte", missing)
    make = dict(beside.items(place))["Latte, one forward"]
    record = make()
    assert list(record["entrants"]) == ["Kinolab, float32", "Kinolab, bfloat16"]
    assert "No module named 'diffusers'" in record["skipped"]
    columns, rows = beside.table({"Latte": record})
    assert len(columns) == len(rows[0]) == 7 and rows[0][3] == "1.00 x" and "diffusers" in rows[2][1]


def test_compiled_ones_are_compared_with_kinolab_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(
        beside, "compile_for_inference", lambda m, dtype, device: seen.append((type(m).__name__, dtype))
    )
    match = beside._odvae(OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1), num_res_blocks=1, norm_num_groups=4,
                                      temporal_ratio=2), "decode", (3, 8, 8))  # fmt: skip
    entrants = beside.compiled_entrants(match, place)
    assert [entrant.name for entrant in entrants] == ["Kinolab, float32", "Kinolab, bfloat16", beside.COMPILED]
    assert seen == [("Encoder", torch.bfloat16), ("Decoder", torch.bfloat16)]
    assert not any(name.endswith("compiled") for name, _ in beside.items(place)), "on the CPU that has a benchmark"


@pytest.mark.filterwarnings("ignore")  # diffusers' own
@pytest.mark.parametrize("name", ["AutoencoderKL, decode", "MMDiT, one forward of images"])
def test_diffusers_and_kinolab_compute_the_same_there(place: Place, name: str) -> None:
    pytest.importorskip("diffusers")
    rows = dict(beside.items(place))[name]()["entrants"]
    assert list(rows) == ["diffusers, float32", "diffusers, bfloat16", "Kinolab, float32", "Kinolab, bfloat16"]
    assert rows["Kinolab, float32"]["relative"] < 1e-5 < rows["Kinolab, bfloat16"]["relative"] < 0.05


# --- the program


def test_the_program_runs_parts_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    failing = ["b"]
    monkeypatch.setattr(program, "parts", lambda: [part("numerics", made, failing[0]), part("steps", made)])
    command = ["run", "--carry", str(tmp_path / "carry"), "--out", str(tmp_path / "out"), "--device", "cpu", "--small"]
    assert program.main(command) == 1 and len(made) == 6
    failing[0] = ""
    made.clear()
    assert program.main([*command, "--only", "numerics"]) == 0 and made == ["numerics.b"]
    said = capsys.readouterr().out
    assert "### numerics" in said and "everything is done" in said and "call again" in said
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(content["calls"]) == 2 and content["calls"][0]["device"] == "cpu" and content["calls"][0]["small"]
    assert "it broke" in (tmp_path / "out" / "log.txt").read_text()
    assert len(list((tmp_path / "out").iterdir())) == 3, "a few files at the top: machines give back only so many"


def test_the_parts_have_the_names_that_can_be_asked_for() -> None:
    assert tuple(part.name for part in program.parts()) == program.NAMES
