"""What encoding and scanning make of workers: any order, clips left out, the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kinolab.contracts.engine import Done, Job, Task
from kinolab.contracts.events import Events
from kinolab.data.publishing import OFTEN, SHORT, Publishing, published
from kinolab.errors import InputError
from kinolab.runtime.files import write_text
from kinolab.runtime.processes import environment, packed, unpacked
from kinolab.runtime.remote import Mirror
from kinolab.tasks import CachedDraws, TasksConfig
from tests.cli.every import run
from tests.engines.encoding import encode, source, write_clips
from tests.engines.folders import files_of
from tests.engines.inside import Inside
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together
Printed = pytest.CaptureFixture[str]
EACH = ("cpus=0", "cpus=1.5", "cpus=1e30", "hats=1", "seconds=x", "cpus=1,cpus=2", "gpus=1.5", "")
"""What no worker can be given."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "clips", 4)


@pytest.fixture
def store(folder: Path, store: Any) -> Any:
    """With the clips in it, as `memory://b/clips`."""
    for path in folder.iterdir():
        store.pipe_file(f"/b/clips/{path.name}", path.read_bytes())
    return store


class Elsewhere(Inside):
    """Works on another machine: with what can be sent there, and a home of its own."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = {"HOME": str(home)}

    def run(self, job: Job, tasks: Sequence[Task], events: Events) -> Iterator[Done]:
        for task in tasks:
            with environment(self.home):
                [done] = list(super().run(unpacked(packed(job)), [task], events))
            yield done


def test_the_index_has_the_order_of_one_process(folder: Path, tmp_path: Path) -> None:
    draws = CachedDraws(TasksConfig(predict=1), 1)
    encode(folder, tmp_path / "a", draws=draws, shard_size=5)
    by = Inside()
    summary = encode(folder, tmp_path / "b", by, draws=draws, shard_size=5)
    assert summary.encoded == 12 and files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert len(by.tasks) == 6 and len({task.key for task in by.tasks}) == 6, "three shards, and their draws"


def test_however_many_threads_decode_the_cache_is_the_same(folder: Path, tmp_path: Path) -> None:
    draws = CachedDraws(TasksConfig(predict=1), 1)
    encode(folder, tmp_path / "a", draws=draws, shard_size=5)
    encode(folder, tmp_path / "b", draws=draws, shard_size=5, decoders=3)
    encode(folder, tmp_path / "c", Inside(), draws=draws, shard_size=5, decoders=2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") == files_of(tmp_path / "c")


def test_a_window_that_ends_its_workers_is_left_out_as_one_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    summary = encode(folder, tmp_path / "b", Inside(lambda part: part[0] == 6), shard_size=5)
    assert summary.items == 11 and summary.encoded == 11 and len(summary.unreadable) == 1
    assert summary.poison == (f"{summary.unreadable[0]} (killed by SIGSEGV)",)
    again = encode(folder, tmp_path / "b", shard_size=5)
    assert (again.encoded, again.items, again.poison) == (1, 12, ()), "and is tried again the next time"


def test_shards_that_are_whole_keep_their_windows_when_others_lack_some(folder: Path, tmp_path: Path) -> None:
    """Whatever of a shard can't be read, the next ones are those of a whole encoding."""
    encode(folder, tmp_path / "a", shard_size=5)
    encode(folder, tmp_path / "b", Inside(lambda part: part[0] == 1), shard_size=5)
    names = [{p.name for p in (tmp_path / name / "shards").iterdir()} for name in "ab"]
    assert len(names[0] & names[1]) == 2


