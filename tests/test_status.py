"""How far the work on a folder is, from the folder alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinolab.cli.engines import kept_in
from kinolab.contracts.events import Several, Silent
from kinolab.contracts.working import FILE, Kept, Working
from kinolab.data import FolderSource, encode_to_cache
from kinolab.errors import InputError
from kinolab.runtime import leases
from kinolab.runtime.files import write_text
from kinolab.runtime.locks import held
from kinolab.runtime.processes import Known
from kinolab.runtime.put_back import put_back
from kinolab.runtime.records import write_record
from kinolab.runtime.remote import Mirror
from kinolab.status import SILENT, status
from kinolab.training.log import RunLog
from tests.cli.every import run
from tests.data.clip_files import MeanAutoencoder
from tests.engines.encoding import source as clips
from tests.engines.encoding import write_clips


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return clips(write_clips(tmp_path_factory.mktemp("clips"), 2))


def test_of_a_cache_while_it_is_written_and_afterwards(tmp_path: Path, source: FolderSource) -> None:
    out, seen = tmp_path / "c", []

    class Looking(Silent):
        def wrote(self, path: Path, what: str = "file") -> None:
            seen.append(status(out))

    with Working(out, "encoding", "windows", 2) as working:
        encode_to_cache(source, MeanAutoencoder(), out, batch=2, shard_size=2, events=Several(working, Looking()))
    assert [(s.state, s.done, s.total, s.running, s.failed) for s in seen] == [
        ("running", 2, 6, 2, 0), ("running", 4, 6, 2, 0), ("running", 6, 6, 0, 0),
    ]  # fmt: skip
    assert seen[0].by is not None and seen[0].by.endswith("2 workers")
    after = status(out)
    assert (after.state, after.done, after.total, after.failed, after.by) == ("done", 6, 6, 0, None)
    assert any("6 of 6 windows (100%) done, 0 failed" in line for line in after.lines)


def test_of_a_cache_that_a_kill_cut_off(tmp_path: Path, source: FolderSource) -> None:
    out = tmp_path / "c"

    class KilledError(BaseException):
        pass

    class Third(Silent):
        def wrote(self, path: Path, what: str = "file") -> None:
            raise KilledError

    with pytest.raises(KilledError):
        encode_to_cache(source, MeanAutoencoder(), out, batch=2, shard_size=2, events=Third())
    found = status(out)
    assert (found.state, found.done, found.total) == ("cut off", 2, None)
    assert list(found.lines)[-1] == "  the same command goes on from here"


def test_of_work_on_another_machine(tmp_path: Path) -> None:
    """Whose processes can't be asked for: it is at work as long as it says so."""
    kept = Kept("sampling", "videos", 0, 3, 9, 1000.0, 1030.0, 2, Known(7, "1", "another boot"))
    write_record(tmp_path / FILE, kept.values())
    found = status(tmp_path, lambda: 1040.0)
    assert (found.state, found.running, found.left) == ("running", 2, pytest.approx(50.0))
    assert status(tmp_path, lambda: 1030.0 + SILENT).state == "cut off"
    write_record(tmp_path / FILE, replace(kept, process=Known(7, "1", Known.this().boot)).values())
    assert status(tmp_path, lambda: 1040.0).state == "cut off", "of this one they can"


def test_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "kind: autoencoder\nname: x\nautoencoder: {kind: odvae}\ndata: {kind: world}\ntraining: {steps: 100}\n"
    )
    log = RunLog(tmp_path, 0, tensorboard=False)
    log.started -= 10
    log.write(10, "train", {"loss": 1.0})
    log.started -= 10
    log.write(30, "train", {"loss": 0.5})
    log.flush()
    with held(tmp_path / ".lock"):
        found = status(tmp_path)
    assert (found.state, found.done, found.total, found.unit) == ("running", 30, 100, "steps")
    assert found.rate == pytest.approx(2.0, rel=0.05) and found.left == pytest.approx(35.0, rel=0.05)
    log.close()
    assert status(tmp_path).state == "cut off"


