"""Clips and caches in an object store: a local server that speaks S3, and bad addresses."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinolab.cli import main
from kinolab.contracts.working import FILE
from kinolab.data import CacheConfig, CacheSource
from kinolab.data.publishing import published
from kinolab.errors import InputError
from kinolab.models import save_autoencoder
from kinolab.runtime import put_back
from kinolab.runtime.files import write_bytes
from kinolab.runtime.remote import Mirror
from tests.cli.every import run
from tests.engines.encoding import encode, source, write_clips
from tests.engines.folders import files_of
from tests.processes import Child
from tests.tiny_model import save_tiny_model, tiny_model
from tests.training.tiny import autoencoder_recipe, denoiser_recipe

pytestmark = [pytest.mark.wide("s3"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server on this machine that keeps what it is given in memory."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A new bucket with two clips in it, as `s3://test/clips`."""
    import s3fs

    given = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    for name, value in {**given, "AWS_DEFAULT_REGION": "us-east-1", "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    store = s3fs.S3FileSystem(endpoint_url=server, key="x", secret="y", skip_instance_cache=True)
    if store.exists("test"):
        store.rm("test", recursive=True)
    store.mkdir("test")
    for path in sorted(write_clips(tmp_path / "clips", 2).iterdir()):
        (path.with_suffix(".txt")).write_text(f"clip {path.stem}")
        for file in (path, path.with_suffix(".txt")):
            store.put_file(str(file), f"test/clips/{file.name}")
    store.invalidate_cache()
    return store


def objects(store: Any, root: str) -> dict[str, bytes]:
    store.invalidate_cache()
    found = {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}
    return {name: data for name, data in found.items() if not name.startswith(".")}


def published_cache() -> Any:
    mirror = Mirror("s3://test/latents")
    with published(mirror, by_workers=False) as publishing:
        return encode("s3://test/clips", mirror.path, events=publishing)


def test_a_cache_in_a_store_is_the_one_on_a_disk(bucket: Any, tmp_path: Path) -> None:
    encode(tmp_path / "clips", tmp_path / "c")
    assert published_cache().encoded == 6
    assert objects(bucket, "test/latents") == files_of(tmp_path / "c")
    there = CacheSource(CacheConfig(path=Path("s3://test/latents"), split="all"))
    here = CacheSource(CacheConfig(path=tmp_path / "c", split="all"))
    assert len(there) == 6 and there.captions == here.captions == ("clip 0", "clip 1")
    for a, b in zip(there, here, strict=True):
        assert (a.latents == b.latents).all() and a.source == b.source
    assert published_cache().encoded == 0, "and is found again"


def test_an_encoding_that_was_cut_off_goes_on_from_another_machine(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    put = Mirror.put
    count = 0

    def cut(self: Mirror, name: str) -> None:
        nonlocal count
        count += name == "index.jsonl"
        if count == 3:
            raise KilledError
        put(self, name)

    monkeypatch.setattr(Mirror, "put", cut)
    with pytest.raises(KilledError):
        published_cache()
    monkeypatch.setattr(Mirror, "put", put)
    part = CacheSource(CacheConfig(path=Path("s3://test/latents"), split="all"))
    assert len(part) == 4 and "was interrupted" in part.notes()[0], "what is there can be read"
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    assert published_cache().encoded == 2
    encode(tmp_path / "clips", tmp_path / "c")
    assert objects(bucket, "test/latents") == files_of(tmp_path / "c")


def test_the_commands_take_addresses(bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", "s3://test/clips", "--frames", 5, "--size", 16) == 0
    assert "2 of 2 clips give 6 windows" in capsys.readouterr().out
    assert run("data", "curate", "s3://test/clips", "--out", tmp_path / "set", "-s", "clips.min_seconds=0.1") == 0
    assert "2 videos (2 read now)" in capsys.readouterr().out
    save_tiny_model(tmp_path / "model", text=False)
    words = ("encode", "s3://test/clips", "-a", tmp_path / "model", "--frames", 5, "--size", 16)
    assert run(*words, "--out", "s3://test/out", "--shard-size", 2) == 0
    assert "s3://test/out: 6 windows" in capsys.readouterr().out
    assert run(*words, "--out", tmp_path / "c", "--shard-size", 2) == 0
    assert objects(bucket, "test/out") == {k: v for k, v in files_of(tmp_path / "c").items() if k[0] != "."}
    capsys.readouterr()
    assert run("data", "check", "s3://gone/clips") == 2
    assert capsys.readouterr().err.splitlines() == ["kinolab: s3://gone/clips: no such bucket or object"]
    assert run(*words, "--out", "s3://gone/out") == 2
    assert "s3://gone/out" in capsys.readouterr().err


def test_a_model_is_trained_on_a_cache_in_a_store_and_is_the_one_of_a_disk(bucket: Any, tmp_path: Path) -> None:
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "ae")
    words = ("-a", tmp_path / "ae", "--frames", 5, "--size", 32)
    assert run("encode", "s3://test/clips", *words, "--out", "s3://test/l") == 0
    assert run("encode", tmp_path / "clips", *words, "--out", tmp_path / "l") == 0
    recipe = denoiser_recipe(tmp_path / "ae", steps=2, batch_size=2)
    del recipe["denoiser"]["num_classes"], recipe["samples"]
    recipe["denoiser"] |= {"input_size": 8, "num_frames": 2, "patch_size": 2}
    recipe["data"] = {"kind": "cache", "path": "gone", "split": "all"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    for name, where in (("a", "s3://test/l"), ("b", tmp_path / "l")):
        assert run("train", tmp_path / "r.yaml", "-s", f"data.path={where}", "--out", tmp_path / name) == 0
    models = [(tmp_path / name / "model" / "denoiser.safetensors").read_bytes() for name in "ab"]
    assert models[0] == models[1]


def test_a_model_is_trained_on_a_cache_of_which_the_disk_holds_a_part(bucket: Any, tmp_path: Path) -> None:
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "ae")
    words = ("-a", tmp_path / "ae", "--frames", 5, "--size", 32)
    assert run("encode", "s3://test/clips", *words, "--out", "s3://test/l") == 0
    shutil.rmtree(tmp_path / "home")
    recipe = denoiser_recipe(tmp_path / "ae", steps=3, batch_size=2)
    del recipe["denoiser"]["num_classes"], recipe["samples"]
    recipe["denoiser"] |= {"input_size": 8, "num_frames": 2, "patch_size": 2}
    recipe["training"] |= {"workers": 2}
    recipe["data"] = {"kind": "cache", "path": "s3://test/l", "split": "all"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    for name, more in (("a", ["-s", "data.disk_gb=1e-5"]), ("b", [])):
        assert run("train", tmp_path / "r.yaml", *more, "--out", tmp_path / name) == 0
        whole = list(Mirror("s3://test/l").path.glob("shards/*"))
        assert bool(whole) == (name == "b"), "by ranges, no shard was fetched"
    models = [(tmp_path / name / "model" / "denoiser.safetensors").read_bytes() for name in "ab"]
    assert models[0] == models[1]


def test_clips_of_which_the_disk_holds_a_part_are_encoded_alike(bucket: Any, tmp_path: Path) -> None:
    encode(tmp_path / "clips", tmp_path / "c")
    found = source("s3://test/clips", disk_gb=1e-5)
    assert len(found) == 6 and not list(Mirror("s3://test/clips").path.glob("*.mkv"))
    here = CacheSource(CacheConfig(path=tmp_path / "c", split="all"))
    assert [found.record(k).source_hash for k in range(6)] == [here.record(k).source_hash for k in range(6)]


@pytest.mark.parametrize(
    "name", ["a b.mkv", "é ü.mkv", "50%.mkv", "a#b.mkv", "a+b&c=d.mkv", "what?.mkv", "[x].mkv", "a*.mkv"]
)
def test_names_with_odd_characters(bucket: Any, tmp_path: Path, name: str) -> None:
    clip = (tmp_path / "clips" / "0.mkv").read_bytes()
    bucket.pipe_file(f"test/odd folder/{name}", clip)
    mores: list[dict[str, Any]] = [{}, {"disk_gb": 1e-3}]
    for more in mores:
        found = source("s3://test/odd folder", **more)
        assert [v.source for v in found.verdicts()] == [name] and len(found) == 3
        assert found[0].source == name
    mirror = Mirror("s3://test/odd folder/out")
    write_bytes(mirror.path / name, clip)
    mirror.publish(())
    assert objects(bucket, "test/odd folder/out") == {name: clip}


def test_without_credentials_one_line_says_so(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=r"^s3://test/clips: not allowed \(.*[Cc]redentials.*\); see the credentials$"):
        source("s3://test/clips")


def test_a_server_that_stops_answering_midway_loses_nothing(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model(tmp_path / "model", text=False)
    words = ("encode", tmp_path / "clips", "-a", tmp_path / "model", "--frames", 5, "--size", 16, "--shard-size", 2)
    assert run(*words, "--out", tmp_path / "c") == 0
    import s3fs

    put, left, address = s3fs.S3FileSystem.put_file, [3], os.environ["AWS_ENDPOINT_URL"]

    def stops(self: Any, *given: Any, **named: Any) -> Any:
        if not left[0]:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            self.__init__(config_kwargs={"connect_timeout": 1, "retries": {"max_attempts": 0}})
        left[0] = max(0, left[0] - (not str(given[1]).endswith(FILE)))  # how far it is, which is a help alone
        return put(self, *given, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", stops)
    capsys.readouterr()
    assert run(*words, "--out", "s3://test/out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kinolab:")]
    assert len(lines) == 1 and lines[0].startswith("kinolab: s3://test/out/")
    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", put)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    assert len(CacheSource(CacheConfig(path=Path("s3://test/out"), split="all"))) >= 2, "what is there can be read"
    assert run(*words, "--out", "s3://test/out") == 0
    assert objects(bucket, "test/out") == {k: v for k, v in files_of(tmp_path / "c").items() if k[0] != "."}


def test_a_run_and_a_video_are_written_there_and_a_run_goes_on_from_another_machine(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "ae")
    assert (
        run("encode", tmp_path / "clips", "-a", tmp_path / "ae", "--frames", 5, "--size", 32, "--out", tmp_path / "l")
        == 0
    )
    recipe = denoiser_recipe(tmp_path / "ae", steps=4, batch_size=2)
    del recipe["denoiser"]["num_classes"], recipe["samples"]
    recipe["denoiser"] |= {"input_size": 8, "num_frames": 2, "patch_size": 2}
    recipe["data"] = {"kind": "cache", "path": str(tmp_path / "l"), "split": "all"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    words = ("train", tmp_path / "r.yaml", "--resume", "auto", "--out")
    assert run(*words, tmp_path / "a") == 0
    assert run(*words, "s3://test/run", "--until", 2) == 0
    shutil.rmtree(tmp_path / "home")
    assert run(*words, "s3://test/run") == 0
    name = "model/denoiser.safetensors"
    assert objects(bucket, "test/run")[name] == (tmp_path / "a" / name).read_bytes()
    made = ("generate", "--model", "s3://test/run", "--steps", 1, "--precision", "float32", "--out")
    assert run(*made, "s3://test/out/v.mp4") == 0 and run(*made, tmp_path / "v.mp4") == 0
    assert "put into the store: s3://test/out/v.mp4" in capsys.readouterr().out
    found = objects(bucket, "test/out")
    assert set(found) == {"v.mp4", "v.json"} and found["v.mp4"] == (tmp_path / "v.mp4").read_bytes()


def often(words: list[str]) -> None:
    """`kinolab WORDS...`, which puts what is new into the store at once."""
    put_back.EVERY = 0.3
    main(words)


def machines(recipe: Path, home: Path, out: str) -> list[Child]:
    """A training by two machines of one process each, whose homes are not the same disk, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    words = ["train", str(recipe), "--resume", "auto", "--out", out]
    return [
        Child(often, words, environment=given | {"RANK": k, "GROUP_RANK": k, "HOME": str(home / k)}) for k in ("0", "1")
    ]


def test_two_machines_train_into_it_and_others_go_on_where_they_were_killed(bucket: Any, tmp_path: Path) -> None:
    """The unbroken run, whose checkpoints the steps wait for, ends with the same weights."""
    more = {"parallel": "fsdp", "save_every": 1, "keep": 2, "steps": 8}
    for name in ("beside", "wait"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(autoencoder_recipe(**more, checkpoints=name)))
    killed = machines(tmp_path / "beside.yaml", tmp_path / "a", "s3://test/run")
    while not any(name.endswith("2/manifest.json") for name in bucket.find("test/run/checkpoints")):
        assert all(child.running for child in killed), [child.wait() for child in killed]
        time.sleep(0.3)
        bucket.invalidate_cache()
    for child in killed:
        child.kill()
    saved = objects(bucket, "test/run")
    assert "model/manifest.json" not in saved
    for name in (name for name in saved if name.endswith("/manifest.json")):
        folder = name.rpartition("/")[0]
        assert {f"{folder}/rank-0000{k}.safetensors" for k in range(2)} <= saved.keys(), "whole, or no manifest"
    for name, home, out in (("beside", "b", "s3://test/run"), ("wait", "c", "s3://test/whole")):
        for child in machines(tmp_path / f"{name}.yaml", tmp_path / home, out):
            status, said = child.wait(60)
            assert status == 0, said
            assert (f"done: {out}/model" in said) == (f"put into the store: {out}" in said)
    one, other = objects(bucket, "test/run"), objects(bucket, "test/whole")
    assert one["model/autoencoder.safetensors"] == other["model/autoencoder.safetensors"]
    steps = {name.split("/")[1] for name in one if name.startswith("checkpoints/")}
    assert steps == {"step-00000007", "step-00000008"}, "older ones went"


def test_two_that_write_one_folder(bucket: Any) -> None:
    mirror = Mirror("s3://test/latents")
    with (
        mirror.writing(),
        pytest.raises(InputError, match="another kinolab is writing there"),
        Mirror("s3://test/latents").writing(),
    ):
        pass


def test_a_server_that_does_not_answer_is_one_line(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("kinolab.runtime.filesystems.PATIENCE", {"connect_timeout": 1, "retries": {"max_attempts": 0}})
    with pytest.raises(InputError, match=r"s3://test/clips: "):
        source("s3://test/clips")
    assert os.environ["AWS_ENDPOINT_URL"].endswith(":9")


@pytest.mark.parametrize("silent", [False, True])
def test_a_bucket_that_is_not_there_and_a_server_that_is_silent_are_one_line_of_each_command(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent: bool
) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(autoencoder_recipe(steps=1)))
    url = "s3://test/there" if silent else "s3://gone/there"
    if silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        no_patience = {"connect_timeout": 1, "retries": {"max_attempts": 0}}
        monkeypatch.setattr("kinolab.runtime.filesystems.PATIENCE", no_patience)
    for words in (
        ("data", "caption", url, "--command", f"{sys.executable} {{clip}}"), ("status", url),
        ("data", "curate", url, "--out", tmp_path / "set"), ("data", "curate", tmp_path / "clips", "--out", url),
        ("data", "shrink", url, "--out", tmp_path / "small"), ("train", tmp_path / "r.yaml", "--out", url),
        ("launch", "local", "--print", "--", "train", "--resume", "--out", url),
    ):  # fmt: skip
        assert run(*words) == 2, words
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kinolab:")]
        assert url in line and ("no such bucket" in line or "no run to resume" in line or silent), line
