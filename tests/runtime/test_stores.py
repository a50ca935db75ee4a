"""A folder and a store of objects keep the same promises; nothing in the interface needs a rename."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.runtime import sets
from kinolab.runtime.paths import inside
from kinolab.runtime.reading import Limits, parse_json
from kinolab.runtime.stores import LocalStore, Store
from tests.runtime.crashing import crashes


@dataclass
class Bucket:
    """A store of objects as there are in clouds: put, put where absent, get, list, delete; no renames, no folders.

    stop: how many puts succeed before the process is killed.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    stop: int = 10**9

    def put(self, name: str, data: bytes) -> None:
        if not self.stop:
            raise KeyboardInterrupt
        self.stop -= 1
        self.objects[name] = data

    def commit(self, key: str, write: Callable[[Path], object]) -> sets.Manifest:
        inside(Path("/"), key, new=True)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            manifest = sets.make_manifest(Path(folder))
            if not manifest.files:
                raise InputError("a set without files")
            for name, entry in manifest.files.items():
                self.put(f"{key}/{entry.sha256}", (Path(folder) / name).read_bytes())
        self.put(f"{key}.manifest", manifest.text().encode())
        return manifest

    def find(self, key: str) -> BucketSet | None:
        data = self.objects.get(f"{key}.manifest")
        if data is None:
            return None
        return BucketSet(self, key, sets.parse_manifest(parse_json(data, key), Path(key)))

    def keys(self, prefix: str = "") -> Iterator[str]:
        return iter(sorted(n.removesuffix(".manifest") for n in self.objects if n.endswith(".manifest")
                           and n.startswith(prefix)))  # fmt: skip

    def create(self, name: str, data: bytes) -> bool:
        if name in self.objects:
            return False
        self.put(name, data)
        return True

    def delete(self, key: str) -> None:
        self.objects.pop(f"{key}.manifest", None)


@dataclass(frozen=True)
class BucketSet:
    bucket: Bucket
    key: str
    manifest: sets.Manifest

    def read(self, name: str, limit: int = Limits.bytes) -> bytes:
        return self.bucket.objects[f"{self.key}/{self.manifest.files[name].sha256}"]

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(self.read(name))
            yield path


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: Store = LocalStore(tmp_path / "root") if request.param == "folder" else Bucket()
    return made


def texts(**files: str) -> Callable[[Path], object]:
    def write(room: Path) -> None:
        for name, text in files.items():
            (room / f"{name}.txt").write_text(text)

    return write


def content(store: Store, key: str) -> dict[str, str] | None:
    found = store.find(key)
    return None if found is None else {name: found.read(name).decode() for name in found.manifest.files}


def test_sets_are_kept_replaced_listed_and_deleted(store: Store) -> None:
    assert store.find("a") is None and list(store.keys()) == []
    made = store.commit("runs/a", texts(x="1", y="2"))
    assert made.files["x.txt"].bytes == 1 and len(made.files["x.txt"].sha256) == 64
    store.commit("runs/b", texts(x="3"))
    assert content(store, "runs/a") == {"x.txt": "1", "y.txt": "2"}
    store.commit("runs/a", texts(x="4", z="5"))
    assert content(store, "runs/a") == {"x.txt": "4", "z.txt": "5"}
    found = store.find("runs/a")
    assert found is not None
    with found.local("z.txt") as path:
        assert path.read_text() == "5"
    with pytest.raises(KeyError):
        found.read("y.txt")
    assert list(store.keys()) == ["runs/a", "runs/b"] and list(store.keys("runs/b")) == ["runs/b"]
    store.delete("runs/a")
    store.delete("runs/a")
    assert content(store, "runs/a") is None and list(store.keys()) == ["runs/b"]


def test_a_name_is_taken_once(store: Store) -> None:
    assert store.create("claim", b"mine") and not store.create("claim", b"yours")
    if isinstance(store, LocalStore):
        assert (store.root / "claim").read_bytes() == b"mine"
        assert [p.name for p in store.root.iterdir()] == ["claim"]


def test_bad_keys_and_empty_sets_are_refused(store: Store) -> None:
    for key in ("../a", "/a", "", "a/../../b", "con"):
        with pytest.raises(InputError):
            store.commit(key, texts(x="1"))
    with pytest.raises(InputError, match="without files"):
        store.commit("a", texts())
    assert store.find("a") is None


@pytest.mark.slow
def test_a_folder_holds_the_old_or_the_new_set_after_every_crash(tmp_path: Path) -> None:
    def act(root: Path) -> None:
        LocalStore(root).commit("a", texts(x="new", z="new"))

    for after in crashes(lambda root: LocalStore(root).commit("a", texts(x="old", y="old")), act, tmp_path, ("kill",)):
        found = content(LocalStore(after.root), "a")
        assert found in ({"x.txt": "old", "y.txt": "old"}, {"x.txt": "new", "z.txt": "new"}), f"{after}: {found}"


def test_so_does_a_bucket() -> None:
    for stop in range(4):
        bucket = Bucket()
        bucket.commit("a", texts(x="old", y="old"))
        bucket.stop = stop
        try:
            bucket.commit("a", texts(x="new", z="new"))
        except KeyboardInterrupt:
            assert content(bucket, "a") == {"x.txt": "old", "y.txt": "old"}
        else:
            assert content(bucket, "a") == {"x.txt": "new", "z.txt": "new"} and stop == 3
