"""A set of files is the old or the new one, whole, whenever it is cut off; its manifest tells what belongs to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from kinolab.errors import InputError
from kinolab.runtime import sets
from kinolab.runtime.paths import OWN
from kinolab.runtime.weights import write_weights
from tests.runtime.crashing import DISKS, After, again, crashes, failures

pytestmark = pytest.mark.slow  # many short ones, which take long together

NAMES = ("model.yaml", "autoencoder.bin", "sub/denoiser.bin")
OLD = dict.fromkeys(NAMES, "old")
NEW = {"model.yaml": "new", "autoencoder.bin": "newer", "sub/other.bin": "new"}


def put(root: Path, content: dict[str, str], manifest: str | None = "manifest.json") -> None:
    with sets.new_set(root / "m", "model", manifest=manifest, replaces=("sub/denoiser.bin",)) as room:
        for name, text in content.items():
            (room / name).parent.mkdir(exist_ok=True)
            (room / name).write_text(text)


def old_set(root: Path) -> None:
    put(root, OLD)


def older_version(root: Path) -> None:
    """A folder as it was written before there were manifests, with something else in it."""
    (root / "m" / "sub").mkdir(parents=True)
    for name in NAMES:
        (root / "m" / name).write_text("old")


def new_set(root: Path) -> None:
    put(root, NEW)


def without_manifest(root: Path) -> None:
    put(root, NEW, None)


def nothing(root: Path) -> None:
    pass


def read(root: Path) -> dict[str, str]:
    """The set as a reader finds it: by its first file, which says what the others are."""
    first = sets.located(root / "m", "model", "model.yaml")
    if not first.exists():
        return {}
    names = OLD if first.read_text() == "old" else NEW
    return {name: sets.located(root / "m", "model", name).read_text() for name in names}


def whole(after: After, allowed: tuple[dict[str, str], ...]) -> None:
    found = read(after.root)
    assert found in allowed, f"{after}: {found}"
    if not found:
        return
    manifest = sets.read_manifest(after.root / "m", "model")
    if manifest is not None:
        assert set(manifest.files) == set(found), after
        for name, entry in manifest.files.items():
            assert entry.bytes == len(found[name]), f"{after}: {name}"


@pytest.mark.parametrize(
    ("before", "act"),
    [(nothing, new_set), (old_set, new_set), (older_version, new_set), (old_set, without_manifest)],
)
def test_a_set_is_old_or_new_after_every_crash(before: object, act: object, tmp_path: Path) -> None:
    seen = []
    disks = DISKS if (before, act) == (old_set, new_set) else DISKS[:2]
    for after in crashes(before, act, tmp_path, disks):  # type: ignore[arg-type]
        whole(after, ({} if before is nothing else OLD, NEW))
        seen.append(read(after.root) == NEW)
        if not after.how.startswith("kill"):
            continue
        again(act, after.root)  # type: ignore[arg-type]
        assert read(after.root) == NEW, after
        left = sorted(p.relative_to(after.root / "m").as_posix() for p in (after.root / "m").rglob("*") if p.is_file())
        left = [name for name in left if not name.startswith(OWN)]
        expected = sorted([*NEW, "manifest.json"] if act is new_set else NEW)
        assert left == expected, after
    assert True in seen and False in seen


def test_an_error_of_the_disk_leaves_the_old_or_the_new_set(tmp_path: Path) -> None:
    for after in failures(old_set, new_set, tmp_path, numbers=(28, 5)):
        whole(after, (OLD, NEW))
        assert after.error is not None and after.error.filename is not None, after
        assert OWN not in str(after.error.filename), f"{after}: {after.error}"
        assert not [p for p in (after.root / "m").iterdir() if p.name.startswith(OWN)], after
        again(new_set, after.root)
        assert read(after.root) == NEW, after


def test_a_reader_needs_not_write(tmp_path: Path) -> None:
    """A set that a kill left under its hidden name is read from there, and put in place by the next who writes."""
    for after in crashes(old_set, new_set, tmp_path, disks=("kill",)):
        before = sorted(p.as_posix() for p in after.root.rglob("*"))
        whole(after, (OLD, NEW))
        assert sorted(p.as_posix() for p in after.root.rglob("*")) == before, after
        hidden = (after.root / "m" / ".model.committed").exists()
        with_record = (after.root / "m" / ".model.committed" / sets.RECORD).exists()
        assert sets.finish_set(after.root / "m", "model") == with_record
        assert not hidden or not (after.root / "m" / ".model.committed").exists()
        whole(after, (OLD, NEW))


def test_who_reads_one_file_finds_its_set_in_place(tmp_path: Path) -> None:
    for after in crashes(old_set, new_set, tmp_path, ("kill",)):
        folder = after.root / "m"
        (folder / ".broken.committed").mkdir()
        (folder / ".broken.committed" / ".commit.json").write_text("{")
        expected = read(after.root)
        sets.finish_set_of(folder / "autoencoder.bin")
        names = [name for name in expected if (folder / name).exists()]
        assert {name: (folder / name).read_text() for name in names} == expected, after


def test_two_sets_stand_in_one_folder(tmp_path: Path) -> None:
    for key in ("a.mp4", "b.mp4"):
        with sets.new_set(tmp_path, key) as room:
            (room / key).write_text(key)
            (room / f"{key}.json").write_text("{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.mp4.json", "b.mp4", "b.mp4.json"]


def test_an_error_inside_leaves_the_old_set(tmp_path: Path) -> None:
    old_set(tmp_path)
    with pytest.raises(KeyboardInterrupt), sets.new_set(tmp_path / "m", "model") as room:
        (room / "model.yaml").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="without files"), sets.new_set(tmp_path / "m", "model"):
        pass
    with pytest.raises(InputError, match="device"), sets.new_set(tmp_path / "m", "model") as room:
        (room / "aux.txt").write_text("x")
    assert read(tmp_path) == OLD
    assert not [p for p in (tmp_path / "m").iterdir() if p.name.startswith(".")]


def test_the_manifest_tells_what_changed(tmp_path: Path) -> None:
    with sets.new_set(tmp_path, "model", manifest=sets.MANIFEST) as room:
        (room / "model.yaml").write_text("a: 1")
        for name in ("a", "b"):
            write_weights(room / f"{name}.safetensors", {"w": torch.full((3000,), 1.5 if name == "a" else 2.5)})
    manifest = sets.read_manifest(tmp_path)
    assert manifest is not None
    assert sets.check(tmp_path, manifest) == [] == sets.verify(tmp_path, manifest)
    assert sets.require(tmp_path, manifest, manifest.files, "pack it again") == []

    (tmp_path / "model.yaml").write_text("a: 2")
    edited = sets.check(tmp_path, manifest)
    assert [p.edited for p in edited] == [True] and "was changed" in str(edited[0])
    assert len(sets.require(tmp_path, manifest, manifest.files, "pack it again")) == 1, "a note, and no error"

    # A part of another model, of the same size: told by its header, which holds the sums of its tensors.
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"another set of files; pack it again"):
        sets.require(tmp_path, manifest, manifest.files, "pack it again")
    data = bytearray((tmp_path / "b.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.safetensors").write_bytes(data)
    assert [p.path.name for p in sets.check(tmp_path, manifest, ["b.safetensors"])] == []
    assert [p.path.name for p in sets.verify(tmp_path, manifest, ["b.safetensors"])] == ["b.safetensors"]
    os.unlink(tmp_path / "b.safetensors")
    assert "missing" in str(sets.check(tmp_path, manifest, ["b.safetensors"])[0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "no format"),
        ('{"format": 2, "files": {}}', "format 2"),
        ('{"format": 1, "files": {"../x": {"bytes": 1}}}', r"\.\."),
        ('{"format": 1, "files": {"/etc/passwd": {"bytes": 1}}}', "absolute"),
        ('{"format": 1, "files": {"a": {"bytes": -1}}}', "at least 0"),
        ('{"format": 1, "files": {"a": 5}}', "named values"),
        ('{"format": 1, "files": {}, "removed": ["a/../../b"]}', r"\.\."),
        ("{", "not valid JSON"),
    ],
)
def test_a_damaged_manifest_is_one_line(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=why):
        sets.read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_of_an_older_version(tmp_path: Path) -> None:
    assert sets.read_manifest(tmp_path) is None
    assert sets.require(tmp_path, None, ["x"], "") == []


def test_a_planted_record_moves_nothing_in_or_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "m"
    hidden = folder / ".model.committed"
    hidden.mkdir(parents=True)
    for name in ("../outside", str(outside), "a/../../outside"):
        record = {"format": 1, "files": {}, "removed": [name]}
        (hidden / sets.RECORD).write_text(json.dumps(record))
        with pytest.raises(InputError, match="inside this folder"):
            sets.finish_set(folder, "model")
    assert outside.read_text() == "mine"