def test_draws_that_lack_a_window_are_not_taken_for_whole(folder: Path, tmp_path: Path) -> None:
    draws = CachedDraws(TasksConfig(predict=1), 1)
    for out in (tmp_path / "a", tmp_path / "b"):
        encode(folder, out)
    with pytest.raises(InputError, match="ended every worker that drew its masks"):
        encode(folder, tmp_path / "b", Inside(lambda part: part[0] == 2), draws=draws)
    for out in (tmp_path / "a", tmp_path / "b"):
        encode(folder, out, draws=draws)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_workers_of_another_machine_share_nothing_but_the_store(folder: Path, tmp_path: Path, store: Any) -> None:
    draws, by = CachedDraws(TasksConfig(predict=1), 1), Elsewhere(tmp_path / "other")
    encode(folder, tmp_path / "a", draws=draws)
    assert source("memory://b/clips", by).verdicts() == source(folder).verdicts()
    mirror = Mirror("memory://b/latents")
    with published(mirror, by_workers=True) as publishing:
        summary = encode("memory://b/clips", mirror.path, by, draws=draws, events=publishing, store=mirror)
    assert summary.encoded == 12 and summary.unreadable == ()
    here = files_of(tmp_path / "a")
    assert {name: store.cat_file(f"/b/latents/{name}") for name in here} == here
    assert {"/b/latents/" + name for name in here} == {name for name in store.store if name.startswith("/b/latents")}


def test_a_long_index_is_not_put_with_every_shard(store: Any) -> None:
    now, mirror = [0.0], Mirror("memory://b/long")
    for name in ("cache.json", "index.jsonl"):
        write_text(mirror.path / name, "{}\n")
    told = Publishing(mirror, shards=False, clock=lambda: now[0])
    for size, seconds, put in ((9, 0, 9), (10, 0, 10), (SHORT, 1, 10), (SHORT + 9, OFTEN, SHORT + 9)):
        write_text(mirror.path / "index.jsonl", "x" * size)
        now[0] += seconds
        told.wrote(mirror.path / "shards" / "a.safetensors", "shard")
        assert store.info("/b/long/index.jsonl")["size"] == put


def test_a_scan_is_the_same_and_names_what_ended_its_workers(folder: Path, tmp_path: Path) -> None:
    alone, together = source(folder), source(folder, Inside())
    assert alone.verdicts() == together.verdicts() and len(alone) == len(together) == 12
    without = source(folder, Inside(lambda name: name == "2.mkv"), index=tmp_path / "index.jsonl")
    assert len(without) == 9 and without.poison == ("2.mkv (ended every process that read it (killed by SIGSEGV))",)
    assert without.verdicts()[2].dropped == ("ended every process that read it (killed by SIGSEGV)",)


def test_a_command_that_left_poison_out_ends_with_status_3(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    engines = {"encode": Inside(lambda part: part[0] == 6), "data": Inside(lambda name: name == "2.mkv")}
    for name, by in engines.items():
        monkeypatch.setattr(f"kinolab.cli.{name}.take_engine", lambda *given, by=by: by)
    save_tiny_model(tmp_path / "model", text=False)
    words = (folder, "-a", tmp_path / "model", "--frames", 5, "--size", 16, "--out", tmp_path / "c")
    assert run("encode", *words, "-s", "data.index=none") == 3
    said = capsys.readouterr().err
    assert "left out, it ended every worker that tried it: 2.mkv at 0.00 s (killed by SIGSEGV)" in said
    assert "can't be read any more" not in said
    assert run("data", "check", folder, "--frames", 5, "--size", 16, "-s", "data.index=none") == 3
    assert "left out, it ended every worker that tried it: 2.mkv" in capsys.readouterr().err
    assert run("status", tmp_path / "c") == 0
    assert "11 of 12 windows (92%) done, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (("--engine", "dask"), "unknown engine 'dask'; expected one of embedded, ray"),
    (("--engine", "embedded:here", "--workers", 2), "leave out what is behind the colon"),
    (("--workers", 0), "--workers"),
    (("--each", "seconds=9"), "is for workers; expected --workers of at least 2"),
    (("--workers", 2, "--each", "gpus=1"), "is for --engine ray"),
    *((("--workers", 2, "--each", text), "expected cpus=N") for text in EACH),
])  # fmt: skip
def test_what_is_no_engine_is_one_line(folder: Path, words: tuple[Any, ...], said: str, capsys: Printed) -> None:
    assert run("data", "check", folder, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
