"""What 0.1.0 stored is read: caches, models, packed and converted weights, results, comparisons, recipes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.adapter import find
from benchmarks.computing import compared, numbers_of
from benchmarks.quantities import EVALUATIONS
from tests.closeness import assert_close, assert_small
from tests.net.conftest import Command
from tests.net.make import RECIPES, SCORES, VIDEOS

pytestmark = pytest.mark.slow  # many short ones, which take long together

MEASURED = 2e-3
"""Share by which a measurement may differ on another processor: its clips come from several steps and a codec."""

TRAINED = 3e-2
"""The same after a step of training: AdamW's first one goes by the signs of the gradients, also of those near zero."""


def cache(path: str) -> Any:
    """Every window of a cache."""
    return find("CacheSource")(find("CacheConfig")(path=path, split="all"))


@pytest.mark.parametrize("name", ["plain", "text", "tasks"])
def test_a_cache_is_read_and_is_what_encode_would_write(name: str, here: Path, kinolab: Command) -> None:
    stored = cache(f"caches/{name}")
    assert len(stored) == 6 and {stored[k].caption for k in range(6)} == captions(here)
    assert all(stored[k].latents.shape == (4, 2, 8, 8) and stored[k].latents.isfinite().all() for k in range(6))
    assert (stored[0].mask is not None and stored[0].mask.shape[0] == 2) == (name == "tasks")
    options = {
        "plain": "--keep-posterior",
        "text": "--text minilm",
        "tasks": "--tasks recipes/vdt.yaml --draws 2",
    }[name].split()
    line = "encode clips -a models/odvae --frames 5 --size 32 --dtype float32 -s data.index=none --shard-size 4"
    words = line.split()
    words += options
    done = kinolab(*words, "--out", f"caches/{name}")
    assert done.status == 0 and "0 encoded now, 6 there already" in done.out + done.err, done
    done = kinolab(*words, "--out", "caches/new")
    assert done.status == 0, done.err
    new = cache("caches/new")
    for k in range(6):
        for field in ("latents", "given", "mask"):
            value = getattr(stored[k], field)
            assert (value is None) == (getattr(new[k], field) is None)
            if value is not None:
                assert_close(getattr(new[k], field).float(), value.float(), 1e-4, f"{name} {k}: {field}")


def captions(here: Path) -> set[str]:
    """The captions of the clips."""
    table = (here / "clips" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["caption"] for line in table}


def test_packed_weights_are_those_that_were_packed(here: Path) -> None:
    whole = find("VideoModel").load("models/mmdit").state_dict()
    half, bytes_ = (find("VideoModel").load(f"packed/{how}").state_dict() for how in ("float16", "int8"))
    for name, value in whole.items():
        rounded = value.half().float() if value.is_floating_point() else value
        assert torch.equal(half[name], rounded), name
        if not torch.equal(bytes_[name], rounded):
            assert value.ndim >= 2 and value.numel() >= 1024, f"{name} is too small for 8 bits"
            assert_small(bytes_[name] - value, value, 0.1, name)


def test_converted_weights_are_read_back(here: Path, kinolab: Command) -> None:
    """Public layouts that were written then give the weights that they were written from."""
    backs = {
        "converted/image-diffusers": (["-o", "back"], "models/image"),
        "converted/odvae.safetensors": (["-o", "back", "-s", "norm_num_groups=2"], "inflated/odvae"),
        "converted/latte.safetensors": (["-o", "back", "-a", "models/odvae", "-s", "num_heads=2"], "inflated/latte"),
    }
    for source, (words, origin) in backs.items():
        done = kinolab("convert", source, *words, "--overwrite")
        assert done.status == 0, f"{source}: {done.err}"
        assert_same_weights("back", origin)
    assert_same_weights("converted/image-back", "models/image")


