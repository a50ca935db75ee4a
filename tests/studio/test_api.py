"""What the page asks: clips from a dropped file to a caption, runs with their logs, masks, made videos, votes."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from kinolab import video
from kinolab.runtime.locks import held
from kinolab.studio import jobs, painting
from kinolab.studio.api import footage, judged, routes
from kinolab.studio.api.work import told_by
from kinolab.studio.project import Project
from tests.studio.asking import client, ok, refused

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio") / "p"


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[TestClient]:
    with client(folder) as found:
        found.post("/api/queue", json={"paused": True})  # what is asked for here is never begun
        yield found


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    video.write(path, np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8), 8)
    return path.read_bytes()


@pytest.mark.slow
def test_a_clip_is_dropped_in_looked_at_captioned_edited_and_removed(
    page: TestClient, folder: Path, clip: bytes
) -> None:
    taken = ok(page.post("/api/clips?name=my <b>clip's%20first.MP4", content=clip))
    name = taken["clip"]["name"]
    assert name == "my_b_clip_s_first.mp4" and (folder / "clips" / name).read_bytes() == clip
    info = taken["clip"]["info"]
    assert (info["width"], info["height"], info["frames"], info["plays"]) == (48, 32, 6, True)
    assert ok(page.post("/api/clips?name=again.mp4", content=clip))["duplicate"] == name
    assert [c["name"] for c in ok(page.get("/api/clips"))["clips"]] == [name]
    assert page.get(f"/posters/{name}").headers["content-type"] == "image/webp"
    part = page.get(f"/play/{name}", headers={"range": "bytes=0-99"})
    assert part.status_code == 206 and part.content == clip[:100]

    ok(page.put("/api/clips/caption", json={"name": name, "text": " a red <i>ball</i> "}))
    assert (folder / "clips" / name).with_suffix(".txt").read_text() == "a red <i>ball</i>\n"
    tried = ok(page.post("/api/clips/replace", json={"find": "red", "replace": "blue"}))["changed"]
    assert tried == [{"name": name, "before": "a red <i>ball</i>", "after": "a blue <i>ball</i>"}]
    assert "red" in ok(page.get("/api/clips"))["clips"][0]["caption"]
    ok(page.post("/api/clips/replace", json={"find": "red", "replace": "blue", "dry": False}))
    assert "blue" in ok(page.get("/api/clips"))["clips"][0]["caption"]

    edit = {"name": name, "parts": [{"start": 0, "end": 0.5}], "crop": [0, 0, 0.5, 1]}
    assert ok(page.put("/api/clips/edit", json=edit))["edit"] == {"parts": edit["parts"], "crop": [0, 0, 0.5, 1]}
    refused(page.put("/api/clips/edit", json={"name": name, "parts": [{"start": 1, "end": 0.5}]}))
    refused(page.put("/api/clips/edit", json={"name": name, "crop": [0.6, 0, 0.5, 1]}))
    assert (folder / "clips" / name).read_bytes() == clip  # whatever was cut and cropped

    ok(page.delete(f"/api/clips/{name}"))
    assert not [p for p in (folder / "clips").rglob("*") if p.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.html", "a.mp4.exe", "../a.mp4", "a/b.mp4", "", ".mp4"])
def test_a_file_of_another_name_is_refused(page: TestClient, folder: Path, name: str) -> None:
    refused(page.post("/api/clips", params={"name": name}, content=b"x"))
    assert not [p for p in (folder / "clips").rglob("*") if p.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"<script>alert(1)</script>", b"\x00" * 5000])
def test_what_is_no_video_gets_no_name(page: TestClient, folder: Path, content: bytes) -> None:
    line = refused(page.post("/api/clips?name=a.mp4", content=content))
    assert line.startswith("a.mp4: ")  # not where it lay meanwhile
    assert not [p for p in (folder / "clips").rglob("*") if p.is_file()]


def test_a_link_that_leads_out_is_no_clip_and_hides_no_other(
    page: TestClient, folder: Path, clip: bytes, tmp_path: Path
) -> None:
    (tmp_path / "far.mp4").write_bytes(clip)
    (folder / "clips" / "a.mp4").symlink_to(tmp_path / "far.mp4")
    (folder / "clips" / "b.mp4").write_bytes(clip)
    try:
        assert [c["name"] for c in ok(page.get("/api/clips"))["clips"]] == ["b.mp4"]
        assert footage.stored(Project.open(folder), "gone.mp4") is None  # removed between two looks
        assert "clips/a.mp4: a link that leads out" in refused(page.post("/api/clips/check", json={}))
    finally:
        for name in ("a.mp4", "b.mp4"):
            (folder / "clips" / name).unlink()


def test_a_caption_of_two_clips_is_changed_once_and_goes_with_the_last(page: TestClient, folder: Path) -> None:
    caption = folder / "clips" / "dog.txt"
    for name in ("dog.mp4", "dog.png"):
        (folder / "clips" / name).write_bytes(b"x")
    caption.write_text("a dog\n")
    asked = {"find": "a", "replace": "aa", "dry": False}
    changed = ok(page.post("/api/clips/replace", json=asked))["changed"]
    assert [each["after"] for each in changed] == ["aa dog"] * 2 and caption.read_text() == "aa dog\n"
    ok(page.delete("/api/clips/dog.mp4"))
    assert caption.read_text() == "aa dog\n"
    ok(page.delete("/api/clips/dog.png"))
    assert not caption.exists()


@pytest.mark.slow
def test_two_tabs_that_edit_at_once_lose_no_edit(
    page: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [f"clip-{k}.mp4" for k in range(4)]
    for name in known:
        (folder / "clips" / name).write_bytes(b"x")
    reading = footage.read_edits

    def slow(project: Project) -> dict[str, Any]:
        found = reading(project)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(footage, "read_edits", slow)
    with ThreadPoolExecutor() as tabs:
        list(tabs.map(lambda name: ok(page.put("/api/clips/edit", json={"name": name, "use": False})), known))
    assert reading(Project.open(folder)) == {name: {"use": False} for name in known}
    for name in known:
        ok(page.delete(f"/api/clips/{name}"))


@pytest.mark.slow
def test_captions_of_a_table_are_written_into_it(page: TestClient, folder: Path, clip: bytes) -> None:
    for name in ("b.mp4", "c.mp4"):
        (folder / "clips" / name).write_bytes(clip)
    table = folder / "clips" / "captions.csv"
    table.write_text("file,caption\nb.mp4,a ball\n")
    try:
        found = {c["name"]: c for c in ok(page.get("/api/clips"))["clips"]}
        assert (found["b.mp4"]["caption"], found["b.mp4"]["table"]) == ("a ball", "captions.csv")
        assert (found["c.mp4"]["caption"], found["c.mp4"]["table"]) == ("", None)
        ok(page.put("/api/clips/caption", json={"name": "b.mp4", "text": "a red, round ball"}))
        ok(page.put("/api/clips/caption", json={"name": "c.mp4", "text": "a box"}))
        assert table.read_text() == 'file,caption\nb.mp4,"a red, round ball"\n'
        assert not (folder / "clips" / "b.txt").exists() and (folder / "clips" / "c.txt").read_text() == "a box\n"
        ok(page.post("/api/clips/replace", json={"find": "a ", "replace": "one ", "dry": False}))
        assert "one red" in table.read_text() and (folder / "clips" / "c.txt").read_text() == "one box\n"
        assert "at most" in refused(page.put("/api/clips/caption", json={"name": "b.mp4", "text": "x" * 20_001}))
        refused(page.put("/api/clips/caption", json={"name": "b.mp4", "text": "two\ncaptions"}))
        table.write_text("file,caption\nb.mp4\n")
        found = ok(page.get("/api/clips"))
        assert "captions.csv" in found["problems"][0] and {c["caption"] for c in found["clips"]} == {"", "one box"}
        assert "captions.csv" in refused(page.put("/api/clips/caption", json={"name": "b.mp4", "text": "x"}))
    finally:
        for name in ("captions.csv", "b.mp4", "c.mp4", "c.txt"):
            (folder / "clips" / name).unlink()


@pytest.mark.slow
def test_a_folder_of_numbered_images_is_one_clip(page: TestClient, folder: Path) -> None:
    pictures = []
    for k in range(3):
        file = io.BytesIO()
        Image.fromarray(np.full((32, 48, 3), 60 * k, np.uint8)).save(file, format="PNG")
        pictures.append(file.getvalue())
        taken = ok(page.post("/api/clips", params={"name": f"my walk/{k:04d}.png"}, content=file.getvalue()))
        assert taken["clip"] is None if k == 0 else taken["clip"]["name"] == "my_walk"
    assert [c["name"] for c in ok(page.get("/api/clips"))["clips"]] == ["my_walk"]
    looked = ok(page.post("/api/clips/look", json={"name": "my_walk"}))
    assert (looked["info"]["frames"], looked["info"]["plays"]) == (3, False)
    assert looked["bytes"] == sum(map(len, pictures))
    assert page.get("/posters/my_walk").headers["content-type"] == "image/webp"
    assert page.get("/play/my_walk").headers["content-type"] == "video/mp4"
    ok(page.put("/api/clips/caption", json={"name": "my_walk", "text": "it gets lighter"}))
    assert (folder / "clips" / "my_walk.txt").read_text() == "it gets lighter\n"
    again = {"name": "my walk/0000.png"}
    ok(page.post("/api/clips", params=again, content=pictures[0]))
    assert "another picture" in refused(page.post("/api/clips", params=again, content=pictures[1]))
    for name in ("../0000.png", "a/b/0.png", "a/.png", "/0.png", "a/b.mp4"):
        refused(page.post("/api/clips", params={"name": name}, content=pictures[0]))
    assert page.delete("/api/clips/my_walk/0000.png").status_code == 400  # a frame is no clip
    ok(page.delete("/api/clips/my_walk"))
    assert not [p for p in (folder / "clips").rglob("*") if p.is_file()]


def test_a_log_is_told_from_a_line_on_and_anew_where_it_was_cut(page: TestClient, folder: Path) -> None:
    run = folder / "runs" / "a"
    run.mkdir()
    rows = [{"step": k, "kind": "train", "seconds": 1.0, "loss": 1 / k} for k in range(1, 5)]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = ok(page.get("/api/runs/a/log"))
    assert whole == {"rows": rows, "next": 4, "restarted": False, "problem": ""}
    assert ok(page.get("/api/runs/a/log?after=3")) == {"rows": rows[3:], "next": 4, "restarted": False, "problem": ""}
    assert ok(page.get("/api/runs/a/log?after=4"))["rows"] == []
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert ok(page.get("/api/runs/a/log?after=4")) == {"rows": rows[:2], "next": 2, "restarted": True, "problem": ""}
    refused(page.get("/api/runs/a/log?after=x"))
    refused(page.get("/api/runs/none/log"), 404)


def test_what_no_browser_can_read_of_a_log_a_recipe_or_a_caption_is_told_otherwise(
    page: TestClient, folder: Path
) -> None:
    run = folder / "runs" / "diverged"
    run.mkdir()
    (run / "log.jsonl").write_text('{"step": 1, "kind": "train", "seconds": 1.0, "loss": NaN, "all": [1, -Infinity]}\n')
    (run / "recipe.yaml").write_text("data: {fps: .inf, since: 2020-01-01}\n")
    (row,) = ok(page.get("/api/runs/diverged/log"))["rows"]
    assert row["loss"] is None and row["all"] == [1, None] and row["step"] == 1
    assert ok(page.get("/api/runs/diverged"))["recipe"] == {"data": {"fps": None, "since": "2020-01-01"}}
    ok(page.delete("/api/runs/diverged"))
    (folder / "clips" / "half.mp4").write_bytes(b"x")
    said, kind = b'{"name": "half.mp4", "text": "\\ud800"}', {"content-type": "application/json"}
    assert "half a character" in refused(page.put("/api/clips/caption", content=said, headers=kind))
    ok(page.delete("/api/clips/half.mp4"))


def test_what_a_job_tells_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert told_by(path) == {}
    first = [{"kind": "stage", "title": "training", "time": 1}, {"kind": "progress", "done": 1, "total": 9, "time": 2}]
    text = "".join(json.dumps(event) + "\n" for event in first)
    path.write_text(text + '{"kind": "note", "te')
    before = told_by(path)
    assert before["progress"]["done"] == 1 and "note" not in before
    later = '{"kind": "note", "text": "slow"}\nnone\n{"kind": "progress", "done": 5, "total": 9, "time": 4}\n'
    path.write_text(" " * (len(text) - 1) + "\n" + later)  # what was read is not read again
    after = told_by(path)
    assert after["stage"] == "training" and after["note"] == "slow" and after["progress"]["done"] == 5
    assert after["first"]["done"] == before["progress"]["done"] == 1 and told_by(path) == after
    with path.open("a") as file:  # each stage is timed by itself
        file.write('{"kind": "stage", "title": "sampling", "time": 5}\n{"kind": "progress", "done": 2, "time": 6}\n')
    assert told_by(path)["first"]["done"] == 2


def test_a_run_is_running_while_its_lock_is_held_whoever_began_it(page: TestClient, folder: Path) -> None:
    run = folder / "runs" / "b"
    with held(run / ".lock", "held"):
        assert [r["running"] for r in ok(page.get("/api/runs"))["runs"] if r["name"] == "b"] == [True]
        assert "stop it first" in refused(page.delete("/api/runs/b"))
    assert [r["running"] for r in ok(page.get("/api/runs"))["runs"] if r["name"] == "b"] == [False]
    ok(page.delete("/api/runs/b"))
    assert not run.exists()


def test_a_jobs_command_is_shown_and_a_bad_one_is_not_queued(page: TestClient, folder: Path) -> None:
    asked = {"command": "generate", "values": {"prompt": ["a ball"], "out": "samples/a.mp4"}}
    shown = ok(page.post("/api/command", json=asked))
    assert shown["words"] == ["generate", "--out=samples/a.mp4", "--", "a ball"] and shown["copied"].startswith("cd ")
    refused(page.post("/api/jobs", json={"command": "generate", "values": {"out": "/tmp/a.mp4"}}))
    job = ok(page.post("/api/jobs", json=asked | {"title": "<b>x</b>"}))
    assert job["state"] == "waiting" and job["title"] == "<b>x</b>"
    assert ok(page.get(f"/api/jobs/{job['id']}"))["copied"] == shown["copied"]
    ok(page.delete(f"/api/jobs/{job['id']}"))
    assert not jobs.all_jobs(Project.open(folder))
    refused(page.get(f"/api/jobs/{job['id']}"), 404)


def test_shipped_models_are_listed_and_cannot_be_removed(page: TestClient) -> None:
    found = ok(page.get("/api/models"))
    world = next(model for model in found["models"] if model["name"] == "world")
    assert world["where"] == "shipped" and world["frames"] == 17 and world["denoiser"] == "vdt" and found["free"] > 0
    for name in ("world", "models", "runs", "clips/a", "models/../clips", "..%2f..%2fx"):
        assert page.delete(f"/api/models/{name}").status_code in (400, 404)


def test_adapters_of_runs_and_of_models_are_listed_and_what_takes_room(page: TestClient, folder: Path) -> None:
    for name in ("runs/a/adapter/adapter_model.safetensors", "models/b/adapter_config.json", "models/c.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    (folder / "runs" / "latents").mkdir()
    (folder / "runs" / "latents" / "cache.json").write_text("{}")
    try:
        found = ok(page.get("/api/models"))
        assert [a["path"] for a in found["adapters"]] == ["runs/a/adapter", "models/c.safetensors", "models/b"]
        assert {a["bytes"] for a in found["adapters"]} == {5}
        assert {f["path"]: f["bytes"] for f in found["folders"]}["models"] == 10
        assert "latents" not in [run["name"] for run in ok(page.get("/api/runs"))["runs"]]  # which is no run
    finally:
        for name in ("runs/a/adapter", "runs/latents", "models/b"):
            shutil.rmtree(folder / name)
        (folder / "models" / "c.safetensors").unlink()


def test_a_vote_is_counted_and_has_the_interval_of_its_share(page: TestClient) -> None:
    for left, chosen in [("x", "left"), ("y", "right"), ("x", "right"), ("y", "tie")]:
        tally = ok(page.post("/api/votes", json={"a": "x", "b": "y", "left": left, "chosen": chosen}))
    assert (tally["wins_a"], tally["wins_b"], tally["ties"], tally["count"]) == (2, 1, 1, 4)
    assert tally["share"] == 0.625 and tally["low"] < 0.625 < tally["high"]
    assert ok(page.get("/api/votes"))["pairs"] == [tally]
    refused(page.post("/api/votes", json={"a": "x", "b": "x", "left": "x", "chosen": "left"}))
    refused(page.post("/api/votes", json={"a": "x", "b": "y", "left": "z", "chosen": "left"}))


@pytest.mark.parametrize(("wins", "count", "low", "high"), [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407)])
def test_the_interval_is_wilsons(wins: float, count: int, low: float, high: float) -> None:
    """The bounds are the p at which the normal test of p against the share just fails: |share - p| = z sqrt(pq/n)."""
    found = judged.interval(wins, count)
    assert found == pytest.approx((low, high), rel=1e-5, abs=1e-9)
    for p in found:
        if 0 < p < 1:
            assert abs(wins / count - p) == pytest.approx(judged.Z * (p * (1 - p) / count) ** 0.5, rel=1e-9)


def disc(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    return np.asarray((y - row) ** 2 + (x - column) ** 2 <= radius**2)


def test_a_mask_that_moves_goes_straight_and_keeps_its_shape() -> None:
    made = painting.moving({2: disc(20, 12, 6), 10: disc(20, 44, 6)}, 14)
    for k in range(14):
        expected = disc(20, 12 + 32 * min(max(k - 2, 0), 8) / 8, 6)
        assert np.mean(made[k] != expected) < 0.01, k
    assert (made[0] == made[2]).all() and (made[13] == made[10]).all()


def test_a_mask_that_grows_does_so_evenly() -> None:
    made = painting.moving({0: disc(32, 32, 6), 4: disc(32, 32, 14)}, 5)
    radii = [float(np.sqrt(mask.sum() / np.pi)) for mask in made]
    assert radii == pytest.approx([6, 8, 10, 12, 14], rel=0.05)


def test_distances_are_exact() -> None:
    shape = np.zeros((9, 12), bool)
    shape[2, 3] = shape[7, 10] = True
    y, x = np.mgrid[:9, :12]
    expected = np.minimum(np.hypot(y - 2, x - 3), np.hypot(y - 7, x - 10))
    assert painting.distance(shape) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_a_painted_mask_becomes_a_video_that_complete_reads(page: TestClient, folder: Path) -> None:
    def png(mask: np.ndarray) -> str:
        file = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    keys = [{"frame": 0, "png": png(disc(20, 20, 8))}, {"frame": 4, "png": png(disc(40, 40, 8))}]
    asked = {"frames": 5, "height": 64, "width": 64, "fps": 8, "keys": keys}
    made = ok(page.post("/api/masks", json=asked))
    read = video.read_mask(folder / made["path"], (64, 64)).generated
    assert read.shape == (5, 64, 64) and (read[0] > 0).sum() == disc(20, 20, 8).sum()
    assert made["share"] == pytest.approx(float((read > 0).mean()), rel=1e-3)
    shown = ok(page.post("/api/masks/between", json=asked | {"first": 0, "last": 3}))["masks"]
    assert sorted(shown) == ["1", "2", "3"]  # what lies between the keys, pixel by pixel as the video has it
    for k, text in shown.items():
        picture = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")
        assert (np.asarray(picture)[..., 3] > 0).tolist() == (read[int(k)] > 0).tolist()
    refused(page.post("/api/masks/between", json=asked | {"first": 3, "last": 1}))
    assert ok(page.post("/api/masks", json=asked | {"fps": 4}))["path"] != made["path"]
    assert "pixels" in refused(page.post("/api/masks", json=asked | {"frames": 9999, "height": 512, "width": 512}))
    refused(page.post("/api/masks", json=asked | {"keys": []}))
    refused(page.post("/api/masks", json=asked | {"keys": [{"frame": 0, "png": "bm90IGEgcG5n"}]}))
    refused(page.post("/api/masks", json=asked | {"keys": [{"frame": 9, "png": png(disc(1, 1, 2))}]}))
    assert "nothing is painted" in refused(
        page.post("/api/masks", json=asked | {"keys": [{"frame": 0, "png": png(np.zeros((64, 64), bool))}]})
    )


@pytest.mark.slow
def test_a_dropped_video_says_its_settings_and_is_not_kept(page: TestClient, folder: Path, tmp_path: Path) -> None:
    record = {"kinolab": "0.1.0", "request": {"prompts": ["a ball"]}, "index": 0, "seed": 3}
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    video.write(tmp_path / "a.mp4", frames, 8, comment=json.dumps(record))
    video.write(tmp_path / "b.mp4", frames, 8)
    assert ok(page.post("/api/samples/settings?name=a.mp4", content=(tmp_path / "a.mp4").read_bytes())) == record
    assert "no settings" in refused(
        page.post("/api/samples/settings?name=b.mp4", content=(tmp_path / "b.mp4").read_bytes())
    )
    assert not list(folder.rglob("*.mp4"))


def test_the_page_of_the_api_lists_all_that_can_be_asked() -> None:
    text = (ROOT / "docs" / "studio-api.md").read_text("utf-8")
    assert text.endswith(routes.described()), "write kinolab.studio.api.routes.described() to its end"
