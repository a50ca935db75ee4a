"""A whole comparison, small: trained, measured, resumed, and gathered into tables."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kinolab.cli.compare import compare as command
from kinolab.comparison import cells as cells_module
from kinolab.comparison import run as run_module
from kinolab.comparison.cells import encode_cell, latents_of, model_of, train_cell
from kinolab.comparison.hashes import cell_folder
from kinolab.comparison.matrix import Cell, cells_of
from kinolab.comparison.measure import _requests, measure_cell, scores_path
from kinolab.comparison.pages import BEGIN, END, shown_videos, write_tables
from kinolab.comparison.plan import load_plan
from kinolab.comparison.run import compare, read_scores, run_cell, states
from kinolab.comparison.tables import Group, Row, groups_of
from kinolab.contracts.events import Stopped
from kinolab.errors import InputError
from kinolab.models import load_autoencoder
from kinolab.reports import Media
from tests import processes
from tests.closeness import assert_close
from tests.comparison.tiny_plan import IMAGE as IMAGE_CONFIG
from tests.comparison.tiny_plan import tiny_plan, write_plan
from tests.listening import Listening
from tests.reports.reading import Reader

pytestmark = pytest.mark.slow

IMAGE = Cell("world", "small", 0, "image")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The plan and the folder of a finished comparison."""
    folder = tmp_path_factory.mktemp("compare")
    plan = write_plan(folder)
    assert compare(plan, folder / "out", isolate=False) == []
    return plan, folder / "out"


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are still commands of their own, whose processes needn't import torch again."""
    monkeypatch.setattr(run_module, "run_command", lambda command, events: processes.run(command))


def test_every_cell_is_trained_and_measured_once(done: tuple[Path, Path]) -> None:
    path, out = done
    plan = load_plan(path)
    assert all(s.trained and s.measured for s in states(plan, out))
    times = {c: scores_path(plan, c, out).stat().st_mtime_ns for c in cells_of(plan)}
    heard = Listening()
    assert compare(path, out, isolate=False, events=heard) == []
    assert {c: scores_path(plan, c, out).stat().st_mtime_ns for c in cells_of(plan)} == times
    assert heard.notes == ["4 of 4 cells are done already"]


def test_scores_hold_what_the_table_needs(done: tuple[Path, Path]) -> None:
    path, out = done
    scores = read_scores(load_plan(path), out)
    odvae = scores[Cell("world", "small", 0, "odvae")]
    assert odvae["facts"]["temporal_compression"] == 5 / 2, "a key frame and four frames in one latent"
    assert odvae["facts"]["total_compression"] == 3 * 5 * 32 * 32 / (4 * 2 * 8 * 8)
    assert odvae["training"]["steps"] == 2 and odvae["training"]["samples"] == 4
    assert odvae["cost"]["clips_per_second"] > 0 and odvae["cost"]["training_memory"] >= odvae["cost"]["coding_memory"]
    assert {"psnr", "ssim", "ssim3d", "flicker", "warp", "rfvd"} <= odvae["metrics"].keys()
    latte = scores[Cell("world", "small", 0, "odvae", "latte", "generate")]
    assert {"fvd", "kvd", "fid", "kid", "dynamic_degree"} <= latte["metrics"].keys()
    assert latte["cost"]["seconds_per_clip"] > 0 and latte["cost"]["threads"] > 0
    assert latte["facts"]["generated_clips"] == 6 and latte["facts"]["seconds_per_clip"] > 0
    assert latte["protocol_hash"] != odvae["protocol_hash"]
    video = latte["clips"][0]["video"]
    assert (cell_folder(load_plan(path), Cell("world", "small", 0, "odvae", "latte", "generate"), out) / video).exists()


