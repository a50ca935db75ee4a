"""Folders of `gs://`, by Google's own library for it (gcsfs), on a server that knows conditions on generations."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinolab.data import CacheConfig, CacheSource
from kinolab.data.publishing import published
from kinolab.errors import InputError
from kinolab.runtime.remote import LOCK, Mirror
from tests.engines.encoding import encode, source, write_clips
from tests.engines.folders import files_of
from tests.gcs_server import Bucket, serving

pytestmark = [pytest.mark.wide("gcs"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with serving() as (address, found):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield found


def test_a_cache_is_written_and_read_there(bucket: Bucket, tmp_path: Path) -> None:
    for file in sorted(write_clips(tmp_path / "clips", 2).iterdir()):
        bucket.put(f"clips/{file.name}", file.read_bytes(), None)
    mirror = Mirror("gs://b/latents")
    with published(mirror, by_workers=False) as publishing:
        assert encode("gs://b/clips", mirror.path, events=publishing).encoded == 6
    encode(tmp_path / "clips", tmp_path / "c")
    there = {name.removeprefix("latents/"): data for name, (data, *_) in bucket.objects.items() if "latents" in name}
    assert there == files_of(tmp_path / "c")
    here = CacheSource(CacheConfig(path=tmp_path / "c", split="all"))
    for path in Path(mirror.path).glob("shards/*"):
        path.unlink()
    rows = CacheSource(CacheConfig(path=Path("gs://b/latents"), split="all", disk_gb=1e-3))
    assert all((a.latents == b.latents).all() for a, b in zip(rows, here, strict=True))
    assert not list(mirror.path.glob("shards/*")), "row by row"


def test_of_many_at_once_one_alone_writes(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinolab.runtime.leases.Writer.gone", False)  # as of other machines
    begun, said = threading.Barrier(6), list[str]()

    def write() -> None:
        mirror = Mirror("gs://b/latents")
        begun.wait(30)
        try:
            mirror.lease.take()  # what `writing` does once no other process of this machine is there
            said.append("mine")
        except InputError as error:
            said.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said.count("mine") == 1 and len(said) == 6
    assert all("another kinolab is writing there" in line for line in said if line != "mine")
    assert list(bucket.objects) == [f"latents/{LOCK}"]


def test_a_lock_of_another_machine_holds_and_one_of_a_dead_process_is_taken_over(bucket: Bucket) -> None:
    mirror = Mirror("gs://b/latents")
    with mirror.writing():
        [(name, (data, *_))] = bucket.objects.items()
        note = json.loads(data)
    assert not bucket.objects
    bucket.put(name, json.dumps(note | {"host": "elsewhere"}).encode(), None)
    with pytest.raises(InputError, match=r"gs://b/latents: another kinolab is writing there"), mirror.writing():
        pass
    assert name in bucket.objects
    bucket.put(name, json.dumps(note | {"start": "1", "token": "x"}).encode(), None)
    with mirror.writing():
        assert json.loads(bucket.objects[name][0])["process"] == note["process"]


def test_what_is_not_there_is_one_line(bucket: Bucket) -> None:
    for ask in (lambda: source("gs://b/gone"), lambda: source("gs://gone/clips")):
        with pytest.raises(InputError, match=r"^gs://\w+/\w+: no such bucket or (object|folder)"):
            ask()