def test_of_a_run_in_a_store(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what is there, and by what can be known of who writes it: of this machine all, of another that it is heard."""
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "recipe.yaml").write_text(
        "kind: autoencoder\nname: x\nautoencoder: {kind: odvae}\ndata: {kind: world}\ntraining: {steps: 100}\n"
    )
    log, there, now = RunLog(run_folder, 0, tensorboard=False), Path("memory://b/run"), time.time()
    for step in (10, 30):
        log.started -= 10
        log.write(step, "train", {"loss": 1.0})
    log.close()
    with put_back(there) as here:
        for name in ("recipe.yaml", "log.jsonl"):
            write_text(here / name, (run_folder / name).read_text())
        write_text(here / "checkpoints" / "step-00000020" / "state.json", "{}")
        found = status(there)
        assert (found.path, found.state, found.done, found.notes) == ("memory://b/run", "running", 30, ())
    found = status(there)
    assert (found.state, found.done, found.total, found.left, found.notes) == ("cut off", 20, 100, None, ())
    lock = "/b/run/.kinolab.lock.json"
    note = {"host": "far", "process": 7, "start": "1", "boot": "2", "since": "today", "renewed": 60.0}
    store.pipe_file(lock, json.dumps(note).encode())
    found = status(there)
    assert (found.state, found.done, found.by) == ("running", 30, "process 7 on far since today")
    assert found.rate == pytest.approx(2.0, rel=0.05) and found.left == pytest.approx(35.0, rel=0.05)
    assert "what was done since is not known here" in found.notes[0] and found.notes[1].endswith("asked from here")
    monkeypatch.setattr(leases, "SILENT", -1.0)
    found = status(there, lambda: now + 3600)
    assert (found.state, found.done, found.by) == ("cut off", 20, None)
    assert found.notes == ("process 7 on far since today had the folder, and was not heard of for 60 min",)
    store.rm_file(lock)
    with put_back(there) as here:
        write_text(here / "model" / "denoiser.safetensors", "x")
        write_text(here / "checkpoints" / "step-00000100" / "state.json", "{}")
    capsys.readouterr()
    assert run("status", there) == 0
    assert "memory://b/run: training, done" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"^memory://b/gone: no such bucket or folder"):
        status(Path("memory://b/gone"))
    store.pipe_file("/b/other/a.txt", b"x")
    with pytest.raises(InputError, match=r"^memory://b/other: nothing says how far"):
        status(Path("memory://b/other"))


def test_of_other_work_in_a_store(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is kept of it is put there, once a minute and at the end, and read on any machine."""
    mirror, now = Mirror("memory://b/set"), [1000.0]
    with kept_in(mirror.path, "curating", "videos", None, mirror) as working:
        working.clock = lambda: now[0]
        for done in (0, 1, 2, 3):
            now[0] += 50
            working.progress(done, 3)
            before = json.loads(store.cat_file(f"/b/set/{FILE}"))["done"]
            assert before == {0: 0, 1: 0, 2: 2, 3: 2}[done]
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    found = status(Path("memory://b/set"))
    assert (found.state, found.done, found.total) == ("done", 3, 3)


def test_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Working(tmp_path, "curating", "clips", 1, lambda: 1000.0) as working:
        working.progress(0, 3)
        working.progress(3, 3)
        working.left_out(("a.mp4 (killed by SIGSEGV)",))
    assert run("status", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: curating, done", "  3 of 3 clips (100%) done, 1 failed",
        "  failed: a.mp4 (killed by SIGSEGV)",
    ]  # fmt: skip
    assert run("status", tmp_path, "--json") == 0
    [values] = json.loads(capsys.readouterr().out)
    assert values["state"] == "done" and values["done"] == values["total"] == 3 and values["failed"] == 1


def test_what_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        status(tmp_path / "gone")
    with pytest.raises(InputError, match="nothing says how far"):
        status(tmp_path)