def test_tables(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    files = write_tables(load_plan(path), out, tmp_path / "docs.md")
    text = (out / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "docs.md").read_text(encoding="utf-8") == text and files[-1] == out / "report.html"
    assert "| image + latte |" in text and "temporal : 1" in text and "TMem (MB)" in text
    rows = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    scores = read_scores(load_plan(path), out)
    for row in rows:
        if row["kind"] == "score" and row["value"]:
            cell = next(c for c in scores if c.id == row["cell"])
            assert float(row["value"]) == scores[cell]["metrics"][row["name"]]["value"]
            assert row["protocol_hash"] == scores[cell]["protocol_hash"]
    page = Reader((out / "report.html").read_text(encoding="utf-8"))
    assert len(page.files) >= 4 and all((out / name).is_file() for name in page.files)


def test_tables_go_between_the_marks_of_a_page(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nmy words\n", encoding="utf-8")
    for _ in range(2):
        write_tables(load_plan(path), out, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n") and text.endswith("my words\n") and "old" not in text
    assert text.count("## Autoencoders: world") == 1
    page.write_text("my words\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no <!-- tables -->"):
        write_tables(load_plan(path), out, page)
    assert page.read_text(encoding="utf-8") == "my words\n"


def test_an_interrupted_training_goes_on_to_the_same_weights(
    done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = done
    plan = load_plan(path)
    real: Any = cells_module.train

    def stopped(recipe: Any, run: Path, **given: Any) -> Any:
        return real(recipe, run, until=1, **given)

    monkeypatch.setattr(cells_module, "train", stopped)
    with pytest.raises(InputError, match="stopped at step 1 of 2"):
        train_cell(plan, IMAGE, tmp_path)
    assert not states(plan, tmp_path)[0].trained
    monkeypatch.setattr(cells_module, "train", real)
    train_cell(plan, IMAGE, tmp_path)
    record = json.loads((cell_folder(plan, IMAGE, tmp_path) / "training.json").read_text(encoding="utf-8"))
    assert record["resumed"] is True
    weights = [cell_folder(plan, IMAGE, o) / "run/model/autoencoder.safetensors" for o in (out, tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_failed_cell_takes_only_those_that_need_it(tmp_path: Path) -> None:
    broken = {"kind": "image", "block_out_channels": [8, 8, 8], "latent_channels": 4, "norm_num_groups": 3}
    good = {**broken, "norm_num_groups": 4}
    path = write_plan(
        tmp_path,
        autoencoders={"bad": {"path": str(tmp_path / "nowhere")}, "good": {"autoencoder": good}},
        denoisers={},
    )
    with pytest.raises(InputError, match="no such model"):
        compare(path, tmp_path / "out", isolate=False)
    path = write_plan(
        tmp_path,
        autoencoders={
            "good": {"autoencoder": good},
            "bad": {"autoencoder": {**good, "latent_channels": 2}, "initial": {"entry": "good", "method": "tail"}},
            "worse": {"autoencoder": good, "initial": {"entry": "bad", "method": "weights"}},
        },
        denoisers={},
    )
    failed = compare(path, tmp_path / "out", isolate=False)
    assert len(failed) == 2 and "inflates an image autoencoder" in failed[0]
    assert failed[1] == "world/small/seed0/worse: needs a cell that failed"
    assert [s.measured for s in states(load_plan(path), tmp_path / "out")] == [True, False, False]


def test_missing_first_weights_are_one_line_and_hide_no_other_cell(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    latte = load_plan(path).denoisers["latte"].denoiser
    assert latte is not None
    before = latte.model_dump(mode="json")
    entries = {"latte": tiny_plan()["denoisers"]["latte"],
               "late": {"denoiser": before, "autoencoders": ["image"], "initial": {"path": "nowhere"}}}  # fmt: skip
    plan = write_plan(tmp_path, denoisers=entries)
    late = "world/small/seed0/image/late/generate"
    said = r"denoisers\.late\.initial\.path: nowhere: no such model"
    app = typer.Typer()
    app.command()(command)
    listed = CliRunner().invoke(app, [str(plan), "--out", str(out), "--list"])
    assert listed.exit_code == 0 and listed.stdout.count("measured") == 4 and f"missing   {late}" in listed.stdout
    assert len(re.findall(said, listed.stderr)) == 1 and listed.stderr.count("\n") == 1
    assert len(read_scores(load_plan(plan), out)) == 4, "what is measured can be shown"
    with pytest.raises(InputError, match=said):
        compare(plan, out, isolate=False)


def test_weights_as_they_are_sampled_in_two_ways(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    plan = load_plan(path)
    [latte] = [c for c in cells_of(plan) if c.denoiser == "latte" and c.autoencoder == "image"]
    trained, images = model_of(plan, latte, out), model_of(plan, Cell("world", "small", 0, "image"), out)
    entry = tiny_plan()["denoisers"]["latte"] | {"initial": {"path": str(trained)}, "start": "latte"}
    entries = {"still": {"weights_of": "asis", "start": "latte", "sampling": {"sampler": {"steps": 2}}},
               "asis": entry | {"untrained": True}}  # fmt: skip
    made = write_plan(tmp_path, autoencoders={"image": {"path": str(images)}}, denoisers=entries, world_requests=2)
    assert compare(made, tmp_path / "out", isolate=False) == []
    again = load_plan(made)
    found = {c.denoiser: r for c, r in read_scores(again, tmp_path / "out").items() if c.denoiser is not None}
    asis, still = found["asis"], found["still"]
    assert asis["training"] == still["training"] and asis["training"]["steps"] == 0
    before = read_scores(plan, out)[latte]
    assert_close(asis["training"]["heldout"]["loss"], before["training"]["heldout"]["loss"], 1e-4, "held-out loss")
    assert {m: v["value"] for m, v in before["metrics"].items()}.items() <= {
        m: v["value"] for m, v in asis["metrics"].items()
    }.items(), "the same weights, the same clips"
    assert still["metrics"]["fvd"] != asis["metrics"]["fvd"] and still["facts"]["sampler"]["steps"] == 2
    assert asis["cost"]["training_seconds"] == 0 < before["cost"]["training_seconds"]
    assert "step_seconds" not in asis["cost"] and asis["cost"]["sampling_memory"] > 0
    assert "roughness" in asis["facts"]["true_clips"] and "asked_identity" in asis["metrics"]
    text = write_tables(again, tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "## Denoisers: world, from latte" in text and "| image + still |" in text and "training (s)" in text
    resampled = load_plan(made, ["denoisers.still.sampling.sampler.steps=3"])
    states_now = {s.cell.denoiser: (s.trained, s.measured) for s in states(resampled, tmp_path / "out")}
    assert states_now == {None: (True, True), "asis": (True, True), "still": (True, False)}


def test_a_picture_shows_the_rows_that_kept_a_clip(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "from_image_picture.py"))
    script["main"]([str(path), str(out), str(tmp_path / "pictures"), "--large"])
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {"image-latte.png", "odvae-latte.png", "all.webp"}
    frames = script["strips_of"](path, out, 0)["all"]["image-latte"].frames
    assert frames.shape == (5, 32, 32, 3)
    with pytest.raises(InputError, match="no measured row has a clip 7"):
        script["strips_of"](path, out, 7)


def test_shares_of_requests_are_scores_of_denoisers_trained_on_the_world(done: tuple[Path, Path]) -> None:
    path, out = done
    asked, cell = load_plan(path, ["world_requests=2"]), Cell("world", "small", 0, "image", "latte", "generate")
    kept = scores_path(asked, cell, out).read_bytes()
    assert {s.cell.kind for s in states(asked, out) if not s.measured} == {"denoiser"}
    measure_cell(asked, cell, out)
    record = read_scores(asked, out)[cell]
    shares = {name: m for name, m in record["metrics"].items() if name.startswith("asked_")}
    assert set(shares) == {"asked_identity", "asked_all"}, "a model without conditions is asked for nothing more"
    for share in shares.values():
        assert share["count"] == 2 and share["interval"]["low"] <= share["value"] <= share["interval"]["high"]
    assert cell not in read_scores(load_plan(path), out), "scores with requests are not those without"
    scores_path(asked, cell, out).write_bytes(kept)
    predict = load_plan(path, ["world_requests=2", "tasks={predict: {given_frames: 1}}"])
    assert _requests(predict, Cell("world", "small", 0, "image", "latte", "predict")) == 0


def test_nothing_is_measured_before_it_is_trained(tmp_path: Path) -> None:
    plan = load_plan(write_plan(tmp_path))
    with pytest.raises(InputError, match="not trained yet"):
        measure_cell(plan, IMAGE, tmp_path)
    with pytest.raises(InputError, match="needs world/small/seed0/image, which is not trained"):
        train_cell(plan, Cell("world", "small", 0, "odvae"), tmp_path)
    with pytest.raises(InputError, match="nothing is measured yet"):
        write_tables(plan, tmp_path)


def test_an_autoencoder_that_is_taken_as_it_is(tmp_path: Path, done: tuple[Path, Path]) -> None:
    first, out = done
    model = cell_folder(load_plan(first), IMAGE, out) / "run" / "model"
    path = write_plan(tmp_path, autoencoders={"mine": {"path": str(model)}}, denoisers={})
    assert compare(path, tmp_path / "out", isolate=False) == []
    [record] = read_scores(load_plan(path), tmp_path / "out").values()
    ours = read_scores(load_plan(first), out)[IMAGE]
    assert record["metrics"]["psnr"] == ours["metrics"]["psnr"] and record["training"] is None


@pytest.mark.usefixtures("_forked")
@pytest.mark.wide
def test_a_cell_is_a_command_of_its_own(tmp_path: Path) -> None:
    path = write_plan(tmp_path, denoisers={}, autoencoders={"image": {"autoencoder": IMAGE_CONFIG}})
    override = "budgets.small.autoencoder.steps=1"
    assert compare(path, tmp_path / "out", [override], threads=1) == []
    found = read_scores(load_plan(path, [override]), tmp_path / "out")[IMAGE]
    assert found["training"]["steps"] == 1 and found["facts"]["threads"] == 1
    assert not states(load_plan(path), tmp_path / "out")[0].trained, "without the override it is another cell"


def test_denoisers_of_one_autoencoder_may_start_at_once(done: tuple[Path, Path]) -> None:
    """Both want the same latents: the second waits for the first instead of failing."""
    path, out = done
    plan = load_plan(path)
    cell = Cell("world", "small", 0, "odvae", "latte", "generate")
    network = load_autoencoder(model_of(plan, Cell("world", "small", 0, "odvae"), out))
    with ThreadPoolExecutor(2) as pool:
        assert len({f.result() for f in [pool.submit(latents_of, plan, cell, out, network) for _ in range(2)]}) == 1


def test_another_sampler_measures_the_denoisers_again(done: tuple[Path, Path], tmp_path: Path) -> None:
    """The sampler is in no file's name: scores of another one must not pass for the plan's."""
    path, out = done
    other = load_plan(path, ["sampler.steps=2"])
    assert {s.cell.kind for s in states(other, out) if s.trained and not s.measured} == {"denoiser"}
    assert {c.kind for c in read_scores(other, out)} == {"autoencoder"}
    assert all(s.measured for s in states(load_plan(path), out)), "looking changes nothing"


def test_another_number_of_cached_clips_makes_another_cache(done: tuple[Path, Path]) -> None:
    path, out = done
    cell = Cell("world", "small", 0, "odvae", "latte", "generate")
    network = load_autoencoder(model_of(load_plan(path), Cell("world", "small", 0, "odvae"), out))
    paths = [latents_of(load_plan(path, [f"cached_clips={n}"]), cell, out, network) for n in (8, 4)]
    assert paths[0] != paths[1] and all((p / "cache.json").is_file() for p in paths)


def test_clips_are_encoded_before_the_training_whose_memory_is_measured(tmp_path: Path) -> None:
    path = write_plan(tmp_path, autoencoders={"image": {"autoencoder": IMAGE_CONFIG}})
    heard = Listening()
    assert compare(path, tmp_path / "out", isolate=False, measure=False, events=heard) == []
    latte = "world/small/seed0/image/latte/generate"
    assert heard.notes == ["world/small/seed0/image: train", f"{latte}: encode", f"{latte}: train"]
    with pytest.raises(InputError, match="needs world/small/seed0/image, which is not trained"):
        encode_cell(load_plan(path), Cell("world", "small", 0, "image", "latte", "generate"), tmp_path / "empty")


def test_a_stopped_comparison_goes_on_with_what_is_left(tmp_path: Path) -> None:
    path, heard = write_plan(tmp_path), Listening(stop_after=1)
    with pytest.raises(Stopped):
        compare(path, tmp_path / "out", isolate=False, measure=False, events=heard)
    trained = [s.cell for s in states(load_plan(path), tmp_path / "out") if s.trained]
    assert len(trained) == 1 and heard.told == [(1, 4)]
    again = Listening(stop_after=1)
    with pytest.raises(Stopped):
        compare(path, tmp_path / "out", isolate=False, measure=False, events=again)
    assert again.notes[0] == "1 of 4 cells are done already"
    assert sum(s.trained for s in states(load_plan(path), tmp_path / "out")) == 2


def test_a_cell_at_work_is_interrupted_once() -> None:
    done = run_module.run_command([sys.executable, "-c", "import time; time.sleep(60)"], Listening(stop_after=0))
    assert done.returncode and "KeyboardInterrupt" in done.stderr


@pytest.mark.wide
def test_one_cell_by_name(tmp_path: Path, done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = done
    run_cell(path, IMAGE, out)
    monkeypatch.setattr(run_module, "run_command", lambda command, events: processes.run(command))
    with pytest.raises(InputError, match=r"odvae: train: .*needs world/small/seed0/image, which is not trained yet"):
        run_cell(path, Cell("world", "small", 0, "odvae"), tmp_path)


def test_only_videos_of_one_clip_stand_side_by_side(done: tuple[Path, Path]) -> None:
    path, out = done
    plan = load_plan(path)
    group = next(g for g in groups_of(plan, read_scores(plan, out)) if g.kind == "autoencoder")
    first, second = group.rows
    assert [len(b.videos) for b in shown_videos(plan, group, out, Media())] in ([1], [2])

    def kept(row: Row, name: str) -> Row:
        clips = [c | {"video": None} for c in row.records[0]["clips"]]
        worst = next(c["video"] for c in row.records[0]["clips"] if c["video"])
        renamed = {"name": name, "scores": {}, "video": worst}
        return Row(row.name, row.cells, ({**row.records[0], "clips": [*clips, renamed]},))

    same = Group(group.title, group.kind, (kept(first, "a"), kept(second, "a")))
    [block] = shown_videos(plan, same, out, Media())
    assert [name for name, _ in block.videos] == [first.name, second.name] and block.title.endswith(": a")
    apart = Group(group.title, group.kind, (kept(first, "a"), kept(second, "b")))
    assert all(len(b.videos) == 1 for b in shown_videos(plan, apart, out, Media()))


def test_facts_are_in_the_unit_of_their_heading(done: tuple[Path, Path]) -> None:
    path, out = done
    write_tables(load_plan(path), out)
    scores = {c.id: r for c, r in read_scores(load_plan(path), out).items()}
    rows = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    millions = {r["cell"]: float(r["value"]) for r in rows if r["name"] == "parameters (M)"}
    memory = {r["cell"]: float(r["value"]) for r in rows if r["name"] == "TMem (MB)"}
    assert millions.keys() == memory.keys() == scores.keys()
    for id, record in scores.items():
        assert millions[id] == record["facts"]["parameters"] / 1e6
        assert memory[id] == record["cost"]["training_memory"] / 1e6
