"""Folders of a store, on fsspec's store in memory; tests/data/test_stores.py has them on a server."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime import leases
from kinolab.runtime.processes import packed, unpacked
from kinolab.runtime.remote import LOCK, Mirror, address, is_remote


@pytest.fixture
def store(store: Any) -> Any:
    store.pipe_file("/b/clips/a.mp4", b"one")
    store.pipe_file("/b/clips/deep/b.mp4", b"two two")
    store.pipe_file("/b/clips/.hidden", b"x")
    return store


def contents(mirror: Mirror) -> dict[str, bytes]:
    return {name: (mirror.path / name).read_bytes() for name in mirror.here()}


@pytest.mark.parametrize("text", ["s3://bucket/a b/c", "gs://x/y", "https://host/x", "memory://b/clips"])
def test_an_address_is_known_as_text_and_as_a_path(text: str) -> None:
    assert is_remote(text) and is_remote(Path(text)) and address(Path(text)) == address(text + "/") == text


@pytest.mark.parametrize("text", ["clips", "/abs/clips", "c:/clips", "s3", "x/s3://b", "s3:/"])
def test_a_path_of_this_machine_is_none(text: str) -> None:
    assert not is_remote(text)
    with pytest.raises(InputError, match="address of a store"):
        address(text)


def test_what_is_read_is_fetched_once_and_again_when_it_changed(store: Any) -> None:
    mirror = Mirror(Path("memory://b/clips"))
    told: list[tuple[int, int]] = []
    assert mirror.fetch(progress=lambda *t: told.append(t)) == mirror.path
    assert contents(mirror) == {"a.mp4": b"one", "deep/b.mp4": b"two two"} and told[-1] == (2, 2)
    moments = {name: (mirror.path / name).stat().st_mtime_ns for name in mirror.here()}
    told.clear()
    mirror.fetch(progress=lambda *t: told.append(t))
    assert told == [] and moments == {name: (mirror.path / name).stat().st_mtime_ns for name in mirror.here()}
    store.pipe_file("/b/clips/a.mp4", b"new")
    store.rm_file("/b/clips/deep/b.mp4")
    mirror.fetch()
    assert contents(mirror) == {"a.mp4": b"new"}


def test_one_object_alone_is_a_file(store: Any) -> None:
    assert Mirror("memory://b/clips/a.mp4").fetch().read_bytes() == b"one"


def test_one_object_is_fetched_when_it_is_needed_and_a_range_of_it_is_read(store: Any) -> None:
    mirror = Mirror("memory://b/clips")
    assert mirror.need("deep/b.mp4").read_bytes() == b"two two" and mirror.here() == ["deep/b.mp4"]
    assert mirror.read("deep/b.mp4", 4, 6) == b"tw"
    for ask in (lambda: mirror.need("c.mp4"), lambda: mirror.read("c.mp4", 0, 1)):
        with pytest.raises(InputError, match=r"memory://b/clips/c.mp4: no such bucket or object"):
            ask()
    with pytest.raises(InputError, match="leads to the folder above"):
        mirror.need("../x")


def test_a_folder_is_fetched_when_it_is_needed(store: Any) -> None:
    mirror = Mirror("memory://b/clips")
    assert (mirror.need("deep") / "b.mp4").read_bytes() == b"two two" and mirror.here() == ["deep/b.mp4"]


def test_a_copy_that_is_not_the_stores_any_more_is_fetched_anew_when_it_is_needed(store: Any) -> None:
    mirror = Mirror("memory://b/clips")
    mirror.fetch()
    store.pipe_file("/b/clips/deep/b.mp4", b"another")
    mirror.fetch(lambda name: name == "a.mp4")
    assert mirror.here() == ["a.mp4"] and mirror.need("deep/b.mp4").read_bytes() == b"another"


def test_who_reads_while_this_machine_writes_leaves_the_copies_alone(store: Any) -> None:
    mirror = Mirror("memory://b/clips")
    with mirror.writing():
        mirror.fetch()
        (mirror.path / "a.mp4").write_bytes(b"ahead of the store")
        assert (Mirror("memory://b/clips").fetch() / "a.mp4").read_bytes() == b"ahead of the store"
        mirror.fetch()
    assert contents(mirror)["a.mp4"] == b"one"


def test_a_folder_that_is_not_there_is_one_line(store: Any) -> None:
    with pytest.raises(InputError, match=r"memory://b/gone: no such bucket or folder"):
        Mirror("memory://b/gone").fetch()
    assert Mirror("memory://b/gone").fetch(new=True).name == "gone"


def test_what_is_published_is_what_is_here_and_the_manifest_comes_last(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror("memory://b/clips")
    mirror.fetch()
    (mirror.path / "manifest").write_text("m")
    (mirror.path / "z").write_text("z")
    (mirror.path / "a.mp4").unlink()
    order: list[str] = []
    put = mirror.put

    def noted(name: str) -> None:
        order.append(name)
        put(name)

    monkeypatch.setattr(mirror, "put", noted)
    mirror.publish(("manifest",))
    assert order[-1] == "manifest" and set(order) >= {"z", "manifest"}
    assert {p for p in store.store if "/.hidden" not in p} == {
        "/b/clips/deep/b.mp4", "/b/clips/manifest", "/b/clips/z",
    }  # fmt: skip


def test_one_writes_at_a_time(store: Any) -> None:
    mirror = Mirror("memory://b/clips")
    with mirror.writing():
        note = json.loads(store.cat_file(f"/b/clips/{LOCK}"))
        refused = pytest.raises(InputError, match=r"another kinolab is writing there \(process \d+ on ")
        with refused, Mirror("memory://b/clips").writing():
            pass
    assert not store.exists(f"/b/clips/{LOCK}")
    store.pipe_file(f"/b/clips/{LOCK}", json.dumps(note | {"start": "1"}).encode())  # of a process that is gone
    with mirror.writing():
        pass
    store.pipe_file(f"/b/clips/{LOCK}", json.dumps(note | {"start": "1", "host": "elsewhere"}).encode())
    with pytest.raises(InputError, match=r"delete \.kinolab\.lock\.json"), mirror.writing():
        pass


def test_what_another_machine_has_not_renewed_for_long_is_taken_over_and_it_notices(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLED", 0.0)
    one, other = Mirror("memory://b/clips"), Mirror("memory://b/clips")
    name = f"/b/clips/{LOCK}"
    with one.writing():
        there = store.info(name)["created"]
        one.lease.renew()
        assert store.info(name)["created"] > there
        one.lease.note["host"] = "elsewhere"
        one.lease._sure = 0.0
        store.pipe_file(name, json.dumps(one.lease.note).encode())
        writer = one.writer()
        assert writer is not None and writer.lives and not writer.here
        with pytest.raises(InputError, match="another kinolab is writing there"):
            other.lease.take()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases.time, "time", lambda: store.info(name)["created"].timestamp() + 7200)
            with pytest.raises(InputError, match="see this machine's clock"):
                other.lease.take()
        monkeypatch.setattr(leases, "RENEWED", 0.0)
        monkeypatch.setattr(leases, "QUIET", -1.0)
        said = list[str]()

        def told(line: str) -> None:
            said.append(line)
            monkeypatch.setattr(leases, "SILENT", -1.0)  # as if it was that long ago by now

        other.lease.take(told)
        assert len(said) == 1 and "on elsewhere since" in said[0] and said[0].endswith("waiting for it")
        with pytest.raises(InputError, match=r"another kinolab writes there now \(process \d+ on .*not in the store"):
            one.put("a.mp4")
        with pytest.raises(InputError, match="writes there now"):
            one.drop(["a.mp4"])
    assert store.exists(name), "that of the other, which stays"


def test_a_mirror_goes_to_another_process_by_its_address(store: Any) -> None:
    mirror = unpacked(packed(Mirror("memory://b/clips")))
    assert mirror.url == "memory://b/clips" and mirror.need("a.mp4").read_bytes() == b"one"


def test_a_library_that_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any, **values: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", gone)
    with pytest.raises(MissingExtraError, match=r"s3:// needs s3fs.*kinolab\[storage\]"):
        Mirror("s3://bucket/x").fetch()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A plain server of a folder, that knows no ranges, and what it was asked for."""
    asked: list[str] = []

    class Plain(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(str(args[0]).rpartition(" ")[0])

    (tmp_path / "www" / "clips").mkdir(parents=True)
    (tmp_path / "www" / "clips" / "a.mp4").write_bytes(b"one")
    (tmp_path / "www" / "clips" / "é b.mp4").write_bytes(b"two two")
    handler = partial(Plain, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs the extra storage")
def test_a_plain_server_is_read(site: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    url, asked = site
    mirror = Mirror(Path(f"{url}/clips"))
    mirror.fetch()
    assert contents(mirror) == {"a.mp4": b"one", "é b.mp4": b"two two"}
    asked.clear()
    mirror.fetch()
    assert not [line for line in asked if line.startswith("GET") and line.endswith("mp4")], "nothing is fetched twice"
    assert mirror.read("é b.mp4", 4, 6) == b"tw"
    assert Mirror(f"{url}/clips/a.mp4").fetch().read_bytes() == b"one"
    with pytest.raises(InputError, match=r"/gone: no such bucket or object$"):
        Mirror(f"{url}/gone").fetch()
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/x: .*127\.0\.0\.1"):
        Mirror("http://127.0.0.1:9/x").fetch()