def assert_same_weights(path: str, origin: str) -> None:
    """Both folders hold the same values: of the denoiser if there is one, else of the autoencoder."""
    whole = (Path(origin) / "denoiser.safetensors").exists()
    found, expected = (
        (find("VideoModel").load(p).denoiser if whole else find("load_autoencoder")(p)).state_dict()
        for p in (path, origin)
    )
    assert all(torch.equal(found[name], value) for name, value in expected.items()), path


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_score_is_measured_again(name: str, here: Path, kinolab: Command) -> None:
    then = json.loads((here / "scores" / f"{name}.json").read_text(encoding="utf-8"))
    done = kinolab(*SCORES[name].split(), "--out", "again.json")
    assert done.status == 0, done.err
    expected, found = numbers_of(then), numbers_of(json.loads(Path("again.json").read_text(encoding="utf-8")))
    assert len(expected) > 20 and set(expected) <= set(found)
    counts = [key for key, value in expected.items() if value == int(value) and abs(value) < 100]
    for key, value in expected.items():
        if key not in counts and value == value:
            assert_close(found[key], value, MEASURED, f"{name}: {key}")


def test_a_page_of_everything(here: Path, kinolab: Command) -> None:
    """Runs, scores and the records of videos of then stand on one page."""
    results = [f"scores/{name}.json" for name in SCORES]
    runs = [f"runs/{name}" for name in RECIPES]
    done = kinolab("report", *runs, *results, "videos/reconstruction.json", "--out", "page/report.html")
    assert done.status == 0, done.err
    text = Path("page/report.html").read_text(encoding="utf-8")
    for shown in ("fvd", "psnr", "Toy world", "temporal_flickering", "loss", "latte", "odvae"):
        assert shown in text, shown


def test_a_comparison_is_taken_as_done(here: Path, kinolab: Command) -> None:
    table = Path("compared/table.md").read_text(encoding="utf-8")
    done = kinolab("compare", "comparison.yaml", "--out", "compared", "--threads", 1)
    assert done.status == 0 and "2 of 2 cells are done already" in done.out + done.err, done
    assert Path("compared/table.md").read_text(encoding="utf-8") == table
    listed = kinolab("compare", "comparison.yaml", "--out", "compared", "--list")
    assert listed.status == 0 and "latte" in listed.out


def test_cells_of_a_comparison_are_trained_and_measured_again(here: Path, tmp_path: Path) -> None:
    with (here / "compared" / "table.csv").open(encoding="utf-8", newline="") as file:
        then = {f"{Path(r['cell']).name} {r['name']}": r for r in csv.DictReader(file) if r["kind"] == "score"}
    found = compared(tmp_path)
    assert set(then) == set(found) and len({name.split()[0] for name in then}) == 2, "an autoencoder and a denoiser"
    for name, row in then.items():
        expected = [float(row[k] or "nan") for k in ("value", "low", "high")]
        for value, number in zip(found[name].tolist(), expected, strict=True):
            if number == number:
                assert_close(value, number, TRAINED, name)


def test_plans_and_settings_are_made_again(here: Path, kinolab: Command) -> None:
    for name, same in (("plan", "parameters"), ("tune", "setting")):
        then = json.loads((here / "scores" / f"{name}.json").read_text(encoding="utf-8"))
        words = SCORES[name].split()
        done = kinolab(*words, "--out", "again.json")
        assert done.status == 0, done.err
        now = json.loads(Path("again.json").read_text(encoding="utf-8"))
        assert set(then) <= set(now) and same in json.dumps(then)
        expected, found = ({k: v for k, v in numbers_of(r).items() if same in k} for r in (then, now))
        assert expected == {k: found[k] for k in expected}


def test_nothing_of_then_is_left_unread(net: Path) -> None:
    """Every folder of the net is named by a test of it."""
    tested = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for path in net.iterdir():
        assert path.name in tested or path.name in ("about.json", "protocols", "stills", "report"), path.name
    assert {path.stem.split("-")[0] for path in (net / "videos").glob("*.json")} == {
        name.split(".")[0].split("-")[0] for name in VIDEOS
    } | {"reconstruction"}
